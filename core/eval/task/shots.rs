//! Solved examples in front of a question, of which none is the question itself.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    TaskError, TaskFile,
    items::{Form, Prompt, Shots},
    lines::{Line, read_lines},
};

/// The file that examples come from, and the ways in which they were put together.
pub(super) struct Pool<'a> {
    task: &'a TaskFile,
    form: &'a Form<'a>,
    /// The task file and the line of `few_shot` in it.
    place: (&'a Path, usize),
    file: PathBuf,
    lines: Vec<Line>,
    /// The first of the lines as examples; the others are not looked at before they are needed.
    ready: Vec<Example>,
    made: HashMap<Vec<usize>, Arc<Shots>>,
}

/// A line with its answer.
struct Example {
    question: String,
    answer: String,
    /// Choices of its own, where the task has not the same for all.
    choices: Vec<String>,
}

impl<'a> Pool<'a> {
    /// Reads the examples of a task; none without `few_shot`.
    pub(super) fn new(
        task: &'a TaskFile,
        form: &'a Form<'a>,
        folder: &Path,
        place: (&'a Path, usize),
    ) -> Result<Self, TaskError> {
        let file = task.few_shot_data.as_ref().filter(|_| task.few_shot > 0).map(|name| folder.join(name));
        let lines = file.as_deref().map(|file| read_lines(file, &form.fields(), &[])).transpose()?.unwrap_or_default();
        let pool =
            Self { task, form, place, file: file.unwrap_or_default(), lines, ready: Vec::new(), made: HashMap::new() };
        if pool.lines.len() < task.few_shot {
            return Err(pool.too_few(format!(
                "{} examples wanted, `{}` has {}",
                task.few_shot,
                pool.name(),
                pool.lines.len()
            )));
        }
        Ok(pool)
    }

    /// The file that was read, if any.
    pub(super) fn file(&self) -> Option<PathBuf> {
        (self.task.few_shot > 0).then(|| self.file.clone())
    }

    /// A question behind the first examples of the file that are not the question itself.
    pub(super) fn prompt(&mut self, id: &str, question: String, choices: &[String]) -> Result<Prompt, TaskError> {
        let mut chosen = Vec::new();
        for index in 0.. {
            if chosen.len() == self.task.few_shot {
                break;
            }
            if index == self.lines.len() {
                return Err(self.too_few(format!(
                    "{} examples wanted, `{}` has {} beside item `{id}`",
                    self.task.few_shot,
                    self.name(),
                    chosen.len()
                )));
            }
            if !self.example(index)?.is(&question, choices) {
                chosen.push(index);
            }
        }
        let left_out = chosen.last().is_some_and(|last| *last >= chosen.len());
        let shots = match self.made.get(&chosen) {
            Some(shots) => Arc::clone(shots),
            None => {
                let shots = Arc::new(self.shots(&chosen));
                self.made.insert(chosen, Arc::clone(&shots));
                shots
            }
        };
        Ok(Prompt { shots, question, left_out })
    }

    fn example(&mut self, index: usize) -> Result<&Example, TaskError> {
        while self.ready.len() <= index {
            let line = &self.lines[self.ready.len()];
            let solved = self.form.solved(&line.fields).map_err(|(message, hint)| TaskError {
                file: self.file.clone(),
                line: Some(line.number),
                message,
                hint,
            })?;
            let (question, answer, choices) = solved;
            self.ready.push(Example { question, answer, choices });
        }
        Ok(&self.ready[index])
    }

    fn shots(&self, chosen: &[usize]) -> Shots {
        let pair = |index: &usize| (self.ready[*index].question.clone(), self.ready[*index].answer.clone());
        Shots {
            description: self.task.description.clone(),
            examples: chosen.iter().map(pair).collect(),
            answer_separator: self.task.answer_separator.clone(),
            separator: self.task.few_shot_separator.clone(),
        }
    }

    fn name(&self) -> String {
        self.task.few_shot_data.as_deref().unwrap_or(Path::new("")).display().to_string()
    }

    fn too_few(&self, message: String) -> TaskError {
        let hint = "an item is left out of its own prompt: add examples, or lower few_shot";
        TaskError { file: self.place.0.to_path_buf(), line: Some(self.place.1), message, hint: Some(hint.into()) }
    }
}

impl Example {
    /// Whether it gives away the answer of a question: it asks the same, whatever its line, its `id`, its white space or the
    /// order of its choices. Where items differ by their choices alone, those have to have one in common.
    fn is(&self, question: &str, choices: &[String]) -> bool {
        let spelled = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        let same = spelled(&self.question) == spelled(question);
        let shared = || self.choices.iter().any(|choice| choices.contains(choice));
        same && (self.choices.is_empty() || choices.is_empty() || shared())
    }
}

/// Words for the protocol line: how many examples, where they come from, and how many questions were among them.
pub(super) fn described<'p>(task: &TaskFile, prompts: impl Iterator<Item = &'p Prompt>) -> String {
    let Some(file) = task.few_shot_data.as_ref().filter(|_| task.few_shot > 0) else { return "0-shot".to_owned() };
    let source = if *file == task.data { "the tested file " } else { "" };
    let others = match prompts.filter(|prompt| prompt.left_out).count() {
        0 => String::new(),
        1 => ", 1 item left out of its own prompt".to_owned(),
        n => format!(", {n} items left out of their own prompts"),
    };
    format!("{}-shot from {source}`{}`{others}", task.few_shot, file.display())
}
