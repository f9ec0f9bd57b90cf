//! `generate`: data that a model writes.

use std::collections::BTreeMap;

use rhai::{Engine, Map, NativeCallContext};

use super::{Called, Host, data::usage, estimates, placed};
use crate::{
    data::{Document, has_column, is_one_text, prompts},
    error::{Error, Result},
    graph::{
        Node, NodeKind,
        node::{DataSource, MadeData, Origin},
        params::{self, Begin, Params, Toggle},
    },
    script::{
        DatasetHandle, ModelHandle,
        calls::{self, Dataset, Starts},
        lock,
        options::{Given, Options, given},
        place::origin,
    },
    words::plural,
};

/// The role of what is answered.
const PROMPTS: &str = "prompts";

/// Prompts that are looked at while the script runs.
const LOOK: usize = 20_000;

/// Bytes of a prompt that is not there yet.
const UNKNOWN: usize = 1024;

pub(super) fn register(engine: &mut Engine, host: &Host) {
    let h = host.clone();
    engine.register_fn(
        "generate",
        move |context: NativeCallContext<'_>, model: &mut ModelHandle, options: Map| -> Called<DatasetHandle> {
            placed(&context, given(options).and_then(|given| generate(&h, model, given, origin(&context))))
        },
    );
}

/// A node in which a model writes data.
fn generate(host: &Host, model: &ModelHandle, given: Given, origin: Origin) -> Result<DatasetHandle> {
    let name = &model.signature.name;
    if !model.signature.weights {
        return Err(Error::usage(format!("`{name}` has no weights to write with")).hint("train it first"));
    }
    let options: calls::Generate = Options::read("`generate`", given)?;
    let positions = model.signature.config.max_positions;
    if options.max_tokens >= positions {
        return Err(Error::usage(format!(
            "{} and something to begin with do not fit into the {positions} positions of `{name}`",
            plural(options.max_tokens, "token")
        ))
        .at("max_tokens")
        .hint("lower max_tokens"));
    }
    if options.temperature == 0.0 && options.n > 1 {
        return Err(Error::usage(format!(
            "with temperature 0 all {} texts behind a beginning are the same",
            options.n
        ))
        .at("n:")
        .hint("raise temperature, or leave out n"));
    }
    let asked = asked(host, model, &options)?;
    let mut builder = lock(&host.shared);
    let draws = options.temperature != 0.0;
    if !draws && (options.top_p != 1.0 || options.top_k.is_some()) {
        builder.warn("`generate`: with temperature 0, `top_p` and `top_k` say nothing".to_owned());
    }
    let seeded = draws || asked.source.is_none();
    builder.draws |= seeded && options.seed.is_none();
    let params = params::Generate {
        begin: asked.begin,
        n: options.n,
        max_tokens: options.max_tokens,
        temperature: options.temperature,
        // What says nothing must not make a key of its own.
        top_p: if draws { options.top_p } else { 1.0 },
        top_k: options.top_k.filter(|_| draws),
        seed: seeded.then(|| options.seed.unwrap_or(builder.seed)),
        add_bos: options.add_bos,
        batch_size: options.batch_size,
    };
    let column = params.begin.column();
    let subject = if model.history.is_empty() { name.clone() } else { model.history.join(" > ") };
    let label = format!("{} by {subject}", asked.what);
    let texts = asked.count.map(|count| count.saturating_mul(options.n));
    let longest = asked.bytes.saturating_add(4 * options.max_tokens) as u64;
    let node = Node {
        kind: NodeKind::Generate,
        method: asked.method.to_owned(),
        label: format!("generate {label}"),
        inputs: BTreeMap::from([("model".to_owned(), model.input.clone())]),
        data: asked.source.iter().map(|source| (PROMPTS.to_owned(), source.clone())).collect(),
        plugin: None,
        origin,
        memory: estimates::writing(&model.signature, &params, asked.bytes, texts).into(),
        disk: texts.map_or(0, |texts| (texts as u64).saturating_mul(longest)),
        scratch: 0,
        note: texts.map(|texts| plural(texts, "text")).unwrap_or_default(),
        params: Params::Generate(params),
    };
    let id = builder.graph.add(node);
    // Who learns of it learns of what it was made from.
    let mut seen = model.seen.clone();
    seen.extend(asked.source.clone());
    seen.extend(builder.behind(&asked.source));
    builder.made_of.insert(id, seen);
    if let Some(source @ DataSource::Demo(_)) = &asked.source
        && !model.signature.knows_demo
    {
        builder.cautions.stranger(name, &host.root.name_of(source), id);
    }
    let made = MadeData { node: id, name: label.clone(), column: column.to_owned() };
    Ok(DatasetHandle { name: label, source: DataSource::Node(made), tokens: None })
}

/// What texts begin with, as far as that is known while the script runs.
struct Asked {
    begin: Begin,
    source: Option<DataSource>,
    method: &'static str,
    /// For labels.
    what: String,
    /// How many beginnings there are, where that is known.
    count: Option<usize>,
    /// Of the longest beginning.
    bytes: usize,
}

fn asked(host: &Host, model: &ModelHandle, options: &calls::Generate) -> Result<Asked> {
    match (&options.prompts, &options.starts) {
        (Some(Dataset { handle }), None) => answers(host, model, handle, options),
        (None, Some(starts)) => vocabulary(model, starts, options),
        (None, None) => Err(Error::usage("`generate` needs something to begin with").hint(
            "pass prompts: dataset(…), or starts: #{ count: … } for texts that begin with tokens of the vocabulary",
        )),
        (Some(_), Some(_)) => Err(Error::usage("`prompts` and `starts` are two things to begin with")
            .at("starts")
            .hint("leave one of them out")),
    }
}

fn answers(host: &Host, model: &ModelHandle, data: &DatasetHandle, options: &calls::Generate) -> Result<Asked> {
    if data.tokens.is_some() {
        return Err(Error::usage("prompts are read as they are")
            .at(PROMPTS)
            .hint("pass dataset(…) without `.tokens`, and text_column and limit here"));
    }
    let templated = model.signature.has_template;
    let chat_template = match options.chat_template {
        Toggle::Auto => templated,
        Toggle::On if !templated => {
            return Err(Error::usage(format!("`{}` has no chat template", model.signature.name))
                .at("chat_template")
                .hint("leave chat_template out"));
        }
        toggle => toggle == Toggle::On,
    };
    let source = data.source.clone();
    let looked = look(&source, options.text_column.as_deref(), options.limit, chat_template)?;
    let begin = Begin::Prompts { text_column: looked.column, chat_template, limit: options.limit };
    let name = match &source {
        DataSource::Node(made) => format!("[{}]", made.name),
        other => host.root.name_of(other),
    };
    let (what, method) = (format!("answers to {name}"), "answers");
    Ok(Asked { begin, source: Some(source), method, what, count: looked.count, bytes: looked.bytes })
}

fn vocabulary(model: &ModelHandle, starts: &Starts, options: &calls::Generate) -> Result<Asked> {
    let of_prompts = [
        ("limit", options.limit.is_some()),
        ("text_column", options.text_column.is_some()),
        ("chat_template", options.chat_template != Toggle::Auto),
    ];
    if let Some((option, _)) = of_prompts.into_iter().find(|(_, given)| *given) {
        return Err(Error::usage(format!("`{option}` is about prompts, and there are none"))
            .at(option)
            .hint("leave the option out"));
    }
    let Starts { count, min_greedy_tokens: least, max_greedy_tokens: most } = *starts;
    if least > most {
        return Err(Error::usage(format!("between {least} and {most} greedy tokens is no number"))
            .at("min_greedy_tokens")
            .hint("raise max_greedy_tokens"));
    }
    let begin = Begin::Starts { count, greedy_tokens: [least, most] };
    let count = Some(count.unwrap_or(model.signature.config.vocab_size));
    let (what, method) = ("texts from the vocabulary".to_owned(), "vocabulary");
    Ok(Asked { begin, source: None, method, what, count, bytes: 16 })
}

/// What a look at prompts tells.
struct Looked {
    column: String,
    count: Option<usize>,
    bytes: usize,
}

/// Looks at prompts: at their column, and at how long they are.
///
/// # Errors
/// They cannot be read; there is none; a conversation that cannot be rendered.
fn look(source: &DataSource, column: Option<&str>, limit: Option<usize>, chat: bool) -> Result<Looked> {
    if let DataSource::Node(made) = source {
        let column = column.unwrap_or(&made.column).to_owned();
        return Ok(Looked { column, count: None, bytes: UNKNOWN });
    }
    // A text that is no table has no columns.
    let is_table = matches!(source, DataSource::File(_)) && !is_one_text(source);
    // A conversation that cannot be read is told below, with the reason.
    let column = column.unwrap_or(if is_table && has_column(source, "messages") { "messages" } else { "text" });
    let most = limit.unwrap_or(usize::MAX);
    let (mut count, mut bytes) = (0, 0);
    for prompt in prompts(source, column, None).map_err(usage)?.take(most.min(LOOK)) {
        let prompt = prompt.map_err(usage)?;
        let length = match &prompt.begins {
            Document::Text(text) => text.len(),
            Document::Chat(_) if !chat => {
                return Err(Error::usage(format!(
                    "{}: it is a conversation, and there is no chat template",
                    prompt.place
                ))
                .at(PROMPTS)
                .hint("take a model with a chat template, and leave chat_template out, or give plain text"));
            }
            Document::Chat(turns) => turns.iter().map(|turn| turn.role.len() + turn.content.len() + 32).sum(),
        };
        count += 1;
        bytes = bytes.max(length + 64);
    }
    if count == 0 {
        return Err(Error::usage("the data hold no prompt").at(PROMPTS));
    }
    // Of more than were looked at there are as many as are wanted, at most.
    let count = if count < LOOK { Some(count) } else { limit };
    Ok(Looked { column: column.to_owned(), count, bytes })
}
