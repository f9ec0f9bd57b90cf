//! Gradients against differences of the model with everything in it but the rounding itself.
//!
//! Rounding errors are taken once and then held, in steps of the grid or as they are. What is left is differentiable, and its
//! derivative at the place where the errors were taken is the one that rotations learn by.

use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use workbench_model::Site;
use workbench_model::decoder::ActivationQuantizer;
use workbench_quant::Grid;

use super::*;

/// Errors of values that are rounded row by row, and how they are held.
struct Errors {
    scales: Scales,
    symmetric: bool,
    columns: usize,
    shares: Vec<f32>,
}

impl Errors {
    fn new(scales: Scales, symmetric: bool, columns: usize, x: &[f32], rounded: &[f32]) -> Self {
        let mut errors = Self { scales, symmetric, columns, shares: Vec::new() };
        let ranges = errors.ranges(x);
        errors.shares = (0..x.len()).map(|i| (rounded[i] - x[i]) / ranges[i / columns]).collect();
        errors
    }

    fn ranges(&self, x: &[f32]) -> Vec<f32> {
        let range = |row: &[f32]| {
            let (low, high) = row.iter().fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x)));
            match (self.scales, self.symmetric) {
                (Scales::Constant, _) => 1.0,
                (Scales::Follow, true) => high.max(-low),
                (Scales::Follow, false) => high - low,
            }
        };
        x.chunks(self.columns).map(range).collect()
    }

    fn add(&self, x: &mut [f32]) {
        let ranges = self.ranges(x);
        x.iter_mut().zip(&self.shares).enumerate().for_each(|(i, (x, share))| *x += share * ranges[i / self.columns]);
    }
}

/// Takes errors from the first input, and adds them to all inputs.
struct Held {
    grid: Grid,
    scales: Scales,
    errors: Mutex<Option<Errors>>,
}

impl ActivationQuantizer for Held {
    fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (mut values, columns) = (x.flatten_all()?.to_vec1::<f32>()?, x.dims()[x.rank() - 1]);
        let mut errors = self.errors.lock().unwrap();
        let errors = errors.get_or_insert_with(|| {
            let mut rounded = values.clone();
            self.grid.fake_quantize_dynamic(&mut rounded, values.len() / columns, columns).unwrap();
            Errors::new(self.scales, self.grid.args().symmetric, columns, &values, &rounded)
        });
        errors.add(&mut values);
        Ok(Tensor::from_vec(values, x.shape(), &Device::Cpu)?)
    }
}

/// R (I + tS + …), the exponential to the fourth order.
fn turned(rotation: &Square, skew: &Square, t: f64) -> Square {
    let n = rotation.size();
    let product = |a: &[f64], b: &[f64]| -> Vec<f64> {
        (0..n * n).map(|at| (0..n).map(|k| a[at / n * n + k] * b[k * n + at % n]).sum()).collect()
    };
    let (mut term, mut sum) = (rotation.values().to_vec(), rotation.values().to_vec());
    for order in 1..5 {
        term = product(&term, skew.values()).into_iter().map(|v| v * t / f64::from(order)).collect();
        sum.iter_mut().zip(&term).for_each(|(sum, term)| *sum += term);
    }
    Square::new(n, sum).unwrap()
}

fn skew(n: usize, rng: &mut ChaCha8Rng) -> Square {
    let drawn: Vec<f64> = (0..n * n).map(|_| rng.random_range(-1.0..1.0)).collect();
    let size = (n as f64).sqrt();
    Square::new(n, (0..n * n).map(|at| (drawn[at] - drawn[at % n * n + at / n]) / size).collect()).unwrap()
}

/// A model whose rounding errors are those that another one makes now.
struct Frozen<'a> {
    model: Model<'a>,
    weights: Vec<(String, Errors)>,
}

impl<'a> Frozen<'a> {
    fn new(mut model: Model<'a>, of: &Model<'_>, learn: &Learn) -> Self {
        let mut last: Option<(Site, Arc<dyn ActivationQuantizer>)> = None;
        let mut weights = Vec::new();
        for linear in model.config.linears() {
            let shared = match last.take() {
                Some((site, shared)) if site == linear.site => shared,
                _ => {
                    let grid = grids(learn).unwrap().inputs.unwrap();
                    Arc::new(Held { grid, scales: learn.scales, errors: Mutex::new(None) })
                }
            };
            model.decoder.set_input_quantizer(&linear.name, Some(Arc::clone(&shared))).unwrap();
            last = Some((linear.site, shared));
            let name = format!("{}.weight", linear.name);
            let rounded = of.parameters.values(&name).unwrap();
            let errors = Errors::new(learn.scales, true, linear.in_features, &of.folded[&name], &rounded);
            weights.push((name, errors));
        }
        Self { model, weights }
    }

    fn loss(&mut self, rotations: &Rotations, ids: &[u32]) -> f64 {
        self.model.rotate(rotations).unwrap();
        for (name, errors) in &self.weights {
            let mut values = self.model.folded[name].clone();
            errors.add(&mut values);
            self.model.parameters.set(name, values).unwrap();
        }
        self.model.loss(&[ids.to_vec()]).unwrap()
    }
}

/// Compares slopes along random turns of each rotation.
fn check(kind: &str, block_size: Option<usize>, learn: &Learn) {
    let (config, weights) = model(kind);
    let start = || {
        let mut rotations = drawn(&config, block_size);
        make_dense(&mut rotations).unwrap();
        rotations
    };
    let options = LossOptions { gradient_checkpointing: learn.gradient_checkpointing, chunk: CHUNK };
    let new = || Model::new(&weights, &config, &start(), grids(learn).unwrap(), learn.loss, options).unwrap();
    let mut learning = new();
    learning.rotate(&start()).unwrap();
    let (ids, mut gradients) = (&sequences()[0], Gradients::default());
    let loss = learning.accumulate(ids, ids.len() - 1, &mut gradients).unwrap();
    let found = learning.by_rotation(&gradients).unwrap();
    assert_eq!(found.len(), 3);
    let mut frozen = Frozen::new(new(), &learning, learn);
    assert!((frozen.loss(&start(), ids) - loss).abs() < 1e-5, "another loss than {loss}");

    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for (index, z) in found.iter().enumerate() {
        for _ in 0..3 {
            let direction = skew(z.size(), &mut rng);
            let mut at = |t: f64| {
                let mut moved = start();
                let rotation = dense(&mut moved).nth(index).unwrap();
                *rotation = turned(rotation, &direction, t);
                frozen.loss(&moved, ids)
            };
            let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let slope: f64 = z.values().iter().zip(direction.values()).map(|(z, s)| z * s).sum();
            let size = z.values().iter().map(|z| z * z).sum::<f64>().sqrt();
            let case = format!("{kind} {:?} {:?} rotation {index}", learn.scales, learn.loss);
            assert!(size > 1e-3 && (slope - expected).abs() < 0.01 * size, "{case}: {slope} {expected} of {size}");
        }
    }
}

/// Long enough for differences of a loss in f32, short enough that few rows get another extreme on the way: there it bends.
const STEP: f64 = 3e-4;

#[test]
fn gradients_are_those_of_everything_but_the_rounding() {
    let scheme = json!({
        "weights": { "num_bits": 4, "type": "int", "symmetric": true, "strategy": "channel" },
        "input_activations": { "num_bits": 4, "type": "int", "symmetric": false, "strategy": "token", "dynamic": true },
    });
    for (kind, block_size) in [("llama", None), ("qwen3", None), ("llama", Some(8))] {
        for scales in [Scales::Follow, Scales::Constant] {
            for loss in [Loss::NextToken, Loss::Divergence] {
                let gradient_checkpointing = kind == "qwen3";
                check(
                    kind,
                    block_size,
                    &Learn { scheme: scheme.clone(), scales, loss, gradient_checkpointing, ..Learn::default() },
                );
            }
        }
    }
}

/// With R2 alone most linears are folded with nothing, and rounded nevertheless.
#[test]
fn linears_that_nothing_rotates_are_rounded() {
    let (config, weights) = model("llama");
    let parameters = Parameters { rotations: vec![Place::R2], kind: Kind::RandomOrthogonal, ..Parameters::default() };
    let mut rotations = Rotations::draw(&parameters, &config).unwrap();
    make_dense(&mut rotations).unwrap();
    let learn = Learn { scheme: json!({ "scheme": "W4A4", "group_size": 8 }), ..Learn::default() };
    let (options, grids) = (LossOptions::default(), grids(&learn).unwrap());
    let mut model = Model::new(&weights, &config, &rotations, grids, learn.loss, options).unwrap();
    model.rotate(&rotations).unwrap();
    for linear in config.linears() {
        let name = format!("{}.weight", linear.name);
        assert!(model.parameters.values(&name).unwrap() != model.folded[&name], "{name} is as it was");
    }
}
