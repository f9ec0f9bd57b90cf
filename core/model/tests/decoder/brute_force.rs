//! The decoder once more, in f64, one number at a time.

use workbench_model::ModelConfig;
use workbench_model::config::{Experts, Gating, RopeScaling, Routing};
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
        add(&mut hidden, &attention(config, weights, block, &x));
        let after = vector(weights, &format!("{prefix}.post_attention_layernorm.weight"));
        let x = norm(&hidden, &after, config.rms_norm_eps);
        let added = match config.experts_of(block) {
            None => mlp(config, Gating::Silu, weights, &format!("{prefix}.mlp"), &x),
            Some(experts) => {
                x.iter().map(|row| mixture(config, experts, weights, &format!("{prefix}.mlp"), row)).collect()
            }
        };
        add(&mut hidden, &added);
    }
    let x = norm(&hidden, &vector(weights, "model.norm.weight"), config.rms_norm_eps);
    linear(weights, if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" }, &x)
}

fn mlp(config: &ModelConfig, gating: Gating, weights: &Weights, prefix: &str, x: &Rows) -> Rows {
    let gate = linear(weights, &format!("{prefix}.gate_proj"), x);
    let mut intermediate = linear(weights, &format!("{prefix}.up_proj"), x);
    for (intermediate, gate) in intermediate.iter_mut().flatten().zip(gate.iter().flatten()) {
        *intermediate = match gating {
            Gating::Silu => *intermediate * gate / (1.0 + (-gate).exp()),
            Gating::Clamped { alpha, limit } => {
                let (alpha, limit) = (f64::from(alpha), f64::from(limit));
                let (gate, up) = (gate.min(limit), intermediate.clamp(-limit, limit));
                gate / (1.0 + (-alpha * gate).exp()) * (up + 1.0)
            }
        };
    }
    hadamard(config.online.down, &mut intermediate);
    linear(weights, &format!("{prefix}.down_proj"), &intermediate)
}

/// What the experts of one token make of it.
fn mixture(config: &ModelConfig, experts: &Experts, weights: &Weights, prefix: &str, row: &[f64]) -> Vec<f64> {
    let router = if experts.bias { "router" } else { "gate" };
    let logits = linear(weights, &format!("{prefix}.{router}"), &vec![row.to_vec()]).remove(0);
    let mut taken: Vec<usize> = (0..experts.count).collect();
    taken.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    taken.truncate(experts.per_token);
    let sum = |among: &[usize]| among.iter().map(|expert| logits[*expert].exp()).sum::<f64>();
    let all: Vec<usize> = (0..experts.count).collect();
    let total = match experts.routing {
        Routing::SoftmaxTopK { renormalize: false } => sum(&all),
        Routing::SoftmaxTopK { renormalize: true } | Routing::TopKSoftmax => sum(&taken),
    };
    let mut added = vec![0.0; row.len()];
    for expert in taken {
        let name = format!("{prefix}.experts.{expert}");
        let made = mlp(config, experts.gating, weights, &name, &vec![row.to_vec()]).remove(0);
        added.iter_mut().zip(made).for_each(|(sum, made)| *sum += logits[expert].exp() / total * made);
    }
    added
}

fn attention(config: &ModelConfig, weights: &Weights, block: usize, x: &Rows) -> Rows {
    let prefix = &format!("model.layers.{block}");
    let sinks = config.attention_sinks.then(|| vector(weights, &format!("{prefix}.self_attn.sinks")));
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
            let first = config.sliding_window(block).map_or(0, |window| (position + 1).saturating_sub(window));
            let weights: Vec<f64> = k[kv][first..=position].iter().map(|key| score(key).exp()).collect();
            let sink = sinks.as_ref().map_or(0.0, |sinks| sinks[head].exp());
            let total: f64 = weights.iter().sum::<f64>() + sink;
            for (weight, value) in weights.iter().zip(&v[kv][first..]) {
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
            let scale = match config.rope_scaling {
                RopeScaling::Yarn(yarn) => yarn.attention_factor,
                _ => 1.0,
            };
            let (a, b) = (row[i] * scale, row[i + half] * scale);
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
        RopeScaling::Yarn(yarn) => {
            // The dimension at which a frequency turns so many times over the original length.
            let dimension = |turns: f64| {
                let length = yarn.original_max_positions as f64 / (turns * std::f64::consts::TAU);
                config.head_dim as f64 / 2.0 * length.ln() / config.rope_theta.ln()
            };
            let (low, high) = (dimension(yarn.beta_fast).max(0.0), dimension(yarn.beta_slow));
            let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            plain * (1.0 - stretched) + plain / yarn.factor * stretched
        }
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
