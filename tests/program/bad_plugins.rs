//! Plugins that do whatever wrong a plugin can do: one clear error each, and the other rows are not harmed.

use std::fs;

use super::project::{Project, W8, library};

const SCRIPT: &str = r#"
let base = model("tiny");
let suite = [perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })];
let scheme = #{ name: "W4", weights: #{ num_bits: 4, type: "int", symmetric: true, strategy: "channel" } };
let table = report("faults");
table.baseline(base.evaluate(suite), #{ fault: "baseline" });
for fault in param("faults", []) {
    table.row(base.quantize("misbehave", #{ scheme: scheme, targets: "*.o_proj", fault: fault }).evaluate(suite), #{ fault: fault });
}
table.write();
"#;

fn run(faults: &[(&str, &str)], options: &[&str]) {
    let project = Project::new();
    project.add_plugins(&["misbehave"]);
    project.write("faults.rhai", SCRIPT);
    let names: Vec<String> = ["none"].iter().chain(faults.iter().map(|(f, _)| f)).map(|f| format!("{f:?}")).collect();
    let set = format!("faults=[{}]", names.join(","));
    let outcome = project.run(&[&["run", "faults.rhai", "--set", &set], options].concat()).exits(4);
    let line = |fault: &str| {
        let found = outcome.out.lines().find(|l| l.split_whitespace().next() == Some(fault));
        found.unwrap_or_else(|| panic!("no row {fault} in\n{}", outcome.out))
    };
    for fine in ["baseline", "none"] {
        assert!(!line(fine).contains("failed"), "{}", line(fine));
    }
    for (fault, expected) in faults {
        let row = line(fault);
        assert!(row.contains("failed") && row.contains(expected), "{fault}: {row}");
        assert!(row.contains("plugin `misbehave`"), "{fault}: the plugin is not named: {row}");
    }
    let counted = match faults.len() {
        1 => "error: 1 node failed and 1 was skipped because of it".to_owned(),
        n => format!("error: {n} nodes failed and {n} were skipped because of them"),
    };
    assert!(outcome.err.contains(&counted), "{}", outcome.err);
    assert_eq!(project.stored("results", "quantize", "misbehave").len(), 1, "a failed node left a result");
    project.assert_no_process_stays();
}

#[test]
fn every_fault_costs_its_own_row_and_no_other() {
    let layer = "model.layers.0.self_attn.o_proj";
    let in_layer = |what: &str| format!("codes of `{layer}`: {what}");
    run(
        &[
            ("panic_in_create", "the plugin panicked: there is nothing to create"),
            ("panic_in_run", "the plugin panicked: row 7 is beyond repair"),
            ("abort", "its process was ended by SIGABRT"),
            ("segfault", "its process was ended by SIGSEGV"),
            ("exit", "its process exited with code 0"),
            ("nan_scale", &in_layer("scale 31 is NaN")),
            ("zero_scale", &in_layer("scale 31 is 0, not a positive number")),
            ("puts_tensor", &format!("tensor `{layer}.weight`: a quantizer of linears puts codes and nothing else")),
            ("patches_config", "a quantizer writes no configuration"),
            ("wrong_shape", &in_layer("their shape is [31, 32]")),
            ("wrong_scale_shape", &in_layer("the shape of their scales is [1, 1], the grid wants [32, 1]")),
            ("code_out_of_range", &in_layer("code 1 is 9, outside -8..=7")),
            ("other_module", "codes of `model.layers.9.mlp.up_proj`: the job is not about this linear"),
            ("other_grid", &in_layer("they are on another grid than the one asked for")),
            ("swallow", &in_layer("scale 0 is inf")),
            ("error", "the matrix is singular"),
        ],
        &[],
    );
}

#[test]
fn a_plugin_that_hangs_is_ended() {
    run(&[("hang", "did not call the host for 2 s")], &["--plugin-timeout", "2"]);
}

#[test]
fn a_plugin_that_eats_memory_is_ended() {
    run(&[("eat_memory", "more than its limit of 600 MiB")], &["--memory", "600 MiB"]);
}

#[test]
fn two_plugins_of_one_name_are_an_error_that_names_both_files() {
    let project = Project::new();
    fs::create_dir(project.path().join("plugins")).unwrap();
    for name in ["first.so", "second.so"] {
        fs::copy(library("misbehave"), project.path().join("plugins").join(name)).unwrap();
    }
    project.write("faults.rhai", SCRIPT);
    let outcome = project.run(&["run", "faults.rhai", "--set", "faults=[\"none\"]"]).exits(3);
    for part in ["first.so", "second.so", "`misbehave`", "hint: remove one of the two files"] {
        assert!(outcome.err.contains(part), "{part} is missing in\n{}", outcome.err);
    }
    // Who does not use the name is not bothered.
    project.run(&["run", "faults.rhai"]).exits(0);
}

#[test]
fn files_that_are_no_plugins_are_listed_with_one_sentence_each() {
    let cases = [
        ("crash_on_load", "loading it ended the process by a segmentation fault (SIGSEGV)"),
        ("newer_abi", "it is built for plugin ABI 0.9999, this workbench has 0."),
        ("older_abi", "it is built for plugin ABI 0.0, this workbench has 0."),
        ("no_module", "it exports the probe of a plugin, but no root module"),
        ("no_probe", "it is a library, but no workbench plugin"),
        ("other_grid", "of the grid rules, this workbench by version"),
        ("other_layout", "its types are laid out differently from the workbench's"),
        ("unresolved", "it cannot be loaded: undefined symbol: workbench_function_that_nobody_wrote"),
        ("words", "it is no shared library: it does not start as an ELF file"),
        ("half", "it is cut short: 20000 bytes of at least "),
    ];
    let project = Project::new();
    project.add_plugins(&["sign_linear"]);
    project.add_plugins(&cases.iter().map(|c| c.0).filter(|c| !["words", "half"].contains(c)).collect::<Vec<_>>());
    project.write("plugins/libwords.so", "no library");
    fs::write(project.path().join("plugins/libhalf.so"), &fs::read(library("untie")).unwrap()[..20000]).unwrap();
    // The second time the answers come from the cache.
    for _ in 0..2 {
        let outcome = project.run(&["plugins", "list"]).exits(0);
        for (name, expected) in cases {
            let file = format!("/lib{name}.so: ");
            let lines: Vec<&str> = outcome.err.lines().filter(|l| l.contains(&file)).collect();
            let [line] = lines[..] else { panic!("{name} is named by {} lines:\n{}", lines.len(), outcome.err) };
            assert!(line.starts_with("warning: ") && line.contains(expected) && line.len() < 400, "{line}");
        }
        for good in ["rtn ", "sft ", "outliers ", "sign_linear "] {
            assert!(outcome.out.lines().any(|l| l.starts_with(good)), "{good} is missing in\n{}", outcome.out);
        }
    }
}

#[test]
fn a_plugin_that_could_not_be_loaded_explains_its_absence() {
    let project = Project::new();
    project.add_plugins(&["older_abi"]);
    project.write("absent.rhai", &format!("model(\"tiny\").quantize(\"older_abi\", #{{ scheme: {W8} }});"));
    let outcome = project.run(&["run", "absent.rhai"]).exits(2);
    assert!(
        outcome.err.contains("there is no plugin `older_abi`") && outcome.err.contains("plugin ABI 0.0"),
        "{}",
        outcome.err
    );
}
