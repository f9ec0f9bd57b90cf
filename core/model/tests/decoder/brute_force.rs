//! The decoder once more, in f64, one number at a time.

use workbench_model::ModelConfig;
use workbench_model::config::RopeScaling;
use workbench_rotation::Hadamard;

use crate::support::Weights;

type Rows = Vec<Vec<f64>>;

/// Logits at all positions of one sequence.
pub(crate) fn logits(config: &ModelConfig, weights: &Weights, ids: &[u32]) -> Rows {
    let embedding = matrix(weights, "model.embed_tokens");
    let mut hidden: Rows = ids.iter().map(|id| embedding[*id as usize].clone()).collect();
    for block in 0..config.num_layers {
        let prefix = format!("model.layers.{block}");
        let x = norm(&hidden, &vector(weights, &format!("{prefix}.input_layernorm.weight")), config.rms_norm_eps);
        add(&mut hidden, &attention(config, weights, &prefix, &x));
        let after = vector(weights, &format!("{prefix}.post_attention_layernorm.weight"));
        let x = norm(&hidden, &after, config.rms_norm_eps);
        let gate = linear(weights, &format!("{prefix}.mlp.gate_proj"), &x);
        let mut inner = linear(weights, &format!("{prefix}.mlp.up_proj"), &x);
        for (inner, gate) in inner.iter_mut().flatten().zip(gate.iter().flatten()) {
            *inner *= gate / (1.0 + (-gate).exp());
        }
        hadamard(config.online.down, &mut inner);
        add(&mut hidden, &linear(weights, &format!("{prefix}.mlp.down_proj"), &inner));
    }
    let x = norm(&hidden, &vector(weights, "model.norm.weight"), config.rms_norm_eps);
    linear(weights, if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" }, &x)
}

fn attention(config: &ModelConfig, weights: &Weights, prefix: &str, x: &Rows) -> Rows {
    let project = |name: &str, heads: usize, normed: bool| -> Vec<Rows> {
        let y = linear(weights, &format!("{prefix}.self_attn.{name}_proj"), x);
        let per_head = |head: usize| -> Rows {
            y.iter().map(|row| row[head * config.head_dim..(head + 1) * config.head_dim].to_vec()).collect()
        };
        (0..heads)
            .map(|head| {
                if !normed || !config.qk_norm {
                    return per_head(head);
                }
                let weight = vector(weights, &format!("{prefix}.self_attn.{name}_norm.weight"));
                norm(&per_head(head), &weight, config.rms_norm_eps)
            })
            .collect()
    };
    let mut q = project("q", config.num_heads, true);
    let mut k = project("k", config.num_kv_heads, true);
    let v = project("v", config.num_kv_heads, false);
    for head in q.iter_mut().chain(&mut k) {
        rotate(config, head);
        hadamard(config.online.heads, head);
    }
    let mut mixed = vec![vec![0.0; config.num_heads * config.head_dim]; x.len()];
    for (head, q) in q.iter().enumerate() {
        let kv = head / (config.num_heads / config.num_kv_heads);
        for (position, query) in q.iter().enumerate() {
            let score = |key: &Vec<f64>| dot(query, key) / (config.head_dim as f64).sqrt();
            let weights: Vec<f64> = k[kv][..=position].iter().map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (weight, value) in weights.iter().zip(&v[kv]) {
                for (i, value) in value.iter().enumerate() {
                    mixed[position][head * config.head_dim + i] += weight / total * value;
                }
            }
        }
    }
    linear(weights, &format!("{prefix}.self_attn.o_proj"), &mixed)
}

fn rotate(config: &ModelConfig, head: &mut Rows) {
    let half = config.head_dim / 2;
    for (position, row) in head.iter_mut().enumerate() {
        for i in 0..half {
            let angle = position as f64 * frequency(config, i);
            let (a, b) = (row[i], row[i + half]);
            row[i] = a * angle.cos() - b * angle.sin();
            row[i + half] = b * angle.cos() + a * angle.sin();
        }
    }
}

/// Rows, in blocks of `size`, times a Hadamard matrix.
fn hadamard(size: Option<usize>, rows: &mut Rows) {
    let Some(size) = size else { return };
    let hadamard = Hadamard::new(size).unwrap();
    for block in rows.iter_mut().flat_map(|row| row.chunks_mut(size)) {
        let signed = |i: usize| -> Vec<f64> {
            block.iter().enumerate().map(|(j, x)| if hadamard.is_negative(i, j) { -x } else { *x }).collect()
        };
        let rotated: Vec<f64> = (0..size).map(|i| signed(i).iter().sum::<f64>() / (size as f64).sqrt()).collect();
        block.copy_from_slice(&rotated);
    }
}

fn frequency(config: &ModelConfig, i: usize) -> f64 {
    let plain = config.rope_theta.powf(-2.0 * i as f64 / config.head_dim as f64);
    match config.rope_scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear { factor } => plain / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            let wavelength = std::f64::consts::TAU / plain;
            let context = original_max_positions as f64;
            if wavelength < context / high_freq_factor {
                plain
            } else if wavelength > context / low_freq_factor {
                plain / factor
            } else {
                let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * plain / factor + smooth * plain
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut Rows, x: &Rows) {
    to.iter_mut().flatten().zip(x.iter().flatten()).for_each(|(to, x)| *to += x);
}

fn norm(x: &Rows, weight: &[f64], eps: f64) -> Rows {
    x.iter()
        .map(|row| {
            let scale = 1.0 / (dot(row, row) / row.len() as f64 + eps).sqrt();
            row.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
        })
        .collect()
}

fn linear(weights: &Weights, name: &str, x: &Rows) -> Rows {
    let weight = matrix(weights, name);
    let bias = weights.0.get(&format!("{name}.bias")).map(|(_, values)| values.clone());
    x.iter()
        .map(|row| {
            let bias = |i: usize| bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
            weight.iter().enumerate().map(|(i, weight)| dot(weight, row) + bias(i)).collect()
        })
        .collect()
}

fn vector(weights: &Weights, name: &str) -> Vec<f64> {
    weights.0[name].1.iter().map(|x| f64::from(*x)).collect()
}

fn matrix(weights: &Weights, name: &str) -> Rows {
    let (shape, values) = &weights.0[&format!("{name}.weight")];
    values.chunks(shape[1]).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
}
