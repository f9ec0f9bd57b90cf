//! Stamps the digests of the engine's sources into the binary, for the keys of nodes.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Part of the engine, and the folders and files that it is made of.
const PARTS: &[(&str, &[&str])] = &[
    ("quant", &["core/quant/src"]),
    ("model", &["core/matmul/src", "core/model/src", "core/rotation/src"]),
    ("calib", &["core/calib"]),
    ("eval", &["core/eval"]),
    ("data", &["core/data"]),
    ("demo", &["core/demo"]),
    ("report", &["core/report"]),
    (
        "services",
        &[
            // Which modules a scheme is for, and which of them share a scale.
            "core/graph/ends.rs",
            "core/graph/experts.rs",
            "core/graph/fused.rs",
            "core/graph/selector.rs",
            "core/steps/artifact.rs",
            "core/steps/contract.rs",
            "core/steps/recipe.rs",
            "core/steps/services.rs",
            "core/steps/streams.rs",
        ],
    ),
    ("quantize", &["core/steps/quantize", "core/steps/global_scales.rs", "core/steps/kv_cache.rs"]),
    ("transform", &["core/steps/transform.rs", "core/steps/equivalence.rs", "core/steps/equivalence"]),
    // How the model of a training is stored, it takes from the step of transforms.
    ("train", &["core/steps/train.rs", "core/steps/transform.rs"]),
    ("evaluate", &["core/steps/evaluate.rs"]),
];

/// Locked packages whose version can change a number: those that compute, and those that read texts.
const NUMERIC: &[&str] = &[
    "candle-core",
    "candle-nn",
    "csv",
    "csv-core",
    "daachorse",
    "faer",
    "fancy-regex",
    "gemm",
    "gemm-common",
    "gemm-f32",
    "half",
    "minijinja",
    "minijinja-contrib",
    "parquet",
    "rand_chacha",
    "regex",
    "regex-automata",
    "safetensors",
    "serde_json",
    "spm_precompiled",
    "tokenizers",
    "unicode-normalization-alignments",
];

fn main() {
    for (part, paths) in PARTS {
        let mut files = Vec::new();
        for path in *paths {
            // A part that moved must not drop out of the keys without a word.
            assert!(Path::new(path).exists(), "core/build.rs names `{path}`, which is not there");
            println!("cargo::rerun-if-changed={path}");
            collect(Path::new(path), &mut files);
        }
        files.sort();
        let mut hash = Fnv::new();
        for file in files {
            hash.write(file.to_string_lossy().as_bytes());
            hash.write(&fs::read(&file).unwrap_or_default());
        }
        println!("cargo::rustc-env=WORKBENCH_ENGINE_{part}={:032x}", hash.finish());
    }
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let mut hash = Fnv::new();
    for package in lock.split("[[package]]") {
        if NUMERIC.iter().any(|name| package.contains(&format!("name = \"{name}\"\n"))) {
            hash.write(package.as_bytes());
        }
    }
    println!("cargo::rustc-env=WORKBENCH_ENGINE_dependencies={:032x}", hash.finish());
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_owned());
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        collect(&entry.path(), files);
    }
}

/// 128-bit FNV-1a: enough to tell versions of our own sources apart, without a build dependency.
struct Fnv(u128);

impl Fnv {
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        // A length after each part keeps "ab" + "c" apart from "a" + "bc".
        for byte in (bytes.len() as u64).to_le_bytes() {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn finish(&self) -> u128 {
        self.0
    }
}
