//! Learning on tiny random models.

mod frozen;

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use workbench_model::ModelError;
use workbench_rotation::Square;

use super::*;
use crate::parameters::{Kind, Parameters, Place};

struct Weights(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl WeightSource for Weights {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, _)| shape.clone())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.0.get(name).map(|(_, values)| values.clone()).ok_or_else(|| ModelError::Text(format!("no `{name}`")))
    }
}

/// A model with biases, gains other than 1, grouped heads, a tied head, and a few large channels.
fn model(kind: &str) -> (ModelConfig, Weights) {
    let class = format!("{}{}ForCausalLM", kind[..1].to_uppercase(), &kind[1..]);
    let config = json!({
        "architectures": [class], "model_type": kind, "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu",
        "attention_bias": kind == "llama", "mlp_bias": kind == "llama",
    });
    let config = ModelConfig::from_json(&config, Path::new("config.json")).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let tensors = config.tensors().into_iter().map(|spec| {
        let norm = spec.name.contains("norm");
        let count: usize = spec.shape.iter().product();
        let last = *spec.shape.last().unwrap();
        let mut value = |i: usize| {
            let drawn: f32 = rng.random_range(-0.5..0.5);
            // Two channels of the hidden states stand out.
            let outlier = if spec.name == "model.embed_tokens.weight" && i % last < 2 { 8.0 } else { 1.0 };
            if norm { 1.0 + drawn } else { drawn * outlier }
        };
        let values = (0..count).map(&mut value).collect();
        (spec.name, (spec.shape, values))
    });
    let weights = Weights(tensors.collect());
    (config, weights)
}

fn sequences() -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    (0..6).map(|_| (0..20).map(|_| rng.random_range(0..40)).collect()).collect()
}

fn drawn(config: &ModelConfig, block_size: Option<usize>) -> Rotations {
    let rotations = vec![Place::R1, Place::R2, Place::R3, Place::R4];
    let parameters = Parameters { rotations, kind: Kind::RandomOrthogonal, block_size, seed: 1, learn: None };
    Rotations::draw(&parameters, config).unwrap()
}

fn learn(steps: u64) -> Learn {
    Learn { steps, batch_size: 6, checkpoint_every: 2, gradient_checkpointing: true, ..Learn::default() }
}

#[test]
fn learning_lowers_the_loss_and_keeps_rotations() {
    let inputs = json!({ "input_activations": Learn::default().scheme["input_activations"] });
    for (scheme, loss, steps, least) in [
        (inputs.clone(), Loss::NextToken, 40, 0.02),
        // From some thirty steps on the last bits of a loss decide what so small a model learns.
        (inputs, Loss::Divergence, 20, 0.01),
        (json!("W4A4"), Loss::NextToken, 40, 0.02),
    ] {
        // Groups of weights have to divide 16, 24 and 32 channels.
        let scheme = if scheme.is_string() { json!({ "scheme": "W4A4", "group_size": 8 }) } else { scheme };
        let (config, weights) = model("qwen3");
        let mut rotations = drawn(&config, None);
        let learn = Learn { scheme, loss, ..learn(steps) };
        let sequences = sequences();
        let run =
            Run { source: &weights, config: &config, learn: &learn, seed: 0, sequences: &sequences, folder: None };
        let mut seen = 0;
        let facts = run
            .learn(&mut rotations, &mut |step| {
                seen += 1;
                assert!(step.deviation < 1e-9 && step.gradient_norm > 0.0, "{step:?}");
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, steps);
        let (before, after) = (facts["loss_before"].as_f64().unwrap(), facts["loss_after"].as_f64().unwrap());
        assert!(after < before - least, "{facts}");
        assert_eq!(facts["loss"], json!(loss));
        // The reported losses are those of the steps: the first one is the loss before.
        assert!((facts["first_loss"].as_f64().unwrap() - before).abs() < 1e-5, "{facts}");
        assert!(rotations.hidden.unwrap().matrix().unwrap().deviation() < 1e-9);
    }
}

#[test]
fn an_interrupted_run_continues_to_the_same_bits() {
    let (config, weights) = model("llama");
    let sequences = sequences();
    let learn = Learn { batch_size: 2, ..learn(7) };
    let folder = tempfile::tempdir().unwrap();
    let run = |folder: Option<&Path>, stop: u64| {
        let mut rotations = drawn(&config, None);
        let run = Run { source: &weights, config: &config, learn: &learn, seed: 5, sequences: &sequences, folder };
        let outcome = run.learn(&mut rotations, &mut |step| match step.number {
            number if number == stop => Err(Error::cancelled()),
            _ => Ok(()),
        });
        let matrices: Vec<Square> = dense(&mut rotations).map(|matrix| matrix.clone()).collect();
        (outcome, matrices)
    };
    let (whole, expected) = run(None, 0);
    let whole = whole.unwrap();
    // In the middle, behind the first step, and behind the last one.
    for stop in [5, 1, 7] {
        let folder = tempfile::tempdir().unwrap();
        assert!(run(Some(folder.path()), stop).0.is_err());
        let (continued, found) = run(Some(folder.path()), 0);
        assert!(expected == found, "other rotations");
        assert_eq!(continued.unwrap(), whole, "what the record says of it, after a stop at step {stop}");
    }

    assert!(run(Some(folder.path()), 5).0.is_err());
    let other = Learn { learning_rate: 0.1, ..learn.clone() };
    let run = Run {
        source: &weights,
        config: &config,
        learn: &other,
        seed: 5,
        sequences: &sequences,
        folder: Some(folder.path()),
    };
    let error = run.learn(&mut drawn(&config, None), &mut |_| Ok(())).unwrap_err();
    assert!(error.message.contains("other settings"), "{error}");
}

#[test]
fn schemes_that_teach_nothing_are_refused() {
    for (scheme, part) in [
        (json!({}), "quantizes nothing"),
        (json!("W8A8_STATIC"), "dynamic"),
        (json!("W4A44"), "W4A44"),
        (json!({ "scheme": "W4A4", "ignore": ["*.down_proj"] }), "alike"),
    ] {
        let error = grids(&Learn { scheme, ..Learn::default() }).err().unwrap().message;
        assert!(error.contains("learn.scheme") && error.contains(part), "{error}");
    }
}
