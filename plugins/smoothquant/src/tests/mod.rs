//! The plugin as a host sees it, on two models that llm-compressor 0.14.0.1 smoothed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use workbench_api::descriptor::{Kind, Scope};
use workbench_api::host::Module;
use workbench_api::job::{Facts, Job};
use workbench_api::sdk::export::{Export, module};
use workbench_api::sdk::{Error, Example, ExampleModel, ExampleTensor, Expected, Host, Model, Plugin, Transform};
use workbench_api::testing::{MemoryHost, Outcome, differences, parameters, run};

use crate::{SmoothQuant, example::pairs};

/// A model of two blocks with its channel ranges, and its tensors after llm-compressor's `SmoothQuantModifier`.
#[derive(Deserialize)]
struct Golden {
    name: String,
    smoothing_strength: f64,
    config: Value,
    tensors: BTreeMap<String, GoldenTensor>,
    /// Smallest and largest value per channel, by site.
    statistics: BTreeMap<String, BTreeMap<String, Vec<f32>>>,
    expected: BTreeMap<String, GoldenTensor>,
}

#[derive(Deserialize)]
struct GoldenTensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The plugin behind the binary interface, as its export makes it.
struct Tested;

impl Export for Tested {
    type Plugin = SmoothQuant;
    const KIND: Kind = Kind::Transform;
    const SCOPE: Scope = Scope::Transform;
    const VERSION: &'static str = "0.0.0";
    const SOURCE_DIGEST: Option<&'static str> = None;

    fn run(plugin: &SmoothQuant, job: &Job, host: &Host<'_>) -> Result<Facts, Error> {
        match job {
            Job::Transform(model) => plugin.transform(model, host),
            other => panic!("{other:?}"),
        }
    }
}

fn transform(example: &Example) -> Result<Outcome, Error> {
    let defaults = serde_json::to_value(<SmoothQuant as Plugin>::Parameters::default())?;
    run(&Module::new(module::<Tested>()), &parameters(&defaults, example), &example.job, MemoryHost::new(example)?)
}

fn tensors(golden: BTreeMap<String, GoldenTensor>) -> BTreeMap<String, ExampleTensor> {
    golden.into_iter().map(|(name, t)| (name, ExampleTensor::f32(&t.shape, &t.values))).collect()
}

fn examples() -> Vec<Example> {
    let golden: Vec<Golden> = serde_json::from_str(include_str!("golden.json")).unwrap();
    golden.into_iter().map(against_llm_compressor).collect()
}

fn against_llm_compressor(golden: Golden) -> Example {
    let blocks = ["model.layers.0", "model.layers.1"];
    let job = Model { pairs: blocks.into_iter().flat_map(pairs).collect(), ..Model::default() };
    let model = ExampleModel { config: golden.config, tensors: tensors(golden.tensors) };
    let mut example = Example::new(&golden.name, Job::Transform(job), model)
        .parameter("smoothing_strength", golden.smoothing_strength)
        .parameter("activation_range", "range");
    for (site, kinds) in golden.statistics {
        let vectors = kinds.into_iter().map(|(kind, values)| (kind, ExampleTensor::f32(&[values.len()], &values)));
        example.statistics.insert(site, vectors.collect());
    }
    example.expected = Expected { tensors: tensors(golden.expected), tolerance: 1e-5, ..Expected::default() };
    example
}

#[test]
fn tensors_are_those_of_llm_compressor() {
    for example in examples() {
        let outcome = transform(&example).unwrap();
        assert!(outcome.tensors.keys().eq(example.expected.tensors.keys()), "{}", example.name);
        assert_eq!(differences(&example.expected, &outcome), Vec::<String>::new(), "{}", example.name);
    }
}

#[test]
fn bad_statistics_are_refused() {
    const SITE: &str = "model.layers.1.mlp.input";
    let mut unseen = examples().swap_remove(0);
    // What a site that no token reached would hold.
    let range = unseen.statistics.get_mut(SITE).unwrap();
    range.get_mut("min").unwrap().values[3] = f64::INFINITY;
    range.get_mut("max").unwrap().values[3] = f64::NEG_INFINITY;
    let error = transform(&unseen).err().unwrap().to_string();
    assert!(error.contains(SITE) && error.contains("channel 3"), "{error}");
    let mut missing = examples().swap_remove(0);
    missing.statistics.remove(SITE);
    let error = transform(&missing).err().unwrap();
    assert!(error.to_string().contains(SITE) && error.hint.unwrap().contains("calibration"));
}
