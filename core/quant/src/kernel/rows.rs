//! Loops over rows: ranges, codes, fake quantization, gradients.

use super::codec::Codec;
use super::multiversion;
use crate::scale::ScaleRule;

/// Scales (and zero-points, unless the slice is empty) of consecutive rows, one per `width` columns.
#[derive(Clone, Copy)]
pub(crate) struct Scales<'a> {
    pub(crate) scales: &'a [f32],
    pub(crate) zero_points: &'a [f32],
    pub(crate) width: usize,
}

impl Scales<'_> {
    #[inline(always)]
    fn at(&self, index: usize) -> (f32, f32) {
        (self.scales[index], self.zero_points.get(index).copied().unwrap_or(0.0))
    }
}

/// Where ranges or scales of consecutive rows go, one per `width` columns.
pub(crate) struct Ranges<'a> {
    pub(crate) min: &'a mut [f32],
    pub(crate) max: &'a mut [f32],
    pub(crate) width: usize,
}

multiversion! {
    /// Smallest and largest value of every `width` columns of whole rows of `columns`, not widened to include zero.
    /// Returns the offset of the first value that is not finite.
    fn ranges(x: &[f32], columns: usize, only_absmax: bool, out: Ranges<'_>) -> Option<usize>;

    /// Codes of whole rows of `columns`.
    fn encode<C: Codec>(codec: C, x: &[f32], columns: usize, p: Scales<'_>, out: &mut [u8]);

    /// Codes of values that each have a scale and a zero-point of their own, and the values that these codes stand for.
    fn column<C: Codec>(codec: C, x: &[f32], scales: &[f32], zero_points: &[f32], codes: &mut [i8], values: &mut [f32]);

    /// Values of codes.
    fn decode<C: Codec>(codec: C, codes: &[u8], columns: usize, p: Scales<'_>, out: &mut [f32]);

    /// Replaces every value by the one its code stands for.
    fn fake<C: Codec>(codec: C, x: &mut [f32], columns: usize, p: Scales<'_>);

    /// Copies the gradient where the value was not clipped, writes zero where it was.
    fn straight_through<C: Codec>(codec: C, x: &[f32], columns: usize, p: Scales<'_>, grad_out: &[f32], grad_in: &mut [f32]);

    /// Range, scale and codes in one pass: a group is quantized while it is still in the first cache. Scales and
    /// zero-points go to `min` and `max` of `out`. Returns the offset of the first value that is not finite.
    fn fused_encode<C: Codec>(codec: C, rule: &ScaleRule, x: &[f32], columns: usize, global: Option<f32>, out: Ranges<'_>, codes: &mut [u8]) -> Option<usize>;

    /// Range, scale and fake quantization in one pass. A row with a value that is not finite is left as it is, and the
    /// offset of the first such value returned.
    fn fused_fake<C: Codec>(codec: C, rule: &ScaleRule, x: &mut [f32], columns: usize, width: usize, global: Option<f32>) -> Option<usize>;

    /// Sum of |fake(x) - x|^norm over one group, for one candidate scale.
    fn search<C: Codec>(codec: C, x: &[f32], scale: f32, zero_point: f32, norm: f32) -> f32;
}

/// The bodies, to be inlined into one function per instruction set.
mod generic {
    use super::*;

    /// Maps a float to an integer of the same order, so that integer minima and maxima, which vectorise, do the work.
    #[inline(always)]
    fn key(x: f32) -> i32 {
        let bits = x.to_bits() as i32;
        bits ^ (((bits >> 31) as u32 >> 1) as i32)
    }

    /// The float of a key.
    #[inline(always)]
    fn from_key(key: i32) -> f32 {
        f32::from_bits((key ^ (((key >> 31) as u32 >> 1) as i32)) as u32)
    }

    const INFINITY_BITS: u32 = 0x7f80_0000;

    /// Smallest and largest value, or `None` where one is not finite. With `only_absmax` they are -absmax and absmax.
    #[inline(always)]
    fn range(x: &[f32], only_absmax: bool) -> Option<(f32, f32)> {
        if only_absmax {
            let bits = x.iter().fold(0, |max: u32, v| max.max(v.to_bits() & 0x7fff_ffff));
            let absmax = f32::from_bits(bits);
            (bits < INFINITY_BITS).then_some((-absmax, absmax))
        } else {
            let (low, high) =
                x.iter().fold((i32::MAX, i32::MIN), |(low, high), v| (low.min(key(*v)), high.max(key(*v))));
            let (min, max) = (from_key(low), from_key(high));
            (min.is_finite() && max.is_finite()).then_some((min, max))
        }
    }

    #[cold]
    fn first_not_finite(x: &[f32]) -> usize {
        x.iter().position(|v| !v.is_finite()).unwrap_or(0)
    }

    #[inline(always)]
    pub(super) fn ranges(x: &[f32], columns: usize, only_absmax: bool, out: Ranges<'_>) -> Option<usize> {
        let mut slots = out.min.iter_mut().zip(out.max.iter_mut());
        for row in x.chunks_exact(columns) {
            for group in row.chunks(out.width) {
                let Some((min, max)) = range(group, only_absmax) else {
                    return Some(first_not_finite(x));
                };
                if let Some((low, high)) = slots.next() {
                    (*low, *high) = (min, max);
                }
            }
        }
        None
    }

    #[inline(always)]
    fn encode_group<C: Codec>(codec: C, x: &[f32], s: f32, z: f32, out: &mut [u8]) {
        for (code, v) in out.iter_mut().zip(x) {
            *code = codec.encode(codec.nearest(codec.scaled(*v, s, z)));
        }
    }

    #[inline(always)]
    fn fake_group<C: Codec>(codec: C, x: &mut [f32], s: f32, z: f32) {
        for v in x {
            *v = codec.value(codec.nearest(codec.scaled(*v, s, z)), s, z);
        }
    }

    #[inline(always)]
    pub(super) fn column<C: Codec>(
        codec: C,
        x: &[f32],
        scales: &[f32],
        zero_points: &[f32],
        codes: &mut [i8],
        values: &mut [f32],
    ) {
        let inputs = x.iter().zip(scales).zip(zero_points);
        for (((x, s), z), (code, value)) in inputs.zip(codes.iter_mut().zip(values)) {
            let nearest = codec.nearest(codec.scaled(*x, *s, *z));
            *code = codec.encode(nearest) as i8;
            *value = codec.value(nearest, *s, *z);
        }
    }

    #[inline(always)]
    pub(super) fn encode<C: Codec>(codec: C, x: &[f32], columns: usize, p: Scales<'_>, out: &mut [u8]) {
        let mut index = 0;
        for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact_mut(columns)) {
            for (x, out) in x.chunks(p.width).zip(out.chunks_mut(p.width)) {
                let (s, z) = p.at(index);
                encode_group(codec, x, s, z, out);
                index += 1;
            }
        }
    }

    #[inline(always)]
    pub(super) fn decode<C: Codec>(codec: C, codes: &[u8], columns: usize, p: Scales<'_>, out: &mut [f32]) {
        let mut index = 0;
        for (codes, out) in codes.chunks_exact(columns).zip(out.chunks_exact_mut(columns)) {
            for (codes, out) in codes.chunks(p.width).zip(out.chunks_mut(p.width)) {
                let (s, z) = p.at(index);
                for (v, code) in out.iter_mut().zip(codes) {
                    *v = codec.value(codec.decode(*code), s, z);
                }
                index += 1;
            }
        }
    }

    #[inline(always)]
    pub(super) fn fake<C: Codec>(codec: C, x: &mut [f32], columns: usize, p: Scales<'_>) {
        let mut index = 0;
        for row in x.chunks_exact_mut(columns) {
            for group in row.chunks_mut(p.width) {
                let (s, z) = p.at(index);
                fake_group(codec, group, s, z);
                index += 1;
            }
        }
    }

    #[inline(always)]
    pub(super) fn straight_through<C: Codec>(
        codec: C,
        x: &[f32],
        columns: usize,
        p: Scales<'_>,
        grad_out: &[f32],
        grad_in: &mut [f32],
    ) {
        let mut index = 0;
        for (row, start) in x.chunks_exact(columns).zip((0..).step_by(columns)) {
            for (group, start) in row.chunks(p.width).zip((start..).step_by(p.width)) {
                let (s, z) = p.at(index);
                let range = start..start + group.len();
                for ((v, out), grad) in group.iter().zip(&grad_out[range.clone()]).zip(&mut grad_in[range]) {
                    *grad = if codec.fits(codec.scaled(*v, s, z)) { *out } else { 0.0 };
                }
                index += 1;
            }
        }
    }

    #[inline(always)]
    pub(super) fn fused_encode<C: Codec>(
        codec: C,
        rule: &ScaleRule,
        x: &[f32],
        columns: usize,
        global: Option<f32>,
        out: Ranges<'_>,
        codes: &mut [u8],
    ) -> Option<usize> {
        let only_absmax = rule.needs_only_absmax();
        let mut slots = out.min.iter_mut().zip(out.max.iter_mut());
        for (row, codes) in x.chunks_exact(columns).zip(codes.chunks_exact_mut(columns)) {
            for (group, codes) in row.chunks(out.width).zip(codes.chunks_mut(out.width)) {
                let Some((min, max)) = range(group, only_absmax) else {
                    return Some(first_not_finite(x));
                };
                let (scale, zero_point) = rule.scale(min, max, global);
                let zero_point = zero_point as f32;
                if let Some(slot) = slots.next() {
                    (*slot.0, *slot.1) = (scale, zero_point);
                }
                encode_group(codec, group, global.map_or(scale, |global| scale / global), zero_point, codes);
            }
        }
        None
    }

    #[inline(always)]
    pub(super) fn fused_fake<C: Codec>(
        codec: C,
        rule: &ScaleRule,
        x: &mut [f32],
        columns: usize,
        width: usize,
        global: Option<f32>,
    ) -> Option<usize> {
        let only_absmax = rule.needs_only_absmax();
        let mut bad = None;
        for (index, row) in x.chunks_exact_mut(columns).enumerate() {
            for start in (0..columns).step_by(width) {
                let group = &mut row[start..columns.min(start + width)];
                let Some((min, max)) = range(group, only_absmax) else {
                    bad = bad.or(Some(index * columns + start + first_not_finite(group)));
                    continue;
                };
                let (scale, zero_point) = rule.scale(min, max, global);
                fake_group(codec, group, global.map_or(scale, |global| scale / global), zero_point as f32);
            }
        }
        bad
    }

    #[inline(always)]
    pub(super) fn search<C: Codec>(codec: C, x: &[f32], scale: f32, zero_point: f32, norm: f32) -> f32 {
        /// Fixed partial sums keep the order of additions the same on every instruction set.
        const LANES: usize = 16;
        let mut sums = [0.0f32; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (sum, v) in sums.iter_mut().zip(chunk) {
                *sum += error(codec, *v, scale, zero_point, norm);
            }
        }
        for (sum, v) in sums.iter_mut().zip(rest) {
            *sum += error(codec, *v, scale, zero_point, norm);
        }
        sums.iter().sum()
    }

    #[inline(always)]
    fn error<C: Codec>(codec: C, x: f32, scale: f32, zero_point: f32, norm: f32) -> f32 {
        let fake = codec.value(codec.nearest(codec.scaled(x, scale, zero_point)), scale, zero_point);
        power((fake - x).abs(), norm)
    }

    /// x^norm for x >= 0, within 1e-5 relative; the same bits on every machine, which libm does not promise.
    #[inline(always)]
    fn power(x: f32, norm: f32) -> f32 {
        let power = exp2(norm * log2(x));
        if x > 1e-30 { power } else { 0.0 }
    }

    /// log2 of a positive normal float: 2 atanh((m - 1) / (m + 1)) / ln 2 on a mantissa between sqrt(1/2) and sqrt(2).
    #[inline(always)]
    fn log2(x: f32) -> f32 {
        let bits = x.to_bits();
        let exponent = (bits.wrapping_sub(0x3f35_04f3) as i32) >> 23;
        let mantissa = f32::from_bits(bits.wrapping_sub((exponent << 23) as u32));
        let t = (mantissa - 1.0) / (mantissa + 1.0);
        let t2 = t * t;
        let series = 1.0 + t2 * (1.0 / 3.0 + t2 * (0.2 + t2 * (1.0 / 7.0 + t2 * (1.0 / 9.0))));
        exponent as f32 + t * series * (2.0 * std::f32::consts::LOG2_E)
    }

    /// 2^x for |x| < 126: the integer part in the exponent, a Taylor polynomial for the rest, which is within 1/2.
    #[inline(always)]
    fn exp2(x: f32) -> f32 {
        let x = x.clamp(-125.0, 125.0);
        let whole = crate::float::round_integer(x);
        let y = (x - whole) * std::f32::consts::LN_2;
        let series =
            1.0 + y * (1.0 + y * (0.5 + y * (1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0 + y * (1.0 / 720.0))))));
        let exponent = crate::float::MAGIC + whole;
        f32::from_bits(series.to_bits().wrapping_add(exponent.to_bits() << 23))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::codec::{E2M1, E4M3, Int};

    /// Values of all magnitudes and both signs, without NaN.
    fn values() -> Vec<f32> {
        let random = (0..4099u32).map(|i| i.wrapping_mul(0x9e37_79b9) ^ (i << 7)).map(f32::from_bits);
        random.map(|v| if v.is_finite() { v } else { 0.75 }).chain((0..93).map(|i| i as f32 * 0.25 - 11.0)).collect()
    }

    /// The dispatched loops against their bodies, compiled for the instructions that every machine of its kind has.
    fn check<C: Codec>(codec: C, rule: &ScaleRule) {
        let x = values();
        let columns = x.len();
        let scales: Vec<f32> = (0..columns.div_ceil(37)).map(|i| 2f32.powi(i as i32 - 60) * 1.37).collect();
        let points: Vec<f32> = (0..scales.len()).map(|i| (i % 16) as f32 - 8.0).collect();
        let p = Scales { scales: &scales, zero_points: &points, width: 37 };
        let (mut fast, mut slow) = (vec![0u8; columns], vec![1u8; columns]);
        encode(codec, &x, columns, p, &mut fast);
        generic::encode(codec, &x, columns, p, &mut slow);
        assert_eq!(fast, slow);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let (mut a, mut b) = (x.clone(), x.clone());
        decode(codec, &fast, columns, p, &mut a);
        generic::decode(codec, &fast, columns, p, &mut b);
        assert_eq!(bits(&a), bits(&b));
        (a, b) = (x.clone(), x.clone());
        fake(codec, &mut a, columns, p);
        generic::fake(codec, &mut b, columns, p);
        assert_eq!(bits(&a), bits(&b));
        straight_through(codec, &x, columns, p, &x, &mut a);
        generic::straight_through(codec, &x, columns, p, &x, &mut b);
        assert_eq!(bits(&a), bits(&b));
        (a, b) = (x.clone(), x.clone());
        assert_eq!(fused_fake(codec, rule, &mut a, columns, 37, None), None);
        assert_eq!(generic::fused_fake(codec, rule, &mut b, columns, 37, None), None);
        assert_eq!(bits(&a), bits(&b));
        let near = &x[4099..];
        let error = search(codec, near, 0.5, 1.0, 2.4);
        assert_eq!(error.to_bits(), generic::search(codec, near, 0.5, 1.0, 2.4).to_bits());
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let conventions = crate::Conventions::default();
        let rule = |args: &crate::QuantizationArgs| ScaleRule::new(args, &conventions, crate::ScaleDtype::Bf16);
        let int = rule(&crate::QuantizationArgs { num_bits: 4, symmetric: false, ..Default::default() });
        let (low, high) = (-8.0, 7.0);
        check(Int::<false, false> { low, high }, &int);
        check(Int::<false, true> { low, high }, &int);
        check(Int::<true, false> { low, high }, &int);
        check(Int::<true, true> { low, high }, &int);
        let float =
            |num_bits| crate::QuantizationArgs { num_bits, r#type: crate::NumberType::Float, ..Default::default() };
        check(E4M3::<false>, &rule(&float(8)));
        check(E4M3::<true>, &rule(&float(8)));
        check(E2M1::<false, false>, &rule(&float(4)));
        check(E2M1::<true, true>, &rule(&float(4)));
        check(E2M1::<false, true>, &rule(&float(4)));
    }

    #[test]
    fn the_power_is_that_of_the_library() {
        let codec = Int::<false, false> { low: -8.0, high: 7.0 };
        for (exponent, norm) in [(-30, 2.4f32), (-3, 2.4), (0, 2.0), (5, 3.0), (11, 0.7)] {
            for i in 0..997 {
                // At a huge scale everything rounds to zero, and the error is the value itself.
                let v = (1.0 + i as f32 / 997.0) * 2f32.powi(exponent);
                let found = f64::from(search(codec, &[v], 1e30, 0.0, norm));
                let expected = f64::from(v).powf(f64::from(norm));
                assert!((found / expected - 1.0).abs() < 2e-5, "{v}^{norm}: {found} against {expected}");
            }
        }
    }
}
