//! The gate by itself: what of a plugin's output it lets through at each scope.

use serde_json::json;
use workbench_api::abi::Tensor;
use workbench_api::example::{Example, ExampleModel, ExampleTensor};
use workbench_api::host::{CodesView, HostServices};
use workbench_api::job::{Block, Job, Linear, Model};
use workbench_api::testing::MemoryHost;
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype};

use super::super::gate::Gate;

fn grid(args: serde_json::Value, stored: StorageDtype) -> Grid {
    let args: QuantizationArgs = serde_json::from_value(args).unwrap();
    Grid::new(&args, stored, Conventions::default()).unwrap()
}

fn linear(grid: &Grid) -> Linear {
    Linear {
        module: "a".to_owned(),
        weight: "a.weight".to_owned(),
        grid: serde_json::to_value(grid).unwrap(),
        ..Linear::default()
    }
}

/// The job of every scope that takes codes on a grid.
fn jobs(grid: &Grid) -> [Job; 3] {
    let linears = vec![linear(grid)];
    let block = Block { block: 0, prefix: String::new(), linears: linears.clone(), tensors: Vec::new(), batches: 0 };
    [Job::Linear(linear(grid)), Job::Block(block), Job::Train(Model { linears, ..Model::default() })]
}

/// A host with a weight `a.weight` of 2 x 32 and another tensor.
fn host(job: &Job) -> MemoryHost {
    let mut model = ExampleModel::default();
    model.tensors.insert("a.weight".to_owned(), ExampleTensor::f32(&[2, 32], &[0.5; 64]));
    model.tensors.insert("norm.weight".to_owned(), ExampleTensor::f32(&[2], &[1.0; 2]));
    MemoryHost::new(&Example::new("test", job.clone(), model)).unwrap()
}

/// What a plugin puts of `a`: two groups, one a row.
#[derive(Clone)]
struct Put {
    grid: Grid,
    codes: [i8; 64],
    scales: [f32; 2],
    zero_points: Option<[i32; 2]>,
    global_scale: Option<f32>,
}

impl Put {
    fn on(grid: &Grid) -> Self {
        let zero_points = (!grid.args().symmetric).then_some([0; 2]);
        Self { grid: grid.clone(), codes: [1; 64], scales: [0.5; 2], zero_points, global_scale: None }
    }

    fn into(self, gate: &dyn HostServices) -> Result<(), String> {
        let view = CodesView {
            codes: &self.codes,
            shape: [2, 32],
            scales: &self.scales,
            scale_shape: [2, 1],
            zero_points: self.zero_points.as_ref().map(<[i32; 2]>::as_slice),
            global_scale: self.global_scale,
            grid: serde_json::to_value(&self.grid).unwrap(),
            extra: &[],
        };
        gate.put_codes("a", &view).map_err(|error| error.to_string())
    }
}

/// What the gate says to `put` at every scope, which must be the same.
fn verdict(put: &Put) -> Result<(), String> {
    let [first, second, third] = jobs(&put.grid).map(|job| {
        let host = host(&job);
        let gate = Gate::new(&job, &host, true);
        let found = put.clone().into(&gate);
        assert_eq!(gate.verdict().map_err(|error| error.to_string()), found, "a refusal is remembered");
        found
    });
    assert_eq!((&first, &first), (&second, &third));
    first
}

#[test]
fn scales_zero_points_and_codes_are_those_that_a_grid_can_have() {
    let asymmetric = grid(json!({ "num_bits": 4, "symmetric": false, "group_size": 32 }), StorageDtype::F32);
    let good = Put::on(&asymmetric);
    assert_eq!(verdict(&good), Ok(()));
    let refused = |put: Put| verdict(&put).unwrap_err();
    for bad in [0.0, -0.5, f32::NAN, f32::INFINITY] {
        let found = refused(Put { scales: [0.5, bad], ..good.clone() });
        assert_eq!(found, format!("codes of `a`: scale 1 is {bad}, not a positive number"));
    }
    let found = refused(Put { zero_points: Some([8, 0]), ..good.clone() });
    assert_eq!(found, "codes of `a`: zero-point 0 is 8, outside -8..=7");
    let found = refused(Put { codes: [-9; 64], ..good.clone() });
    assert_eq!(found, "codes of `a`: code 0 is -9, outside -8..=7");
    assert_eq!(refused(Put { zero_points: None, ..good.clone() }), "codes of `a`: zero-points: the grid wants them");
    let found = refused(Put { global_scale: Some(2.0), ..good });
    assert_eq!(found, "codes of `a`: a global scale: the grid has none");

    // A scale that bfloat16 would round, under codes that were made for another.
    let coarse = grid(json!({ "num_bits": 4, "group_size": 32 }), StorageDtype::Bf16);
    let found = refused(Put { scales: [0.1, 0.5], ..Put::on(&coarse) });
    assert!(found.starts_with("codes of `a`: scale 0 is 0.1, which bfloat16 holds as 0.100097"), "{found}");
    assert_eq!(verdict(&Put { scales: [coarse.round_scale(0.1), 0.5], ..Put::on(&coarse) }), Ok(()));

    // The bit patterns of floats.
    let fp8 = grid(json!({ "num_bits": 8, "type": "float", "group_size": 32 }), StorageDtype::F32);
    assert_eq!(verdict(&Put { codes: [-2; 64], ..Put::on(&fp8) }), Ok(()));
    let found = refused(Put { codes: [0x7f; 64], ..Put::on(&fp8) });
    assert_eq!(found, "codes of `a`: code 0 is 127, the bit pattern of NaN");
    let mx = grid(
        json!({ "num_bits": 4, "type": "float", "group_size": 32, "scale_dtype": "torch.uint8" }),
        StorageDtype::F32,
    );
    assert_eq!(verdict(&Put { codes: [15; 64], ..Put::on(&mx) }), Ok(()));
    assert!(refused(Put { codes: [16; 64], ..Put::on(&mx) }).ends_with("code 0 is 16, not a code of four bits"));
    assert!(refused(Put { scales: [0.3, 0.5], ..Put::on(&mx) }).ends_with("scale 0 is 0.3, which uint8 holds as 0.25"));
}

#[test]
fn a_tensor_wide_scale_is_there_positive_and_the_one_asked_for() {
    let args = json!({ "num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 32 });
    let shared = grid(args.clone(), StorageDtype::F32).with_global_scale(Some(8.0));
    let put = |global_scale| Put { scales: [2.0; 2], global_scale, ..Put::on(&shared) };
    assert_eq!(verdict(&put(Some(8.0))), Ok(()));
    assert!(verdict(&put(Some(4.0))).unwrap_err().ends_with("the global scale is 4, the grid's 8"));
    assert!(verdict(&put(None)).unwrap_err().ends_with("a global scale: the grid wants one"));
    let free = grid(args, StorageDtype::F32);
    for bad in [0.0, -1.0, f32::NAN] {
        let found = verdict(&Put { scales: [2.0; 2], global_scale: Some(bad), ..Put::on(&free) }).unwrap_err();
        assert!(found.ends_with(&format!("the global scale is {bad}, not a positive number")), "{found}");
    }
}

#[test]
fn a_trainers_grid_is_one_of_weights() {
    let weights = grid(json!({ "num_bits": 8, "group_size": 32 }), StorageDtype::F32);
    let free = Linear { grid: serde_json::Value::Null, ..linear(&weights) };
    let job = Job::Train(Model { linears: vec![free], ..Model::default() });
    let inputs = grid(json!({ "num_bits": 8, "group_size": 32, "dynamic": true }), StorageDtype::F32);
    let host = host(&job);
    let found = Put::on(&inputs).into(&Gate::new(&job, &host, true)).unwrap_err();
    assert_eq!(found, "codes of `a`: their grid (int8 symmetric group 32 dynamic) is one of activations");
}

#[test]
fn each_scope_puts_what_is_its_own() {
    let weights = grid(json!({ "num_bits": 4, "group_size": 32 }), StorageDtype::F32);
    let [by_linear, by_block, train] = jobs(&weights);
    let transform = Job::Transform(Model { linears: vec![linear(&weights)], ..Model::default() });
    let tensor = || Tensor::from_vec(&[2, 32], vec![0.25; 64]).unwrap();
    let text = |result: Result<(), workbench_api::error::Error>| result.map_err(|error| error.to_string());

    let services = host(&by_linear);
    let gate = Gate::new(&by_linear, &services, true);
    let found = text(gate.put_tensor("norm.weight", &Tensor::from_vec(&[2], vec![1.0_f32; 2]).unwrap()));
    assert_eq!(found.unwrap_err(), "tensor `norm.weight`: a quantizer of linears puts codes and nothing else");
    for job in [&by_linear, &by_block] {
        let gate = Gate::new(job, &services, true);
        assert!(text(gate.patch_config(&json!({}))).unwrap_err().starts_with("a quantizer writes no configuration"));
        assert_eq!(text(gate.complete()).unwrap_err(), "it put no codes of `a`");
    }
    let found = Put::on(&weights).into(&Gate::new(&transform, &services, true)).unwrap_err();
    assert_eq!(found, "codes of `a`: a transform puts tensors, and leaves rounding to others");
    assert_eq!(text(Gate::new(&transform, &services, true).complete()), Ok(()), "it may find nothing to change");

    // A weight is codes or a tensor, in whatever order they come.
    let free = Linear { grid: serde_json::Value::Null, ..linear(&weights) };
    let own = Job::Train(Model { linears: vec![free.clone()], ..Model::default() });
    for job in [&by_block, &own] {
        let gate = Gate::new(job, &services, true);
        Put::on(&weights).into(&gate).unwrap();
        let found = text(gate.put_tensor("a.weight", &tensor())).unwrap_err();
        assert_eq!(found, "tensor `a.weight`: its linear has codes already");
        let gate = Gate::new(job, &services, true);
        gate.put_tensor("a.weight", &tensor()).unwrap();
        let found = Put::on(&weights).into(&gate).unwrap_err();
        assert_eq!(found, "codes of `a`: `a.weight` was put as a tensor too");
    }

    let linears = vec![free];
    let block = Job::Block(Block { block: 0, prefix: String::new(), linears, tensors: Vec::new(), batches: 0 });
    let gate = Gate::new(&block, &services, true);
    let found = Put::on(&weights).into(&gate).unwrap_err();
    assert_eq!(found, "codes of `a`: the job leaves this linear alone: it has no grid");

    for job in [&own, &train] {
        let found = text(Gate::new(job, &services, true).complete()).unwrap_err();
        assert_eq!(found, "it reported success, and put neither weights nor codes");
    }
}

/// A trainer whose job has grids owes what a quantizer does, and may train the rest.
#[test]
fn a_trainer_on_grids_puts_codes_for_each_of_them_and_for_nothing_else() {
    let weights = grid(json!({ "num_bits": 4, "group_size": 32 }), StorageDtype::F32);
    let text = |result: Result<(), workbench_api::error::Error>| result.map_err(|error| error.to_string());
    let free =
        |module: &str| Linear { module: module.to_owned(), weight: format!("{module}.weight"), ..Linear::default() };
    let job = Job::Train(Model { linears: vec![linear(&weights), free("b")], ..Model::default() });
    let services = host(&job);
    let norm = || Tensor::from_vec(&[2], vec![1.0_f32; 2]).unwrap();

    let gate = Gate::new(&job, &services, true);
    text(gate.put_tensor("norm.weight", &norm())).unwrap();
    assert_eq!(text(gate.complete()).unwrap_err(), "it put no codes of `a`");
    Put::on(&weights).into(&gate).unwrap();
    assert_eq!(text(gate.complete()), Ok(()));
    let found = text(gate.patch_config(&json!({ "rms_norm_eps": 1.0 }))).unwrap_err();
    assert!(found.starts_with("a trainer on grids writes no configuration"), "{found}");

    let gate = Gate::new(&job, &services, true);
    let found = text(gate.put_tensor("a.weight", &Tensor::from_vec(&[2, 32], vec![0.25; 64]).unwrap())).unwrap_err();
    assert_eq!(found, "tensor `a.weight`: its linear has a grid, on which it is to be put as codes");
    let other = grid(json!({ "num_bits": 3, "group_size": 32 }), StorageDtype::F32);
    let found = Put::on(&other).into(&gate).unwrap_err();
    assert_eq!(found, "codes of `a`: they are on another grid than the one asked for");

    // Codes of a linear without a grid, and of nothing that the job names.
    let swapped = Job::Train(Model {
        linears: vec![free("a")],
        head: Some(Linear { module: "lm_head".to_owned(), ..linear(&weights) }),
        ..Model::default()
    });
    let gate = Gate::new(&swapped, &services, true);
    let found = Put::on(&weights).into(&gate).unwrap_err();
    assert_eq!(found, "codes of `a`: the job leaves this linear alone: it has no grid");
    let nobody = Job::Train(Model { kv_cache: json!(weights), ..Model::default() });
    let found = Put::on(&weights).into(&Gate::new(&nobody, &services, true)).unwrap_err();
    assert_eq!(found, "codes of `a`: the job is not about this linear");
}
