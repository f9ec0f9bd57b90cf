//! The loops over rows, compiled for several instruction sets and chosen at run time.
//!
//! Every function here handles one or more whole rows that lie one behind the other; each row has its own slice of
//! scales, one per `width` columns. The arithmetic is the same on every instruction set (no fused multiply-add, no
//! reassociated sums), so the results are too.

pub(crate) mod codec;
mod rows;

pub(crate) use rows::{
    Ranges, Scales, decode, encode, fake, fused_encode, fused_fake, ranges, search, straight_through,
};

/// Calls `$body` with the concrete codec inside an [`codec::AnyCodec`].
macro_rules! with_codec {
    ($any:expr, $codec:ident => $body:expr) => {
        match $any {
            $crate::kernel::codec::AnyCodec::Int($codec) => $body,
            $crate::kernel::codec::AnyCodec::IntAfter($codec) => $body,
            $crate::kernel::codec::AnyCodec::IntBf16($codec) => $body,
            $crate::kernel::codec::AnyCodec::IntBf16After($codec) => $body,
            $crate::kernel::codec::AnyCodec::E4M3($codec) => $body,
            $crate::kernel::codec::AnyCodec::E4M3Bf16($codec) => $body,
            $crate::kernel::codec::AnyCodec::E2M1($codec) => $body,
            $crate::kernel::codec::AnyCodec::E2M1Bf16($codec) => $body,
            $crate::kernel::codec::AnyCodec::NvFp4Bf16($codec) => $body,
        }
    };
}
pub(crate) use with_codec;

/// The instruction sets that the loops are compiled for.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Baseline,
    Avx2,
    Avx512,
}

/// The best instruction set of this machine.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn level() -> Level {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        Level::Avx512
    } else if is_x86_feature_detected!("avx2") {
        Level::Avx2
    } else {
        Level::Baseline
    }
}

/// Defines a function that runs the inline body `generic::$name`, compiled for the best instruction set at hand.
macro_rules! multiversion {
    ($($(#[$doc:meta])* fn $name:ident$(<$g:ident: $bound:path>)?($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {$(
        $(#[$doc])*
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code, clippy::too_many_arguments)]
        pub(crate) fn $name$(<$g: $bound>)?($($arg: $ty),*) $(-> $ret)? {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512$(<$g: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                generic::$name($($arg),*)
            }
            #[target_feature(enable = "avx2")]
            fn avx2$(<$g: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                generic::$name($($arg),*)
            }
            match $crate::kernel::level() {
                // SAFETY: `level` has just seen these features on this machine.
                $crate::kernel::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                $crate::kernel::Level::Avx2 => unsafe { avx2($($arg),*) },
                $crate::kernel::Level::Baseline => generic::$name($($arg),*),
            }
        }

        $(#[$doc])*
        #[cfg(not(target_arch = "x86_64"))]
        #[allow(clippy::too_many_arguments)]
        pub(crate) fn $name$(<$g: $bound>)?($($arg: $ty),*) $(-> $ret)? {
            generic::$name($($arg),*)
        }
    )*};
}
pub(crate) use multiversion;
