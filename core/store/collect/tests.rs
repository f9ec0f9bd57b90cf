use super::*;
use crate::{
    identity::Origin,
    store::{Record, RunNode},
};
use serde_json::json;

fn commit(store: &Store, key: &Key) {
    let scratch = store.scratch(key).unwrap().unwrap();
    scratch.write_items(&[json!({ "id": "1" })]).unwrap();
    let record = Record { version: Record::VERSION, identity: json!({}), values: json!({}), facts: json!({}) };
    scratch.commit(&record, &json!({})).unwrap();
}

fn key(digit: &str) -> Key {
    digit.repeat(64).parse().unwrap()
}

fn what(garbage: &Garbage) -> Vec<(&'static str, &str)> {
    garbage.items.iter().map(|item| (item.what, item.name.get(..4).unwrap_or(&item.name))).collect()
}

#[test]
fn a_run_in_progress_keeps_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    for digit in ["a", "b"] {
        commit(&store, &key(digit));
    }
    drop(store.scratch(&key("c")).unwrap().unwrap());
    let (run, mut summary) = store.create_run("x.rhai", &[]).unwrap();
    for digit in ["a", "c"] {
        let (kind, method, label) = ("evaluate".to_owned(), "kl".to_owned(), String::new());
        summary.nodes.push(RunNode { key: key(digit), kind, method, label, origin: Origin::default(), cached: true });
    }
    run.write_summary(&summary).unwrap();
    assert_eq!(what(&store.garbage(0, &[]).unwrap()), [("result", "bbbb")], "its folder, result and scratch stay");
    drop(run);
    let garbage = store.garbage(0, &[]).unwrap();
    let kinds: Vec<&str> = what(&garbage).into_iter().map(|(what, _)| what).collect();
    assert_eq!(kinds, ["run", "result", "result", "unfinished"]);
    let promised = garbage.bytes();
    let removal = garbage.remove();
    assert!(removal.failed.is_empty() && removal.items == 4 && removal.freed == promised && promised > 0);
    assert!(store.garbage(0, &[]).unwrap().items.is_empty());
}

#[test]
fn what_a_kill_left_is_garbage_and_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    commit(&store, &key("a"));
    commit(&store, &key("b"));
    // An older removal was cut short behind the record, a newer one behind the rename.
    fs::remove_file(store.object_path(&key("a")).join(RECORD)).unwrap();
    hide(&store.object_path(&key("b"))).unwrap();
    assert!(!store.holds(&key("a")) && !store.holds(&key("b")));
    assert!(store.objects_sorted().unwrap().is_empty());
    let garbage = store.garbage(10, &[]).unwrap();
    assert_eq!(what(&garbage), [("incomplete", "aaaa"), ("leftover", ".dis")]);
    commit(&store, &key("a"));
    drop(garbage.remove());
    assert!(store.holds(&key("a")), "it was made anew meanwhile");
    assert!(what(&store.garbage(10, &[]).unwrap()).iter().all(|(what, _)| *what == "result"));
}

#[test]
fn results_stay_while_it_is_not_known_what_a_kept_run_needs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    commit(&store, &key("a"));
    let (run, _) = store.create_run("x.rhai", &[]).unwrap();
    fs::write(run.path().join("run.json"), "{").unwrap();
    let path = run.path().to_owned();
    drop(run);
    let damaged = store.damaged(&mut |_| {}).unwrap();
    assert_eq!(damaged.len(), 1);
    let garbage = store.garbage(10, &damaged).unwrap();
    assert_eq!(garbage.unreadable.len(), 1);
    assert_eq!(garbage.items.iter().map(|item| item.what).collect::<Vec<_>>(), ["damaged run"]);
    drop(garbage.remove());
    assert!(!path.exists());
    assert_eq!(what(&store.garbage(10, &[]).unwrap()), [("result", "aaaa")]);
}

#[test]
fn planning_and_collecting_exclude_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    commit(&store, &key("a"));
    let garbage = store.garbage(10, &[]).unwrap();
    let planned = std::thread::scope(|scope| {
        let planning = scope.spawn(|| {
            let _lock = store.lock_planning().unwrap().unwrap();
            store.holds(&key("a"))
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(garbage.remove());
        planning.join().unwrap()
    });
    assert!(!planned, "whoever plans sees all of it or nothing");
}
