//! A temporary project with a tiny random model, and the program run in it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_workbench");

/// Weights of 8 bits with a scale per channel, as scripts write them.
pub(crate) const W8: &str =
    r#"#{ name: "W8", weights: #{ num_bits: 8, type: "int", symmetric: true, strategy: "channel" } }"#;

/// A project in a temporary folder: `tiny`, a random model of the demo's vocabulary; `text.txt`; the shared scripts.
pub(crate) struct Project {
    folder: TempDir,
}

/// What the program did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; 128 and the signal if one ended it.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// The outcome, if the exit code is the expected one.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "standard output:\n{}\nstandard error:\n{}", self.out, self.err);
        self
    }

    /// The JSON on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in\n{}", self.out))
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let code = output.status.code().or(output.status.signal().map(|s| 128 + s)).unwrap_or(-1);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code, out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// The folder of this project's sources.
pub(crate) fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Project {
    pub(crate) fn new() -> Self {
        let program = Path::new(PROGRAM);
        let bundled = program.parent().unwrap().join("libworkbench_rtn.so");
        assert!(bundled.is_file(), "{} is missing: cargo build --workspace", bundled.display());
        let project = Self { folder: tempfile::tempdir().unwrap() };
        project.write("workbench.toml", "");
        for script in ["allocation.rhai", "schemes.rhai", "tasks.rhai"] {
            project.write(
                &format!("scripts/{script}"),
                &fs::read_to_string(sources().join("scripts").join(script)).unwrap(),
            );
        }
        project.write("text.txt", &text(40));
        project.write_model("tiny", HIDDEN, LAYERS);
        project
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file, with its folders.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path().join(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Copies a file of this project's sources to the same place.
    pub(crate) fn add_source(&self, name: &str) {
        self.write(name, &fs::read_to_string(sources().join(name)).unwrap());
    }

    /// Puts test plugins into `plugins`, which the program searches.
    pub(crate) fn add_plugins(&self, names: &[&str]) {
        for name in names {
            let file = library(name);
            fs::create_dir_all(self.path().join("plugins")).unwrap();
            fs::copy(&file, self.path().join("plugins").join(file.file_name().unwrap())).unwrap();
        }
    }

    /// The program in this project, seeing nothing of the surroundings' settings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null()).env("NO_COLOR", "1");
        for name in ["WORKBENCH_LOG", "WORKBENCH_PLUGIN_PATH", "RAYON_NUM_THREADS", "RUST_BACKTRACE", "CLICOLOR_FORCE"]
        {
            command.env_remove(name);
        }
        let plugins = self.path().join("plugins");
        if plugins.is_dir() {
            command.env("WORKBENCH_PLUGIN_PATH", plugins);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.command(arguments).output().unwrap().into()
    }

    /// The files of all stored results but their provenance, which holds times and hosts.
    pub(crate) fn artifacts(&self, results: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let objects = self.path().join(results).join("store/v1/objects");
        let mut found = BTreeMap::new();
        let mut waiting = vec![objects.clone()];
        while let Some(folder) = waiting.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    waiting.push(entry.path());
                } else if entry.file_name() != "provenance.json" {
                    let name = entry.path().strip_prefix(&objects).unwrap().to_owned();
                    found.insert(name, fs::read(entry.path()).unwrap());
                }
            }
        }
        found
    }

    /// The stored results of a kind of node, each with its folder.
    pub(crate) fn stored(&self, results: &str, kind: &str, method: &str) -> Vec<(PathBuf, Value)> {
        let objects = self.path().join(results).join("store/v1/objects");
        let records = self.artifacts(results).into_iter().filter(|(name, _)| name.ends_with("record.json"));
        let parsed = records.map(|(name, bytes)| {
            (objects.join(name.parent().unwrap()), serde_json::from_slice::<Value>(&bytes).unwrap())
        });
        parsed.filter(|(_, r)| r["identity"]["kind"] == kind && r["identity"]["method"] == method).collect()
    }

    /// The processes that work in this project.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let folder = self.path().canonicalize().unwrap();
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let works_here = |path: &Path| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder));
        let running = |path: &Path| fs::read(path.join("cmdline")).is_ok_and(|line| !line.is_empty());
        let here = entries.map(|e| e.path()).filter(|p| works_here(p) && running(p));
        here.filter_map(|p| p.file_name()?.to_str()?.parse().ok()).collect()
    }

    /// Fails unless every process of the project ends soon.
    #[track_caller]
    pub(crate) fn assert_no_process_stays(&self) {
        let since = Instant::now();
        while !self.processes().is_empty() {
            let who: Vec<String> = self.processes().iter().map(|p| command_line(*p)).collect();
            assert!(since.elapsed() < Duration::from_secs(20), "these processes outlive their run: {who:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes a random model of the demo's vocabulary into a folder.
    pub(crate) fn write_model(&self, folder: &str, hidden: usize, layers: usize) {
        let demo = sources().join("experiments/demo/model");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(demo.join("config.json")).unwrap()).unwrap();
        let sizes = json!({
            "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": hidden / 4, "max_position_embeddings": 256, "torch_dtype": "float32",
        });
        config.as_object_mut().unwrap().extend(sizes.as_object().unwrap().clone());
        self.write(&format!("{folder}/config.json"), &config.to_string());
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            self.write(&format!("{folder}/{name}"), &fs::read_to_string(demo.join(name)).unwrap());
        }
        let vocabulary = config["vocab_size"].as_u64().unwrap() as usize;
        let file = self.path().join(folder).join("model.safetensors");
        fs::write(file, weights(vocabulary, hidden, layers)).unwrap();
    }
}

pub(crate) const HIDDEN: usize = 32;
pub(crate) const LAYERS: usize = 2;

/// The linears of a block of the tiny model with their outputs and inputs.
pub(crate) const LINEARS: [(&str, usize, usize); 7] = linears(HIDDEN);

const fn linears(hidden: usize) -> [(&'static str, usize, usize); 7] {
    [
        ("self_attn.q_proj", hidden, hidden),
        ("self_attn.k_proj", hidden / 2, hidden),
        ("self_attn.v_proj", hidden / 2, hidden),
        ("self_attn.o_proj", hidden, hidden),
        ("mlp.gate_proj", 2 * hidden, hidden),
        ("mlp.up_proj", 2 * hidden, hidden),
        ("mlp.down_proj", hidden, 2 * hidden),
    ]
}

/// Random weights, the same each time, as a safetensors file. Larger models get smaller weights, so that activations stay
/// of one size.
fn weights(vocabulary: usize, hidden: usize, layers: usize) -> Vec<u8> {
    let mut random = Random(1);
    let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
    let mut put = |name: String, shape: &[usize], spread: Option<f64>| {
        let begin = body.len();
        for _ in 0..shape.iter().product() {
            let value = spread.map_or(1.0, |s| (2.0 * random.unit() - 1.0) * s) as f32;
            body.extend(value.to_le_bytes());
        }
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, body.len()] }));
    };
    let spread = Some(0.5 * (HIDDEN as f64 / hidden as f64).sqrt());
    put("model.embed_tokens.weight".into(), &[vocabulary, hidden], Some(0.5));
    for layer in 0..layers {
        for (name, rows, columns) in linears(hidden) {
            put(format!("model.layers.{layer}.{name}.weight"), &[rows, columns], spread);
        }
        for name in ["self_attn.q_norm", "self_attn.k_norm"] {
            put(format!("model.layers.{layer}.{name}.weight"), &[hidden / 4], None);
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            put(format!("model.layers.{layer}.{name}.weight"), &[hidden], None);
        }
    }
    put("model.norm.weight".into(), &[hidden], None);
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &body].concat()
}

/// Paragraphs of random words.
fn text(paragraphs: usize) -> String {
    let words: Vec<&str> =
        "the fox ran over a hill and sang to old Mira who baked bread in the red house by a river".split(' ').collect();
    let mut random = Random(2);
    let mut paragraph = || (0..60).map(|_| words[random.below(words.len())]).collect::<Vec<_>>().join(" ");
    (0..paragraphs).map(|_| paragraph() + ".").collect::<Vec<_>>().join("\n\n")
}

/// Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators": SplitMix64.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A library of `tests/plugins`.
pub(crate) fn library(name: &str) -> PathBuf {
    let file = Path::new(PROGRAM).parent().unwrap().join("examples").join(format!("lib{name}.so"));
    assert!(file.is_file(), "{} is missing: cargo build --workspace --examples", file.display());
    file
}

fn command_line(process: i32) -> String {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Ends a process at once; one that is gone already is no error.
pub(crate) fn kill(process: i32, signal: rustix::process::Signal) {
    if let Some(process) = rustix::process::Pid::from_raw(process) {
        let _ = rustix::process::kill_process(process, signal);
    }
}

/// The rows of a CSV file by column name.
pub(crate) fn csv(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let row = |line: &str| -> BTreeMap<String, String> {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), names.len(), "{line}");
        names.iter().zip(cells).map(|(n, c)| ((*n).to_owned(), c.to_owned())).collect()
    };
    lines.map(row).collect()
}
