//! Codes as they lie in a checkpoint: bit streams in 32-bit words, and two FP4 codes in a byte.
//!
//! An integer code q of b bits is stored as q + 2^(b-1). The codes of a row follow each other as a little-endian bit
//! stream, code i in the bits from i * b, so that codes of 3, 5, 6 and 7 bits straddle words; each row starts a new word.

use rayon::prelude::*;

use crate::error::GridError;
use crate::matrix::check_len;

/// Words that a row of `columns` codes of `bits` bits takes.
pub fn words_per_row(columns: usize, bits: u8) -> usize {
    // In this order no length that a file may claim overflows.
    let bits = usize::from(bits);
    columns / 32 * bits + (columns % 32 * bits).div_ceil(32)
}

/// Packs the rows of a matrix of codes, [rows, columns] to [rows, words_per_row].
///
/// # Errors
/// When the slice does not fit the shape, the width is not 2 to 8, or a code does not fit the width.
pub fn pack_rows(codes: &[i8], rows: usize, columns: usize, bits: u8) -> Result<Vec<i32>, GridError> {
    check_bits(bits)?;
    check_len("codes", codes.len(), rows, columns)?;
    let words = words_per_row(columns, bits);
    let mut packed = vec![0i32; rows * words];
    if packed.is_empty() {
        return Ok(packed);
    }
    let tasks = codes.par_chunks(columns).zip(packed.par_chunks_mut(words)).enumerate();
    let misfit = tasks
        .with_min_len(rows_per_task(columns))
        .filter_map(|(row, (codes, packed))| pack_row(codes, packed, bits).map(|column| (row, column)))
        .min();
    match misfit {
        None => Ok(packed),
        Some((row, column)) => {
            let code = codes[row * columns + column];
            Err(GridError::Shape(format!("code {code} at row {row}, column {column} does not fit {bits} bits")))
        }
    }
}

/// Packs one row. Returns the column of the first code that is too large.
fn pack_row(codes: &[i8], packed: &mut [i32], bits: u8) -> Option<usize> {
    let offset = 1i16 << (bits - 1);
    let (mut stream, mut filled) = (0u64, 0);
    let mut words = packed.iter_mut();
    for (column, code) in codes.iter().enumerate() {
        let shifted = i16::from(*code) + offset;
        if !(0..offset * 2).contains(&shifted) {
            return Some(column);
        }
        stream |= (shifted as u64) << filled;
        filled += u32::from(bits);
        if filled >= 32 {
            if let Some(word) = words.next() {
                *word = stream as u32 as i32;
            }
            stream >>= 32;
            filled -= 32;
        }
    }
    if let (true, Some(word)) = (filled > 0, words.next()) {
        *word = stream as u32 as i32;
    }
    None
}

/// Unpacks the rows of a matrix of codes, [rows, words_per_row] to [rows, columns].
///
/// # Errors
/// When the slice does not fit the shape, or the width is not 2 to 8.
pub fn unpack_rows(packed: &[i32], rows: usize, columns: usize, bits: u8) -> Result<Vec<i8>, GridError> {
    check_bits(bits)?;
    let words = words_per_row(columns, bits);
    check_len("packed words", packed.len(), rows, words)?;
    let mut codes = vec![0i8; rows * columns];
    if codes.is_empty() {
        return Ok(codes);
    }
    let tasks = codes.par_chunks_mut(columns).zip(packed.par_chunks(words));
    tasks.with_min_len(rows_per_task(columns)).for_each(|(codes, packed)| unpack_row(packed, codes, bits));
    Ok(codes)
}

/// Unpacks one row.
fn unpack_row(packed: &[i32], codes: &mut [i8], bits: u8) {
    let offset = 1i16 << (bits - 1);
    let mask = (1u64 << bits) - 1;
    let (mut stream, mut filled) = (0u64, 0);
    let mut words = packed.iter();
    for code in codes {
        if filled < u32::from(bits) {
            stream |= u64::from(words.next().copied().unwrap_or_default() as u32) << filled;
            filled += 32;
        }
        *code = ((stream & mask) as i16 - offset) as i8;
        stream >>= bits;
        filled -= u32::from(bits);
    }
}

/// Packs zero-points, [rows, groups], along the rows: the words of a group's column lie below each other,
/// [words_per_row(rows), groups].
///
/// # Errors
/// When the slice does not fit the shape, the width is not 2 to 8, or a zero-point does not fit the width.
pub fn pack_zero_points(points: &[i32], rows: usize, groups: usize, bits: u8) -> Result<Vec<i32>, GridError> {
    check_bits(bits)?;
    check_len("zero-points", points.len(), rows, groups)?;
    if points.is_empty() {
        return Ok(Vec::new());
    }
    let mut turned = Vec::with_capacity(points.len());
    for group in 0..groups {
        for row in 0..rows {
            let point = points[row * groups + group];
            turned.push(i8::try_from(point).map_err(|_| {
                GridError::Shape(format!("zero-point {point} of row {row}, group {group} does not fit {bits} bits"))
            })?);
        }
    }
    let packed = pack_rows(&turned, groups, rows, bits)?;
    let words = words_per_row(rows, bits);
    Ok((0..words)
        .flat_map(|word| (0..groups).map(move |group| (word, group)))
        .map(|(w, g)| packed[g * words + w])
        .collect())
}

/// Unpacks zero-points, [words_per_row(rows), groups] to [rows, groups].
///
/// # Errors
/// When the slice does not fit the shape, or the width is not 2 to 8.
pub fn unpack_zero_points(packed: &[i32], rows: usize, groups: usize, bits: u8) -> Result<Vec<i32>, GridError> {
    check_bits(bits)?;
    let words = words_per_row(rows, bits);
    check_len("packed words", packed.len(), words, groups)?;
    if packed.is_empty() {
        return Ok(Vec::new());
    }
    let turned: Vec<i32> = (0..groups)
        .flat_map(|group| (0..words).map(move |word| (word, group)))
        .map(|(w, g)| packed[w * groups + g])
        .collect();
    let points = unpack_rows(&turned, groups, rows, bits)?;
    Ok((0..rows)
        .flat_map(|row| (0..groups).map(move |group| (row, group)))
        .map(|(row, group)| i32::from(points[group * rows + row]))
        .collect())
}

/// Packs FP4 codes two to a byte, the even column in the low half; a row of odd length ends in half a byte of zeros.
///
/// # Errors
/// When the slice does not fit the shape, or a code is above 15.
pub fn pack_fp4(codes: &[i8], rows: usize, columns: usize) -> Result<Vec<u8>, GridError> {
    check_len("codes", codes.len(), rows, columns)?;
    if let Some(offset) = codes.iter().position(|code| !(0..16).contains(code)) {
        let (row, column) = (offset / columns, offset % columns);
        return Err(GridError::Shape(format!(
            "code {} at row {row}, column {column} does not fit 4 bits",
            codes[offset]
        )));
    }
    let byte = |pair: &[i8]| pair[0] as u8 | (pair.get(1).copied().unwrap_or_default() as u8) << 4;
    Ok(codes.chunks(columns.max(1)).flat_map(|row| row.chunks(2).map(byte)).collect())
}

/// Unpacks FP4 codes, [rows, columns / 2 rounded up] bytes to [rows, columns].
///
/// # Errors
/// When the slice does not fit the shape.
pub fn unpack_fp4(packed: &[u8], rows: usize, columns: usize) -> Result<Vec<i8>, GridError> {
    let bytes = columns.div_ceil(2);
    check_len("packed bytes", packed.len(), rows, bytes)?;
    let row =
        |row: &[u8]| -> Vec<i8> { row.iter().flat_map(|b| [(b & 15) as i8, (b >> 4) as i8]).take(columns).collect() };
    Ok(packed.chunks(bytes.max(1)).flat_map(row).collect())
}

fn check_bits(bits: u8) -> Result<(), GridError> {
    if (2..=8).contains(&bits) {
        Ok(())
    } else {
        Err(GridError::Shape(format!("codes of {bits} bits cannot be packed: 2 to 8 can")))
    }
}

fn rows_per_task(columns: usize) -> usize {
    ((1 << 14) / columns.max(1)).max(1)
}
