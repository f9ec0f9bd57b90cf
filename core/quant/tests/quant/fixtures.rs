//! Reading tensors of numbers, and making some.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use workbench_quant::{Conventions, Grid, Matrix, QuantParams, QuantizationArgs, StorageDtype};

/// A safetensors file in memory.
pub(crate) struct Fixture {
    bytes: Vec<u8>,
    name: String,
}

/// One tensor, widened: floats in `values`, integers and bit patterns in `integers`.
pub(crate) struct Numbers {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
    pub(crate) integers: Vec<i32>,
}

impl Fixture {
    pub(crate) fn open(path: &Path) -> Self {
        let name = path.display().to_string();
        Self { bytes: std::fs::read(path).unwrap_or_else(|error| panic!("{name}: {error}")), name }
    }

    /// The numbers that belong to the crate.
    pub(crate) fn bundled() -> Self {
        Self::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/compressed_tensors.safetensors"))
    }

    pub(crate) fn get(&self, key: &str) -> Numbers {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(key).unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name));
        let bytes = view.data();
        let (mut values, mut integers) = (Vec::new(), Vec::new());
        match view.dtype() {
            Dtype::F32 => values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()))),
            Dtype::BF16 => {
                values.extend(bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()))
            }
            Dtype::I8 => integers.extend(bytes.iter().map(|b| i32::from(*b as i8))),
            Dtype::U8 | Dtype::F8_E4M3 => integers.extend(bytes.iter().map(|b| i32::from(*b))),
            Dtype::I32 => integers.extend(bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()))),
            other => panic!("{key}: unexpected dtype {other:?}"),
        }
        Numbers { shape: view.shape().to_vec(), values, integers }
    }
}

/// A folder of large fixtures, if there is one beside this project or where `WORKBENCH_FIXTURES` points.
pub(crate) fn large_fixtures(test: &str, file: &str) -> Option<PathBuf> {
    let root = std::env::var_os("WORKBENCH_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = root.join("golden").join(file);
    if path.is_file() {
        return Some(path);
    }
    eprintln!("skipped: {test}: {} is not there", path.display());
    None
}

/// Arguments from JSON text.
pub(crate) fn args(json: serde_json::Value) -> QuantizationArgs {
    serde_json::from_value(json).unwrap()
}

/// A grid of f32 scales with default conventions.
pub(crate) fn grid(json: serde_json::Value) -> Grid {
    Grid::new(&args(json), StorageDtype::F32, Conventions::default()).unwrap()
}

/// A view that is known to fit.
pub(crate) fn matrix(values: &[f32], rows: usize, columns: usize) -> Matrix<'_> {
    Matrix::new(values, rows, columns).unwrap()
}

/// Values of codes in a fresh vector.
pub(crate) fn dequantized(grid: &Grid, codes: &[i8], rows: usize, columns: usize, p: &QuantParams) -> Vec<f32> {
    let mut out = vec![f32::NAN; codes.len()];
    grid.dequantize(codes, rows, columns, p, &mut out).unwrap();
    out
}

/// Fake-quantized values in a fresh vector.
pub(crate) fn faked(grid: &Grid, x: &[f32], rows: usize, columns: usize, p: &QuantParams) -> Vec<f32> {
    let mut out = x.to_vec();
    grid.fake_quantize(&mut out, rows, columns, p).unwrap();
    out
}

/// Bit patterns, for comparisons that tell zeros apart.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Pseudo-random numbers with a bell-shaped distribution, the same on every machine.
pub(crate) fn bell(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..6).map(|_| uniform()).sum::<f32>()).collect()
}
