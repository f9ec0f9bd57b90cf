//! The grid against a slow, obvious implementation that looks at one value at a time.

use serde_json::json;
use workbench_quant::{
    ClampOrder, Compute, Conventions, Grid, GridError, QuantParams, QuantizationArgs, RangeConvention, StorageDtype,
};

use crate::fixtures::{args, bell, bits, dequantized, faked, matrix};

fn bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

/// Integer grids, straight from the formulas.
struct Slow {
    bits: u8,
    symmetric: bool,
    conventions: Conventions,
    stored: StorageDtype,
}

impl Slow {
    fn op(&self, x: f32) -> f32 {
        if self.conventions.compute == Compute::Bf16 { bf16(x) } else { x }
    }

    fn limits(&self) -> (f32, f32) {
        let half = 2f32.powi(i32::from(self.bits) - 1);
        (-half, half - 1.0)
    }

    fn parameters(&self, group: &[f32]) -> (f32, f32) {
        let (low, high) = self.limits();
        let min = group.iter().copied().fold(0f32, f32::min);
        let max = group.iter().copied().fold(0f32, f32::max);
        let absmax = max.max(-min);
        let scale = if !self.symmetric {
            self.op(self.op(max - min) / (high - low))
        } else {
            match self.conventions.range {
                RangeConvention::Full => self.op((f64::from(absmax) * 2.0 / f64::from(high - low)) as f32),
                RangeConvention::Restricted => self.op(absmax / high),
                RangeConvention::SignedExtreme if max > -min => self.op(max / low),
                RangeConvention::SignedExtreme => self.op(min / low),
            }
        };
        let (scale, epsilon) = match self.stored {
            StorageDtype::F32 => (scale, f32::EPSILON),
            StorageDtype::Bf16 => (bf16(scale), 2f32.powi(-7)),
            StorageDtype::F16 => (half::f16::from_f32(scale.clamp(-65504.0, 65504.0)).to_f32(), 2f32.powi(-10)),
        };
        let zero_point = match (self.symmetric, self.op(low - self.op(min / scale))) {
            (true, _) => 0.0,
            (_, point) if point.is_nan() => 0.0,
            (_, point) => point.clamp(low, high).round_ties_even(),
        };
        (if scale == 0.0 { epsilon } else { scale }, zero_point)
    }

    fn code(&self, x: f32, scale: f32, zero_point: f32) -> f32 {
        let (low, high) = self.limits();
        let quotient = self.op(self.op(x) / scale);
        match self.conventions.clamp {
            ClampOrder::BeforeRounding => self.op(quotient + zero_point).clamp(low, high).round_ties_even(),
            ClampOrder::AfterRounding => self.op(quotient.round_ties_even() + zero_point).clamp(low, high),
        }
    }
}

/// Every combination of the conventions of integers.
fn slow_grids() -> Vec<(Slow, QuantizationArgs)> {
    let mut all = Vec::new();
    for bits in 2..=8u8 {
        for symmetric in [true, false] {
            for range in [RangeConvention::Full, RangeConvention::Restricted, RangeConvention::SignedExtreme] {
                for (compute, stored) in [
                    (Compute::F32, StorageDtype::F32),
                    (Compute::F32, StorageDtype::Bf16),
                    (Compute::F32, StorageDtype::F16),
                    (Compute::Bf16, StorageDtype::Bf16),
                ] {
                    for clamp in [ClampOrder::BeforeRounding, ClampOrder::AfterRounding] {
                        let conventions = Conventions { range, compute, clamp, ..Conventions::default() };
                        let args = args(json!({"num_bits": bits, "symmetric": symmetric, "group_size": 24}));
                        all.push((Slow { bits, symmetric, conventions, stored }, args));
                    }
                }
            }
        }
    }
    all
}

/// Bell-shaped values with the awkward ones among them: zeros of both signs, a group of zeros, one-sided groups, exact
/// ties, values far apart, denormals.
fn awkward(rows: usize) -> Vec<f32> {
    let mut x = bell(rows * 72, 11);
    x[..24].fill(0.0);
    x[24..48].iter_mut().for_each(|v| *v = v.abs());
    x[48..72].iter_mut().for_each(|v| *v = -v.abs());
    x[72] = -0.0;
    for (i, v) in x[96..120].iter_mut().enumerate() {
        *v = i as f32 * 0.5 - 7.5;
    }
    x[144] = 3e38;
    x[145] = -1e-38;
    x[168..192].iter_mut().for_each(|v| *v *= 1e-39);
    x[192..216].iter_mut().for_each(|v| *v *= 1e-44);
    x[216..240].iter_mut().for_each(|v| *v *= 1e6);
    x
}

#[test]
fn every_integer_grid_agrees_with_the_slow_one() {
    let x = awkward(6);
    for (slow, args) in slow_grids() {
        let grid = Grid::new(&args, slow.stored, slow.conventions).unwrap();
        let (codes, p) = grid.round_to_nearest(matrix(&x, 6, 72)).unwrap();
        assert_eq!(p, grid.parameters(matrix(&x, 6, 72)).unwrap(), "{args} {:?}", slow.conventions);
        assert_eq!(codes, grid.quantize(matrix(&x, 6, 72), &p).unwrap(), "{args} {:?}", slow.conventions);
        let fake = faked(&grid, &x, 6, 72, &p);
        assert_eq!(bits(&fake), bits(&dequantized(&grid, &codes, 6, 72, &p)), "{args} {:?}", slow.conventions);
        let points = p.zero_points.clone().unwrap_or_else(|| vec![0; p.scales.len()]);
        for (index, group) in x.chunks(24).enumerate() {
            let context = format!("{args} {:?} {:?} group {index}", slow.conventions, slow.stored);
            let (scale, zero_point) = slow.parameters(group);
            assert_eq!(p.scales[index], scale, "{context}");
            assert_eq!(points[index] as f32, zero_point, "{context}");
            for (i, v) in group.iter().enumerate() {
                let code = slow.code(*v, scale, zero_point);
                assert_eq!(f32::from(codes[index * 24 + i]), code, "{context}: {v} / {scale}");
                assert_eq!(fake[index * 24 + i], slow.op((code - zero_point) * scale), "{context}");
            }
        }
    }
}

#[test]
fn dynamic_fake_quantization_is_parameters_then_fake_quantization() {
    for json in [
        json!({"num_bits": 8, "strategy": "token", "dynamic": true}),
        json!({"num_bits": 4, "symmetric": false, "strategy": "token", "dynamic": true}),
        json!({"num_bits": 8, "strategy": "tensor", "dynamic": true}),
        json!({"num_bits": 8, "group_size": 24, "dynamic": true}),
        json!({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true}),
        json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 24, "dynamic": true}),
    ] {
        let grid = crate::fixtures::grid(json);
        let x = awkward(6);
        let p = grid.parameters(matrix(&x, 6, 72)).unwrap();
        let mut dynamic = x.clone();
        grid.fake_quantize_dynamic(&mut dynamic, 6, 72).unwrap();
        assert_eq!(bits(&dynamic), bits(&faked(&grid, &x, 6, 72, &p)), "{}", grid.args());
    }
}

#[test]
fn blocks_at_the_edge_are_smaller() {
    let grid = crate::fixtures::grid(json!({"num_bits": 4, "strategy": "block", "block_structure": [4, 5]}));
    let x = bell(10 * 13, 5);
    let p = grid.parameters(matrix(&x, 10, 13)).unwrap();
    assert_eq!(p.shape, [3, 3]);
    for (index, scale) in p.scales.iter().enumerate() {
        let (top, left) = (index / 3 * 4, index % 3 * 5);
        let inside = |i: usize| (top..top + 4).contains(&(i / 13)) && (left..left + 5).contains(&(i % 13));
        let absmax = (0..x.len()).filter(|i| inside(*i)).map(|i| x[i].abs()).fold(0f32, f32::max);
        assert_eq!(*scale, absmax / 7.5);
    }
    let codes = grid.quantize(matrix(&x, 10, 13), &p).unwrap();
    for (i, code) in codes.iter().enumerate() {
        let scale = p.scales[i / 13 / 4 * 3 + i % 13 / 5];
        assert_eq!(f32::from(*code), (x[i] / scale).clamp(-8.0, 7.0).round_ties_even());
    }
}

/// The search, as its description reads: all candidates in order, patience over the whole tensor.
fn slow_search(
    grid: &Grid,
    x: &[f32],
    width: usize,
    expand: f32,
    steps: usize,
    grain: f64,
    norm: f64,
) -> Vec<QuantParams> {
    let groups: Vec<&[f32]> = x.chunks(width).collect();
    let bounds = |group: &[f32]| {
        let min = group.iter().copied().fold(f32::INFINITY, f32::min) * expand;
        (min, group.iter().copied().fold(f32::NEG_INFINITY, f32::max) * expand)
    };
    let derive = |group: &[f32], step: usize| {
        let p = (1.0 - step as f64 / grain) as f32;
        let (min, max) = bounds(group);
        grid.parameters_from_range(&[min * p], &[max * p]).unwrap()
    };
    let mut best: Vec<(f64, usize)> = groups.iter().map(|_| (f64::MAX, 0)).collect();
    let mut stale = 0;
    for step in 0..steps {
        let mut improved = false;
        for (group, best) in groups.iter().zip(&mut best) {
            let fake = faked(grid, group, 1, width, &derive(group, step));
            let error: f64 = fake.iter().zip(*group).map(|(fake, v)| f64::from((fake - v).abs()).powf(norm)).sum();
            // The margin stands for the precision of the fast sum.
            if error < best.0 * (1.0 - 3e-5) {
                *best = (error, step);
                improved = true;
            }
        }
        stale = if improved { 0 } else { stale + 1 };
        if stale >= 5 {
            break;
        }
    }
    groups.iter().zip(best).map(|(group, (_, step))| derive(group, step)).collect()
}

#[test]
fn the_search_for_the_least_error_agrees_with_the_slow_one() {
    let x = bell(24 * 64, 21);
    for (bits, symmetric) in [(2u8, true), (3, false), (4, true), (4, false)] {
        let json = json!({"num_bits": bits, "symmetric": symmetric, "strategy": "channel", "observer": "mse"});
        let grid = crate::fixtures::grid(json.clone());
        let p = grid.parameters(matrix(&x, 24, 64)).unwrap();
        let slow = slow_search(&grid, &x, 64, 1.0, 20, 100.0, 2.4);
        let differing = slow.iter().zip(&p.scales).filter(|(slow, scale)| slow.scales[0] != **scale).count();
        assert!(differing <= 1, "int{bits} symmetric {symmetric}: {differing} of 24 rows have another range");
        let plain = crate::fixtures::grid(json!({"num_bits": bits, "symmetric": symmetric, "strategy": "channel"}));
        let error = |p: &QuantParams| -> f64 {
            let fake = faked(&grid, &x, 24, 64, p);
            fake.iter().zip(&x).map(|(fake, v)| f64::from((fake - v).abs()).powf(2.4)).sum()
        };
        let (searched, minmax) = (error(&p), error(&plain.parameters(matrix(&x, 24, 64)).unwrap()));
        assert!(searched < minmax, "int{bits} symmetric {symmetric}: {searched} against {minmax}");
    }
}

#[test]
fn a_search_over_a_tensor_sums_its_rows() {
    let x = bell(12 * 20, 8);
    let search = crate::fixtures::grid(json!({"num_bits": 3, "strategy": "tensor", "observer": "mse"}));
    let as_one_row = search.parameters(matrix(&x, 1, 240)).unwrap();
    let as_rows = search.parameters(matrix(&x, 12, 20)).unwrap();
    assert_eq!(as_one_row.scales, as_rows.scales);
    assert!(as_rows.scales[0] < x.iter().fold(0f32, |m, v| m.max(v.abs())) / 3.5);
    // A block that covers everything is the same rectangle.
    let block = json!({"num_bits": 3, "strategy": "block", "block_structure": [16, 32], "observer": "mse"});
    assert_eq!(crate::fixtures::grid(block).parameters(matrix(&x, 12, 20)).unwrap().scales, as_rows.scales);
}

#[test]
fn patience_ends_the_search() {
    let x = bell(4 * 32, 2);
    let at = |patience: u32, maxshrink: f64| {
        let kwargs = json!({"patience": patience, "maxshrink": maxshrink});
        let json = json!({"num_bits": 8, "strategy": "channel", "observer": "mse", "observer_kwargs": kwargs});
        crate::fixtures::grid(json).parameters(matrix(&x, 4, 32)).unwrap()
    };
    // At 8 bits every shrunken range is worse: the full one stays, however long the search goes on.
    assert_eq!(at(1, 0.2), at(20, 0.2));
    assert_eq!(at(1, 0.01), at(5, 0.8));
}

#[test]
fn nvfp4_ranges_can_grow() {
    let x = bell(8 * 64, 13);
    let json = |observer: &str| {
        json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
               "scale_dtype": "torch.float8_e4m3fn", "observer": observer})
    };
    let error = |observer: &str| -> f64 {
        let grid = crate::fixtures::grid(json(observer));
        let p = grid.parameters(matrix(&x, 8, 64)).unwrap();
        let fake = faked(&grid, &x, 8, 64, &p);
        fake.iter().zip(&x).map(|(fake, v)| f64::from((fake - v).abs()).powi(2)).sum()
    };
    let (minmax, mse, expanded) = (error("memoryless_minmax"), error("mse"), error("nvfp4_expanded_mse"));
    assert!(expanded < mse && mse < minmax, "{minmax} {mse} {expanded}");
}

#[test]
fn search_refuses_what_it_cannot_measure() {
    let mut x = bell(4 * 32, 2);
    x[70] = f32::NAN;
    let grid = crate::fixtures::grid(json!({"num_bits": 4, "strategy": "channel", "observer": "mse"}));
    let error = grid.parameters(matrix(&x, 4, 32)).unwrap_err();
    assert!(matches!(error, GridError::NonFinite { row: 2, column: 6, .. }), "{error}");
}
