//! Pipes, devices, sockets and folders in the place of files: errors, where opening one would wait for ever.

use std::{
    fs,
    os::unix::net::UnixListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::project::{Outcome, Project, kill};

fn fifo(project: &Project, name: &str) {
    let path = project.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// What a command says that must not wait for a writer.
#[track_caller]
fn at_once(project: &Project, arguments: &[&str]) -> Outcome {
    let mut child = project.command(arguments);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if since.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{arguments:?} waits");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap().into()
}

#[track_caller]
fn script(project: &Project, text: &str) -> Outcome {
    project.write("use.rhai", text);
    at_once(project, &["run", "use.rhai"])
}

#[test]
fn pipes_are_no_files() {
    let project = Project::new();
    for name in ["pipe", "pipe.json", "pipe.toml", "pipe.rhai", "pipe.jsonl", "pipe.gguf", "folder/config.json"] {
        fifo(&project, name);
    }
    for file in ["config.json", "tokenizer.json"] {
        let folder = format!("with_{}", file.split('.').next().unwrap());
        project.write_model(&folder, 32, 2);
        fifo(&project, &format!("{folder}/{file}"));
    }
    project.write_model("with_weights", 32, 2);
    fifo(&project, "with_weights/model.safetensors");
    let perplexity = |model: &str| {
        format!(
            "let t = report(\"t\"); t.row(model(\"{model}\").evaluate(perplexity(#{{ text: dataset(\"text.txt\"), max_seq_length: 16, blocks: 1 }})), #{{ a: 1 }}); t.write();"
        )
    };
    for (text, codes) in [
        ("import \"pipe\" as p;".to_owned(), [2, 2]),
        ("read(\"pipe.json\");".to_owned(), [2, 2]),
        ("stages(\"pipe.toml\");".to_owned(), [2, 2]),
        ("stages(\"*.toml\");".to_owned(), [0, 2]),
        ("task(\"pipe.toml\");".to_owned(), [2, 2]),
        ("dataset(\"pipe\");".to_owned(), [2, 2]),
        ("dataset(\"pipe.jsonl\");".to_owned(), [2, 2]),
        ("model(\"pipe\");".to_owned(), [2, 2]),
        ("model(\"pipe.gguf\");".to_owned(), [2, 2]),
        ("model(\"folder\");".to_owned(), [2, 2]),
        ("architecture(\"folder\");".to_owned(), [2, 3]),
        (perplexity("with_config"), [2, 2]),
        (perplexity("with_tokenizer"), [3, 4]),
        (perplexity("with_weights"), [2, 2]),
    ] {
        let outcome = script(&project, &text);
        assert!(codes.contains(&outcome.code), "{text}: {}\n{}", outcome.code, outcome.err);
        let told =
            ["it is a named pipe, not a file", "is no regular file"].iter().any(|what| outcome.err.contains(what));
        assert!(outcome.code == 0 || told, "{text}: {}", outcome.err);
    }
    let outcome = at_once(&project, &["run", "pipe.rhai"]).exits(2);
    assert!(outcome.err.contains("it is a named pipe, not a file"), "{}", outcome.err);
}

#[test]
fn neither_are_devices_sockets_and_folders() {
    let project = Project::new();
    let _socket = UnixListener::bind(project.path().join("socket")).unwrap();
    fs::create_dir(project.path().join("a_folder")).unwrap();
    for (name, what) in [("/dev/zero", "a device"), ("socket", "a socket"), ("a_folder", "a folder")] {
        let expected = format!("it is {what}, not a file");
        for text in [format!("dataset(\"{name}\");"), format!("task(\"{name}\");")] {
            let outcome = script(&project, &text).exits(2);
            assert!(outcome.err.contains(&expected), "{text}: {}", outcome.err);
        }
        let outcome = at_once(&project, &["run", name]).exits(2);
        assert!(outcome.err.contains(&expected), "{}", outcome.err);
    }
}

#[test]
fn plugins_and_settings_are_files() {
    let project = Project::new();
    fifo(&project, "plugins/libpipe.so");
    let outcome = at_once(&project, &["plugins", "list"]).exits(0);
    assert!(outcome.err.contains("libpipe.so: it cannot be read: it is a named pipe, not a file"), "{}", outcome.err);
    let outcome = at_once(&project, &["plugins", "check", "plugins/libpipe.so"]).exits(3);
    assert!(outcome.out.contains("it is a named pipe, not a file"), "{}", outcome.out);
    fs::remove_file(project.path().join("workbench.toml")).unwrap();
    fifo(&project, "workbench.toml");
    let outcome = at_once(&project, &["plugins", "list"]).exits(3);
    assert!(outcome.err.contains("workbench.toml") && outcome.err.contains("it is a named pipe"), "{}", outcome.err);
}

#[test]
fn a_signal_ends_what_only_thinks() {
    let project = Project::new();
    project
        .write("thinks.rhai", "print(\"thinking\"); let n = 0; let t = timestamp(); while t.elapsed < 50.0 { n = 1; }");
    for (signal, json) in [(Signal::INT, false), (Signal::TERM, false), (Signal::INT, true)] {
        let arguments = ["run", "thinks.rhai", "--json"];
        let said = fs::File::create(project.path().join("said.txt")).unwrap();
        let mut command = project.command(&arguments[..2 + usize::from(json)]);
        let mut child = command.stdout(Stdio::null()).stderr(said).spawn().unwrap();
        let since = Instant::now();
        while !project.read("said.txt").contains("thinking") {
            assert!(since.elapsed() < Duration::from_secs(60), "it never began: {}", project.read("said.txt"));
            std::thread::sleep(Duration::from_millis(10));
        }
        let since = Instant::now();
        kill(child.id() as i32, signal);
        assert_eq!(child.wait().unwrap().code(), Some(5), "{}", project.read("said.txt"));
        assert!(since.elapsed() < Duration::from_secs(20), "{signal:?} took {:?}", since.elapsed());
        let expected = if json { r#""kind":"interrupted""# } else { "error: the run was interrupted" };
        assert!(project.read("said.txt").contains(expected), "{}", project.read("said.txt"));
    }
}
