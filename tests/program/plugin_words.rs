//! What plugins say about their parameters and schemes, as scripts meet it.

use super::project::{Project, W8};

fn script(project: &Project, call: &str) {
    let text = format!(
        "let data = dataset(\"text.txt\").tokens(#{{ num_calibration_samples: 2, max_seq_length: 16 }});
let made = model(\"tiny\").quantize({call});
let table = report(\"words\");
table.row(made.evaluate(perplexity(#{{ text: dataset(\"text.txt\"), max_seq_length: 16, blocks: 2 }})), #{{ model: \"made\" }});
table.write();"
    );
    project.write("words.rhai", &text.replace("W8", W8));
}

/// The other name is a spelling, not another experiment.
#[test]
fn an_alias_is_taken_with_a_word_and_makes_no_key_of_its_own() {
    let project = Project::new();
    for (name, said) in [("dampening_fraction", false), ("percdamp", true), ("dampening_frac", true)] {
        script(&project, &format!("\"gptq\", #{{ scheme: W8, calibration: data, {name}: 0.05 }}"));
        let outcome = project.run(&["run", "words.rhai"]).exits(0);
        let note = format!("`{name}` is called `dampening_fraction` here");
        assert_eq!(outcome.err.contains(&note), said, "{name}:\n{}", outcome.err);
        let stored = project.stored("results", "quantize", "gptq");
        let [(_, record)] = &stored[..] else { panic!("{name}: {} results", stored.len()) };
        assert_eq!(record["identity"]["params"]["parameters"]["dampening_fraction"], 0.05);
    }
    script(&project, "\"gptq\", #{ scheme: W8, calibration: data, percdamp: 0.05, dampening_fraction: 0.1 }");
    let outcome = project.run(&["run", "words.rhai"]).exits(2);
    assert!(outcome.err.contains("are names of one parameter, and both are given"), "{}", outcome.err);
}

/// Options of a call, and keys of a stage file, have other names too.
#[test]
fn samples_are_counted_under_every_name_that_they_have() {
    let project = Project::new();
    let planned = |name: &str, note: bool| {
        let text = format!(
            "let data = dataset(\"text.txt\").tokens(#{{ {name}: 3, max_seq_length: 16 }});
model(\"tiny\").quantize(\"gptq\", #{{ scheme: \"W8A16\", group_size: 16, calibration: data }}).save_as(\"made\");"
        );
        project.write("names.rhai", &text);
        let outcome = project.run(&["plan", "names.rhai", "--json"]).exits(0);
        let told = format!("`tokens`: `{name}` is called `num_calibration_samples` here");
        assert_eq!(format!("{}{}", outcome.out, outcome.err).contains(&told), note, "{}\n{}", outcome.out, outcome.err);
        outcome.json()["nodes"][0]["key"].as_str().unwrap().to_owned()
    };
    let own = planned("num_calibration_samples", false);
    for name in ["num_samples", "nsamples"] {
        assert_eq!(planned(name, true), own, "{name}");
    }
    // `all` in a file is not what is left out, which leaves the script's own number.
    let stage = |line: &str| {
        project.write(
            "s.toml",
            &format!("name = \"s\"\noutput_suffix = \"-s\"\n{line}\n[quant_modifiers.gptq]\nscheme = \"INT8\"\n"),
        );
        project.write(
            "stage.rhai",
            "let data = dataset(\"text.txt\").tokens(#{ num_calibration_samples: 3, max_seq_length: 16 });
model(\"tiny\").apply(stages(\"s.toml\")[0], #{ calibration: data }).save_as(\"made\");",
        );
        project.run(&["run", "stage.rhai"]).exits(0);
        let recipe: serde_json::Value = serde_json::from_str(&project.read("made/recipe.json")).unwrap();
        recipe["stages"][0]["parameters"]["calibration"]["num_calibration_samples"].clone()
    };
    assert_eq!(stage(""), 3);
    assert_eq!(stage("num_samples = 2"), 2);
    assert_eq!(stage("num_calibration_samples = \"all\""), serde_json::Value::Null);
}

/// Found in the script, where nothing has run and the place is at hand; a group of its own is looked at too.
#[test]
fn a_scheme_that_a_plugin_does_not_take_is_refused_while_the_script_runs() {
    let project = Project::new();
    let tensor = r#"#{ name: "T8", weights: #{ num_bits: 8, strategy: "tensor" } }"#;
    let mse = r#"#{ name: "M8", weights: #{ num_bits: 8, strategy: "channel", observer: "mse" } }"#;
    for (options, key) in [
        (format!("scheme: {tensor}, calibration: data"), "`strategy` of the weights is \"tensor\": clipping"),
        (
            format!(
                "scheme: W8, config_groups: [#{{ targets: \"*.down_proj\", scheme: {tensor} }}], calibration: data"
            ),
            "`strategy`",
        ),
        (format!("scheme: {mse}, calibration: data"), "`observer` of the weights is \"mse\""),
    ] {
        script(&project, &format!("\"awq_clip\", #{{ {options} }}"));
        let outcome = project.run(&["run", "words.rhai"]).exits(2);
        for part in ["`awq_clip` does not take this scheme: ", key, "words.rhai:2"] {
            assert!(outcome.err.contains(part), "`{part}` is missing for {options}:\n{}", outcome.err);
        }
        assert!(!project.path().join("results/store").exists(), "something ran");
    }
}
