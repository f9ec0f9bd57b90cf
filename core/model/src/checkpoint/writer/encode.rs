//! Codes and scales as the tensors of compressed-tensors layouts.

use half::{bf16, f16};
use workbench_quant::{Format, Grid, NumberType, Parameters, ScaleDtype, Strategy, pack};

use super::shard::PendingTensor;
use crate::checkpoint::Dtype;

/// The parts of a quantized weight by suffix, such as `weight_scale`. Errors are messages without a place.
pub(crate) fn encode_weight(
    grid: &Grid,
    codes: &[i8],
    parameters: &Parameters,
    [rows, columns]: [usize; 2],
    format: Format,
) -> Result<Vec<(&'static str, PendingTensor)>, String> {
    check(grid, codes, parameters, [rows, columns])?;
    let args = grid.args();
    let mut parts = Vec::new();
    let packed = match format {
        Format::PackQuantized => true,
        Format::IntQuantized | Format::FloatQuantized | Format::NaiveQuantized => false,
        other => {
            return Err(format!("the layout {} cannot be written", serde_json::to_string(&other).unwrap_or_default()));
        }
    };
    if packed {
        let words = pack::pack_rows(codes, rows, columns, args.num_bits).map_err(|error| error.to_string())?;
        let shape = [rows as i64, columns as i64].into_iter().flat_map(i64::to_le_bytes).collect();
        parts.push(("weight_packed", words_tensor(vec![rows, pack::words_per_row(columns, args.num_bits)], &words)));
        parts.push(("weight_shape", PendingTensor { dtype: Dtype::I64, shape: vec![2], bytes: shape }));
    } else {
        let dtype = if args.r#type == NumberType::Float { Dtype::F8E4M3 } else { Dtype::I8 };
        let bytes = codes.iter().map(|code| *code as u8).collect();
        parts.push(("weight", PendingTensor { dtype, shape: vec![rows, columns], bytes }));
    }
    let shape = stored_shape(args.strategy, parameters.shape);
    parts.push(("weight_scale", scale_tensor(grid, parameters, shape.clone())?));
    if let (Some(points), false) = (&parameters.zero_points, args.symmetric) {
        // The layout packs zero-points only where there are many.
        let tensor = if packed && matches!(args.strategy, Strategy::Group | Strategy::Channel) {
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
pub(crate) fn encode_input(grid: &Grid, parameters: &Parameters) -> Result<Vec<(&'static str, PendingTensor)>, String> {
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

fn check(grid: &Grid, codes: &[i8], parameters: &Parameters, [rows, columns]: [usize; 2]) -> Result<(), String> {
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
fn scale_tensor(grid: &Grid, parameters: &Parameters, shape: Vec<usize>) -> Result<PendingTensor, String> {
    let scales = &parameters.scales;
    let (dtype, bytes, exact): (Dtype, Vec<u8>, bool) = match grid.scale_dtype() {
        ScaleDtype::F32 => (Dtype::F32, scales.iter().flat_map(|scale| scale.to_le_bytes()).collect(), true),
        ScaleDtype::F16 => {
            let halves = scales.iter().map(|scale| f16::from_f32(*scale)).collect::<Vec<_>>();
            let exact = halves.iter().zip(scales).all(|(half, scale)| half.to_f32() == *scale);
            (Dtype::F16, halves.into_iter().flat_map(f16::to_le_bytes).collect(), exact)
        }
        ScaleDtype::Bf16 => {
            let halves = scales.iter().map(|scale| bf16::from_f32(*scale)).collect::<Vec<_>>();
            let exact = halves.iter().zip(scales).all(|(half, scale)| half.to_f32() == *scale);
            (Dtype::BF16, halves.into_iter().flat_map(bf16::to_le_bytes).collect(), exact)
        }
        other => return Err(format!("scales of type {} cannot be written", other.name())),
    };
    if !exact || !scales.iter().all(|scale| scale.is_finite()) {
        return Err(format!("a scale is not a finite {}", grid.scale_dtype().name()));
    }
    Ok(PendingTensor { dtype, shape, bytes })
}

fn points_tensor(points: &[i32], shape: Vec<usize>) -> Result<PendingTensor, String> {
    let bytes = points.iter().map(|point| i8::try_from(*point).map(|point| point as u8)).collect::<Result<_, _>>();
    let bytes = bytes.map_err(|_| "a zero-point does not fit a signed byte".to_owned())?;
    Ok(PendingTensor { dtype: Dtype::I8, shape, bytes })
}

fn words_tensor(shape: Vec<usize>, words: &[i32]) -> PendingTensor {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    PendingTensor { dtype: Dtype::I32, shape, bytes }
}
