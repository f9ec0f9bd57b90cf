//! What the engine is made of: read by the build script, which takes the digests, and by the tests, which hold this list
//! against what the sources import.

/// Parts of the engine and the folders that each is made of. A folder counts whole: a file that is put into one counts from
/// then on.
pub(crate) const PARTS: &[(&str, &[&str])] = &[
    ("quant", &["core/quant/src"]),
    ("model", &["core/matmul/src", "core/model/src", "core/rotation/src"]),
    ("data", &["core/data"]),
    ("calib", &["core/calib"]),
    ("eval", &["core/eval"]),
    ("demo", &["core/demo"]),
    ("report", &["core/report"]),
    ("params", &["core/graph/params"]),
    ("targets", &["core/graph/targets"]),
    ("common", &["core/steps/common"]),
    ("artifact", &["core/steps/artifact"]),
    ("host", &["core/steps/host"]),
    ("schemes", &["core/steps/schemes"]),
    ("quantize", &["core/steps/quantize"]),
    ("transform", &["core/steps/transform"]),
    ("train", &["core/steps/train"]),
    ("evaluate", &["core/steps/evaluate"]),
    ("generate", &["core/steps/generate"]),
];

/// Locked packages that compute numbers or read them from text. With them counts all that they are built on.
pub(crate) const NUMERIC: &[&str] = &[
    "candle-core",
    "candle-nn",
    "csv",
    "faer",
    "gemm",
    "globset",
    "half",
    "minijinja",
    "minijinja-contrib",
    "parquet",
    "rand",
    "rand_chacha",
    "rayon",
    "regex",
    "rhai",
    "safetensors",
    "serde_json",
    "tokenizers",
];

/// Packages at which that ends: macros that write code, and bindings of systems.
pub(crate) const NOT_NUMERIC: &[&str] = &[
    "getrandom",
    "iana-time-zone",
    "js-sys",
    "libc",
    "linux-raw-sys",
    "nix",
    "proc-macro2",
    "quote",
    "rustix",
    "syn",
    "sysctl",
    "tempfile",
    "wasm-bindgen",
    "windows-sys",
    "zip",
];
