//! Building blocks of vector loops.

/// Lanes in which sums are kept: wide enough for two AVX-512 registers, fixed so that every machine adds in the same order.
const LANES: usize = 32;

/// ln 2 in two parts: the first has so few bits that its product with a small integer is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Compiles a function for the instruction sets of x86-64 levels 1, 3 and 4 and calls the best that the machine has.
macro_rules! vectorized {
    (
        $(#[$meta:meta])* $vis:vis fn $name:ident$(<const $size:ident: usize>)?($($arg:ident: $ty:ty),* $(,)?)
        $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name$(<const $size: usize>)?($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable$(<const $size: usize>)?($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
                #[allow(clippy::too_many_arguments)]
                fn avx512$(<const $size: usize>)?($($arg: $ty),*) $(-> $ret)? {
                    portable$(::<$size>)?($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn avx2$(<const $size: usize>)?($($arg: $ty),*) $(-> $ret)? {
                    portable$(::<$size>)?($($arg),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                {
                    // SAFETY: the features that the function was compiled for have just been detected.
                    #[allow(unsafe_code)]
                    return unsafe { avx512$(::<$size>)?($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    #[allow(unsafe_code)]
                    return unsafe { avx2$(::<$size>)?($($arg),*) };
                }
            }
            portable$(::<$size>)?($($arg),*)
        }
    };
}
pub(crate) use vectorized;

/// e^x to about 2 ulp, without branches, so that loops over it become vector code.
///
/// The argument is clamped to the range of normal numbers; a NaN stays one.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let (scale, rest) = exp_parts(x);
    (rest + 1.0) * scale
}

/// e^x, and e^x - 1 to about 2 ulp of it however small it is.
#[inline(always)]
pub(super) fn exp_and_less_one(x: f32) -> (f32, f32) {
    let (scale, rest) = exp_parts(x);
    ((rest + 1.0) * scale, rest * scale + (scale - 1.0))
}

/// 2^n and e^r - 1 with x = n ln 2 + r and |r| <= ln 2 / 2. The second by its Taylor polynomial: the first term left out,
/// r^8 / 8!, is 5e-9.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, f32) {
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    // The bits of n + ROUND hold n in their low part: shifted into the exponent they make 2^n.
    let scale = f32::from_bits(((n + ROUND).to_bits().wrapping_add(127)) << 23);
    (scale, p * r * r + r)
}

/// ln y of a positive normal number, to about 2 ulp and without branches.
///
/// y = 2^n m with m between the roots of 1/2 and 2, and ln m = 2 artanh f with f = (m - 1) / (m + 1): of its series, the first
/// term left out, 2 f^11 / 11, is 7e-10.
#[inline(always)]
pub(super) fn ln(y: f32) -> f32 {
    /// The root of 1/2.
    const ROOT: u32 = 0x3f35_04f3;
    let n = (y.to_bits().wrapping_sub(ROOT) as i32) >> 23;
    let m = f32::from_bits(y.to_bits().wrapping_sub((n as u32) << 23));
    let f = (m - 1.0) / (m + 1.0);
    let s = f * f;
    let mut p = 2.0 / 9.0;
    p = p * s + 2.0 / 7.0;
    p = p * s + 2.0 / 5.0;
    p = p * s + 2.0 / 3.0;
    let n = n as f32;
    n * LN_2_HIGH + (n * LN_2_LOW + (p * s * f + 2.0 * f))
}

/// The sum of `f(i)` over `0..len`, in `LANES` partial sums that are added up at the end.
#[inline(always)]
pub(super) fn sum(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = len / LANES * LANES;
    let mut start = 0;
    while start < whole {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += f(start + lane);
        }
        start += LANES;
    }
    for i in whole..len {
        lanes[i - whole] += f(i);
    }
    fold(lanes, |a, b| a + b)
}

/// Sums in f64 of the terms `f(a[i], b[i])` of two slices of one length, in `LANES` partial sums each.
#[inline(always)]
pub(super) fn sums<const N: usize>(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> [f32; N]) -> [f64; N] {
    let mut lanes = [[0f64; LANES]; N];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = whole_a.remainder().iter().zip(whole_b.remainder());
    for (a, b) in whole_a.zip(whole_b) {
        for lane in 0..LANES {
            for (lanes, term) in lanes.iter_mut().zip(f(a[lane], b[lane])) {
                lanes[lane] += f64::from(term);
            }
        }
    }
    for (lane, (a, b)) in rest.enumerate() {
        for (lanes, term) in lanes.iter_mut().zip(f(*a, *b)) {
            lanes[lane] += f64::from(term);
        }
    }
    lanes.map(|lanes| fold(lanes, |a, b| a + b))
}

/// The largest element; NaN if there is one, minus infinity for an empty slice.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    // Written so that a NaN wins every comparison.
    let larger = |a: f32, b: f32| if b <= a { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (most, value) in lanes.iter_mut().zip(chunk) {
            *most = if most.is_nan() { *most } else { larger(*most, *value) };
        }
    }
    for (most, value) in lanes.iter_mut().zip(rest) {
        *most = if most.is_nan() { *most } else { larger(*most, *value) };
    }
    fold(lanes, |a, b| if a.is_nan() { a } else { larger(a, b) })
}

#[inline(always)]
fn fold<T: Copy>(mut lanes: [T; LANES], f: impl Fn(T, T) -> T) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_whole_range() {
        let mut worst = 0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3 + 3.3e-4;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2.5e-7, "relative error {worst:e}");
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::INFINITY) > 1e38);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn e_to_x_less_one_is_accurate_near_zero_too() {
        let mut worst = 0f64;
        for i in -4000i16..4000 {
            // From 1e-20 to 80, in both directions.
            let x = f32::from(i).signum() * 10f32.powf(-20.0 + f32::from(i.abs()) * (21.9 / 4000.0));
            let exact = f64::from(x).exp_m1();
            let (whole, less_one) = exp_and_less_one(x);
            worst = worst.max(((f64::from(less_one) - exact) / exact).abs());
            assert_eq!(whole, exp(x));
        }
        assert!(worst < 5e-7, "relative error {worst:e}");
        assert_eq!(exp_and_less_one(0.0), (1.0, 0.0));
    }

    #[test]
    fn ln_is_accurate_over_the_normal_numbers() {
        let mut worst = 0f64;
        let mut bits = f32::MIN_POSITIVE.to_bits();
        while bits < f32::MAX.to_bits() {
            let y = f32::from_bits(bits);
            let exact = f64::from(y).ln();
            if exact != 0.0 {
                worst = worst.max(((f64::from(ln(y)) - exact) / exact).abs());
            }
            bits += 10_007;
        }
        // And close to 1, where the result is small.
        for i in (1..3_000_000u32).step_by(71) {
            for bits in [1f32.to_bits() + i, 1f32.to_bits() - i] {
                let exact = f64::from(f32::from_bits(bits)).ln();
                worst = worst.max(((f64::from(ln(f32::from_bits(bits))) - exact) / exact).abs());
            }
        }
        assert!(worst < 5e-7, "relative error {worst:e}");
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn sums_and_maxima_of_every_length() {
        for len in 0..100 {
            let x: Vec<f32> = (0..len).map(|i| ((i * 37) % 19) as f32 - 9.0).collect();
            assert_eq!(sum(len, |i| x[i]), x.iter().sum::<f32>());
            let y: Vec<f32> = (0..len).map(|i| ((i * 29) % 23) as f32).collect();
            let products: f32 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
            assert_eq!(sums(&x, &y, |x, y| [x * y, y]), [f64::from(products), y.iter().map(|y| f64::from(*y)).sum()]);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        for place in [0, 40, 69] {
            let mut x = vec![1f32; 70];
            x[place] = f32::NAN;
            assert!(max(&x).is_nan());
        }
    }
}
