//! Packing: numbers of the reference, every width and odd lengths, and refusals.

use serde_json::Value;
use workbench_quant::pack::{
    pack_fp4, pack_rows, pack_zero_points, unpack_fp4, unpack_rows, unpack_zero_points, words_per_row,
};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../golden/vectors.json")).unwrap()
}

/// Words are listed as unsigned numbers.
fn words(value: &Value) -> Vec<i32> {
    serde_json::from_value::<Vec<u32>>(value.clone()).unwrap().into_iter().map(|word| word as i32).collect()
}

fn codes(value: &Value) -> Vec<i8> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn words_equal_those_of_compressed_tensors() {
    let vectors = vectors();
    for bits in [2, 3, 4, 5, 6, 8] {
        let case = &vectors[format!("pack{bits}")];
        let codes = codes(&case["in"]);
        assert_eq!(pack_rows(&codes, 1, 32, bits).unwrap(), words(&case["words"]), "{bits} bits");
        assert_eq!(unpack_rows(&words(&case["words"]), 1, 32, bits).unwrap(), codes, "{bits} bits");
    }
    let odd = codes(&vectors["pack4_11cols"]["in"]);
    assert_eq!(pack_rows(&odd, 1, 11, 4).unwrap(), [0xba98_7654_u32 as i32, 0x0654]);
    let short = &vectors["pack3_11cols"]["words"];
    assert_eq!(pack_rows(&odd, 1, 11, 3).unwrap(), words(short));
    let points: Vec<Vec<i32>> = serde_json::from_value(vectors["zp_pack_dim0"]["in"].clone()).unwrap();
    let packed: Vec<Vec<i32>> = serde_json::from_value(vectors["zp_pack_dim0"]["words"].clone()).unwrap();
    assert_eq!(pack_zero_points(&points.concat(), 5, 3, 4).unwrap(), packed.concat());
    assert_eq!(unpack_zero_points(&packed.concat(), 5, 3, 4).unwrap(), points.concat());
}

#[test]
fn fp4_bytes_hold_the_even_column_low() {
    let all: Vec<i8> = (0..16).collect();
    let packed = pack_fp4(&all, 1, 16).unwrap();
    let expected: Vec<String> = serde_json::from_value(vectors()["fp4_pack"].clone()).unwrap();
    assert_eq!(packed.iter().map(|byte| format!("{byte:#04x}")).collect::<Vec<_>>(), expected);
    assert_eq!(unpack_fp4(&packed, 1, 16).unwrap(), all);
    let odd = pack_fp4(&[1, 2, 3, 4, 5, 6], 2, 3).unwrap();
    assert_eq!(odd, [0x21, 0x03, 0x54, 0x06]);
    assert_eq!(unpack_fp4(&odd, 2, 3).unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn every_width_and_length_survives() {
    for bits in 2..=8u8 {
        let half = 1i32 << (bits - 1);
        for columns in (0..=70).chain([127, 128, 129]) {
            for rows in [0, 1, 3] {
                let count = rows * columns;
                let codes: Vec<i8> = (0..count).map(|i| ((i as i32 * 37 + 11) % (2 * half) - half) as i8).collect();
                let packed = pack_rows(&codes, rows, columns, bits).unwrap();
                assert_eq!(packed.len(), rows * words_per_row(columns, bits));
                assert_eq!(
                    unpack_rows(&packed, rows, columns, bits).unwrap(),
                    codes,
                    "{bits} bits, {rows} x {columns}"
                );
                // The stream, bit by bit.
                for (index, code) in codes.iter().enumerate() {
                    let (row, column) = (index / columns, index % columns);
                    for bit in 0..usize::from(bits) {
                        let position = column * usize::from(bits) + bit;
                        let word = packed[row * words_per_row(columns, bits) + position / 32];
                        assert_eq!(word >> (position % 32) & 1, (i32::from(*code) + half) >> bit & 1);
                    }
                }
                let points: Vec<i32> = codes.iter().map(|code| i32::from(*code)).collect();
                let packed = pack_zero_points(&points, rows, columns, bits).unwrap();
                assert_eq!(packed.len(), words_per_row(rows, bits) * columns);
                assert_eq!(unpack_zero_points(&packed, rows, columns, bits).unwrap(), points);
                let nibbles: Vec<i8> = codes.iter().map(|code| code & 15).collect();
                let packed = pack_fp4(&nibbles, rows, columns).unwrap();
                assert_eq!(packed.len(), rows * columns.div_ceil(2));
                assert_eq!(unpack_fp4(&packed, rows, columns).unwrap(), nibbles);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let error = pack_rows(&[0, 1, 8, 0], 2, 2, 4).unwrap_err().to_string();
    assert_eq!(error, "code 8 at row 1, column 0 does not fit 4 bits");
    assert!(pack_rows(&[0, -5], 1, 2, 3).is_err());
    assert!(pack_rows(&[0; 5], 2, 2, 4).is_err());
    assert!(pack_rows(&[0; 4], 2, 2, 1).is_err() && pack_rows(&[0; 4], 2, 2, 9).is_err());
    assert!(unpack_rows(&[0; 3], 2, 9, 4).is_err());
    assert!(pack_zero_points(&[300], 1, 1, 8).is_err() && pack_zero_points(&[9], 1, 1, 4).is_err());
    assert!(pack_fp4(&[16], 1, 1).is_err() && pack_fp4(&[-1], 1, 1).is_err());
    assert!(unpack_fp4(&[0; 3], 2, 3).is_err());
    // Sizes that a broken file may claim: no overflow, no endless loop.
    let huge = usize::MAX;
    assert!(pack_rows(&[], 0, huge, 8).unwrap().is_empty());
    assert!(unpack_rows(&[], 0, huge, 3).unwrap().is_empty());
    assert!(unpack_rows(&[], huge, 0, 3).unwrap().is_empty());
    assert!(unpack_zero_points(&[], 0, huge, 4).unwrap().is_empty());
    assert!(pack_zero_points(&[], huge, 0, 4).unwrap().is_empty());
    assert!(unpack_fp4(&[], 0, huge).unwrap().is_empty());
    assert!(unpack_rows(&[0; 8], huge, huge, 4).is_err());
}
