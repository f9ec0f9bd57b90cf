//! Numbers as text: as many digits as their uncertainty supports.

/// Decimals that show `uncertainty` with two significant digits, at most eight.
pub(super) fn decimals_for(uncertainty: f64) -> usize {
    if uncertainty <= 0.0 || !uncertainty.is_finite() {
        return 4;
    }
    let decimals = 1.0 - uncertainty.log10().floor();
    // 0.0998 is 0.10 with two digits, not 0.100.
    let rounded = (uncertainty * 10f64.powf(decimals)).round();
    (if rounded >= 100.0 { decimals - 1.0 } else { decimals }).clamp(0.0, 8.0) as usize
}

/// Four significant digits where nothing is known about the uncertainty; at most eight decimals.
pub(super) fn plain(value: f64) -> String {
    if !value.is_finite() {
        return "not finite".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor();
    if magnitude >= 7.0 {
        return format!("{value:.3e}");
    }
    let decimals = (3.0 - magnitude).clamp(0.0, 8.0) as usize;
    format!("{value:.decimals$}")
}

fn signed_plain(value: f64, signed: bool) -> String {
    format!("{}{}", if signed && value > 0.0 { "+" } else { "" }, plain(value))
}

/// A number with a fixed number of decimals, and with a sign where it is positive and `signed`. What rounds to zero has
/// no sign.
fn fixed(value: f64, decimals: usize, signed: bool) -> String {
    let text = format!("{value:.decimals$}");
    if !text.chars().any(|c| c.is_ascii_digit() && c != '0') {
        return text.trim_start_matches('-').to_owned();
    }
    if signed && value > 0.0 { format!("+{text}") } else { text }
}

/// A number that a person wrote, as short as it can be.
pub(super) fn short(value: f64) -> String {
    // Percent and back: what was written has few digits.
    let text = format!("{value:.9}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `value ±half`, both with the digits that `half` supports; a sign in front of positive values where `signed`.
pub(super) fn plus_minus(value: f64, half: Option<f64>, signed: bool) -> String {
    match half {
        Some(half) if half > 0.0 && half.is_finite() && value.abs() < 1e7 => {
            let decimals = decimals_for(half);
            format!("{} ±{half:.decimals$}", fixed(value, decimals, signed))
        }
        _ => signed_plain(value, signed),
    }
}

/// `value sd deviation`, both with the digits that the deviation supports: no interval, and not to be taken for one.
pub(super) fn with_deviation(value: f64, deviation: f64) -> String {
    match deviation > 0.0 && deviation.is_finite() && value.abs() < 1e7 {
        true => {
            let decimals = decimals_for(deviation);
            format!("{} sd {deviation:.decimals$}", fixed(value, decimals, false))
        }
        false => plain(value),
    }
}

/// `value [low, high]`, all with the digits that the interval's width supports.
pub(super) fn with_ends(value: f64, ends: Option<(f64, f64)>, signed: bool) -> String {
    match ends {
        Some((low, high)) if high > low && (high - low).is_finite() && high.abs().max(low.abs()) < 1e7 => {
            let decimals = decimals_for((high - low) / 2.0);
            let one = |value: f64| fixed(value, decimals, signed);
            format!("{} [{}, {}]", one(value), one(low), one(high))
        }
        _ => signed_plain(value, signed),
    }
}

/// A p-value with three decimals.
pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }
}

/// Bytes in decimal units, as disks and model hubs count them.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 99.95 { 0 } else { 1 };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A count with thousands separated by commas.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 row`, `2 rows`.
pub(super) fn plural(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(number as f64), if number == 1 { "" } else { "s" })
}
