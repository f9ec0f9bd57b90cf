//! Mixtures of experts against what transformers computed for trained models, from their own checkpoints: experts in separate tensors,
//! stacked ones, and MXFP4 codes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use workbench_model::decoder::{Gradients, LossOptions, Targets, TrainableParams, loss_and_gradients};
use workbench_model::generate::{GenerationConfig, generate};
use workbench_model::{Block, Checkpoint, Context, Decoder, Precision, Site, SiteKind};

use crate::support::{Weights, distance, fixture, flat, gpt_oss, mixture, random_ids, row, tiny};

const MODELS: [&str; 3] = ["tiny_qwen3_moe", "tiny_gpt_oss", "tiny_gpt_oss_mxfp4"];

struct Golden {
    checkpoint: Checkpoint,
    tensors: Weights,
    rows: Vec<Vec<u32>>,
}

impl Golden {
    fn open(test: &str, model: &str) -> Option<Self> {
        let folder: PathBuf = fixture(test, &format!("golden/{model}"))?;
        let file = folder.join("forward.safetensors");
        let ids = candle_core::safetensors::load(&file, &Device::Cpu).unwrap()["input_ids"].to_vec2::<i64>().unwrap();
        let rows = ids.into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect();
        Some(Self { checkpoint: Checkpoint::open(&folder).unwrap(), tensors: Weights::read(&file), rows })
    }

    fn ids(&self) -> Tensor {
        Tensor::from_vec(self.rows.concat(), (self.rows.len(), self.rows[0].len()), &Device::Cpu).unwrap()
    }

    fn context(&self) -> Context {
        Context::full(self.rows.len(), self.rows[0].len(), None)
    }

    fn expected(&self, name: &str) -> &[f32] {
        &self.tensors.0[name].1
    }
}

/// The experts of each token by falling logit.
fn taken(logits: &[f32], experts: usize, per_token: usize) -> Vec<Vec<usize>> {
    let of = |logits: &[f32]| {
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(per_token);
        order
    };
    logits.chunks(experts).map(of).collect()
}

#[test]
fn hidden_states_routing_and_logits_agree_with_transformers() {
    let name = "hidden_states_routing_and_logits_agree_with_transformers";
    for model in MODELS {
        let Some(golden) = Golden::open(name, model) else { return };
        let config = golden.checkpoint.config();
        let decoder = Decoder::load(config, &golden.checkpoint, &Device::Cpu).unwrap();
        let mut hidden = decoder.embed(&golden.ids()).unwrap();
        let (mut sparse, mut seen) = (0, BTreeMap::new());
        for index in 0..config.num_layers {
            let error = distance(&flat(&hidden), golden.expected(&format!("hidden.{index}")));
            assert!(error < 1e-4, "{model}, input of block {index}: {error:e}");
            let mut tap = |site: Site, x: &Tensor| {
                *seen.entry(site).or_insert(0) += x.elem_count();
                if site.kind == SiteKind::Routing {
                    let experts = config.experts_of(index).unwrap();
                    let (found, expected) = (flat(x), golden.expected(&format!("router_logits.{sparse}")));
                    let error = distance(&found, expected);
                    assert!(error < 1e-4, "{model}, router of block {index}: {error:e}");
                    let taken = |logits| taken(logits, experts.count, experts.per_token);
                    assert_eq!(taken(&found), taken(expected), "{model}, block {index}");
                    sparse += 1;
                }
                Ok(())
            };
            hidden = decoder.block(index, &hidden, &golden.context(), &mut tap).unwrap();
        }
        let error = distance(&flat(&decoder.head(&hidden).unwrap()), golden.expected("logits"));
        eprintln!("{model}: largest logit difference {error:e} of the largest logit");
        assert!(error < 1e-4, "{model}: {error:e}");
        assert!(!golden.tensors.0.contains_key(&format!("router_logits.{sparse}")), "{model}: {sparse} routers");
        // Each token passes as many experts as it should.
        for block in config.blocks().filter(|block| block.router.is_some()) {
            let per_token = config.experts_of(block.index).unwrap().per_token;
            let routed: usize = seen
                .iter()
                .filter(|(site, _)| site.block == Some(block.index) && site.expert.is_some())
                .filter(|(site, _)| site.kind == SiteKind::MlpInput)
                .map(|(_, count)| count / config.hidden_size)
                .sum();
            assert_eq!(routed, per_token * golden.rows.concat().len(), "{model}, block {}", block.index);
        }
    }
}

#[test]
fn the_loss_and_its_gradients_agree_with_torch() {
    let name = "the_loss_and_its_gradients_agree_with_torch";
    for model in MODELS {
        let Some(golden) = Golden::open(name, model) else { return };
        let config = golden.checkpoint.config();
        let parameters = TrainableParams::load(config, &golden.checkpoint, &Device::Cpu).unwrap();
        let decoder = Decoder::over(config, &parameters).unwrap();
        let all = vec![vec![true; golden.rows[0].len()]; golden.rows.len()];
        let targets = Targets::next_token(&golden.rows, &all);
        for gradient_checkpointing in [false, true] {
            let options = LossOptions { gradient_checkpointing, ..LossOptions::default() };
            let mut gradients = Gradients::default();
            let (ids, context) = (golden.ids(), golden.context());
            let loss =
                loss_and_gradients(&decoder, &parameters, &ids, &context, &targets, options, &mut gradients).unwrap();
            let expected = f64::from(golden.expected("loss")[0]);
            assert!((loss / expected - 1.0).abs() < 1e-5, "{model}: {loss} instead of {expected}");
            let mut compared = 0;
            for (key, (shape, expected)) in golden.tensors.0.iter().filter(|(key, _)| key.starts_with("grad.")) {
                let key = key.strip_prefix("grad.").unwrap();
                let found = match gradients.get(key) {
                    Some(found) => flat(found),
                    None => stacked(&gradients, key, shape, model == "tiny_qwen3_moe"),
                };
                let error = distance(&found, expected);
                assert!(error < 1e-4, "{model} {key}: {error:e}");
                compared += 1;
            }
            assert_eq!(
                compared,
                match model {
                    "tiny_qwen3_moe" => 12,
                    "tiny_gpt_oss" => 17,
                    _ => 0,
                },
                "{model}"
            );
        }
    }
}

/// The gradient of a stack out of those of its experts, by the definition of the stack. An expert that no token passed has none.
fn stacked(gradients: &Gradients, key: &str, shape: &[usize], qwen: bool) -> Vec<f32> {
    let (parent, part) = key.rsplit_once('.').unwrap();
    let (part, kind) = part.strip_suffix("_bias").map_or((part, "weight"), |part| (part, "bias"));
    let mut all = vec![0.0; shape.iter().product()];
    let one = all.len() / shape[0];
    for (expert, all) in all.chunks_mut(one).enumerate() {
        let parts: &[&str] = if part == "down_proj" { &["down_proj"] } else { &["gate_proj", "up_proj"] };
        for (place, linear) in parts.iter().enumerate() {
            let Some(gradient) = gradients.get(&format!("{parent}.{expert}.{linear}.{kind}")) else { continue };
            let rows = gradient.dim(0).unwrap();
            let outputs = rows * parts.len();
            for (index, value) in flat(gradient).into_iter().enumerate() {
                let columns = gradient.elem_count() / rows;
                let (row, column) = (index / columns, index % columns);
                // gpt-oss takes outputs in turn and has inputs first; Qwen3 stacks and has outputs first.
                let output = if qwen { place * rows + row } else { row * parts.len() + place };
                let at = if qwen { output * columns + column } else { column * outputs + output };
                all[at] = value;
            }
        }
    }
    all
}

#[test]
fn a_cache_changes_nothing() {
    let name = "a_cache_changes_nothing";
    for model in MODELS {
        let Some(golden) = Golden::open(name, model) else { return };
        let decoder = Decoder::load(golden.checkpoint.config(), &golden.checkpoint, &Device::Cpu).unwrap();
        let prompts: Vec<Vec<u32>> = vec![golden.rows[0][..30].to_vec(), golden.rows[1][..7].to_vec()];
        let generation = GenerationConfig { max_new_tokens: 20, ..GenerationConfig::default() };
        let found = generate(&decoder, &prompts, &generation, &mut |_, _| ControlFlow::Continue(())).unwrap();
        for (prompt, found) in prompts.iter().zip(found) {
            let mut tokens = prompt.clone();
            for token in found.tokens {
                let logits = decoder.forward(&row(&tokens), &Context::full(1, tokens.len(), None)).unwrap();
                let last = flat(&logits.narrow(1, tokens.len() - 1, 1).unwrap());
                let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
                assert_eq!(token as usize, best, "{model}, behind {} tokens", tokens.len());
                tokens.push(token);
            }
            assert!(tokens.len() > prompt.len(), "{model}");
        }
    }
}

#[test]
fn packed_blocks_do_what_the_others_do() {
    let name = "packed_blocks_do_what_the_others_do";
    for model in MODELS {
        let Some(golden) = Golden::open(name, model) else { return };
        let config = golden.checkpoint.config();
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.1)] {
            for index in 0..config.num_layers {
                let (shape, values) = &golden.tensors.0[&format!("hidden.{index}")];
                let hidden = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap();
                let exact = Block::load(config, &golden.checkpoint, index, &Device::Cpu).unwrap();
                let packed = Block::load_for_scoring(config, &golden.checkpoint, index, precision, &Device::Cpu);
                let packed = packed.unwrap();
                let run = |block: &Block| flat(&block.forward(&hidden, &golden.context(), &mut ()).unwrap());
                let error = distance(&run(&packed), &run(&exact));
                assert!(error < tolerance, "{model}, block {index}, {precision:?}: {error:e}");
            }
        }
    }
}

type Seen = Vec<(Site, Vec<usize>, Vec<f32>)>;

/// What passes the taps.
fn watched(run: impl FnOnce(&mut dyn workbench_model::Taps)) -> Seen {
    let mut seen = Seen::new();
    let mut tap = |site: Site, x: &Tensor| {
        seen.push((site, x.dims().to_vec(), flat(x)));
        Ok(())
    };
    run(&mut tap);
    seen
}

/// Calibration looks at some experts at a time, without running the others.
#[test]
fn experts_are_shown_alone_as_in_a_forward_pass() {
    for (config, all) in [(mixture(true), false), (mixture(true), true), (gpt_oss(), false)] {
        let weights = Weights::random(&config, 70);
        let ids = random_ids(&config, 30, 2);
        let hidden = Decoder::load(&config, &weights, &Device::Cpu).unwrap().embed(&row(&ids)).unwrap();
        let hidden = hidden.reshape((2, 15, config.hidden_size)).unwrap();
        let mut block = Block::load_packed(
            &config,
            &weights,
            1,
            Precision::Bf16,
            workbench_model::device::OnHost::of(&Device::Cpu).unwrap(),
        )
        .unwrap();
        block.show_all_to_experts(all);
        let whole = watched(|tap| drop(block.mlp(&hidden, tap).unwrap()));
        let x = block.mlp_input(&hidden).unwrap();
        let experts = config.experts_of(1).unwrap().count;
        for kind in [SiteKind::MlpInput, SiteKind::DownInput] {
            for some in [vec![1], vec![0, experts - 1], (0..experts).collect()] {
                let expected: Seen = whole
                    .iter()
                    .filter(|(site, ..)| site.kind == kind && site.expert.is_some_and(|expert| some.contains(&expert)))
                    .cloned()
                    .collect();
                let found = watched(|tap| block.show_experts(&x, kind, &some, tap).unwrap());
                assert!(!found.is_empty() && found == expected, "{:?} {kind:?} {some:?}", config.architecture);
            }
        }
    }
    let dense = tiny(workbench_model::config::Architecture::Llama);
    let block = Block::load(&dense, &Weights::random(&dense, 1), 0, &Device::Cpu).unwrap();
    let hidden = Tensor::zeros((1, 2, dense.hidden_size), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(
        block.show_experts(&hidden, SiteKind::MlpInput, &[0], &mut ()).unwrap_err().to_string().contains("no experts")
    );
}
