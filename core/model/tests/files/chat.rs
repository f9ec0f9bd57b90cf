//! Chat templates. The expected texts were rendered by Jinja2, set up as transformers does.

use serde_json::{Map, Value, json};
use workbench_model::{ChatTemplate, Checkpoint, Message};

use crate::common::{assert_holds, fixture, tiny_config, tiny_tensors, write_model};

fn conversation() -> Vec<Message> {
    vec![
        Message::new("system", "Be brief."),
        Message::new("user", "2+2?"),
        Message::new("assistant", "<think>\nadd\n</think>\n\n4"),
        Message::new("user", "And <b>?"),
    ]
}

fn extra(entries: &[(&str, Value)]) -> Map<String, Value> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

const EVERYTHING: &str = r#"{%- if not messages -%}
{{ raise_exception('nothing to say') }}
{%- endif -%}
{{ bos_token }}
{% for message in messages %}
    {% if message['role'] == 'system' %}
        {% continue %}
    {% endif %}
[{{ message.role | upper }}] {{ message['content'].strip() }}{{ eos_token if message.role == 'assistant' else '' }}
{% endfor %}
{{ {'a': [1, 2.5, none, true], 'ü<&>': "q\"'"} | tojson }}
{{ {'a': [1, {'b': []}]} | tojson(indent=2) }}
"#;

#[test]
fn templates_render_as_in_python() {
    let settings = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true}});
    let template = ChatTemplate::new(EVERYTHING, &settings).unwrap();
    let text = template.render(&conversation()[..3], false, &Map::new()).unwrap();
    let expected = "<s>\n[USER] 2+2?\n[ASSISTANT] <think>\nadd\n</think>\n\n4</s>\n\
        {\"a\": [1, 2.5, null, true], \"ü<&>\": \"q\\\"'\"}\n\
        {\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ]\n}";
    assert_eq!(text, expected);
    assert_eq!(template.source(), EVERYTHING);
    let refused = template.render(&[], false, &Map::new()).unwrap_err().to_string();
    assert_holds(&refused, &["chat template", "nothing to say", "line 2"]);
}

/// Templates with everything that published ones use, each rendered by transformers 5.17: the function that
/// `apply_chat_template` compiles them with, called with `tools=None, documents=None` where a case names none.
#[test]
fn constructs_of_published_templates_render_as_transformers_does() {
    let golden: Map<String, Value> = serde_json::from_str(include_str!("../golden/chat_templates.json")).unwrap();
    let settings = json!({"bos_token": "<s>", "eos_token": "</s>"});
    for (name, case) in &golden {
        let template = ChatTemplate::new(case["template"].as_str().unwrap(), &settings);
        let variables = case["variables"].as_object().unwrap();
        let text = template.unwrap().render(&[], case["add_generation_prompt"] == true, variables);
        assert_eq!(text.unwrap(), case["text"].as_str().unwrap(), "{name}");
    }
    assert!(golden.len() > 30);
}

/// What cannot be written as Python would is an error, not another text.
#[test]
fn what_has_no_meaning_is_an_error() {
    let error = |source: &str| {
        let rendered = ChatTemplate::new(source, &Value::Null).and_then(|t| t.render(&[], false, &Map::new()));
        rendered.unwrap_err().to_string()
    };
    assert_holds(&error("{{ '%d' % 'a' }}"), &["line 1"]);
    assert_holds(&error("{{ '%s %s' % ('a',) }}"), &["line 1"]);
    assert_holds(&error("{{ {} % 2 }}"), &["map % number"]);
    assert_holds(&error("{{ nothing|tojson }}"), &["undefined"]);
    assert_holds(&error("{{ 1|tojson(separators=',') }}"), &["separators"]);
    assert_holds(&error("{{ 1|tojson(unheard_of=1) }}"), &["unheard_of"]);
    assert_holds(&error("{{ strftime_now('%Q') }}"), &["strftime_now", "%Q"]);
    assert_holds(&error("{{ 'a'.expandtabs(4) }}"), &["expandtabs"]);
}

#[test]
fn generation_tags_print_nothing() {
    let source = "A{% for m in messages %}\n{%- if m.role == 'assistant' %}\n{%- generation -%}\n  {{ m.content }}\n\
        {%- endgeneration %}\n{%- else %}({{ m.content }})\n{%- endif %}\n{%- endfor %}";
    let template = ChatTemplate::new(source, &Value::Null).unwrap();
    let text = template.render(&conversation()[1..], true, &Map::new()).unwrap();
    assert_eq!(text, "A(2+2?)<think>\nadd\n</think>\n\n4(And <b>?)");
}

#[test]
fn the_date_is_always_the_same_and_never_replaces_a_template_s_own() {
    let render =
        |source: &str| ChatTemplate::new(source, &Value::Null).unwrap().render(&[], false, &Map::new()).unwrap();
    assert_eq!(render("{{ strftime_now('%d %b %Y') }}"), "26 Jul 2024");
    assert_eq!(
        render("{{ strftime_now('%Y-%m-%d %H:%M:%S, %A, %-d %B, 100%%') }}"),
        "2024-07-26 00:00:00, Friday, 26 July, 100%"
    );
    assert_eq!(render("{% if strftime_now is not defined %}my own{% endif %}"), "my own");
    assert_eq!(render("{% if strftime_now is defined %}now{% else %}my own{% endif %}"), "my own");
}

#[test]
fn broken_and_endless_templates_are_errors() {
    let error = |source: &str| match ChatTemplate::new(source, &Value::Null) {
        Err(error) => error.to_string(),
        Ok(template) => template.render(&conversation(), false, &Map::new()).unwrap_err().to_string(),
    };
    assert_holds(&error("a\nb {% if %}"), &["line 2"]);
    assert_holds(&error("{{ messages[0].nothing.deeper }}"), &["line 1"]);
    assert_holds(&error("{{ messages[0].content.no_such_method() }}"), &["no_such_method"]);
    let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert_holds(&error(nested), &["chat template fails"]);
}

#[test]
fn templates_are_found_where_models_keep_them() {
    let folder = write_model(&tiny_config(), &tiny_tensors(&tiny_config()));
    let model = Checkpoint::open(folder.path()).unwrap();
    let text = |model: &Checkpoint| {
        ChatTemplate::from_checkpoint(model).unwrap().map(|found| found.render(&[], false, &Map::new()).unwrap())
    };
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    assert_eq!(text(&model), None);
    write("tokenizer_config.json", r#"{"chat_template": "plain", "bos_token": "<s>"}"#);
    assert_eq!(text(&model).as_deref(), Some("plain"));
    let named = json!({"chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}!"}],
        "bos_token": "<s>"});
    write("tokenizer_config.json", &named.to_string());
    assert_eq!(text(&model).as_deref(), Some("<s>!"));
    write("chat_template.jinja", "file {{ bos_token }}");
    assert_eq!(text(&model).as_deref(), Some("file <s>"));
    std::fs::write(folder.path().join("chat_template.jinja"), b"\xff").unwrap();
    assert_holds(&ChatTemplate::from_checkpoint(&model).err().unwrap().to_string(), &["chat_template.jinja", "UTF-8"]);
}

#[test]
fn qwen3_template() {
    let Some(file) = fixture("qwen3_template", "tokenizers/qwen3/tokenizer_config.json") else { return };
    let settings: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let template = ChatTemplate::new(settings["chat_template"].as_str().unwrap(), &settings).unwrap();
    let chat = conversation();
    let none = Map::new();
    assert_eq!(
        template.render(&chat, true, &none).unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n\
        <|im_start|>user\nAnd <b>?<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        template.render(&chat[1..3], false, &none).unwrap(),
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>\nadd\n</think>\n\n4<|im_end|>\n"
    );
    assert_eq!(
        template.render(&chat[1..2], true, &extra(&[("enable_thinking", json!(false))])).unwrap(),
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    );
    let tools = json!([{"type": "function", "function": {"name": "f", "description": "naïve <x> & 'y'",
        "parameters": {"n": 1.5, "list": [1, true, null]}}}]);
    let text = template.render(&chat[1..2], true, &extra(&[("tools", tools)])).unwrap();
    assert_holds(
        &text,
        &["<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"naïve <x> & 'y'\", \
            \"parameters\": {\"n\": 1.5, \"list\": [1, true, null]}}}\n</tools>"],
    );
}

#[test]
fn smollm2_template_comes_out_of_its_gguf() {
    let test = "smollm2_template_comes_out_of_its_gguf";
    let Some(path) = fixture(test, "models/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let model = Checkpoint::open(&path).unwrap();
    let template = ChatTemplate::from_checkpoint(&model).unwrap().unwrap();
    let text = template.render(&[Message::new("system", "S"), Message::new("user", "U")], true, &Map::new()).unwrap();
    assert_eq!(text, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
}
