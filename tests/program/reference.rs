//! The reference against what the program does: the page, and every option that it names.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::project::{Project, sources};

/// A call of each kind with its options, on lines of their own. `OPTIONS` stands for them.
const CALLS: [(&str, &str); 9] = [
    ("tokens", r#"base.train("sft", #{ data: data.tokens(#{ OPTIONS }) }).save_as("ID");"#),
    ("train", r#"base.train("sft", #{ OPTIONS }).save_as("ID");"#),
    ("transform", r#"base.transform("smoothquant", #{ OPTIONS }).save_as("ID");"#),
    ("quantize", r#"base.quantize("gptq", #{ OPTIONS }).save_as("ID");"#),
    ("apply", r#"base.apply(stages("stage.toml")[0], #{ OPTIONS }).save_as("ID");"#),
    ("perplexity", r#"table.row(base.evaluate(perplexity(#{ OPTIONS })), #{ id: "ID" });"#),
    ("kl", r#"table.row(base.evaluate(kl(base, #{ OPTIONS })), #{ id: "ID" });"#),
    ("generate", r#"base.generate(#{ OPTIONS }).save_as("ID");"#),
    ("task", r#"table.row(base.evaluate(task("letters.toml", #{ OPTIONS })), #{ id: "ID" });"#),
];

/// For each option, options that differ in it alone.
const OPTIONS: &[(&str, &str, &str, &str)] = {
    const GROUPS: &str = r#"scheme: "W4A16", group_size: 16, calibration: calib"#;
    const TRAINED: &str = r#"scheme: "W4A16", group_size: 16, data: calib"#;
    const WRITES: &str = r#"prompts: data, rewards: [reward("r.rhai", "one")]"#;
    const INT8: &str = r#"scheme: "INT8", calibration: calib"#;
    const STATIC: &str = r#"scheme: "W8A8_STATIC", calibration: calib"#;
    const BLOCKS: &str = r#"scheme: #{ weights: #{ num_bits: 8, type: "float", strategy: "block", block_structure: [32, 32] } }, calibration: calib"#;
    const TEXT: &str = "text: data, max_seq_length: 16";
    const STARTS: &str = "starts: #{}, max_tokens: 9";
    &[
        ("tokens", "num_calibration_samples", "", "num_calibration_samples: 3"),
        ("tokens", "max_seq_length", "", "max_seq_length: 32"),
        ("tokens", "shuffle", "", "shuffle: true"),
        ("tokens", "seed", "shuffle: true, seed: 1", "shuffle: true, seed: 2"),
        ("tokens", "concatenate", "", "concatenate: false"),
        ("tokens", "text_column", "", r#"text_column: "story""#),
        ("tokens", "add_bos", "", "add_bos: false"),
        ("tokens", "chat_template", "", r#"chat_template: "true""#),
        ("tokens", "characters", "", "characters: 900.0"),
        ("train", "data", "data: data", "data: other"),
        ("train", "dtype", "data: data", r#"data: data, dtype: "float16""#),
        ("train", "teacher", TRAINED, r#"scheme: "W4A16", group_size: 16, data: calib, teacher: base"#),
        ("train", "validation", TRAINED, r#"scheme: "W4A16", group_size: 16, data: calib, validation: other"#),
        ("train", "prompts", WRITES, r#"prompts: other, rewards: [reward("r.rhai", "one")]"#),
        ("train", "rewards", WRITES, r#"prompts: data, rewards: [reward("r.rhai", "two")]"#),
        (
            "train",
            "kv_cache_scheme",
            TRAINED,
            r#"scheme: "W4A16", group_size: 16, data: calib, kv_cache_scheme: #{ num_bits: 8, group_size: 8, dynamic: true }"#,
        ),
        ("transform", "dtype", "calibration: calib", r#"calibration: calib, dtype: "bfloat16""#),
        ("transform", "calibration", "calibration: calib", "calibration: other"),
        ("quantize", "scheme", GROUPS, r#"scheme: "W8A16", group_size: 16, calibration: calib"#),
        (
            "quantize",
            "calibrate_all_experts",
            GROUPS,
            "scheme: \"W4A16\", group_size: 16, calibration: calib, calibrate_all_experts: true",
        ),
        (
            "quantize",
            "min_expert_tokens",
            GROUPS,
            "scheme: \"W4A16\", group_size: 16, calibration: calib, min_expert_tokens: 3",
        ),
        ("quantize", "num_bits", GROUPS, r#"scheme: "W4A16", group_size: 16, calibration: calib, num_bits: 3"#),
        (
            "quantize",
            "type",
            r#"scheme: "W8A16", group_size: 16, calibration: calib"#,
            r#"scheme: "W8A16", group_size: 16, calibration: calib, type: "float""#,
        ),
        ("quantize", "symmetric", GROUPS, r#"scheme: "W4A16", group_size: 16, calibration: calib, symmetric: false"#),
        ("quantize", "group_size", GROUPS, r#"scheme: "W4A16", group_size: 32, calibration: calib"#),
        ("quantize", "strategy", INT8, r#"scheme: "INT8", calibration: calib, strategy: "tensor""#),
        (
            "quantize",
            "block_structure",
            BLOCKS,
            r#"scheme: #{ weights: #{ num_bits: 8, type: "float", strategy: "block", block_structure: [32, 32] } }, calibration: calib, block_structure: [16, 16]"#,
        ),
        ("quantize", "actorder", GROUPS, r#"scheme: "W4A16", group_size: 16, calibration: calib, actorder: "static""#),
        (
            "quantize",
            "scale_dtype",
            GROUPS,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, scale_dtype: "bfloat16""#,
        ),
        (
            "quantize",
            "zp_dtype",
            r#"scheme: "W4A16", group_size: 16, calibration: calib, symmetric: false"#,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, symmetric: false, zp_dtype: "int16""#,
        ),
        (
            "quantize",
            "weights",
            GROUPS,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, weights: #{ observer: "mse" }"#,
        ),
        (
            "quantize",
            "input_activations",
            INT8,
            r#"scheme: "INT8", calibration: calib, input_activations: #{ symmetric: false }"#,
        ),
        ("quantize", "format", INT8, r#"scheme: "INT8", calibration: calib, format: "naive-quantized""#),
        ("quantize", "observer", STATIC, r#"scheme: "W8A8_STATIC", calibration: calib, observer: "mse""#),
        (
            "quantize",
            "conventions",
            GROUPS,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, conventions: #{ range: "restricted" }"#,
        ),
        (
            "quantize",
            "untie_word_embeddings",
            GROUPS,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, untie_word_embeddings: true"#,
        ),
        (
            "quantize",
            "config_groups",
            GROUPS,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, config_groups: #{ INT8: "*.down_proj" }"#,
        ),
        ("quantize", "targets", GROUPS, r#"scheme: "W4A16", group_size: 16, calibration: calib, targets: "*.up_proj""#),
        ("quantize", "ignore", GROUPS, r#"scheme: "W4A16", group_size: 16, calibration: calib, ignore: ["*.o_proj"]"#),
        (
            "quantize",
            "kv_cache_scheme",
            GROUPS,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, kv_cache_scheme: #{ num_bits: 8, type: "float" }"#,
        ),
        ("quantize", "observe", GROUPS, r#"scheme: "W4A16", group_size: 16, calibration: calib, observe: "block""#),
        (
            "quantize",
            "hidden_states",
            GROUPS,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, hidden_states: "float32""#,
        ),
        (
            "quantize",
            "compute_dtype",
            GROUPS,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, compute_dtype: "bfloat16""#,
        ),
        ("quantize", "calibration", GROUPS, r#"scheme: "W4A16", group_size: 16, calibration: other"#),
        ("apply", "calibration", "calibration: calib", "calibration: other"),
        ("perplexity", "text", TEXT, "text: other, max_seq_length: 16"),
        ("perplexity", "name", TEXT, r#"text: data, max_seq_length: 16, name: "story""#),
        ("perplexity", "protocol", TEXT, r#"text: data, max_seq_length: 16, protocol: "rolling""#),
        ("perplexity", "max_seq_length", TEXT, "text: data, max_seq_length: 32"),
        ("perplexity", "blocks", TEXT, "text: data, max_seq_length: 16, blocks: 2"),
        ("perplexity", "add_bos", TEXT, "text: data, max_seq_length: 16, add_bos: false"),
        ("perplexity", "text_column", TEXT, r#"text: data, max_seq_length: 16, text_column: "story""#),
        ("perplexity", "characters", TEXT, "text: data, max_seq_length: 16, characters: 900"),
        ("perplexity", "batch_size", TEXT, "text: data, max_seq_length: 16, batch_size: 2"),
        ("kl", "text", TEXT, "text: other, max_seq_length: 16"),
        ("kl", "name", TEXT, r#"text: data, max_seq_length: 16, name: "story""#),
        ("kl", "protocol", TEXT, r#"text: data, max_seq_length: 16, protocol: "rolling""#),
        ("kl", "max_seq_length", TEXT, "text: data, max_seq_length: 32"),
        ("kl", "blocks", TEXT, "text: data, max_seq_length: 16, blocks: 2"),
        ("kl", "add_bos", TEXT, "text: data, max_seq_length: 16, add_bos: false"),
        ("kl", "text_column", TEXT, r#"text: data, max_seq_length: 16, text_column: "story""#),
        ("kl", "characters", TEXT, "text: data, max_seq_length: 16, characters: 900"),
        ("kl", "batch_size", TEXT, "text: data, max_seq_length: 16, batch_size: 2"),
        ("generate", "prompts", "max_tokens: 9, prompts: data", "max_tokens: 9, prompts: other"),
        ("generate", "n", "max_tokens: 9, prompts: data", "max_tokens: 9, prompts: data, n: 2"),
        ("generate", "limit", "max_tokens: 9, prompts: data", "max_tokens: 9, prompts: data, limit: 2"),
        (
            "generate",
            "text_column",
            "max_tokens: 9, prompts: data",
            r#"max_tokens: 9, prompts: data, text_column: "story""#,
        ),
        (
            "generate",
            "chat_template",
            "max_tokens: 9, prompts: data",
            "max_tokens: 9, prompts: data, chat_template: false",
        ),
        ("generate", "add_bos", "max_tokens: 9, prompts: data", "max_tokens: 9, prompts: data, add_bos: false"),
        ("generate", "max_tokens", "prompts: data, max_tokens: 9", "prompts: data, max_tokens: 8"),
        ("generate", "temperature", "prompts: data, max_tokens: 9", "prompts: data, max_tokens: 9, temperature: 0.5"),
        ("generate", "top_p", "prompts: data, max_tokens: 9", "prompts: data, max_tokens: 9, top_p: 0.5"),
        ("generate", "top_k", "prompts: data, max_tokens: 9", "prompts: data, max_tokens: 9, top_k: 5"),
        ("generate", "seed", "prompts: data, max_tokens: 9", "prompts: data, max_tokens: 9, seed: 5"),
        ("generate", "batch_size", "prompts: data, max_tokens: 9", "prompts: data, max_tokens: 9, batch_size: 5"),
        ("generate", "starts", "prompts: data, max_tokens: 9", "starts: #{}, max_tokens: 9"),
        ("generate", "starts.count", STARTS, "starts: #{ count: 3 }, max_tokens: 9"),
        ("generate", "starts.min_greedy_tokens", STARTS, "starts: #{ min_greedy_tokens: 1 }, max_tokens: 9"),
        ("generate", "starts.max_greedy_tokens", STARTS, "starts: #{ max_greedy_tokens: 9 }, max_tokens: 9"),
        ("task", "limit", "", "limit: 1"),
        ("task", "batch_size", "", "batch_size: 2"),
        // Parts of an option, which no other case reaches.
        ("quantize", "conventions.range", GROUPS, CONVENTION[0]),
        ("quantize", "conventions.compute", GROUPS, CONVENTION[1]),
        ("quantize", "conventions.clamp", GROUPS, CONVENTION[2]),
        ("quantize", "conventions.mx_exponent", GROUPS, CONVENTION[3]),
        // What is said twice: as a word, as a switch, as a list of one.
        ("perplexity", "add_bos", TEXT, r#"text: data, max_seq_length: 16, add_bos: "true""#),
        ("kl", "add_bos", TEXT, r#"text: data, max_seq_length: 16, add_bos: "true""#),
        ("tokens", "add_bos", "", r#"add_bos: "true""#),
        ("quantize", "ignore", GROUPS, r#"scheme: "W4A16", group_size: 16, calibration: calib, ignore: "*.k_proj""#),
        (
            "quantize",
            "targets",
            GROUPS,
            r#"scheme: "W4A16", group_size: 16, calibration: calib, targets: ["*.k_proj"]"#,
        ),
        ("train", "dtype", "data: data", r#"data: data, dtype: "bfloat16""#),
    ]
};

const CONVENTION: [&str; 4] = [
    r#"scheme: "W4A16", group_size: 16, calibration: calib, conventions: #{ range: "signed_extreme" }"#,
    r#"scheme: "W4A16", group_size: 16, calibration: calib, conventions: #{ compute: "bf16" }"#,
    r#"scheme: "W4A16", group_size: 16, calibration: calib, conventions: #{ clamp: "after_rounding" }"#,
    r#"scheme: "W4A16", group_size: 16, calibration: calib, conventions: #{ mx_exponent: "floor" }"#,
];

/// All cases: what a scheme says to a quantizer it says to a trainer that learns codes, as far as that takes the option.
fn cases(named: &BTreeSet<(String, String)>) -> Vec<(&'static str, &'static str, String, String)> {
    let own = OPTIONS.iter().map(|(call, option, a, b)| (*call, *option, (*a).to_owned(), (*b).to_owned()));
    let taken = |option: &str| option != "kv_cache_scheme" && named.contains(&("train".to_owned(), option.to_owned()));
    let shared = OPTIONS.iter().filter(|(call, option, ..)| *call == "quantize" && taken(option));
    let trained = |options: &str| options.replace("calibration: calib", "data: calib");
    own.chain(shared.map(|(_, option, a, b)| ("train", *option, trained(a), trained(b)))).collect()
}

fn project() -> Project {
    let project = Project::new();
    project.write("other.txt", &project.read("text.txt").replace("fox", "owl").repeat(4));
    project.write("r.rhai", "fn one(prompt, completion, row) { 1 }\nfn two(prompt, completion, row) { 2 }\n");
    project.write(
        "stage.toml",
        "name = \"s\"\noutput_suffix = \"-s\"\n[quant_modifiers.GPTQModifier]\nscheme = \"INT8\"\n",
    );
    project.write(
        "letters.toml",
        "name = \"letters\"\nkind = \"choice\"\ndata = \"letters.jsonl\"\nprompt = \"{q}\"\nchoices = \"c\"\nanswer = \"a\"\n",
    );
    project.write(
        "letters.jsonl",
        "{\"q\": \"one\", \"c\": [\"a\", \"b\"], \"a\": 0}\n{\"q\": \"two\", \"c\": [\"a\", \"b\"], \"a\": 1}\n",
    );
    project
}

#[test]
fn the_page_says_what_the_program_reads() {
    let printed = Project::new().run(&["script", "reference"]).exits(0).out;
    let kept = fs::read_to_string(sources().join("scripts/REFERENCE.md")).unwrap();
    assert_eq!(kept, printed, "workbench script reference --output scripts/REFERENCE.md");
    // What an author wrote in single precision would have many more digits in double precision.
    assert!(!printed.contains("99999") && !printed.contains("00000"), "a number of single precision was widened");
}

/// Options that a call accepts and nobody reads cannot be told from none.
#[test]
fn every_option_is_part_of_the_meaning() {
    let project = project();
    project.add_plugins(&["round_trainer"]);
    super::experts::models(&project);
    let reference = project.run(&["script", "reference", "--json"]).exits(0).json();
    let named: BTreeSet<(String, String)> = reference["calls"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|call| {
            call["options"].as_array().unwrap().iter().map(|option| (text(&call["name"]), text(&option["name"])))
        })
        .collect();
    let cases = cases(&named);
    let tried: BTreeSet<(String, String)> =
        cases.iter().map(|(call, option, ..)| ((*call).to_owned(), (*option).to_owned())).collect();
    let untried: Vec<_> = named.difference(&tried).collect();
    let unknown: Vec<_> = tried.difference(&named).collect();
    assert!(untried.is_empty() && unknown.is_empty(), "without a case: {untried:?}; not in the reference: {unknown:?}");

    let mut script =
        "let base = model(\"tiny\");\nlet mixture = model(\"qwen\");\nlet data = dataset(\"text.txt\");\nlet other = dataset(\"other.txt\");\n\
        let calib = data.tokens(#{ num_calibration_samples: 4, max_seq_length: 16 });\nlet table = report(\"t\");\n"
            .to_owned();
    let mut lines = Vec::new();
    for (index, (call, option, without, with)) in cases.iter().enumerate() {
        let line = CALLS.iter().find(|(name, _)| name == call).unwrap().1;
        let of_experts = option.contains("expert");
        let line = if of_experts { line.replace("base.", "mixture.") } else { line.to_owned() };
        let on_grids = *call == "train" && with.contains("scheme");
        let line = if on_grids { line.replace("\"sft\"", "\"round_trainer\"") } else { line };
        let line =
            if with.contains("prompts: ") && *call == "train" { line.replace("\"sft\"", "\"grpo\"") } else { line };
        for (side, options) in [("a", without), ("b", with)] {
            script.push_str(&line.replace("OPTIONS", options).replace("ID", &format!("{side}{index}")));
            script.push('\n');
        }
        lines.push(script.lines().count());
    }
    script.push_str("table.write();\n");
    project.write("all.rhai", &script);
    let plan = project.run(&["plan", "all.rhai", "--json"]).exits(0).json();
    let nodes = plan["nodes"].as_array().unwrap();
    let origins: BTreeSet<usize> = nodes.iter().map(|n| n["origin"]["line"].as_u64().unwrap() as usize).collect();
    let keys: BTreeSet<String> = nodes.iter().map(|node| text(&node["key"])).collect();
    assert_eq!(keys.len(), nodes.len(), "two nodes have one key");
    for ((call, option, ..), line) in cases.iter().zip(lines) {
        let again =
            *call == "apply" || script.lines().filter(|l| *l == script.lines().nth(line - 1).unwrap()).count() > 1;
        assert!(
            again || origins.contains(&line),
            "`{option}` of `{call}` changes nothing: {}",
            script.lines().nth(line - 1).unwrap()
        );
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// What can be refused is refused at its place, before anything runs.
#[test]
fn what_no_type_takes_is_refused_in_the_script() {
    let project = project();
    for (line, message, hint) in [
        (
            r#"base.quantize("rtn", #{ scheme: "INT8", dtype: "nonsense" });"#,
            "`quantize` has no option `dtype`",
            "what is not quantized keeps",
        ),
        (
            r#"base.quantize("rtn", #{ scheme: "INT8", dtype: "float32" });"#,
            "`quantize` has no option `dtype`",
            "what is not quantized keeps",
        ),
        (
            r#"base.train("sft", #{ data: data, dtype: "nonsense" });"#,
            r#"`dtype` of `train` must be one of "float32", "float16", "bfloat16", not "nonsense""#,
            "",
        ),
        (
            r#"base.transform("rotate", #{ dtype: "bfloat" });"#,
            "`dtype` of `transform` must be one of",
            r#"did you mean "bfloat16"?"#,
        ),
        (r#"data.tokens(#{ max_seq_length: 1 });"#, "`max_seq_length` of `tokens` must be at least 2, not 1", ""),
        (
            r#"data.tokens(#{ max_seq_length: "32" });"#,
            "`max_seq_length` of `tokens` must be an integer, not the string \"32\"",
            "",
        ),
        (r#"data.tokens(#{ suffle: true });"#, "`tokens` has no option `suffle`", "did you mean `shuffle`?"),
        (
            r#"data.tokens(#{ add_bos: "yes" });"#,
            r#"`add_bos` of `tokens` must be one of "auto", true, false, not "yes""#,
            "",
        ),
        (r#"perplexity(#{ txt: data });"#, "`perplexity` has no option `txt`", "did you mean `text`?"),
        (r#"perplexity(#{ });"#, "`perplexity` needs `text`", "pass text: dataset(…)"),
        (
            r#"perplexity(#{ text: "text.txt" });"#,
            "`text` of `perplexity` must be a dataset, not the string \"text.txt\"",
            "",
        ),
        (
            r#"perplexity(#{ text: data, protocol: "block" });"#,
            "`protocol` of `perplexity` must be one of",
            r#"did you mean "blocks"?"#,
        ),
        (r#"task("letters.toml", #{ limit: 0 });"#, "`limit` of `task` must be at least 1, not 0", ""),
        (
            r#"base.quantize("rtn", #{ scheme: "INT8", observe: "blok" });"#,
            "`observe` of `quantize` must be one of",
            r#"did you mean "block"?"#,
        ),
        (
            r#"base.quantize("rtn", #{ scheme: "INT8", group_size: "32" });"#,
            "`group_size` of `quantize` must be an integer, not the string \"32\"",
            "",
        ),
        (
            r#"base.quantize("gptq", #{ scheme: "INT8", compute_dtype: "float16", calibration: data });"#,
            "`compute_dtype` of `quantize` must be one of",
            r#"did you mean "bfloat16"?"#,
        ),
        (
            r#"base.quantize("gptq", #{ scheme: "INT8", calibration: #{ "\x01dataset": 1 } });"#,
            "`calibration`: a map with such a key cannot be an option",
            "",
        ),
        (
            r#"base.quantize("gptq", #{ scheme: "INT8", act_order: data });"#,
            "`act_order` of `quantize` cannot be a dataset",
            "",
        ),
        (
            r#"base.quantize("gptq", #{ scheme: "INT8", calibration: data, dampening_fraction: 1.5 });"#,
            "parameter `dampening_fraction` must be at least 0.0 and at most 1.0, not 1.5",
            "",
        ),
        (
            r#"base.transform("awq", #{ calibration: data, scheme: #{ num_bit: 4 } });"#,
            "unknown parameter `scheme.num_bit`",
            "did you mean `num_bits`?",
        ),
        (
            r#"base.transform("rotate", #{ calibration: data, learn: #{ scheme: #{ input_activation: #{} } } });"#,
            "unknown parameter `learn.scheme.input_activation`",
            "did you mean `input_activations`?",
        ),
        (
            r#"base.train("sft", #{ data: data, betas: [0.9, 1.0] });"#,
            "parameter `betas[1]` must be at least 0.0 and below 1.0, not 1.0",
            "",
        ),
    ] {
        project
            .write("wrong.rhai", &format!("let base = model(\"tiny\");\nlet data = dataset(\"text.txt\");\n{line}\n"));
        let outcome = project.run(&["run", "wrong.rhai"]).exits(2);
        assert!(outcome.err.contains(message) && outcome.err.contains(hint), "{line}\n{}", outcome.err);
        assert!(outcome.err.contains("wrong.rhai:3:"), "{line}\n{}", outcome.err);
        assert!(!project.path().join("results/store").exists(), "{line}: something ran");
    }
}

#[test]
fn plugins_list_their_ranges_and_choices() {
    let project = Project::new();
    project.add_plugins(&["sign_trainer"]);
    let listed = project.run(&["plugins", "list", "--parameters"]).exits(0).out;
    for line in [
        "dampening_fraction = 0.01  (number, at least 0.0, at most 1.0)",
        "schedule = \"cosine\"  (\"constant\", \"linear\", \"cosine\")",
        "learn.steps = 100  (integer, at least 1",
        // Its field is of single precision.
        "learning_rate = 0.1  (number",
    ] {
        assert!(listed.contains(line), "{line}\n{listed}");
    }
    let json = project.run(&["plugins", "list", "--parameters", "--json"]).exits(0).json();
    let rotate = json["plugins"].as_array().unwrap().iter().find(|p| p["descriptor"]["name"] == "rotate").unwrap();
    let parameters = rotate["parameters"].as_array().unwrap();
    let kind = parameters.iter().find(|field| field["name"] == "kind").unwrap();
    assert_eq!(kind["choices"].as_array().unwrap().len(), 3, "{kind}");
    assert!(
        !json.to_string().contains("0.10000000149"),
        "a default of single precision is spelled in double precision"
    );
}
