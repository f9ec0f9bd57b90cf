//! Plugins that do to their process what is none of their business: their row is right or an error, and nothing of them stays.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    interrupt::Followed,
    project::{Outcome, Project, W8, kill},
};

const SCRIPT: &str = r#"
let base = model("tiny");
let suite = [perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })];
let scheme = #{ name: "W4", weights: #{ num_bits: 4, type: "int", symmetric: true, strategy: "channel" } };
let table = report("unruly");
for conduct in param("conducts", ["none"]) {
    let options = #{ scheme: scheme, targets: "model.layers.0.self_attn.o_proj", conduct: conduct };
    table.row(base.quantize("unruly", options).evaluate(suite), #{ conduct: conduct });
}
table.write();
"#;

fn project() -> Project {
    let project = Project::new();
    project.add_plugins(&["unruly"]);
    project.write("unruly.rhai", SCRIPT);
    project
}

fn arguments(conducts: &[&str]) -> [String; 4] {
    let names: Vec<String> = conducts.iter().map(|c| format!("{c:?}")).collect();
    ["run", "unruly.rhai", "--set"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("conducts=[{}]", names.join(","))])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

fn run(project: &Project, conducts: &[&str], options: &[&str]) -> Outcome {
    let arguments = arguments(conducts);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(options.iter().copied()).collect();
    let outcome = project.run(&arguments);
    project.assert_no_process_stays();
    outcome
}

/// The line of a table that begins with a word.
#[track_caller]
fn row<'a>(outcome: &'a Outcome, conduct: &str) -> &'a str {
    let found = outcome.out.lines().find(|l| l.split_whitespace().next() == Some(conduct));
    found.unwrap_or_else(|| panic!("no row {conduct} in\n{}\n{}", outcome.out, outcome.err))
}

#[test]
fn conduct_that_hurts_nobody_changes_no_number() {
    let project = project();
    let conducts = [
        "none",
        "leave_processes",
        "hang_at_exit",
        "forge",
        "noise",
        "close_output",
        "redirect_output",
        "change_directory",
    ];
    let since = Instant::now();
    let outcome = run(&project, &conducts, &["--plugin-timeout", "30"]).exits(0);
    assert!(since.elapsed() < Duration::from_secs(300), "something was waited for");
    let numbers = |conduct: &str| -> Vec<String> {
        row(&outcome, conduct).split_whitespace().skip(1).map(str::to_owned).collect()
    };
    for conduct in conducts {
        assert_eq!(numbers(conduct), numbers("none"), "{conduct}");
    }
    assert!(!outcome.err.contains("forged"), "{}", outcome.err);
    // What was printed is in the log, as far as there is room.
    let logs = outcome_logs(&project);
    let forged = logs.iter().find(|log| log.contains("forged")).expect("no log has the forged events");
    assert_eq!(forged.matches("{\"event\":\"done\",\"existed\":false}").count(), 2, "standard output and error");
    let noise = logs.iter().find(|log| log.contains("begin of noise")).expect("no log has the noise");
    assert!(noise.contains("bytes are left out here]") && noise.contains(" end of noise"));
    let folder = project.path().join("results/runs");
    let logs = fs::read_dir(folder).unwrap().flat_map(|run| fs::read_dir(run.unwrap().path().join("logs")).unwrap());
    let longest = logs.map(|log| log.unwrap().metadata().unwrap().len()).max();
    assert!(longest < Some(6 << 20), "{longest:?}");
    // `workbench log` prints it, in whatever encoding it is.
    let shown = project.run(&["log", "last"]).exits(0);
    assert!(shown.out.contains("begin of noise \u{fffd}") && shown.out.contains("forged"));
}

fn outcome_logs(project: &Project) -> Vec<String> {
    let runs = fs::read_dir(project.path().join("results/runs")).unwrap().map(|run| run.unwrap().path().join("logs"));
    let logs = runs.flat_map(|logs| fs::read_dir(logs).unwrap()).map(|log| fs::read(log.unwrap().path()).unwrap());
    logs.map(|log| String::from_utf8_lossy(&log).into_owned()).collect()
}

#[test]
fn processes_of_a_plugin_do_not_outlive_its_node() {
    let project = project();
    let hung = ["leave_processes_and_hang", "hang_twice"];
    let conducts = [&["none", "leave_processes_and_abort"][..], &hung].concat();
    let outcome = run(&project, &conducts, &["--plugin-timeout", "3", "--jobs", "4"]).exits(4);
    for (conduct, expected) in [
        ("leave_processes_and_abort", "its process was ended by SIGABRT"),
        (hung[0], "plugin `unruly` did not call the host for 3 s"),
        (hung[1], "plugin `unruly` did not call the host for 3 s"),
    ] {
        assert!(row(&outcome, conduct).contains(expected), "{}", row(&outcome, conduct));
    }
    let outcome = run(&project, &["none", "close_all_and_hang"], &[]).exits(4);
    let found = row(&outcome, "close_all_and_hang");
    assert!(found.contains("it closed the pipe over which it reports while plugin `unruly` was at work"), "{found}");
}

/// `cat > library.so` while a node has it mapped takes its code away.
#[test]
fn a_library_that_changes_under_its_node_is_named() {
    let project = project();
    let library = project.path().join("plugins/libunruly.so");
    let whole = fs::read(&library).unwrap();
    let arguments = arguments(&["forge"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut run = Followed::start(&project, &arguments);
    run.until(|e| e["said"]["event"] == "plugin" && e["said"]["timeout"] == 600);
    // It sleeps for a moment.
    std::thread::sleep(Duration::from_millis(300));
    fs::write(&library, vec![0; whole.len()]).unwrap();
    let (code, events) = run.end();
    assert_eq!(code, Some(4), "{events:#?}");
    let failed = events.iter().find(|e| e["end"]["end"] == "failed").unwrap();
    let message = failed["end"]["message"].as_str().unwrap();
    let told =
        message.starts_with("its plugin's library, `") && message.contains("libunruly.so`, changed while it ran: ");
    assert!(told && message.contains("its process was ended by SIG"), "{message}");
    fs::write(&library, whole).unwrap();
    Followed::start(&project, &arguments).end();
    project.assert_no_process_stays();
}

#[test]
fn memory_of_a_plugins_child_counts() {
    let project = project();
    let outcome = run(&project, &["none", "hungry_child"], &["--memory", "600 MiB"]).exits(4);
    assert!(row(&outcome, "hungry_child").contains("more than its limit of 600 MiB while plugin `unruly` was at work"));
}

#[test]
fn a_talkative_plugin_is_cut_short_but_logged() {
    let project = project();
    let outcome = run(&project, &["flood"], &[]).exits(0);
    assert!(outcome.err.contains("warn: line 0\n") && outcome.err.contains("the node's log has the others"));
    assert!(!outcome.err.contains("line 19999"), "the terminal has them all");
    assert!(outcome_logs(&project).iter().any(|log| log.contains("line 2500")), "the log has not");
}

#[test]
fn messages_of_plugins_are_printed_escaped() {
    let project = project();
    let outcome = run(&project, &["none", "escapes"], &[]).exits(4);
    let all = format!("{}{}", outcome.out, outcome.err);
    assert!(!all.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{all:?}");
    assert!(outcome.err.contains(r"warn: \x1b]0;title\x07\x1b[2J\r[1/1] done \u{9b}31m"), "{}", outcome.err);
    assert!(!outcome.err.lines().any(|line| line.starts_with("next")), "a message looks like another one");
    assert!(outcome.out.contains(r"bad \x1b[31mred\x1b[0m\x07"), "{}", outcome.out);
    for file in ["table.md", "index.html"] {
        let text = project.read(&format!("results/reports/unruly/{file}"));
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{file}");
        assert!(text.contains("x1b"), "{file}:\n{text}");
    }
    // JSON has the message itself.
    let outcome = project.run(&["show", "last", "--json"]).exits(0);
    assert!(!outcome.out.contains(|c: char| c.is_control() && c != '\n'));
    assert!(outcome.json().to_string().contains(r"bad \u001b[31mred"), "{}", outcome.out);
}

/// A run whose plugin has left processes behind and hangs.
fn hanging(project: &Project) -> Followed {
    let arguments = arguments(&["leave_processes_and_hang"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut run = Followed::start(project, &arguments);
    run.until(|e| e["said"]["event"] == "plugin" && e["said"]["timeout"] == 600);
    let since = Instant::now();
    // The driver, the node, and five processes that it has left behind.
    while project.processes().len() < 7 {
        assert!(since.elapsed() < Duration::from_secs(60), "the plugin left nothing: {:?}", project.processes());
        std::thread::sleep(Duration::from_millis(10));
    }
    run
}

#[test]
fn signals_end_a_run_with_all_that_its_plugins_have_started() {
    for signals in [&[Signal::INT, Signal::INT][..], &[Signal::TERM], &[Signal::HUP]] {
        let project = project();
        let run = hanging(&project);
        let since = Instant::now();
        for signal in signals {
            run.signal_with(*signal);
            if *signal == Signal::INT && since.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(500));
            }
        }
        let (code, events) = run.end();
        assert_eq!(code, Some(5), "{signals:?}: {events:#?}");
        assert!(since.elapsed() < Duration::from_secs(60), "{signals:?}");
        let ends = events.iter().filter(|e| e["event"] == "node_ended").map(|e| e["end"]["end"].clone());
        assert_eq!(ends.collect::<Vec<_>>(), ["cancelled", "cancelled"], "{signals:?}");
        project.assert_no_process_stays();
    }
}

#[test]
fn a_driver_that_is_killed_takes_all_along() {
    let project = project();
    let run = hanging(&project);
    run.signal_with(Signal::KILL);
    run.end();
    project.assert_no_process_stays();
}

#[test]
fn a_library_that_forks_when_it_is_loaded_holds_nobody_up() {
    let project = Project::new();
    project.add_plugins(&["fork_on_load", "sign_linear"]);
    let since = Instant::now();
    let outcome = project.run(&["plugins", "list"]).exits(0);
    assert!(outcome.out.contains("fork_on_load ") && outcome.out.contains("sign_linear "), "{}", outcome.out);
    assert!(since.elapsed() < Duration::from_secs(25), "it took {:?}", since.elapsed());
    project.assert_no_process_stays();
    let file = project.path().join("plugins/libfork_on_load.so");
    project.run(&["plugins", "check", file.to_str().unwrap()]).exits(3);
    project.assert_no_process_stays();
}

#[test]
fn a_probe_ends_with_its_parent() {
    let project = Project::new();
    project.add_plugins(&["hang_on_load"]);
    for signal in [Signal::KILL, Signal::INT, Signal::TERM] {
        let mut command = project.command(&["plugins", "list"]);
        let mut listing = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let since = Instant::now();
        while project.processes().len() < 2 {
            assert!(since.elapsed() < Duration::from_secs(60), "nothing is probed");
            std::thread::sleep(Duration::from_millis(10));
        }
        kill(listing.id() as i32, signal);
        listing.wait().unwrap();
        project.assert_no_process_stays();
    }
}

#[test]
fn a_plugin_that_is_named_without_a_folder_is_the_file_here() {
    let project = Project::new();
    fs::copy(super::project::library("sign_linear"), project.path().join("libsign_linear.so")).unwrap();
    let outcome = project.run(&["plugins", "check", "libsign_linear.so"]).exits(0);
    assert!(outcome.out.contains("ok     load"), "{}", outcome.out);
}

#[test]
fn a_relative_results_folder_stays_where_it_was() {
    let project = project();
    let outcome = run(&project, &["none", "change_directory"], &["--results", "elsewhere/results"]).exits(0);
    assert!(project.path().join("elsewhere/results/store").is_dir());
    let numbers = |conduct: &str| -> Vec<String> {
        row(&outcome, conduct).split_whitespace().skip(1).map(str::to_owned).collect()
    };
    assert_eq!(numbers("change_directory"), numbers("none"));
    // The same with a model that a transform has made, which another plugin process reads.
    let script = format!(
        "let m = model(\"tiny\").quantize(\"unruly\", #{{ scheme: {W8}, targets: \"*.o_proj\", conduct: \"change_directory\" }});
         m.save_as(\"saved\");"
    );
    project.write("save.rhai", &script);
    project.run(&["run", "save.rhai", "--results", "./other"]).exits(0);
    assert!(project.path().join("saved/config.json").is_file());
}
