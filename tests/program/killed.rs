//! Runs that are killed at any moment and started again end as if nothing had happened.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::project::{Project, Random, W8, kill};

const KILLS: usize = 50;

fn script() -> String {
    r#"
let base = model("tiny");
let data = dataset("text.txt");
let tokens = data.tokens(#{ num_calibration_samples: 8, max_seq_length: 32 });
let options = #{ text: data, max_seq_length: 32, blocks: 4 };
let suite = [perplexity(options), kl(base, options)];
let w8a8 = #{ weights: W8.weights, input_activations: #{ num_bits: 8, type: "int", symmetric: true, strategy: "tensor", dynamic: false } };
let trained = base.train("sft", #{ data: tokens, max_steps: 12, batch_size: 2, checkpoint_every: 2, learning_rate: 0.001 });
let table = report("killed");
table.baseline(base.evaluate(suite), #{ model: "base" });
table.row(base.quantize("rtn", #{ scheme: W8 }).evaluate(suite), #{ model: "w8" });
table.row(trained.quantize("rtn", #{ scheme: w8a8, calibration: tokens }).evaluate(suite), #{ model: "trained w8a8" });
table.write();
"#
    .replace("W8.weights", r#"#{ num_bits: 8, type: "int", symmetric: true, strategy: "channel" }"#)
    .replace("W8", W8)
}

const ARGUMENTS: [&str; 6] = ["run", "killed.rhai", "--jobs", "2", "--threads", "1"];

#[test]
fn a_run_killed_fifty_times_ends_with_the_same_bytes() {
    // Another project in another folder: nothing in the store may depend on where it lies.
    let undisturbed = Project::new();
    undisturbed.write("killed.rhai", &script());
    let began = Instant::now();
    let expected = undisturbed.run(&ARGUMENTS).exits(0);
    let duration = began.elapsed();
    let artifacts = undisturbed.artifacts("results");
    assert!(artifacts.len() > 30, "{}", artifacts.len());

    let project = Project::new();
    project.write("killed.rhai", &script());
    let compare = |project: &Project| {
        let found = project.artifacts("results");
        let missing: Vec<_> = artifacts.keys().filter(|name| !found.contains_key(*name)).collect();
        let strays: Vec<_> = found.keys().filter(|name| !artifacts.contains_key(*name)).collect();
        assert!(missing.is_empty() && strays.is_empty(), "missing: {missing:?}, too many: {strays:?}");
        for (name, bytes) in &artifacts {
            assert!(found[name] == *bytes, "{} differs from the undisturbed run's", name.display());
        }
    };
    let began = Instant::now();
    let mut random = Random(5);
    let (mut kills, mut finished, mut moments) = (0, 0, [0_usize; 3]);
    while kills < KILLS {
        let mut command = project.command(&ARGUMENTS);
        let said = fs::File::create(project.path().join("said.txt")).unwrap();
        let mut driver = command.stdout(Stdio::null()).stderr(said).spawn().unwrap();
        // Mostly short lives, so that every phase of a run is met again and again.
        let life = Duration::from_millis(20) + duration.mul_f64(0.4 * random.unit());
        thread::sleep(life);
        if let Some(status) = driver.try_wait().unwrap() {
            let said = project.read("said.txt");
            assert!(status.success(), "a run after {kills} kills ended with {status}:\n{said}");
            compare(&project);
            finished += 1;
            project.assert_no_process_stays();
            fs::remove_dir_all(project.path().join("results")).unwrap();
            continue;
        }
        let stored =
            project.stored("results", "evaluate", "kl").len() + project.stored("results", "quantize", "rtn").len();
        moments[stored.min(2)] += 1;
        // Every other time its nodes are killed too, in whatever they are doing; else they notice by themselves.
        let victims = if kills % 2 == 0 { vec![driver.id() as i32] } else { project.processes() };
        victims.into_iter().for_each(|p| kill(p, Signal::KILL));
        kill(driver.id() as i32, Signal::KILL);
        driver.wait().unwrap();
        kills += 1;
    }
    let last = project.run(&ARGUMENTS).exits(0);
    assert_eq!(last.out, expected.out, "the tables differ");
    compare(&project);
    project.assert_no_process_stays();
    let scratch = fs::read_dir(project.path().join("results/store/v1/scratch")).unwrap().count();
    assert_eq!(scratch, 0, "unfinished work of finished nodes stays behind");
    eprintln!(
        "{kills} kills in {:.1} s ({finished} runs finished in between; {} s undisturbed); results stored when killed: \
         none {}, one {}, more {}",
        began.elapsed().as_secs_f64(),
        duration.as_secs_f64(),
        moments[0],
        moments[1],
        moments[2],
    );
    assert!(moments[0] > 0 && moments[2] > 0, "the kills all came at the same stage: {moments:?}");
}
