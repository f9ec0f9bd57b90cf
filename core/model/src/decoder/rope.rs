//! Rotary frequencies and the tables of their angles.

use std::sync::{Arc, Mutex};

use crate::ModelConfig;
use crate::config::{RopeScaling, Yarn};

/// Cosines and sines of `position * frequency_i`: rows of `half` values, one per position.
pub(crate) struct Angles {
    pub(crate) half: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

/// The angles of a model, computed as far as positions have been asked for.
pub(super) struct Rope {
    frequencies: Vec<f32>,
    /// Of cosines and sines, which carry it into queries and keys.
    factor: f32,
    angles: Mutex<Arc<Angles>>,
}

impl Rope {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let frequencies = frequencies(config.rope_theta, config.head_dim, config.rope_scaling);
        let half = frequencies.len();
        let factor = match config.rope_scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor as f32,
            _ => 1.0,
        };
        Self { frequencies, factor, angles: Mutex::new(Arc::new(Angles { half, cos: Vec::new(), sin: Vec::new() })) }
    }

    /// A table that covers at least the positions `0..positions`.
    pub(super) fn angles(&self, positions: usize) -> Arc<Angles> {
        // A poisoned lock is as good as any: the table inside is replaced as a whole.
        let mut angles = self.angles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let half = self.frequencies.len();
        if angles.cos.len() < positions * half {
            let rows = positions.next_power_of_two().max(256);
            // The angle is rounded to f32 first: checkpoints were trained with angles computed so.
            let at = |row: usize| self.frequencies.iter().map(move |frequency| f64::from(row as f32 * frequency));
            *angles = Arc::new(Angles {
                half,
                cos: (0..rows).flat_map(at).map(|angle| angle.cos() as f32 * self.factor).collect(),
                sin: (0..rows).flat_map(at).map(|angle| angle.sin() as f32 * self.factor).collect(),
            });
        }
        angles.clone()
    }
}

/// Frequency i = theta^(-2 i / dim), stretched by the scaling rule.
///
/// Llama 3's rule acts by wavelength: above `original / low_freq_factor` the frequency is divided by `factor`, below
/// `original / high_freq_factor` it is kept, and between a linear blend leads from one to the other.
fn frequencies(theta: f64, dim: usize, scaling: RopeScaling) -> Vec<f32> {
    let plain = (0..dim / 2).map(|i| (1.0 / theta.powf(2.0 * i as f64 / dim as f64)) as f32);
    plain
        .enumerate()
        .map(|(index, frequency)| match scaling {
            RopeScaling::Yarn(yarn) => {
                let (kept, frequency) = (1.0 - yarn_ramp(yarn, theta, dim, index), f64::from(frequency));
                (frequency / yarn.factor * (1.0 - kept) + frequency * kept) as f32
            }
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => (f64::from(frequency) / factor) as f32,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let frequency = f64::from(frequency);
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                let original = original_max_positions as f64;
                let blend = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let blend = blend.clamp(0.0, 1.0);
                (frequency * (blend + (1.0 - blend) / factor)) as f32
            }
        })
        .collect()
}

/// How far dimension `index` lies between those that are kept (0) and those that are stretched (1).
fn yarn_ramp(yarn: Yarn, theta: f64, dim: usize, index: usize) -> f64 {
    let original = yarn.original_max_positions as f64;
    // The dimension whose frequency turns so many times over the original length.
    let turning = |times: f64| dim as f64 * (original / (times * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
    let (low, high) = (turning(yarn.beta_fast), turning(yarn.beta_slow));
    let (low, high) = if yarn.truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    let width = if low == high { 0.001 } else { high - low };
    ((index as f64 - low) / width).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_keeps_fast_frequencies_and_divides_slow_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        let (plain, scaled) = (frequencies(5e5, 128, RopeScaling::None), frequencies(5e5, 128, scaling));
        for (plain, scaled) in plain.iter().zip(&scaled) {
            let wavelength = 2.0 * std::f32::consts::PI / plain;
            if wavelength < 8192.0 / 4.0 {
                assert_eq!(plain, scaled);
            } else if wavelength > 8192.0 {
                assert!((plain / 8.0 / scaled - 1.0).abs() < 1e-6);
            } else {
                assert!(plain / 8.0 <= *scaled && scaled <= plain);
            }
        }
        // Computed by the reference formula for i = 32, whose wavelength of 4,443 lies in the blended range.
        let smooth = (8192.0 / (2.0 * std::f64::consts::PI * 5e5f64.sqrt()) - 1.0) / 3.0;
        let expected = (1.0 - smooth) / 5e5f64.sqrt() / 8.0 + smooth / 5e5f64.sqrt();
        assert!((f64::from(scaled[32]) / expected - 1.0).abs() < 1e-6);
        let linear = frequencies(5e5, 128, RopeScaling::Linear { factor: 4.0 });
        assert!(plain.iter().zip(&linear).all(|(plain, linear)| (plain / linear / 4.0 - 1.0).abs() < 1e-6));
    }
}
