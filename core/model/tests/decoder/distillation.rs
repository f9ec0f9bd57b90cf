//! A student that learns from a teacher's predictions, through whole models.

use candle_core::{Device, Tensor, Var};
use workbench_model::config::Architecture;
use workbench_model::decoder::{
    Divergence, Gradients, Head, LossOptions, Targets, TrainableParams, gradients_of, loss_and_gradients,
};
use workbench_model::device::OnHost;
use workbench_model::{Context, Decoder, ModelConfig, ModelError, Precision};

use crate::support::{Weights, distance, flat, random_ids, tiny};

const ALL: [Divergence; 4] = [
    Divergence::FORWARD,
    Divergence { beta: 0.5, temperature: 1.0 },
    Divergence { beta: 0.1, temperature: 2.0 },
    Divergence { beta: 1.0, temperature: 0.8 },
];

fn student() -> (ModelConfig, Weights) {
    let config = tiny(Architecture::Qwen3);
    let weights = Weights::random(&config, 60);
    (config, weights)
}

/// Of another family, wider, with a head of its own.
fn teacher() -> (ModelConfig, Weights) {
    let config = ModelConfig { hidden_size: 32, head_dim: 8, ..tiny(Architecture::Llama) };
    let weights = Weights::random(&config, 61);
    (config, weights)
}

/// Two sequences of eleven tokens: each position's weight, and what comes before the loss.
struct Batch {
    ids: Tensor,
    context: Context,
    weights: Vec<f32>,
}

impl Batch {
    fn new(config: &ModelConfig) -> Self {
        let ids = Tensor::from_vec(random_ids(config, 22, 62), (2, 11), &Device::Cpu).unwrap();
        let weights = (0..22).map(|i| if i % 11 == 10 || i % 4 == 1 { 0.0 } else { 1.0 / 14.0 }).collect();
        Self { ids, context: Context::full(2, 11, None), weights }
    }

    fn hidden(&self, decoder: &Decoder) -> Tensor {
        decoder.hidden(&self.ids, &self.context, &mut ()).unwrap()
    }

    fn run(
        &self,
        teacher: &Decoder,
        (divergence, chunk, checkpointing): (Divergence, usize, bool),
    ) -> (f64, Vec<(String, Vec<f32>)>) {
        let (config, weights) = student();
        let parameters = TrainableParams::load(&config, &weights, &Device::Cpu).unwrap();
        let decoder = Decoder::over(&config, &parameters).unwrap();
        let known = self.hidden(teacher);
        let mut gradients = Gradients::default();
        let loss = |head: &Head, hidden: &Tensor| {
            head.distillation(hidden, teacher.head_layer(), &known, &self.weights, divergence, chunk)
        };
        let (ids, context) = (&self.ids, &self.context);
        let loss = gradients_of(&loss, &decoder, &parameters, ids, context, checkpointing, &mut gradients).unwrap();
        assert_eq!(gradients.iter().count(), parameters.iter().count());
        (loss, gradients.iter().map(|(name, gradient)| (name.to_owned(), flat(gradient))).collect())
    }
}

/// The definition in f64, of logits in f32.
fn exact(student: &[f32], teacher: &[f32], weights: &[f32], Divergence { beta, temperature }: Divergence) -> f64 {
    let probabilities = |logits: &[f32]| -> Vec<f64> {
        let e: Vec<f64> = logits.iter().map(|x| (f64::from(*x) / temperature).exp()).collect();
        let total: f64 = e.iter().sum();
        e.iter().map(|e| e / total).collect()
    };
    let kl = |p: &[f64], q: &[f64]| -> f64 { p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum() };
    let vocabulary = student.len() / weights.len();
    let rows = student.chunks(vocabulary).zip(teacher.chunks(vocabulary)).zip(weights);
    rows.map(|((student, teacher), weight)| {
        let (s, t) = (probabilities(student), probabilities(teacher));
        let m: Vec<f64> = s.iter().zip(&t).map(|(s, t)| (1.0 - beta) * s + beta * t).collect();
        let divergence = match beta {
            0.0 => kl(&t, &s),
            1.0 => kl(&s, &t),
            beta => beta * kl(&t, &m) + (1.0 - beta) * kl(&s, &m),
        };
        f64::from(*weight) * divergence
    })
    .sum()
}

fn load((config, weights): &(ModelConfig, Weights)) -> Decoder {
    Decoder::load(config, weights, &Device::Cpu).unwrap()
}

#[test]
fn the_loss_is_the_definitions_whatever_the_chunk_and_the_form_of_the_weights() {
    let (student, teacher) = (student(), teacher());
    let (config, batch) = (&student.0, Batch::new(&student.0));
    let (of_student, of_teacher) = (load(&student), load(&teacher));
    let (hidden, known) = (batch.hidden(&of_student), batch.hidden(&of_teacher));
    let host = OnHost::of(&Device::Cpu).unwrap();
    let packed_teacher = Head::load_packed(&teacher.0, &teacher.1, Precision::F32, host).unwrap();
    let packed_student = Head::load_packed(config, &student.1, Precision::F32, host).unwrap();
    let logits = [of_student.head(&hidden).unwrap(), of_teacher.head(&known).unwrap()];
    for divergence in ALL {
        let expected = exact(&flat(&logits[0]), &flat(&logits[1]), &batch.weights, divergence);
        let value = |student: &Head, teacher: &Head, hidden: &Tensor, chunk: usize| -> f64 {
            let found = student.distillation(hidden, teacher, &known, &batch.weights, divergence, chunk).unwrap();
            assert_eq!(found.track_op(), hidden.track_op());
            f64::from(found.to_scalar::<f32>().unwrap())
        };
        let (student_head, teacher_head) = (of_student.head_layer(), of_teacher.head_layer());
        let variable = Var::from_tensor(&hidden).unwrap();
        for chunk in [1, 5, 22, 1000] {
            for found in [
                value(student_head, teacher_head, &hidden, chunk),
                value(student_head, teacher_head, variable.as_tensor(), chunk),
                value(student_head, &packed_teacher, variable.as_tensor(), chunk),
                value(&packed_student, &packed_teacher, &hidden, chunk),
            ] {
                assert!((found / expected - 1.0).abs() < 1e-6, "{divergence:?} {chunk}: {found} {expected}");
            }
        }
    }
}

#[test]
fn gradients_do_not_depend_on_the_chunk_and_on_checkpointing() {
    let of_teacher = load(&teacher());
    let batch = Batch::new(&student().0);
    for divergence in ALL {
        let (loss, whole) = batch.run(&of_teacher, (divergence, 1000, false));
        assert_eq!((loss, whole.clone()), batch.run(&of_teacher, (divergence, 1000, true)));
        for chunk in [1, 7] {
            let (other, parts) = batch.run(&of_teacher, (divergence, chunk, false));
            assert!((other / loss - 1.0).abs() < 1e-6, "{other} {loss}");
            for ((name, a), (_, b)) in parts.iter().zip(&whole) {
                let error = distance(a, b);
                assert!(error < 3e-6, "{name}: {error:e}");
            }
        }
    }
}

#[test]
fn gradients_are_slopes_of_the_definition() {
    let of_teacher = load(&teacher());
    let (config, mut weights) = student();
    let batch = Batch::new(&config);
    let theirs = flat(&of_teacher.head(&batch.hidden(&of_teacher)).unwrap());
    for divergence in ALL {
        let (_, gradients) = batch.run(&of_teacher, (divergence, 5, true));
        for (name, gradient) in gradients {
            let most = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
            let original = weights.0[&name].1[most];
            let mut at = |value: f32| {
                weights.0.get_mut(&name).unwrap().1[most] = value;
                let rows = batch.ids.to_vec2::<u32>().unwrap();
                let logits: Vec<f32> = rows
                    .iter()
                    .flat_map(|row| crate::brute_force::logits(&config, &weights, row))
                    .flat_map(|row| row.into_iter().map(|x| x as f32).collect::<Vec<_>>())
                    .collect();
                exact(&logits, &theirs, &batch.weights, divergence)
            };
            // The logits are rounded to f32: a step that is too short shows it.
            let (up, down) = (original + 4e-3, original - 4e-3);
            let slope = (at(up) - at(down)) / f64::from(up - down);
            at(original);
            let error = (f64::from(gradient[most]) / slope - 1.0).abs();
            assert!(error < 1e-3, "{divergence:?} {name}[{most}]: {} {slope}", gradient[most]);
        }
    }
}

#[test]
fn a_teacher_that_is_the_student_teaches_nothing() {
    let same = load(&student());
    let batch = Batch::new(&student().0);
    for divergence in ALL {
        let (loss, gradients) = batch.run(&same, (divergence, 7, false));
        assert_eq!(loss, 0.0);
        assert!(gradients.iter().all(|(_, gradient)| gradient.iter().all(|x| *x == 0.0)));
    }
}

#[test]
fn what_cannot_be_compared_is_an_error_by_name() {
    let (student, teacher) = (student(), teacher());
    let (of_student, of_teacher) = (load(&student), load(&teacher));
    let batch = Batch::new(&student.0);
    let (hidden, known) = (batch.hidden(&of_student), batch.hidden(&of_teacher));
    let (head, other) = (of_student.head_layer(), of_teacher.head_layer());
    let error = |found: Result<Tensor, ModelError>, part: &str| {
        let error = found.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let larger = ModelConfig { vocab_size: 44, ..teacher.0.clone() };
    let larger = (larger.clone(), Weights::random(&larger, 63));
    let larger = load(&larger);
    let forward = Divergence::FORWARD;
    let weights = batch.weights.as_slice();
    error(head.distillation(&hidden, larger.head_layer(), &known, weights, forward, 5), "40 entries, the teacher's 44");
    error(head.distillation(&hidden, other, &known, &weights[1..], forward, 5), "21 weights");
    error(head.distillation(&hidden, other, &known, weights, forward, 0), "chunks of 0");
    let short = known.narrow(1, 0, 10).unwrap();
    error(head.distillation(&hidden, other, &short, weights, forward, 5), "20 of the teacher");
    for (beta, temperature, part) in [
        (-0.1, 1.0, "`beta`"),
        (f64::NAN, 1.0, "`beta`"),
        (0.5, 0.0, "`temperature`"),
        (0.5, f64::NAN, "`temperature`"),
    ] {
        error(head.distillation(&hidden, other, &known, weights, Divergence { beta, temperature }, 5), part);
    }
    let host = OnHost::of(&Device::Cpu).unwrap();
    let packed = Head::load_packed(&student.0, &student.1, Precision::F32, host).unwrap();
    let variable = Var::from_tensor(&hidden).unwrap();
    error(packed.distillation(variable.as_tensor(), other, &known, weights, forward, 5), "backward pass");
}

#[test]
fn the_cross_entropy_is_one_loss_of_many() {
    let (config, weights) = student();
    let parameters = TrainableParams::load(&config, &weights, &Device::Cpu).unwrap();
    let decoder = Decoder::over(&config, &parameters).unwrap();
    let batch = Batch::new(&config);
    let targets = Targets { ids: random_ids(&config, 22, 64), weights: batch.weights.clone() };
    let (ids, context) = (&batch.ids, &batch.context);
    let (mut a, mut b) = (Gradients::default(), Gradients::default());
    let options = LossOptions { gradient_checkpointing: true, chunk: 6 };
    let alone = loss_and_gradients(&decoder, &parameters, ids, context, &targets, options, &mut a).unwrap();
    // Twice the loss, as a sum of two.
    let twice = |head: &Head, hidden: &Tensor| Ok((head.loss(hidden, &targets, 6)? + head.loss(hidden, &targets, 6)?)?);
    let sum = gradients_of(&twice, &decoder, &parameters, ids, context, true, &mut b).unwrap();
    assert!((sum - 2.0 * alone).abs() < 1e-6);
    for (name, gradient) in a.iter() {
        let doubled: Vec<f32> = flat(gradient).iter().map(|x| 2.0 * x).collect();
        assert!(distance(&flat(b.get(name).unwrap()), &doubled) < 1e-6, "{name}");
    }
}
