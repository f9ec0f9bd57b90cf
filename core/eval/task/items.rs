//! The items of a task: its data lines, rendered and checked.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    Choices, KeyLines, TaskError, TaskFile, TaskKind,
    lines::{Line, read_lines},
    read_text,
    shots::Pool,
    template::{Fault, Template, field, text_of},
};
use crate::data::plain_lines;

/// The items of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Items {
    /// Of a choice task.
    Choice(Vec<ChoiceItem>),
    /// Of a task in which the model writes.
    Generate(Vec<GenerateItem>),
    /// Of running text.
    Text(Vec<TextItem>),
}

impl Items {
    /// A digest of what is asked and of what is right: results can be compared item by item where it is equal, whatever the files are
    /// called.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |id: &str, text: String, rest: String| {
            for part in [id, &text, &rest] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        };
        match self {
            Self::Choice(items) => {
                items.iter().for_each(|i| add(&i.id, i.prompt.text(), format!("{:?} {}", i.choices, i.answer)));
            }
            Self::Generate(items) => items.iter().for_each(|i| add(&i.id, i.prompt.text(), format!("{:?}", i.answers))),
            Self::Text(items) => items.iter().for_each(|i| add(&i.id, i.text.clone(), String::new())),
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        match self {
            Self::Choice(items) => items.len(),
            Self::Generate(items) => items.len(),
            Self::Text(items) => items.len(),
        }
    }

    /// Whether there are none; loading refuses such a task.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What stands before every question of a task, and what glues it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shots {
    /// The system turn of a chat; in raw text the first paragraph.
    pub description: Option<String>,
    /// Solved examples: question and answer.
    pub examples: Vec<(String, String)>,
    /// Between a question and its answer in raw text.
    pub answer_separator: String,
    /// Between examples in raw text.
    pub separator: String,
}

/// A prompt as structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Shared by the items with the same examples.
    pub shots: Arc<Shots>,
    /// The question itself.
    pub question: String,
    /// Whether the question stands among the first examples, which others have instead.
    pub left_out: bool,
}

impl Prompt {
    /// The prompt as raw text. It does not end with the answer separator: that belongs to the answer, so that tokens are
    /// counted as language models saw them, with the space in front of the word.
    pub fn text(&self) -> String {
        let Shots { description, examples, answer_separator, separator } = &*self.shots;
        let mut out = String::new();
        for paragraph in
            description.iter().cloned().chain(examples.iter().map(|(q, a)| format!("{q}{answer_separator}{a}")))
        {
            out.push_str(&paragraph);
            out.push_str(separator);
        }
        out.push_str(&self.question);
        out
    }

    /// The prompt as chat turns, (role, content), for a template with a generation prompt.
    pub fn turns(&self) -> Vec<(&'static str, &str)> {
        let system = self.shots.description.iter().map(|text| ("system", text.as_str()));
        let examples = self.shots.examples.iter().flat_map(|(q, a)| [("user", q.as_str()), ("assistant", a.as_str())]);
        system.chain(examples).chain([("user", self.question.as_str())]).collect()
    }
}

/// A question with choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceItem {
    /// The data's `id`, or the line number.
    pub id: String,
    /// What stands before the choice.
    pub prompt: Prompt,
    /// The choices, without a separator in front.
    pub choices: Vec<String>,
    /// Index of the right one.
    pub answer: usize,
}

impl ChoiceItem {
    /// A choice as it follows the raw prompt.
    pub fn continuation(&self, choice: usize) -> String {
        format!("{}{}", self.prompt.shots.answer_separator, self.choices[choice])
    }
}

/// A question that the model answers in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateItem {
    /// The data's `id`, or the line number.
    pub id: String,
    /// The question.
    pub prompt: Prompt,
    /// Right answers, of which any will do.
    pub answers: Vec<String>,
}

/// A piece of running text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextItem {
    /// The data's `id`, or the line number.
    pub id: String,
    /// The text.
    pub text: String,
}

/// Reads the items of a task and the list of files they came from.
pub(super) fn load(task: &TaskFile, path: &Path, keys: &KeyLines) -> Result<(Items, Vec<PathBuf>), TaskError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let data = folder.join(&task.data);
    let mut files = vec![data.clone()];
    if task.is_one_text() {
        let text = plain_lines(read_text(&data)?);
        return Ok((Items::Text(vec![TextItem { id: "1".into(), text }]), files));
    }
    let at = |file: &Path, line: usize| {
        let file = file.to_path_buf();
        move |(message, hint): Fault| TaskError { file, line: Some(line), message, hint }
    };
    let items = match task.kind {
        TaskKind::Perplexity => {
            let name = task.text.as_deref().unwrap_or("text");
            let lines = read_lines(&data, &[name], &[])?;
            let item = |line: Line| {
                let text =
                    field(&line.fields, name).and_then(|value| text_of(value, name)).map_err(at(&data, line.number))?;
                Ok(TextItem { id: line.id, text })
            };
            Items::Text(lines.into_iter().map(item).collect::<Result<_, _>>()?)
        }
        TaskKind::Choice | TaskKind::Generate => {
            let line_of = |key: &str| keys.get(key).copied().unwrap_or(1);
            let form = Form::new(task).map_err(|(key, fault)| at(path, line_of(key))(fault))?;
            let lines = read_lines(&data, &form.fields(), &placeholders(task))?;
            refuse_placeholders(task, &lines).map_err(|(key, fault)| at(path, line_of(key))(fault))?;
            let mut pool = Pool::new(task, &form, folder, (path, keys.get("few_shot").copied().unwrap_or(1)))?;
            files.extend(pool.file());
            if task.kind == TaskKind::Choice {
                let item = |line: Line| {
                    let parts = form.prompt.render(&line.fields).and_then(|q| Ok((q, form.choice(&line.fields)?)));
                    let (question, (choices, answer)) = parts.map_err(at(&data, line.number))?;
                    let prompt = pool.prompt(&line.id, question, form.own(&choices))?;
                    Ok(ChoiceItem { id: line.id, prompt, choices, answer })
                };
                Items::Choice(lines.into_iter().map(item).collect::<Result<_, _>>()?)
            } else {
                let item = |line: Line| {
                    let parts = form.prompt.render(&line.fields).and_then(|q| Ok((q, form.answers(&line.fields)?)));
                    let (question, answers) = parts.map_err(at(&data, line.number))?;
                    let prompt = pool.prompt(&line.id, question, &[])?;
                    Ok(GenerateItem { id: line.id, prompt, answers })
                };
                Items::Generate(lines.into_iter().map(item).collect::<Result<_, _>>()?)
            }
        }
    };
    Ok((items, files))
}

/// How a line becomes a question with its answer.
pub(super) struct Form<'a> {
    prompt: Template,
    choices: Option<Offered<'a>>,
    answer: &'a str,
}

/// The choices of an item.
enum Offered<'a> {
    /// Written in the task file, as a prompt is: with the item's fields in their places.
    Written(Vec<Template>),
    /// A list in a field of the item.
    Field(&'a str),
}

impl<'a> Form<'a> {
    /// The keys were checked when the task file was read; a missing one still gets an error rather than a panic.
    /// A fault comes with its key.
    fn new(task: &'a TaskFile) -> Result<Self, (&'static str, Fault)> {
        let need = |key| (key, (format!("a {} task needs the key `{key}`", task.kind), None));
        let parsed = |key, text: &str| Template::parse(text).map_err(|fault| (key, fault));
        let choices = match &task.choices {
            None => None,
            Some(Choices::Fixed(list)) => {
                let list: Result<_, _> = list.iter().map(|choice| parsed("choices", choice)).collect();
                Some(Offered::Written(list?))
            }
            Some(Choices::Field(name)) => Some(Offered::Field(name)),
        };
        Ok(Self {
            prompt: parsed("prompt", task.prompt.as_deref().ok_or_else(|| need("prompt"))?)?,
            choices,
            answer: task.answer.as_deref().ok_or_else(|| need("answer"))?,
        })
    }

    /// The names of the fields that it takes.
    pub(super) fn fields(&self) -> Vec<&str> {
        let choices: Vec<&str> = match &self.choices {
            Some(Offered::Written(list)) => list.iter().flat_map(Template::fields).collect(),
            Some(Offered::Field(name)) => vec![name],
            None => Vec::new(),
        };
        let mut names: Vec<&str> = Vec::new();
        for name in self.prompt.fields().chain(choices).chain([self.answer]) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// A solved example: question, answer, and choices of its own.
    pub(super) fn solved(&self, fields: &Map<String, Value>) -> Result<(String, String, Vec<String>), Fault> {
        let question = self.prompt.render(fields)?;
        if self.choices.is_none() {
            return Ok((question, self.answers(fields)?.swap_remove(0), Vec::new()));
        }
        let (choices, answer) = self.choice(fields)?;
        Ok((question, choices[answer].clone(), self.own(&choices).to_vec()))
    }

    /// An item's choices, where not all items have the same.
    fn own<'c>(&self, choices: &'c [String]) -> &'c [String] {
        match &self.choices {
            Some(Offered::Written(list)) if list.iter().all(|choice| choice.fields().next().is_none()) => &[],
            _ => choices,
        }
    }

    /// The choices and the index of the right one.
    fn choice(&self, fields: &Map<String, Value>) -> Result<(Vec<String>, usize), Fault> {
        let choices = match &self.choices {
            Some(Offered::Written(list)) => {
                list.iter().map(|choice| choice.render(fields)).collect::<Result<_, _>>()?
            }
            Some(Offered::Field(name)) => texts(field(fields, name)?, name)?,
            None => return Err(("a choice task needs the key `choices`".into(), None)),
        };
        if choices.len() < 2 {
            return Err((format!("{} is no number of choices", choices.len()), None));
        }
        if let Some(twice) = choices.iter().enumerate().find(|(i, choice)| choices[..*i].contains(choice)) {
            return Err((format!("the choice `{}` stands there twice", twice.1), None));
        }
        let answer = match field(fields, self.answer)? {
            Value::Number(number) => number.as_u64().map(|index| index as usize).filter(|&index| index < choices.len()),
            Value::String(text) => choices.iter().position(|choice| choice == text),
            _ => None,
        };
        let answer = answer.ok_or_else(|| {
            let hint =
                format!("`{}` is an index from 0 to {}, or the text of a choice", self.answer, choices.len() - 1);
            (format!("{} is none of the choices", fields[self.answer]), Some(hint))
        })?;
        Ok((choices, answer))
    }

    /// The right answers of a question without choices.
    fn answers(&self, fields: &Map<String, Value>) -> Result<Vec<String>, Fault> {
        answers_of(fields, self.answer)
    }
}

/// The right answers that a field holds.
pub(crate) fn answers_of(fields: &Map<String, Value>, name: &str) -> Result<Vec<String>, Fault> {
    let answers = match field(fields, name)? {
        list @ Value::Array(_) => texts(list, name)?,
        value => vec![text_of(value, name)?],
    };
    if answers.is_empty() {
        return Err((format!("the field `{name}` lists no answer"), None));
    }
    Ok(answers)
}

/// Texts that stand as they are, with their keys.
fn literal(task: &TaskFile) -> impl Iterator<Item = (&'static str, &str)> {
    let texts = [
        ("description", task.description.as_deref().unwrap_or_default()),
        ("answer_separator", &*task.answer_separator),
        ("few_shot_separator", &*task.few_shot_separator),
    ];
    texts.into_iter().chain(task.stop.iter().map(|stop| ("stop", stop.as_str())))
}

/// What stands in braces in such texts, which may be fields of the items.
fn placeholders(task: &TaskFile) -> Vec<&str> {
    let mut found = Vec::new();
    for (_, text) in literal(task) {
        found.extend(text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)));
    }
    found
}

/// Refuses a field of the items in braces where a text stands as it is: it would be asked about literally.
fn refuse_placeholders(task: &TaskFile, lines: &[Line]) -> Result<(), (&'static str, Fault)> {
    for (key, text) in literal(task) {
        let named = lines.first().into_iter().flat_map(|line| line.fields.keys());
        if let Some(name) = named.into_iter().find(|name| text.contains(&format!("{{{name}}}"))) {
            let message = format!("`{key}` stands as it is, and holds `{{{name}}}`, a field of the items");
            return Err((key, (message, Some("placeholders are for `prompt` and `choices`".to_owned()))));
        }
    }
    Ok(())
}

/// The texts of a list.
fn texts(value: &Value, name: &str) -> Result<Vec<String>, Fault> {
    let list = value.as_array().ok_or_else(|| (format!("the field `{name}` is no list"), None))?;
    list.iter().map(|value| text_of(value, name)).collect()
}
