//! Stored bytes that changed: they are refused by name, removed where asked, and made anew.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::project::{Project, W8};

const SCRIPT: &str = r#"
let base = model("tiny");
let suite = [perplexity(#{ text: dataset("text.txt"), max_seq_length: 32, blocks: param("blocks", 4) })];
let table = report("damage");
table.baseline(base.evaluate(suite), #{ weights: "f32" });
table.row(base.quantize("rtn", #{ scheme: W8 }).evaluate(suite), #{ weights: "W8" });
table.write();
"#;

fn project() -> Project {
    let project = Project::new();
    project.write("damage.rhai", &SCRIPT.replace("W8 }", &format!("{W8} }}")));
    project
}

/// Changes one byte in the middle of a file in place, and neither its size nor its time.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let times = fs::FileTimes::new().set_modified(fs::metadata(path).unwrap().modified().unwrap());
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|path| path.is_file() && !path.ends_with("provenance.json"));
    found.sort();
    found
}

#[test]
fn whatever_is_damaged_is_refused_removed_and_made_anew() {
    let project = project();
    let first = project.run(&["run", "damage.rhai"]).exits(0);
    let whole = project.artifacts("results");
    assert!(project.run(&["doctor"]).out.contains("3 results, all of them as they were written"));

    let evaluation = project.stored("results", "evaluate", "perplexity")[0].0.clone();
    let model = project.stored("results", "quantize", "rtn")[0].0.clone();
    let mut victims: Vec<(PathBuf, bool)> = files(&evaluation).into_iter().map(|path| (path, true)).collect();
    victims.extend(files(&model).into_iter().chain(files(&model.join("model"))).map(|path| (path, false)));
    assert!(victims.len() >= 3 + 2 + 8, "{victims:?}");
    for (path, of_an_evaluation) in victims {
        let shown = path.display().to_string();
        let shard = shown.ends_with(".safetensors");
        flip(&path);
        // A model is only looked at where it is going to be read.
        let read: &[&str] =
            if of_an_evaluation { &["run", "damage.rhai"] } else { &["run", "damage.rhai", "--set", "blocks=3"] };
        let outcome = project.run(read).exits(if shard { 4 } else { 3 });
        assert!(outcome.err.contains("damaged"), "{shown}: {}", outcome.err);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(outcome.err.contains("workbench gc"), "{shown}: {}", outcome.err);
        if !of_an_evaluation {
            assert!(project.run(&["run", "damage.rhai"]).exits(0).out == first.out, "{shown}: nothing reads it");
        }

        let doctor = project.run(&["doctor", "--json"]).exits(3).json();
        // A changed manifest speaks against another file.
        let place = if name == "manifest.json" { path.parent().unwrap().to_str().unwrap() } else { name };
        let named = |finding: &serde_json::Value| finding["text"].as_str().unwrap().contains(place);
        assert!(doctor["findings"].as_array().unwrap().iter().any(|f| f["good"] == false && named(f)), "{doctor:#}");
        let listed = project.run(&["gc", "--json"]).exits(0).json();
        assert_eq!(listed["items"][0]["what"], "damaged result", "{shown}: {listed:#}");
        project.run(&["gc", "--yes"]).exits(0);
        assert!(project.run(&["doctor"]).out.contains("all of them as they were written"));
        assert_eq!(project.run(&["run", "damage.rhai"]).exits(0).out, first.out, "{shown}");
        // A model whose evaluations are stored is made where one is missing.
        project.run(&["run", "damage.rhai", "--set", "blocks=3"]).exits(0);
        let healed = project.artifacts("results");
        assert!(whole.iter().all(|(name, bytes)| healed.get(name) == Some(bytes)), "{shown} was not made as before");
        for (folder, _) in project.stored("results", "evaluate", "perplexity") {
            if !whole.keys().any(|name| folder.ends_with(name.parent().unwrap())) {
                fs::remove_dir_all(folder).unwrap();
            }
        }
    }
}

#[test]
fn items_that_are_missing_double_or_cut_are_refused() {
    let project = project();
    project.run(&["run", "damage.rhai"]).exits(0);
    let evaluation = project.stored("results", "evaluate", "perplexity")[0].0.clone();
    let (items, record) = (evaluation.join("items.jsonl"), evaluation.join("record.json"));
    let (whole, recorded) = (fs::read_to_string(&items).unwrap(), fs::read_to_string(&record).unwrap());
    let lines: Vec<&str> = whole.lines().collect();
    let double = [lines[0], lines[1], lines[1], lines[3]].join("\n") + "\n";
    let broken = [
        lines[1..].join("\n") + "\n",
        whole.clone() + lines[0] + "\n",
        double,
        whole[..whole.len() - 9].to_owned(),
        String::new(),
    ];
    // A result of before there were manifests says how many items it has.
    for manifest in [true, false] {
        if !manifest {
            fs::remove_file(evaluation.join("manifest.json")).unwrap();
            project.run(&["run", "damage.rhai"]).exits(3);
            fs::write(&record, recorded.replacen("\"version\": 2", "\"version\": 1", 1)).unwrap();
        }
        fs::write(&items, &whole).unwrap();
        project.run(&["run", "damage.rhai"]).exits(0);
        for text in &broken {
            fs::write(&items, text).unwrap();
            let outcome = project.run(&["run", "damage.rhai"]).exits(3);
            assert!(outcome.err.contains("damaged") && !outcome.out.contains("f32"), "{}", outcome.err);
            assert!(project.run(&["doctor"]).exits(3).out.contains("items.jsonl"), "{text}");
        }
    }
    assert!(project.run(&["doctor", "--remove-damaged"]).out.contains("1 damaged items were removed"));
    project.run(&["run", "damage.rhai"]).exits(0);
    assert_eq!(fs::read_to_string(&items).unwrap(), whole);
}

#[test]
fn a_damaged_shard_never_takes_the_place_of_a_fresh_one() {
    let project = project();
    let first = project.run(&["run", "damage.rhai"]).exits(0);
    let whole = project.artifacts("results");
    let (model, record) = project.stored("results", "quantize", "rtn")[0].clone();
    let shards: Vec<PathBuf> =
        files(&model.join("model")).into_iter().filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    // The shelf keeps its link to the damaged bytes when the result is removed by hand.
    shards.iter().for_each(|shard| flip(shard));
    fs::remove_dir_all(&model).unwrap();
    for (folder, stored) in project.stored("results", "evaluate", "perplexity") {
        if stored["identity"]["inputs"]["model"].get("node").is_some() {
            fs::remove_dir_all(folder).unwrap();
        }
    }
    let again = project.run(&["run", "damage.rhai"]).exits(0);
    assert_eq!(again.out, first.out, "{record:#}");
    assert!(project.artifacts("results") == whole);
    for shard in &shards {
        let shelf = project.path().join("results/store/v1/shards").join(shard.file_name().unwrap());
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&shelf), inode(shard), "the fresh shard takes the place on the shelf");
    }
    assert!(project.run(&["doctor"]).out.contains("all of them as they were written"));
}

#[test]
fn half_a_result_is_garbage_and_hinders_nobody() {
    let project = project();
    let first = project.run(&["run", "damage.rhai"]).exits(0);
    let model = project.stored("results", "quantize", "rtn")[0].0.clone();
    let evaluations = project.stored("results", "evaluate", "perplexity");
    for folder in evaluations.iter().map(|(folder, _)| folder).chain([&model]) {
        fs::remove_file(folder.join("record.json")).unwrap();
    }
    project.run(&["show"]).exits(0);
    let listed = project.run(&["gc", "--json"]).exits(0).json();
    let kinds: Vec<&str> = listed["items"].as_array().unwrap().iter().filter_map(|i| i["what"].as_str()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "incomplete").count(), 3, "{listed:#}");
    let again = project.run(&["run", "damage.rhai"]).exits(0);
    assert!(again.err.contains("0 cached, 3 to run"), "{}", again.err);
    assert_eq!(again.out, first.out);
    assert!(model.join("record.json").is_file());
}

#[test]
fn damaged_memories_and_reports_cost_time_and_nothing_else() {
    let project = project();
    let first = project.run(&["run", "damage.rhai"]).exits(0);
    let report = project.path().join("results/reports/damage");
    let table = project.read("results/reports/damage/table.csv");
    for name in ["table.csv", "table.md", "index.html", "comparisons.csv", "rendered.json"] {
        flip(&report.join(name));
        assert_eq!(project.run(&["run", "damage.rhai"]).exits(0).out, first.out, "{name}");
        assert_eq!(project.read("results/reports/damage/table.csv"), table, "{name}");
    }
    // A figure that was changed and is a figure still.
    let rendered = project.read("results/reports/damage/rendered.json");
    let figure = first.out.split_whitespace().find(|word| word.contains('.') && word.parse::<f64>().is_ok()).unwrap();
    fs::write(report.join("rendered.json"), rendered.replace(figure, "0.123")).unwrap();
    assert_eq!(project.run(&["run", "damage.rhai"]).exits(0).out, first.out);

    let cache = project.path().join("results/cache");
    for entry in fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()) {
        flip(&entry);
        let again = project.run(&["run", "damage.rhai"]).exits(0);
        assert!(again.err.contains("2 cached, 0 to run"), "{}: {}", entry.display(), again.err);
    }
    let run = fs::read_dir(project.path().join("results/runs")).unwrap().next().unwrap().unwrap().path();
    fs::write(run.join("events.jsonl"), [b"{\"event\":".as_slice(), &[0xff, 0xfe]].concat()).unwrap();
    fs::write(run.join("run.json"), "{").unwrap();
    assert!(project.run(&["show"]).exits(0).out.contains("its list is damaged"));
    let listed = project.run(&["gc", "--keep-last", "100", "--json"]).exits(0);
    assert_eq!(listed.json()["items"][0]["what"], "damaged run");
    assert!(listed.err.contains("all results are kept"), "{}", listed.err);
    project.run(&["gc", "--keep-last", "100", "--yes"]).exits(0);
    assert!(!run.exists());
}

#[test]
fn a_store_on_another_disk_is_only_hashed_again() {
    let project = project();
    let first = project.run(&["run", "damage.rhai"]).exits(0);
    // Every file anew: other inodes and times, and no links.
    let copy = project.path().join("elsewhere");
    copy_folder(&project.path().join("results"), &copy);
    let cached = project.run(&["run", "damage.rhai", "--results", "elsewhere"]).exits(0);
    assert!(cached.err.contains("2 cached, 0 to run"), "{}", cached.err);
    assert_eq!(cached.out, first.out);
    let more = project.run(&["run", "damage.rhai", "--results", "elsewhere", "--set", "blocks=3"]).exits(0);
    assert!(more.err.contains("2 to run"), "{}", more.err);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}
