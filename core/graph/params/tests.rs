//! What is written is what is read.

use serde_json::{Value, json};

use super::*;

fn tokens() -> TokenOptions {
    TokenOptions {
        num_calibration_samples: Some(3),
        max_seq_length: 64,
        shuffle: true,
        seed: Some(7),
        concatenate: true,
        text_column: "text".to_owned(),
        add_bos: Toggle::Auto,
        chat_template: Toggle::Off,
        characters: Some(5),
    }
}

fn quantize() -> Quantize {
    let args = workbench_quant::Scheme::from_value(&json!("W4A16")).unwrap();
    let scheme = GroupScheme { args, conventions: Default::default() };
    let cache = workbench_quant::kv_cache_args(&json!({ "num_bits": 8, "type": "float" })).unwrap();
    Quantize {
        groups: vec![Group { modules: vec!["a".to_owned()], scheme }],
        kv_cache: Some(KvCache { args: cache, conventions: Default::default() }),
        untie_word_embeddings: true,
        observe: Some(Order::Block),
        hidden_states: Some(CalibrationDtype::Float32),
        compute_dtype: Some(CalibrationDtype::Bfloat16),
        calibrate_all_experts: true,
        min_expert_tokens: Some(7),
        calibration: Some(tokens()),
        parameters: json!({ "x": 0.7 }),
    }
}

fn generate(begin: Begin) -> Params {
    Params::Generate(Generate {
        begin,
        n: 2,
        max_tokens: 16,
        temperature: 0.7,
        top_p: 0.9,
        top_k: Some(20),
        seed: Some(3),
        add_bos: Toggle::Off,
        batch_size: 4,
    })
}

fn examples() -> Vec<Params> {
    let text = TextOptions {
        protocol: Protocol::Rolling,
        max_seq_length: 256,
        blocks: Some(2),
        add_bos: Toggle::Off,
        text_column: "t".to_owned(),
        characters: Some(9),
        batch_size: 2,
        task: "ppl".to_owned(),
    };
    let (limit, batch_size, task) = (Some(4), 8, "facts".to_owned());
    let file = json!({ "kind": "choice" });
    vec![
        Params::Transform(Transform {
            dtype: WeightDtype::Bfloat16,
            calibration: Some(tokens()),
            parameters: json!({}),
        }),
        Params::Quantize(quantize()),
        Params::Train(Train {
            dtype: Some(WeightDtype::Float16),
            from_scratch: true,
            codes: true,
            data: tokens(),
            validation: Some(TokenOptions { max_seq_length: 32, ..tokens() }),
            rewards: vec![
                Reward::Answer {
                    name: "right".to_owned(),
                    answer: "a".to_owned(),
                    matching: Match::Exact,
                    stop: vec!["\n".to_owned()],
                },
                Reward::Function {
                    name: "short".to_owned(),
                    source: "fn short(p, c, r) { 1 }".to_owned(),
                    function: "short".to_owned(),
                },
            ],
            groups: quantize().groups,
            kv_cache: quantize().kv_cache,
            parameters: json!({ "seed": 1 }),
        }),
        Params::Evaluate(Evaluate::RunningText(text)),
        Params::Evaluate(Evaluate::TextTask(TextTask {
            file: file.clone(),
            limit,
            batch_size,
            max_seq_length: 64,
            task: task.clone(),
        })),
        Params::Evaluate(Evaluate::Items(Items { file, limit, batch_size, task })),
        generate(Begin::Prompts { text_column: "t".to_owned(), chat_template: true, limit: Some(5) }),
        generate(Begin::Starts { count: Some(9), greedy_tokens: [3, 5] }),
    ]
}

/// Reads what a step reads of the JSON.
fn again(params: &Params, json: &Value) -> Result<Params> {
    Ok(match params {
        Params::Transform(_) => Params::Transform(read(json)?),
        Params::Quantize(_) => Params::Quantize(read(json)?),
        Params::Train(_) => Params::Train(read(json)?),
        Params::Evaluate(Evaluate::RunningText(_)) => Params::Evaluate(Evaluate::RunningText(read(json)?)),
        Params::Evaluate(Evaluate::TextTask(_)) => Params::Evaluate(Evaluate::TextTask(read(json)?)),
        Params::Evaluate(Evaluate::Items(_)) => Params::Evaluate(Evaluate::Items(read(json)?)),
        Params::Generate(_) => Params::Generate(read(json)?),
    })
}

#[test]
fn a_step_reads_what_the_script_wrote() {
    for params in examples() {
        let json = params.to_json().unwrap();
        assert_eq!(again(&params, &json).unwrap(), params);
        // A key that no step reads is refused, at the first level and inside.
        let stray = |at: &str| {
            let mut json = json.clone();
            if let Some(part) = json.pointer_mut(at) {
                part["nobody"] = 1.into();
                assert!(again(&params, &json).is_err(), "{json}");
            }
        };
        let inside = ["/calibration", "/data", "/validation", "/kv_cache", "/groups/0", "/groups/0/scheme"];
        ["", "/begin/prompts", "/begin/starts"].into_iter().chain(inside).for_each(stray);
    }
}

#[test]
fn every_field_is_part_of_the_meaning() {
    for params in examples() {
        let json = params.to_json().unwrap();
        for key in json.as_object().unwrap().keys() {
            let mut changed = json.clone();
            changed.as_object_mut().unwrap().shift_remove(key);
            // Left out it means something else, or nothing that a step could run.
            assert_ne!(again(&params, &changed).ok(), Some(params.clone()), "{key} of {json}");
        }
    }
}
