//! Task files as a user would write them, right and wrong.

use std::{fs, path::PathBuf};

use super::*;

/// Writes a task and its data into a temporary folder.
fn files(toml: &str, data: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("task.toml");
    fs::write(&path, toml).unwrap();
    fs::write(folder.path().join("data.jsonl"), data).unwrap();
    (folder, path)
}

const CHOICE: &str = r#"
name = "towns"
kind = "choice"
data = "data.jsonl"
prompt = "Question: {question}\nAnswer:"
choices = "options"
answer = "answer"
"#;

fn load(toml: &str, data: &str) -> Result<Task, TaskError> {
    let (_folder, path) = files(toml, data);
    Task::load(&path)
}

/// The error of a task, its path reduced to the file name.
fn error(toml: &str, data: &str) -> String {
    let error = load(toml, data).unwrap_err();
    let place = error.line.map(|line| format!(":{line}")).unwrap_or_default();
    let hint = error.hint.map(|hint| format!(" | {hint}")).unwrap_or_default();
    format!("{}{place}: {}{hint}", error.file.file_name().unwrap().to_string_lossy(), error.message)
}

#[test]
fn choice_items_are_rendered() {
    let data = "{\"id\": \"a\", \"question\": \"Where?\", \"options\": [\"here\", \"there\"], \"answer\": 1}\n\n\
                {\"question\": \"When?\", \"options\": [\"now\", 7], \"answer\": \"7\"}\n";
    let task = load(CHOICE, data).unwrap();
    let Items::Choice(items) = &task.items else { panic!("choice items") };
    assert_eq!(items[0].prompt.text(), "Question: Where?\nAnswer:");
    assert_eq!((items[0].id.as_str(), items[0].answer, items[0].continuation(1).as_str()), ("a", 1, " there"));
    assert_eq!(
        (items[1].id.as_str(), items[1].answer, items[1].choices.clone()),
        ("3", 1, vec!["now".into(), "7".into()])
    );
    assert_eq!(task.metric(), "acc");
    assert!(!task.uses_chat_template());
    assert_eq!(task.files.len(), 2);
}

#[test]
fn letters_examples_and_description_make_the_usual_exam() {
    let toml = r#"
        name = "exam"
        kind = "choice"
        data = "data.jsonl"
        description = "Questions with answers."
        prompt = "{q}\nA. {o.0}\nB. {o.1}\nAnswer:"
        choices = ["A", "B"]
        answer = "right"
        few_shot = 1
        few_shot_data = "data.jsonl"
        metric = "acc_norm"
    "#;
    let up = "{\"q\": \"Up?\", \"o\": [\"yes\", \"no\"], \"right\": \"B\"}\n";
    let down = "{\"q\": \"Down?\", \"o\": [\"yes\", \"no\"], \"right\": \"A\"}\n";
    let task = load(toml, &format!("{up}{down}")).unwrap();
    let Items::Choice(items) = &task.items else { panic!("choice items") };
    let [up, down] = ["Up?", "Down?"].map(|q| format!("{q}\nA. yes\nB. no\nAnswer:"));
    assert_eq!(items[0].prompt.text(), format!("Questions with answers.\n\n{down} A\n\n{up}"));
    assert_eq!(items[1].prompt.text(), format!("Questions with answers.\n\n{up} B\n\n{down}"));
    let turns = [("system", "Questions with answers."), ("user", &*down), ("assistant", "A"), ("user", &*up)];
    assert_eq!(items[0].prompt.turns(), turns);
}

/// Examples of a task, by item: the words of its prompt.
fn examples(toml: &str, data: &str, shots: &str) -> Result<Vec<Vec<String>>, String> {
    let (folder, path) = files(toml, data);
    fs::write(folder.path().join("shots.jsonl"), shots).unwrap();
    let task = Task::load(&path).map_err(|e| format!("{e} | {}", e.hint.clone().unwrap_or_default()))?;
    let prompts: Vec<&Prompt> = match &task.items {
        Items::Choice(items) => items.iter().map(|item| &item.prompt).collect(),
        Items::Generate(items) => items.iter().map(|item| &item.prompt).collect(),
        Items::Text(_) => panic!("questions"),
    };
    let mut found: Vec<Vec<String>> =
        prompts.iter().map(|p| p.shots.examples.iter().map(|(q, a)| format!("{q}{a}")).collect()).collect();
    found.push(vec![task.describe_shots(prompts.into_iter())]);
    Ok(found)
}

/// What lm-eval's `first_n` sampler gives: the first examples that are not the item.
#[test]
fn an_item_is_no_example_of_itself() {
    let toml =
        "name='g'\nkind='generate'\ndata='data.jsonl'\nprompt='{q}='\nanswer='a'\nmax_new_tokens=8\nfew_shot=2\n";
    let row = |q: &str, a: u32| format!("{{\"q\": \"{q}\", \"a\": \"{a}\"}}\n");
    let data: String = [("1+1", 2), ("2+2", 4), ("3+3", 6), ("4+4", 8)].map(|(q, a)| row(q, a)).concat();
    // All of the tested file.
    let found = examples(&format!("{toml}few_shot_data='data.jsonl'"), &data, "").unwrap();
    let [one, two, three] = ["1+1=2", "2+2=4", "3+3=6"];
    assert_eq!(found[..4], [[two, three], [one, three], [one, two], [one, two]]);
    assert_eq!(found[4], ["2-shot from the tested file `data.jsonl`, 2 items left out of their own prompts"]);
    // Files that overlap in part: another order, another id, other spaces, more fields.
    let shots = "{\"id\": \"x\", \"q\": \" 4+4 \", \"a\": 8, \"why\": 1}\n{\"q\": \"9+9\", \"a\": 18}\n{\"q\": \"5+5\", \"a\": 10}\n";
    let found = examples(&format!("{toml}few_shot_data='shots.jsonl'"), &data, shots).unwrap();
    assert_eq!(found[0], [" 4+4 =8", "9+9=18"]);
    assert_eq!(found[3], ["9+9=18", "5+5=10"]);
    assert_eq!(found[4], ["2-shot from `shots.jsonl`, 1 item left out of its own prompt"]);
    // No line is there to take the place of the item.
    let short: String = shots.lines().take(2).map(|line| format!("{line}\n")).collect();
    let error = examples(&format!("{toml}few_shot_data='shots.jsonl'"), &data, &short).unwrap_err();
    assert!(error.contains("task.toml:7: 2 examples wanted, `shots.jsonl` has 1 beside item `4` | an item"), "{error}");
    // Lines behind those that are needed are not looked at.
    let found = examples(&format!("{toml}few_shot_data='shots.jsonl'"), &data, &format!("{shots}{{\"b\": 1}}\n"));
    assert!(found.is_ok());
}

/// Choices in another order are the same question; items that differ by their choices alone are not.
#[test]
fn questions_with_choices_are_told_apart_by_both() {
    let toml = format!("{CHOICE}few_shot = 1\nfew_shot_data = \"shots.jsonl\"\n");
    let row = |options: &str| format!("{{\"question\": \"Which?\", \"options\": {options}, \"answer\": 0}}\n");
    let data = format!("{}{}", row("[\"a b\", \"b a\"]"), row("[\"c d\", \"d c\"]"));
    let found = examples(&toml, &data, &format!("{}{}", row("[\"b a\", \"a b\"]"), row("[\"e\", \"f\"]"))).unwrap();
    let asked = "Question: Which?\nAnswer:";
    assert_eq!(found[..2], [[format!("{asked}e")], [format!("{asked}b a")]]);
    assert_eq!(found[2], ["1-shot from `shots.jsonl`, 1 item left out of its own prompt"]);
}

#[test]
fn choices_that_are_written_down_are_filled_in_as_a_prompt_is() {
    let toml = CHOICE.replace("\"options\"", "[\"{a}\", \"{b} or {{c}}\", \"none\"]");
    let rows = "{\"question\": \"?\", \"a\": \"x\", \"b\": 7, \"answer\": 1}\n\
                {\"question\": \"?\", \"a\": \"y\", \"b\": 8, \"answer\": \"y\"}\n";
    let Items::Choice(items) = load(&toml, rows).unwrap().items else { panic!("choice items") };
    assert_eq!((items[0].choices.join("|"), items[0].answer), ("x|7 or {c}|none".to_owned(), 1));
    assert_eq!((items[1].choices.join("|"), items[1].answer), ("y|8 or {c}|none".to_owned(), 0));
    assert!(error(&toml.replace("{b}", "{q}"), rows).contains("data.jsonl:1: the item has no field `q`"));
    assert!(error(&toml.replace("{a}", "{a"), rows).starts_with("task.toml:6: `{` without its partner"));
    // Nothing else is filled in.
    let described = format!("{CHOICE}description = \"About {{question}}\"\n");
    let rows = "{\"question\": \"?\", \"options\": [1, 2], \"answer\": 1}\n";
    assert!(error(&described, rows).contains("`description` stands as it is, and holds `{question}`"));
}

#[test]
fn generated_answers_may_have_alternatives() {
    let toml = "name='g'\nkind='generate'\ndata='data.jsonl'\nprompt='{{{q}}}'\nanswer='a'\nmax_new_tokens=8\nmatch='numeric'\n";
    let task = load(toml, "{\"q\": 1.5, \"a\": [\"two\", 2]}\n{\"q\": true, \"a\": -3}").unwrap();
    let Items::Generate(items) = &task.items else { panic!("generate items") };
    assert_eq!((items[0].prompt.text(), items[0].answers.clone()), ("{1.5}".into(), vec!["two".into(), "2".into()]));
    assert_eq!((items[1].prompt.text(), items[1].answers.clone()), ("{true}".into(), vec!["-3".into()]));
    assert!(task.uses_chat_template());
    assert_eq!(task.file.matching, Some(Match::Numeric));
}

#[test]
fn running_text_comes_from_lines_or_from_a_whole_file() {
    let toml =
        "name = 't'\nkind = 'perplexity'\ndata = 'data.jsonl'\ntext = 'page'\nprotocol = 'rolling'\nadd_bos = true\n";
    let task = load(toml, "{\"page\": \"one\"}\n{\"page\": \"two\"}\n").unwrap();
    assert_eq!(task.items.len(), 2);
    assert_eq!((task.metric(), task.file.protocol, task.file.add_bos), ("nll", Some(Protocol::Rolling), Toggle::On));

    let (folder, path) = files("name = 't'\nkind = 'perplexity'\ndata = 'whole.txt'\n", "");
    // Whatever system wrote it.
    fs::write(folder.path().join("whole.txt"), "line\r\n\r\nline\r").unwrap();
    let Items::Text(items) = Task::load(&path).unwrap().items else { panic!("text items") };
    assert_eq!(items[0].text, "line\n\nline\n");
}

#[test]
fn a_task_file_survives_being_written() {
    let toml = format!("{CHOICE}few_shot = 0\nchat_template = \"auto\"\nadd_bos = false\n");
    let file: TaskFile = toml::from_str(&toml).unwrap();
    assert_eq!(toml::from_str::<TaskFile>(&toml::to_string(&file).unwrap()).unwrap(), file);
    let keys: Vec<String> =
        toml::from_str::<toml::Table>(&toml::to_string(&file).unwrap()).unwrap().keys().cloned().collect();
    assert!(keys.iter().all(|key| KEYS.contains(&key.as_str()) || key == "metric"), "{keys:?}");
}

#[test]
fn faults_of_the_task_file_name_their_line() {
    let with = |old: &str, new: &str| error(&CHOICE.replace(old, new), "{\"question\": 1}\n");
    assert_eq!(with("prompt =", "promt ="), "task.toml:5: unknown key `promt` | did you mean `prompt`?");
    assert_eq!(
        with("name = \"towns\"", "name = \"a b\""),
        "task.toml:2: `a b` cannot name a task | use letters, digits, `-` and `_`"
    );
    assert_eq!(with("answer = \"answer\"", "stop = []"), "task.toml:7: `stop` has no meaning for a choice task");
    let written = CHOICE
        .replace("kind = \"choice\"", "kind = \"generate\"")
        .replace("choices = \"options\"", "max_new_tokens = 4");
    assert_eq!(
        error(&format!("{written}stop = [\"\", \"zz\"]\n"), "{}\n"),
        "task.toml:8: an empty text would end every answer before it begins"
    );
    assert_eq!(with("answer = \"answer\"", ""), "task.toml:3: a choice task needs the key `answer`");
    assert_eq!(
        with("choices = \"options\"", "choices = 3"),
        "task.toml:6: invalid type: integer `3`, expected the name of a field or a list of texts"
    );
    assert_eq!(
        with("{question}", "{question"),
        "task.toml:5: `{` without its partner in the template | write `{{` for a brace"
    );
    assert_eq!(
        with("{question}", "{a b}"),
        "task.toml:5: `{a b}` is no placeholder | a placeholder is a field's name, such as `{question}`, or an element of a list, `{options.0}`"
    );
    assert!(with("kind = \"choice\"", "kind = \"multiple\"").starts_with("task.toml:3: unknown variant `multiple`"));
    assert!(
        with("answer = \"answer\"", "answer = \"answer\"\nmetric = \"nll\"")
            .starts_with("task.toml:8: a choice task has no such metric")
    );
    assert!(
        with("answer = \"answer\"", "answer = \"answer\"\nfew_shot = 2").starts_with("task.toml:8: `few_shot` needs")
    );
    assert!(
        with("answer = \"answer\"", "answer = \"answer\"\nadd_bos = \"yes\"")
            .starts_with("task.toml:8: invalid value: string \"yes\"")
    );
    assert!(with("name = ", "name == ").starts_with("task.toml:2: "));
}

#[test]
fn faults_of_the_data_name_their_line() {
    let good = "{\"question\": \"?\", \"options\": [\"a\", \"b\"], \"answer\": 0}";
    let with = |bad: &str| error(CHOICE, &format!("{good}\n\n{bad}\n"));
    assert_eq!(
        with("{\"queston\": 1, \"options\": [], \"answer\": 0}"),
        "data.jsonl:3: the item has no field `question` | did you mean `queston`?"
    );
    assert_eq!(with("[1]"), "data.jsonl:3: the line is no JSON object | an item is `{\"field\": value, …}`");
    assert_eq!(with("{\"a\": }"), "data.jsonl:3: no valid JSON at column 7: expected value");
    assert_eq!(
        with("{\"question\": 1, \"options\": [\"a\", \"b\"], \"answer\": 2}"),
        "data.jsonl:3: 2 is none of the choices | `answer` is an index from 0 to 1, or the text of a choice"
    );
    assert_eq!(
        with("{\"question\": 1, \"options\": [\"a\", \"a\"], \"answer\": 0}"),
        "data.jsonl:3: the choice `a` stands there twice"
    );
    assert_eq!(
        with("{\"question\": 1, \"options\": [\"a\"], \"answer\": 0}"),
        "data.jsonl:3: 1 is no number of choices"
    );
    assert_eq!(
        with("{\"question\": null, \"options\": [\"a\", \"b\"], \"answer\": 0}").split(" | ").next().unwrap(),
        "data.jsonl:3: the field `question` is neither text nor a number"
    );
    assert!(with("{\"id\": \"1\", \"question\": 1}").starts_with("data.jsonl:3: the id `1` was used on line 1"));
    assert_eq!(error(CHOICE, "\n"), "data.jsonl: there is no item in the file");

    let (folder, path) = files(CHOICE, "");
    fs::write(folder.path().join("data.jsonl"), b"{}\n\xff\n").unwrap();
    assert_eq!(Task::load(&path).unwrap_err().line, Some(2));
    fs::remove_file(folder.path().join("data.jsonl")).unwrap();
    assert!(Task::load(&path).unwrap_err().to_string().contains("data.jsonl: failed to read: "));
}

/// A table has the items that the same lines have, and what is wrong with it is named alike.
#[test]
fn items_are_rows_of_parquet_too() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet/task.parquet");
    let toml = CHOICE.replace("data.jsonl", "task.parquet");
    let (folder, path) = files(&toml, "");
    fs::copy(table, folder.path().join("task.parquet")).unwrap();
    let lines = "{\"id\": \"x\", \"question\": \"Where?\", \"options\": [\"here\", \"there\"], \"answer\": 1}\n\
                 {\"id\": \"y\", \"question\": \"When?\", \"options\": [\"now\", \"then\", \"never\"], \"answer\": 0}\n";
    assert_eq!(Task::load(&path).unwrap().items, load(CHOICE, lines).unwrap().items);
    // Columns that the task does not name may be of any type; one that it names has to be there, and of a type that is read.
    let told = |from: &str, to: &str| {
        fs::write(&path, toml.replace(from, to)).unwrap();
        let error = Task::load(&path).unwrap_err();
        format!("{error} | {}", error.hint.clone().unwrap_or_default())
    };
    let error = told("{question}", "{questoin}");
    assert!(error.contains("task.parquet: the file has no column `questoin` | did you mean `question`?"), "{error}");
    let error = told("prompt =", "description = \"About {question}\"\nprompt =");
    assert!(error.contains("`description` stands as it is, and holds `{question}`"), "{error}");
    let error = told("{question}", "{when}");
    assert!(error.contains("column `when` is of type timestamp: timestamp is not read here"), "{error}");
}

/// Lines end as they do in Python, whatever wrote them.
#[test]
fn lines_of_every_system_are_items() {
    let line = |n: u32| format!("{{\"question\": \"{n}\\r\\n\", \"options\": [\"a\", \"b\"], \"answer\": 1}}");
    let plain = load(CHOICE, &format!("{}\n\n{}\n", line(1), line(2))).unwrap();
    for end in ["\r\n", "\r"] {
        let found = load(CHOICE, &format!("\u{feff}{}{end}{end}{}{end}", line(1), line(2))).unwrap();
        assert_eq!(found.items, plain.items, "{end:?}");
    }
    assert_eq!(error(CHOICE, "\r\r{\r"), "data.jsonl:3: no valid JSON at column 1: EOF while parsing an object");
    let text = "name='t'\nkind='perplexity'\ndata='text.txt'\n";
    let (folder, path) = files(text, "");
    fs::write(folder.path().join("text.txt"), "one\r\ntwo\rthree").unwrap();
    let Items::Text(items) = Task::load(&path).unwrap().items else { panic!("a text") };
    assert_eq!(items[0].text, "one\ntwo\nthree");
}

/// What a plan knows of the longest request, examples and all.
#[test]
fn the_extent_of_a_task_is_that_of_its_longest_request() {
    let data = "{\"question\": \"Where?\", \"options\": [\"here\", \"far away\"], \"answer\": 1}\n\
                {\"question\": \"When is it that they come?\", \"options\": [\"now\", \"then\", \"never\"], \"answer\": 0}\n";
    let task = load(CHOICE, data).unwrap();
    let all = task.extent(None);
    // The prompt, the separator and the choice, and a token around them.
    assert_eq!((all.requests, all.bytes), (5, "Question: When is it that they come?\nAnswer: never".len() + 1));
    assert_eq!((all.longest(300), all.answer), (all.bytes, 0));
    assert!(all.tokens < all.bytes && all.longest(32_000) == all.tokens);
    assert_eq!(task.extent(Some(1)).requests, 2);
    let generate =
        "name='g'\nkind='generate'\ndata='data.jsonl'\nprompt='{question}'\nanswer='answer'\nmax_new_tokens=8\n";
    let found = load(generate, data).unwrap().extent(None);
    assert_eq!((found.requests, found.answer, found.longest(300)), (2, 8, "When is it that they come?".len() + 16 + 8));
}
