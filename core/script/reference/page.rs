//! The reference as Markdown.

use std::fmt::Write;

use super::{Function, Plugin, Reference};
use crate::schema::Field;

pub(super) fn page(reference: &Reference) -> String {
    let mut text = "# What a script can say\n\n\
        Made by `workbench script reference` from the types that read it; a test holds this page to what the program prints. `--json` has the\n\
        same for programs. A dataset is what `dataset(…)` yields; a list of text can be one text.\n\n## Calls\n"
        .to_owned();
    for call in &reference.calls {
        function(&mut text, call);
    }
    let presets = reference.schemes.presets.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    text.push_str(&format!(
        "\n## Schemes\n\nPresets: {presets}.\n\nArguments, of a scheme's `weights` and `input_activations` and of \
        `kv_cache_scheme`:\n\n"
    ));
    table(&mut text, &reference.schemes.arguments);
    text.push_str("\n`conventions`:\n\n");
    table(&mut text, &reference.schemes.conventions);
    text.push_str("\n## Files\n");
    for file in &reference.files {
        text.push_str(&format!("\n### {}\n\n{}\n\n", file.title, file.about));
        table(&mut text, &file.keys);
    }
    text.push_str("\n### Modifiers of llm-compressor's recipes\n\nRead with that package's defaults; a plugin under its own name takes the options of \
        its call.\n\n| modifier | keys |\n|---|---|\n");
    for modifier in &reference.modifiers {
        let keys = modifier.keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        text.push_str(&format!("| `{}` | {keys} |\n", modifier.name));
    }
    text.push_str("\n## Plugins\n");
    for plugin in &reference.plugins {
        describe(&mut text, plugin);
    }
    text
}

fn function(text: &mut String, call: &Function) {
    text.push_str(&format!("\n### {}\n\n", call.name));
    call.signatures.iter().for_each(|signature| text.push_str(&format!("    {signature}\n")));
    text.push_str(&format!("\n{}\n", call.about));
    if let Some(kind) = call.plugin {
        text.push_str(&format!("Parameters of each {kind} are under [Plugins](#plugins).\n"));
    }
    if !call.options.is_empty() {
        text.push('\n');
        table(text, &call.options);
    }
}

fn describe(text: &mut String, plugin: &Plugin) {
    let paper = plugin.paper.as_ref().map(|paper| format!(" ({paper})")).unwrap_or_default();
    text.push_str(&format!("\n### {}\n\nA {}: {}{paper}.\n", plugin.name, plugin.kind, plugin.summary));
    if plugin.parameters.is_empty() {
        text.push_str("It has no parameters.\n");
    } else {
        text.push('\n');
        table(text, &plugin.parameters);
    }
}

/// One row for each field.
fn table(text: &mut String, fields: &[Field]) {
    text.push_str("| name | default | values | meaning |\n|---|---|---|---|\n");
    for field in fields {
        let code = |text: &str| format!("`{text}`");
        let default = match field.default_word() {
            word if field.required || field.default.is_null() => word,
            value => code(&value),
        };
        let mut about = field.about.clone();
        for choice in field.choices.iter().filter(|choice| !choice.about.is_empty()) {
            // Writing to a string cannot fail.
            let _ = write!(about, " {}: {}", code(&choice.value.to_string()), choice.about);
        }
        if !field.aliases.is_empty() {
            let _ = write!(
                about,
                " Elsewhere: {}.",
                field.aliases.iter().map(|name| code(name)).collect::<Vec<_>>().join(", ")
            );
        }
        let cells = [code(&field.name), default, field.values(), about.trim().to_owned()];
        let row: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
}
