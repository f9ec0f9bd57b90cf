//! What a person reads who made a mistake in a script.

use super::project::Project;

/// Lines before each case's own.
const BEGIN: &str = "let base = model(\"tiny\");\nlet data = dataset(\"text.txt\");\n";

/// Compares what a script's mistake prints with the snapshot of its name.
fn error(project: &Project, name: &str, arguments: &[&str]) {
    let script = format!("{name}.rhai");
    let outcome = project.run(&[&["run", &script], arguments].concat()).exits(2);
    assert_eq!(outcome.out, "", "{name}");
    assert!(!project.path().join("results/store").exists(), "{name}: something ran");
    let canonical = project.path().canonicalize().unwrap();
    let shown = outcome.err.replace(&*canonical.to_string_lossy(), "[project]");
    let shown = shown.replace(&*project.path().to_string_lossy(), "[project]");
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, shown);
    });
}

fn case(name: &str, lines: &str) {
    case_with(name, lines, &[]);
}

fn case_with(name: &str, lines: &str, arguments: &[&str]) {
    let project = Project::new();
    project.write(&format!("{name}.rhai"), &format!("{BEGIN}{}\n", lines));
    error(&project, name, arguments);
}

#[test]
fn names() {
    case("unknown_function", r#"let q = base.quantise("rtn", #{ scheme: "W4A16" });"#);
    case("wrong_arguments", r#"let q = base.quantize(4);"#);
    case("unknown_variable", r#"let suite = [perplexity(#{ text: dta })];"#);
    case("unknown_option", r#"let task = perplexity(#{ text: data, max_seq_len: 32 });"#);
    case("unknown_plugin", r#"let q = base.quantize("rtm", #{ scheme: "INT8" });"#);
    case("plugin_of_another_kind", r#"let q = base.quantize("sft", #{ scheme: "INT8" });"#);
    case("unknown_plugin_parameter", r#"let t = base.train("sft", #{ data: data, learning_rat: 0.1 });"#);
    case("wrong_plugin_parameter", r#"let t = base.train("sft", #{ data: data, learning_rate: "fast" });"#);
    case("unknown_dataset", r#"let text = dataset("demo:stories/tst");"#);
    case("no_such_file", r#"let other = model("models/tiny");"#);
}

/// Of the same data, what a model can take is the default.
#[test]
fn sequences_longer_than_the_model() {
    let with = |length: &str| {
        format!(
            "let data = data.tokens(#{{ num_calibration_samples: 2{length} }});\nlet q = base.quantize(\"gptq\", #{{ scheme: \"INT8\", calibration: data }});"
        )
    };
    case("calibration_too_long", &with(", max_seq_length: 257"));
    case("training_too_long", "let t = base.train(\"sft\", #{ data: data.tokens(#{ max_seq_length: 2048 }) });");
    let project = Project::new();
    project.write("default.rhai", &format!("{BEGIN}{}\n", with("")));
    project.run(&["plan", "default.rhai"]).exits(0);
}

#[test]
fn quantization() {
    case(
        "selector_matches_nothing",
        "let q = base.quantize(\"rtn\", #{\n    scheme: \"INT8\",\n    ignore: [\"*.donw_proj\"],\n});",
    );
    case(
        "scheme_contradicts_itself",
        r#"let q = base.quantize("rtn", #{ scheme: #{ weights: #{ num_bits: 4, type: "int", symmetric: true, strategy: "channel", group_size: 32 } } });"#,
    );
    case("misspelled_override", r#"let q = base.quantize("rtn", #{ scheme: "INT8", observr: "mse" });"#);
    case("option_of_nobody", r#"let q = base.quantize("rtn", #{ scheme: "INT8", zzz: 3 });"#);
    case("misspelled_end", r#"let q = base.quantize("rtn", #{ scheme: "W4A16", targets: ["Linear", "lm_haed"] });"#);
    case("unknown_scheme", r#"let q = base.quantize("rtn", #{ scheme: "W4A61" });"#);
    case("group_size_does_not_divide", r#"let q = base.quantize("rtn", #{ scheme: "W4A16", group_size: 24 });"#);
    case("everything_ignored", r#"let q = base.quantize("rtn", #{ scheme: "INT8", ignore: "*" });"#);
    case("tied_head_alone", r#"let q = base.quantize("rtn", #{ scheme: "INT8", targets: ["Linear", "lm_head"] });"#);
    case(
        "tied_ends_with_two_schemes",
        "let q = base.quantize(\"rtn\", #{ config_groups: #{\n    INT8: \"lm_head\",\n    table: #{ targets: \"re:.*embed_tokens\", scheme: \"W4A16\", group_size: 32 },\n} });",
    );
    case(
        "embeddings_with_inputs",
        r#"let q = base.quantize("rtn", #{ scheme: "INT8", targets: ["lm_head", "Embedding"] });"#,
    );
    case(
        "group_size_does_not_divide_embeddings",
        r#"let q = base.quantize("rtn", #{ scheme: "W4A16", group_size: 24, targets: "Embedding", untie_word_embeddings: true });"#,
    );
    case("missing_calibration", r#"let q = base.quantize("rtn", #{ scheme: "W8A8_STATIC" });"#);
    case(
        "two_groups_of_one_layer",
        r#"let q = base.quantize("rtn", #{ config_groups: #{ down: #{ targets: "*.down_proj", scheme: "W8A16", group_size: 16 }, mlp: #{ targets: "*.mlp.*", scheme: "INT8" } } });"#,
    );
    case(
        "group_matches_nothing",
        r#"let q = base.quantize("rtn", #{ scheme: "INT8", config_groups: #{ down: #{ targets: "*.donw_proj", scheme: "INT8" } } });"#,
    );
    case(
        "unknown_key_of_a_group",
        r#"let q = base.quantize("rtn", #{ scheme: "INT8", config_groups: [#{ target: "*.down_proj", scheme: "INT8" }] });"#,
    );
    case(
        "quantized_twice",
        r#"let q = base.quantize("rtn", #{ scheme: "INT8" }).quantize("rtn", #{ scheme: "INT8" });"#,
    );
}

#[test]
fn parameters() {
    let script = r#"let length = param("context", 32);"#;
    case_with("unused_setting", script, &["--set", "contxt=64"]);
    case_with("wrongly_typed_setting", script, &["--set", "context=long"]);
}

#[test]
fn tables() {
    let row = "table.row(base.evaluate(perplexity(#{ text: data, max_seq_length: 16 })), #{ bits: 32 });";
    case("report_never_written", &format!("let table = report(\"lost\");\n{row}"));
    case("duplicate_labels", &format!("let table = report(\"twice\");\n{row}\n{row}\ntable.write();"));
    case(
        "contrast_without_rows",
        &format!(
            "let table = report(\"odd\");\n{row}\ntable.contrast(#{{ bits: 32 }}, #{{ bits: 4 }});\ntable.write();"
        ),
    );
    case(
        "two_tasks_of_one_name",
        "let suite = base.evaluate([perplexity(#{ text: data }), perplexity(#{ text: data })]);",
    );
}

#[test]
fn the_language() {
    case("syntax", "let a = ;");
    case("endless_recursion", "fn f(x) { f(x + 1) }\nf(0);");
    case("thrown", "throw \"this model is too small\";");
    case("no_files", "let text = open_file(\"/etc/passwd\");");
}

#[test]
fn a_script_without_end_is_ended() {
    let project = Project::new();
    project.write("endless.rhai", "let n = 0;\nloop { n += 1; }\n");
    let outcome = project.run(&["run", "endless.rhai"]).exits(2);
    // Steps are counted, and time is: which limit is met first depends on the machine.
    let told = ["it took 20 million steps", "longer than 60 s"].iter().any(|limit| outcome.err.contains(limit));
    assert!(told && outcome.err.contains("endless.rhai:2:"), "{}", outcome.err);
}

#[test]
fn modules() {
    case("no_such_module", "import \"scripts/shemes\" as schemes;");
    let project = Project::new();
    // A file that is there, but not the project's.
    let outside = tempfile::Builder::new().suffix(".rhai").tempfile_in(project.path().parent().unwrap()).unwrap();
    let name = outside.path().file_stem().unwrap().to_str().unwrap();
    project.write("import_from_outside.rhai", &format!("import \"../{name}\" as other;"));
    let outcome = project.run(&["run", "import_from_outside.rhai"]).exits(2);
    assert!(outcome.err.contains("lies outside the project"), "{}", outcome.err);

    let project = Project::new();
    project.write(
        "scripts/broken.rhai",
        "// A module.\nfn quantized(base) {\n    base.quantize(\"rtn\", #{ scheme: \"W4A61\" })\n}\n",
    );
    project.write(
        "error_in_a_module.rhai",
        &format!("import \"scripts/broken\" as broken;\n{BEGIN}broken::quantized(base);\n"),
    );
    error(&project, "error_in_a_module", &[]);
}
