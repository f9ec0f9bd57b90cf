//! Building blocks of vector loops.

/// Lanes in which sums are kept: wide enough for two AVX-512 registers, fixed so that every machine adds in the same order.
const LANES: usize = 32;

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
/// x = n ln 2 + r with |r| <= ln 2 / 2, then e^r by its Taylor polynomial: the first term left out, r^8 / 8!, is 5e-9.
/// The argument is clamped to the range of normal numbers; a NaN stays one.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has so few bits that its product with n is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
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
    p = p * r * r + r + 1.0;
    // The bits of n + ROUND hold n in their low part: shifted into the exponent they make 2^n.
    let scale = f32::from_bits(((n + ROUND).to_bits().wrapping_add(127)) << 23);
    p * scale
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
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
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
    fn sums_and_maxima_of_every_length() {
        for len in 0..100 {
            let x: Vec<f32> = (0..len).map(|i| ((i * 37) % 19) as f32 - 9.0).collect();
            assert_eq!(sum(len, |i| x[i]), x.iter().sum::<f32>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        for place in [0, 40, 69] {
            let mut x = vec![1f32; 70];
            x[place] = f32::NAN;
            assert!(max(&x).is_nan());
        }
    }
}
