//! The kit behind the binary interface, as a plugin uses it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use workbench_api::descriptor::{Kind, Scope};
use workbench_api::host::Module;
use workbench_api::job::{Facts, Job, Model};
use workbench_api::sdk::export::{Export, module};
use workbench_api::sdk::{Dtype, Error, Example, ExampleModel, ExampleTensor, Host, Plugin};
use workbench_api::serde_json::{Value, json};
use workbench_api::testing::{MemoryHost, Outcome, run};
use workbench_model::WeightSource;

use crate::{HostWeights, calibration, sequences};

#[derive(Default, serde::Serialize, serde::Deserialize, JsonSchema)]
struct Parameters {}

/// Says what it finds at its host.
struct Looks;

impl Plugin for Looks {
    type Parameters = Parameters;
    const NAME: &'static str = "looks";
    const SUMMARY: &'static str = "Looks at its host";
    const GRID_VERSION: u32 = 0;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(Vec::new())
    }
}

impl Export for Looks {
    type Plugin = Self;
    const KIND: Kind = Kind::Transform;
    const SCOPE: Scope = Scope::Transform;
    const VERSION: &'static str = "0.0.0";
    const SOURCE_DIGEST: Option<&'static str> = None;

    fn run(_: &Self, _: &Job, host: &Host<'_>) -> Result<Facts, Error> {
        let (own, teacher) = (HostWeights::new(host), HostWeights::of(host, "teacher"));
        let mut facts = Facts::new();
        for name in ["wide", "narrow"] {
            let rows = own.rows(name, &[2, 0, 2])?;
            let whole = own.values(name)?;
            let picked: Vec<f32> = [2, 0, 2].iter().flat_map(|row| whole[row * 3..][..3].to_vec()).collect();
            facts.insert(name.to_owned(), json!([rows == picked, own.has_rows(name), own.shape(name)]));
        }
        facts.insert("beyond".to_owned(), json!(own.rows("wide", &[3]).is_err()));
        facts.insert("none".to_owned(), json!([own.shape("none"), own.values("none").is_err()]));
        facts.insert("teacher".to_owned(), json!(teacher.values("wide")?));
        let found = calibration(host, 8)?;
        facts.insert("ids".to_owned(), json!(found.iter().map(|s| &s.ids).collect::<Vec<_>>()));
        facts.insert("learn".to_owned(), json!(found.iter().map(|s| &s.learn).collect::<Vec<_>>()));
        facts.insert("other".to_owned(), json!(sequences(host, "other", 8).map_err(|e| e.to_string()).err()));
        Ok(facts)
    }
}

fn outcome(batches: Vec<BTreeMap<String, ExampleTensor>>) -> Result<Outcome, Error> {
    let values: Vec<f32> = (0..9).map(|i| i as f32 * 0.5).collect();
    let narrow = ExampleTensor { dtype: Dtype::BF16, ..ExampleTensor::f32(&[3, 3], &values) };
    let tensors =
        BTreeMap::from([("wide".to_owned(), ExampleTensor::f32(&[3, 3], &values)), ("narrow".to_owned(), narrow)]);
    let job = Job::Transform(Model::default());
    let mut example = Example::new("", job, ExampleModel { config: Value::Null, tensors });
    let teacher = BTreeMap::from([("wide".to_owned(), ExampleTensor::f32(&[1], &[7.0]))]);
    example.inputs.insert("teacher".to_owned(), ExampleModel { config: Value::Null, tensors: teacher });
    example.streams.insert("calibration".to_owned(), batches);
    run(&Module::new(module::<Looks>()), &json!({}), &example.job, MemoryHost::new(&example)?)
}

fn ids(dtype: Dtype, shape: &[usize], ids: &[i64]) -> BTreeMap<String, ExampleTensor> {
    BTreeMap::from([("input_ids".to_owned(), ExampleTensor::integers(dtype, shape, ids))])
}

#[test]
fn weights_rows_and_sequences_are_those_of_the_host() {
    let mut two = ids(Dtype::I64, &[2, 2], &[1, 2, 3, 7]);
    two.insert("learn".to_owned(), ExampleTensor::integers(Dtype::U8, &[2, 2], &[0, 1, 1, 0]));
    let found = outcome(vec![ids(Dtype::U32, &[3], &[0, 4, 5]), two]).unwrap().report.facts;
    assert_eq!(found["wide"], json!([true, false, [3, 3]]));
    assert_eq!(found["narrow"], json!([true, true, [3, 3]]));
    assert_eq!((&found["beyond"], &found["none"]), (&json!(true), &json!([null, true])));
    assert_eq!(found["teacher"], json!([7.0]));
    assert_eq!(found["ids"], json!([[0, 4, 5], [1, 2], [3, 7]]));
    assert_eq!(found["learn"], json!([[true, true, true], [false, true], [true, false]]));
    assert!(found["other"].as_str().unwrap().contains("other"));
}

#[test]
fn sequences_that_are_none_are_refused_by_their_number() {
    let refused = |batches| outcome(batches).map(drop).unwrap_err();
    let good = || ids(Dtype::U32, &[2], &[1, 2]);
    let error = refused(vec![good(), ids(Dtype::I32, &[1], &[8])]).to_string();
    assert!(error.contains("sequence 1 of the stream `calibration`: token 8 is not in the vocabulary of 8"), "{error}");
    assert!(refused(vec![ids(Dtype::I32, &[1], &[-1])]).to_string().contains("token -1 is not"));
    assert!(refused(vec![ids(Dtype::U32, &[0], &[])]).to_string().contains("not [tokens] or [rows, tokens]"));
    assert!(refused(vec![ids(Dtype::U32, &[1, 1, 1], &[1])]).to_string().contains("[1, 1, 1]"));
    let mut torn = good();
    torn.insert("learn".to_owned(), ExampleTensor::integers(Dtype::U8, &[1], &[1]));
    assert!(refused(vec![torn]).to_string().contains("`learn` is of shape [1], `input_ids` of [2]"));
    let error = refused(Vec::new());
    assert!(error.to_string().contains("holds no token"), "{error}");
    assert_eq!(error.hint.as_deref(), Some("pass calibration: dataset(…).tokens(#{ … })"));
}
