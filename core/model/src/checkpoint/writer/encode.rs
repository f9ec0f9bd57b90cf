//! Codes and scales as the tensors of compressed-tensors layouts.

use half::{bf16, f16};
use workbench_quant::float::{e8m0, f8e4m3};
use workbench_quant::{Dynamic, Format, Grid, QuantParams, ScaleDtype, Strategy, pack};

use super::shard::PendingTensor;
use crate::checkpoint::Dtype;
use crate::checkpoint::compressed::Coding;
use crate::checkpoint::dtype::bytes_of;
use crate::checkpoint::kv_cache;

/// The parts of a quantized weight by suffix, such as `weight_scale`. Errors are messages without a place.
pub(crate) fn encode_weight(
    grid: &Grid,
    codes: &[i8],
    parameters: &QuantParams,
    [rows, columns]: [usize; 2],
    format: Format,
) -> Result<Vec<(&'static str, PendingTensor)>, String> {
    check(grid, codes, parameters, [rows, columns])?;
    let args = grid.args();
    let mut parts = Vec::new();
    let Some(coding) = Coding::of(format, args) else {
        let name = serde_json::to_string(&format).unwrap_or_default();
        return Err(format!("the layout {name} cannot hold {args}"));
    };
    let stored = vec![rows, coding.elements_per_row(columns, args.num_bits)];
    let bytes = match coding {
        Coding::Bytes => codes.iter().map(|code| *code as u8).collect(),
        Coding::Words => {
            let words = pack::pack_rows(codes, rows, columns, args.num_bits).map_err(|error| error.to_string())?;
            bytes_of(words.iter().map(|word| word.to_le_bytes()))
        }
        Coding::Fp4 => pack::pack_fp4(codes, rows, columns).map_err(|error| error.to_string())?,
    };
    parts.push((coding.suffix(), PendingTensor { dtype: coding.dtype(args), shape: stored, bytes }));
    if coding == Coding::Words {
        let shape = [rows as i64, columns as i64].into_iter().flat_map(i64::to_le_bytes).collect();
        parts.push(("weight_shape", PendingTensor { dtype: Dtype::I64, shape: vec![2], bytes: shape }));
    }
    if let (Strategy::TensorGroup, Some(scale)) = (args.strategy, parameters.global_scale) {
        parts.push(("weight_global_scale", one_scale(scale)?));
    }
    let shape = stored_shape(args.strategy, parameters.shape);
    parts.push(("weight_scale", scale_tensor(grid, parameters, shape.clone())?));
    if let (Some(points), false) = (&parameters.zero_points, args.symmetric) {
        // The layout packs zero-points only where there are many.
        let tensor = if coding == Coding::Words && matches!(args.strategy, Strategy::Group | Strategy::Channel) {
            let groups = parameters.shape[1];
            let words =
                pack::pack_zero_points(points, rows, groups, args.num_bits).map_err(|error| error.to_string())?;
            words_tensor(vec![pack::words_per_row(rows, args.num_bits), groups], &words)
        } else {
            points_tensor(points, shape)?
        };
        parts.push(("weight_zero_point", tensor));
    }
    Ok(parts)
}

/// The parts of a static input scale by suffix.
pub(crate) fn encode_input(
    grid: &Grid,
    parameters: &QuantParams,
) -> Result<Vec<(&'static str, PendingTensor)>, String> {
    if grid.args().dynamic == Dynamic::Local {
        let scale = parameters.global_scale.ok_or("the tensor-wide scale of the input is missing")?;
        return Ok(vec![("input_global_scale", one_scale(scale)?)]);
    }
    let count = parameters.scales.len();
    if count == 0 || parameters.shape != [1, count] || (grid.args().strategy == Strategy::Tensor && count != 1) {
        return Err(format!("{count} scales of shape {:?} are not those of a static input", parameters.shape));
    }
    let mut parts = vec![("input_scale", scale_tensor(grid, parameters, vec![count])?)];
    match (&parameters.zero_points, grid.args().symmetric) {
        (Some(points), false) if points.len() == count => {
            parts.push(("input_zero_point", points_tensor(points, vec![count])?));
        }
        (None, true) => {}
        _ => return Err("zero-points do not fit the quantization arguments".into()),
    }
    Ok(parts)
}

/// The static scale of keys or values, and their zero-point.
pub(crate) fn encode_kv(
    grid: &Grid,
    parameters: &QuantParams,
    heads: usize,
) -> Result<(PendingTensor, Option<PendingTensor>), String> {
    let shape = kv_cache::stored_shape(grid.args(), heads);
    let count: usize = shape.iter().product();
    if parameters.scales.len() != count || parameters.shape != [1, count] {
        let found = (parameters.scales.len(), parameters.shape);
        return Err(format!("{} scales of shape {:?}, expected {count}", found.0, found.1));
    }
    let scale = scale_tensor(grid, parameters, shape.clone())?;
    match (&parameters.zero_points, grid.args().symmetric) {
        (Some(points), false) if points.len() == count => Ok((scale, Some(points_tensor(points, shape)?))),
        (None, true) => Ok((scale, None)),
        _ => Err("zero-points do not fit the quantization arguments".into()),
    }
}

fn check(grid: &Grid, codes: &[i8], parameters: &QuantParams, [rows, columns]: [usize; 2]) -> Result<(), String> {
    if codes.len() != rows * columns {
        return Err(format!("{} codes are not a {rows} x {columns} weight", codes.len()));
    }
    let expected = grid.parameters_shape(rows, columns).map_err(|error| error.to_string())?;
    if parameters.shape != expected || parameters.scales.len() != expected[0] * expected[1] {
        let found = (parameters.scales.len(), parameters.shape);
        return Err(format!("{} scales of shape {:?}, expected shape {expected:?}", found.0, found.1));
    }
    match (&parameters.zero_points, grid.args().symmetric) {
        (Some(points), _) if points.len() != parameters.scales.len() => {
            return Err(format!("{} zero-points for {} scales", points.len(), parameters.scales.len()));
        }
        (None, false) => return Err("asymmetric codes without zero-points".into()),
        (Some(points), true) if points.iter().any(|point| *point != 0) => {
            return Err("symmetric codes with zero-points other than 0".into());
        }
        _ => {}
    }
    if grid.args().strategy == Strategy::TensorGroup && parameters.global_scale.is_none() {
        return Err("group scales without the tensor-wide one".into());
    }
    if let Some((low, high)) = grid.code_range()
        && let Some(code) = codes.iter().find(|code| !(low..=high).contains(*code))
    {
        return Err(format!("code {code} is outside {low} to {high}"));
    }
    Ok(())
}

/// One scale is a vector of one element in this format, whatever its rank in memory.
fn stored_shape(strategy: Strategy, [down, across]: [usize; 2]) -> Vec<usize> {
    if strategy == Strategy::Tensor { vec![1] } else { vec![down, across] }
}

/// Stores scales in the grid's dtype. They were rounded to it before anything used them; one that was not would make the
/// file another model, so it is an error.
fn scale_tensor(grid: &Grid, parameters: &QuantParams, shape: Vec<usize>) -> Result<PendingTensor, String> {
    let scales = &parameters.scales;
    let (dtype, bytes, exact): (Dtype, Vec<u8>, bool) = match grid.scale_dtype() {
        ScaleDtype::F32 => (Dtype::F32, bytes_of(scales.iter().map(|scale| scale.to_le_bytes())), true),
        ScaleDtype::F16 => {
            let halves = scales.iter().map(|scale| f16::from_f32(*scale)).collect::<Vec<_>>();
            let exact = halves.iter().zip(scales).all(|(half, scale)| half.to_f32() == *scale);
            (Dtype::F16, bytes_of(halves.into_iter().map(f16::to_le_bytes)), exact)
        }
        ScaleDtype::Bf16 => {
            let halves = scales.iter().map(|scale| bf16::from_f32(*scale)).collect::<Vec<_>>();
            let exact = halves.iter().zip(scales).all(|(half, scale)| half.to_f32() == *scale);
            (Dtype::BF16, bytes_of(halves.into_iter().map(bf16::to_le_bytes)), exact)
        }
        ScaleDtype::F8E4M3 => {
            let codes = scales.iter().map(|scale| f8e4m3::encode(*scale)).collect::<Vec<_>>();
            let exact = codes.iter().zip(scales).all(|(code, scale)| f8e4m3::decode(*code) == *scale);
            (Dtype::F8E4M3, codes, exact)
        }
        ScaleDtype::E8M0 => {
            let codes = scales.iter().map(|scale| e8m0::encode(*scale)).collect::<Vec<_>>();
            let exact = codes.iter().zip(scales).all(|(code, scale)| e8m0::decode(*code) == *scale);
            (Dtype::U8, codes, exact)
        }
    };
    if !exact || !scales.iter().all(|scale| scale.is_finite()) {
        return Err(format!("a scale is not a finite {}", grid.scale_dtype().name()));
    }
    Ok(PendingTensor { dtype, shape, bytes })
}

/// A tensor-wide scale, by which others are divided.
fn one_scale(scale: f32) -> Result<PendingTensor, String> {
    if scale.is_finite() && scale > 0.0 {
        return Ok(PendingTensor { dtype: Dtype::F32, shape: vec![1], bytes: scale.to_le_bytes().to_vec() });
    }
    Err(format!("{scale} is no tensor-wide scale"))
}

fn points_tensor(points: &[i32], shape: Vec<usize>) -> Result<PendingTensor, String> {
    let bytes = points.iter().map(|point| i8::try_from(*point).map(|point| point as u8)).collect::<Result<_, _>>();
    let bytes = bytes.map_err(|_| "a zero-point does not fit a signed byte".to_owned())?;
    Ok(PendingTensor { dtype: Dtype::I8, shape, bytes })
}

fn words_tensor(shape: Vec<usize>, words: &[i32]) -> PendingTensor {
    let bytes = bytes_of(words.iter().map(|word| word.to_le_bytes()));
    PendingTensor { dtype: Dtype::I32, shape, bytes }
}
