//! Digits, units, widths.

use super::*;

#[test]
fn digits_follow_the_uncertainty() {
    for (value, half, text) in [
        (30.3612, Some(0.8421), "30.36 ±0.84"),
        (63.7, Some(5.4), "63.7 ±5.4"),
        (1234.5, Some(123.0), "1234 ±123"),
        (0.000213, Some(0.0000346), "0.000213 ±0.000035"),
        (0.5, Some(0.0998), "0.50 ±0.10"),
        (99.5, Some(0.0999), "99.50 ±0.10"),
        (0.5, Some(0.0), "0.5000"),
        (0.0, None, "0"),
        (100.0, None, "100.0"),
        (157_123.0, None, "157123"),
        (2.5e9, None, "2.500e9"),
        (f64::INFINITY, Some(f64::INFINITY), "not finite"),
    ] {
        assert_eq!(format::plus_minus(value, half, false), text);
    }
}

#[test]
fn signs_say_something() {
    assert_eq!(format::plus_minus(0.02, Some(0.3), true), "+0.02 ±0.30");
    assert_eq!(format::plus_minus(0.001, Some(0.3), true), "0.00 ±0.30");
    assert_eq!(format::plus_minus(-0.001, Some(0.3), true), "0.00 ±0.30");
    assert_eq!(format::plus_minus(-7.2, Some(2.1), true), "-7.2 ±2.1");
    assert_eq!(format::with_ends(0.5, Some((-0.1, 1.1)), true), "+0.50 [-0.10, +1.10]");
    assert_eq!(format::with_ends(0.0, Some((0.0, 0.0)), true), "0");
}

#[test]
fn units_are_read_at_a_glance() {
    assert_eq!(format::bytes(0), "0 B");
    assert_eq!(format::bytes(999), "999 B");
    assert_eq!(format::bytes(269_060_552), "269 MB");
    assert_eq!(format::bytes(999_999), "1.0 MB");
    assert_eq!(format::bytes(16_400_000_000), "16.4 GB");
    assert_eq!(format::count(1_234_567.0), "1,234,567");
    assert_eq!(format::count(999.0), "999");
    assert_eq!(format::p_value(0.0004), "<0.001");
    assert_eq!(format::p_value(0.04999), "0.050");
}

#[test]
fn columns_are_aligned_at_the_point() {
    let texts = ["23.7 ±1.6", "0.0510 ±0.0033", "baseline", "-11 ±5", "<0.001 *", "82.60 ±0.96 (5)"].map(String::from);
    let aligned = text::align_numbers(&texts);
    assert_eq!(aligned[0], " 23.7    ±1.6       ");
    assert_eq!(aligned[1], "  0.0510 ±0.0033    ");
    assert_eq!(aligned[2], "baseline");
    assert_eq!(aligned[3], "-11      ±5         ");
    assert_eq!(aligned[5], " 82.60   ±0.96   (5)");
}

#[test]
fn wrapping_loses_nothing() {
    for width in 2..30 {
        for source in ["one two three", "a_very_long-name/with,marks", "量化方法 量化", "x", "", "tab\there"] {
            let lines = text::wrap(source, width);
            let glued: String = lines.concat().chars().filter(|c| *c != ' ').collect();
            let wanted: String = source.chars().filter(|c| *c != ' ' && *c != '\t').collect();
            assert_eq!(glued, wanted);
            assert!(
                lines.iter().all(|line| unicode_width::UnicodeWidthStr::width(line.as_str()) <= width),
                "{lines:?}"
            );
        }
    }
}
