//! A host in memory, for tests of plugins and for `workbench plugins check`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use crate::abi::{Level, NamedTensor, PluginModuleRef, Tensor, TensorInfo};
use crate::error::{Context, Error};
use crate::example::{Example, ExampleCodes, Expected};
use crate::host::{CodesView, Heartbeat, HostServices, Module};
use crate::job::{Job, Report};
use crate::sdk::CODES;

/// Everything that a plugin put or said.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Tensors put, by name: shape and values as f32.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    /// Codes put, by module.
    pub codes: BTreeMap<String, ExampleCodes>,
    /// Grids of the codes, by module.
    pub grids: BTreeMap<String, Value>,
    /// All patches to the configuration, merged.
    pub config: Map<String, Value>,
    /// Step, name and value of each metric.
    pub metrics: Vec<(u64, String, f64)>,
    /// Lines logged.
    pub log: Vec<(Level, String)>,
    /// The report.
    pub report: Report,
}

struct MemoryModel {
    config: Value,
    tensors: BTreeMap<String, Tensor<'static>>,
}

/// A host whose models, statistics and batches are those of an example.
pub struct MemoryHost {
    inputs: BTreeMap<String, MemoryModel>,
    /// Codes of the model by module, with the shape of the weight.
    codes: BTreeMap<String, (ExampleCodes, [usize; 2])>,
    statistics: HashMap<(String, String), Tensor<'static>>,
    streams: BTreeMap<String, Vec<Vec<(String, Tensor<'static>)>>>,
    positions: Mutex<HashMap<String, usize>>,
    answers: BTreeMap<String, Value>,
    seed: u64,
    outcome: Mutex<Outcome>,
    scratch: Scratch,
}

/// A folder of one host alone, made when it is asked for and removed with the host.
struct Scratch(PathBuf);

impl Default for Scratch {
    fn default() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("workbench-example-{}-{number}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Most plugins never ask for it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl MemoryHost {
    /// The host of an example.
    ///
    /// # Errors
    /// A tensor of the example does not have as many values as its shape says.
    pub fn new(example: &Example) -> Result<Self, Error> {
        let mut inputs = BTreeMap::new();
        for (name, model) in &example.inputs {
            let tensors = model
                .tensors
                .iter()
                .map(|(name, tensor)| Ok((name.clone(), tensor.tensor().context(|| format!("tensor `{name}`"))?)))
                .collect::<Result<_, Error>>()?;
            inputs.insert(name.clone(), MemoryModel { config: model.config.clone(), tensors });
        }
        let mut codes = BTreeMap::new();
        for (module, found) in &example.codes {
            let weight =
                inputs.get("model").and_then(|model: &MemoryModel| model.tensors.get(&format!("{module}.weight")));
            let weight =
                weight.ok_or_else(|| Error::input(format!("the model has codes of `{module}`, and no weight")))?;
            let (rows, columns) = weight.matrix_shape()?;
            codes.insert(module.clone(), (found.clone(), [rows, columns]));
        }
        let mut statistics = HashMap::new();
        for (site, kinds) in &example.statistics {
            for (kind, tensor) in kinds {
                statistics.insert((site.clone(), kind.clone()), tensor.tensor()?);
            }
        }
        let mut streams = BTreeMap::new();
        for (name, batches) in &example.streams {
            let batches = batches
                .iter()
                .map(|batch| batch.iter().map(|(name, tensor)| Ok((name.clone(), tensor.tensor()?))).collect())
                .collect::<Result<_, Error>>()?;
            streams.insert(name.clone(), batches);
        }
        Ok(Self {
            inputs,
            codes,
            statistics,
            streams,
            positions: Mutex::default(),
            answers: example.answers.clone(),
            seed: example.seed,
            outcome: Mutex::default(),
            scratch: Scratch::default(),
        })
    }

    /// What the plugin put and said so far.
    pub fn into_outcome(self) -> Outcome {
        self.outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn input(&self, input: &str) -> Result<&MemoryModel, Error> {
        self.inputs.get(input).ok_or_else(|| Error::input(format!("there is no model `{input}`")))
    }
}

impl HostServices for MemoryHost {
    fn config(&self, input: &str) -> Result<Value, Error> {
        Ok(self.input(input)?.config.clone())
    }

    fn tensor_names(&self, input: &str) -> Result<Vec<String>, Error> {
        Ok(self.input(input)?.tensors.keys().cloned().collect())
    }

    fn tensor_info(&self, input: &str, name: &str) -> Result<Option<TensorInfo>, Error> {
        let tensor = self.input(input)?.tensors.get(name);
        Ok(tensor.map(|tensor| TensorInfo { dtype: tensor.dtype(), shape: tensor.shape().to_vec().into() }))
    }

    fn tensor(&self, input: &str, name: &str) -> Result<Tensor<'_>, Error> {
        let tensor = self.input(input)?.tensors.get(name);
        let tensor = tensor.ok_or_else(|| Error::input(format!("there is no tensor `{name}`")))?;
        Tensor::from_bytes(tensor.dtype(), tensor.shape(), tensor.bytes())
    }

    fn statistics(&self, site: &str, kind: &str) -> Result<Option<Tensor<'_>>, Error> {
        let tensor = self.statistics.get(&(site.to_owned(), kind.to_owned()));
        tensor.map(|tensor| Tensor::from_bytes(tensor.dtype(), tensor.shape(), tensor.bytes())).transpose()
    }

    fn next_batch(&self, stream: &str) -> Result<Option<Vec<NamedTensor<'_>>>, Error> {
        let batches = self.streams.get(stream).ok_or_else(|| Error::input(format!("there is no stream `{stream}`")))?;
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let position = positions.entry(stream.to_owned()).or_default();
        let Some(batch) = batches.get(*position) else {
            return Ok(None);
        };
        *position += 1;
        batch
            .iter()
            .map(|(name, tensor)| {
                let tensor = Tensor::from_bytes(tensor.dtype(), tensor.shape(), tensor.bytes())?;
                Ok(NamedTensor { name: name.as_str().into(), tensor })
            })
            .collect::<Result<Vec<_>, Error>>()
            .map(Some)
    }

    fn rewind(&self, stream: &str) -> Result<(), Error> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
        Ok(())
    }

    fn put_tensor(&self, name: &str, tensor: &Tensor<'_>) -> Result<(), Error> {
        let values = tensor.to_f32()?.into_owned();
        self.outcome().tensors.insert(name.to_owned(), (tensor.shape().to_vec(), values));
        Ok(())
    }

    fn put_codes(&self, module: &str, codes: &CodesView<'_>) -> Result<(), Error> {
        let mut outcome = self.outcome();
        outcome.grids.insert(module.to_owned(), codes.grid.clone());
        outcome.codes.insert(
            module.to_owned(),
            ExampleCodes {
                codes: codes.codes.to_vec(),
                scales: codes.scales.to_vec(),
                zero_points: codes.zero_points.map(<[i32]>::to_vec),
            },
        );
        Ok(())
    }

    fn patch_config(&self, patch: &Value) -> Result<(), Error> {
        let patch = patch.as_object().ok_or_else(|| Error::input("a patch to the configuration must be an object"))?;
        self.outcome().config.extend(patch.clone());
        Ok(())
    }

    fn metric(&self, step: u64, name: &str, value: f64) {
        self.outcome().metrics.push((step, name.to_owned(), value));
    }

    fn progress(&self, _done: u64, _total: u64) {}

    fn log(&self, level: Level, message: &str) {
        self.outcome().log.push((level, message.to_owned()));
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn threads(&self) -> usize {
        1
    }

    fn call(
        &self,
        method: &str,
        request: &Value,
        _tensors: &[NamedTensor<'_>],
    ) -> Result<(Value, Vec<NamedTensor<'_>>), Error> {
        if let Some(answer) = self.answers.get(method) {
            return Ok((answer.clone(), Vec::new()));
        }
        if method != CODES {
            return Err(Error::unsupported(format!("the example answers no call of `{method}`")));
        }
        let module = request["module"].as_str().unwrap_or_default();
        let none = || Error::input(format!("the model has no codes of `{module}`"));
        let (found, [rows, columns]) = self.codes.get(module).ok_or_else(none)?;
        let count = found.scales.len();
        // One row of scales serves them all, or each row has its own.
        let shape = if count.is_multiple_of(*rows) { [*rows, count / rows] } else { [1, count] };
        let mut tensors = vec![
            NamedTensor { name: "codes".into(), tensor: Tensor::from_slice(&[*rows, *columns], &found.codes)? },
            NamedTensor { name: "scales".into(), tensor: Tensor::from_slice(&shape, &found.scales)? },
        ];
        if let Some(points) = &found.zero_points {
            tensors.push(NamedTensor { name: "zero_points".into(), tensor: Tensor::from_slice(&shape, points)? });
        }
        Ok((json!({ "global_scale": null }), tensors))
    }

    fn scratch(&self) -> Result<PathBuf, Error> {
        let folder = &self.scratch.0;
        std::fs::create_dir_all(folder).context(|| format!("making {}", folder.display()))?;
        Ok(folder.clone())
    }
}

/// Runs a job on a plugin with parameters, and returns all that it put and said.
///
/// # Errors
/// The plugin's error.
pub fn run(module: &Module, parameters: &Value, job: &Job, host: MemoryHost) -> Result<Outcome, Error> {
    let report = module.create(parameters)?.run(job, &host, &Heartbeat::default())?;
    Ok(Outcome { report, ..host.into_outcome() })
}

/// The parameters of an example with the plugin's defaults filled in.
pub fn parameters(defaults: &Value, example: &Example) -> Value {
    let mut parameters = defaults.as_object().cloned().unwrap_or_default();
    parameters.extend(example.parameters.clone());
    Value::Object(parameters)
}

/// Where an outcome differs from what an example expects; empty if nowhere.
pub fn differences(expected: &Expected, outcome: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    for (name, tensor) in &expected.tensors {
        match outcome.tensors.get(name) {
            None => found.push(format!("tensor `{name}` was not put")),
            Some((shape, _)) if *shape != tensor.shape => {
                found.push(format!("tensor `{name}` has shape {shape:?}, expected {:?}", tensor.shape));
            }
            Some((_, values)) => {
                let values = values.iter().map(|&v| f64::from(v));
                found.extend(numbers(&format!("tensor `{name}`"), values, &tensor.values, expected.tolerance));
            }
        }
    }
    for (module, codes) in &expected.codes {
        let Some(put) = outcome.codes.get(module) else {
            found.push(format!("codes of `{module}` were not put"));
            continue;
        };
        if put.codes != codes.codes {
            found.push(format!("codes of `{module}`: found {:?}, expected {:?}", put.codes, codes.codes));
        }
        if put.zero_points != codes.zero_points {
            let (put, codes) = (&put.zero_points, &codes.zero_points);
            found.push(format!("zero-points of `{module}`: found {put:?}, expected {codes:?}"));
        }
        let scales: Vec<f64> = codes.scales.iter().map(|&v| f64::from(v)).collect();
        let put = put.scales.iter().map(|&v| f64::from(v));
        found.extend(numbers(&format!("scales of `{module}`"), put, &scales, expected.tolerance));
    }
    found.extend(entries("configuration", &expected.config, &outcome.config, expected.tolerance));
    found.extend(entries("fact", &expected.facts, &outcome.report.facts, expected.tolerance));
    found
}

fn numbers(what: &str, found: impl ExactSizeIterator<Item = f64>, expected: &[f64], tolerance: f64) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{what}: found {} values, expected {}", found.len(), expected.len()));
    }
    found.zip(expected).enumerate().find_map(|(index, (found, &expected))| {
        (!close(found, expected, tolerance))
            .then(|| format!("{what}: value {index} is {found}, expected {expected} (tolerance {tolerance})"))
    })
}

fn close(found: f64, expected: f64, tolerance: f64) -> bool {
    found == expected || (found - expected).abs() <= tolerance * expected.abs().max(1.0)
}

fn entries(what: &str, expected: &Map<String, Value>, found: &Map<String, Value>, tolerance: f64) -> Vec<String> {
    let differs = |(key, expected): (&String, &Value)| {
        let same = match (found.get(key), expected) {
            (Some(found), expected) if found == expected => true,
            (Some(Value::Number(found)), Value::Number(expected)) => {
                matches!((found.as_f64(), expected.as_f64()), (Some(f), Some(e)) if close(f, e, tolerance))
            }
            _ => false,
        };
        let found = found.get(key).map_or("nothing".to_owned(), Value::to_string);
        (!same).then(|| format!("{what} `{key}`: found {found}, expected {expected}"))
    };
    expected.iter().filter_map(differs).collect()
}

/// Runs the examples of a plugin that is linked into this program, through its binary interface.
///
/// # Panics
/// There is no example, or one does not give what it promises.
pub fn assert_examples(module: PluginModuleRef) {
    let module = Module::new(module);
    let descriptor = module.descriptor().unwrap_or_else(|error| panic!("{error}"));
    assert!(!descriptor.examples.is_empty(), "`{}` has no example", descriptor.name);
    for example in &descriptor.examples {
        let run = || {
            let parameters = parameters(&descriptor.defaults, example);
            let outcome = run(&module, &parameters, &example.job, MemoryHost::new(example)?)?;
            Ok::<_, Error>(differences(&example.expected, &outcome))
        };
        let found = run().unwrap_or_else(|error| panic!("example `{}`: {error}", example.name));
        assert!(found.is_empty(), "example `{}`:\n{}", example.name, found.join("\n"));
    }
}
