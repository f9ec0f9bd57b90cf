//! The loops over rows, compiled for several instruction sets and chosen at run time.
//!
//! Every function here handles one or more whole rows that lie one behind the other; each row has its own slice of
//! scales, one per `width` columns. The arithmetic is the same on every instruction set (no fused multiply-add, no
//! reassociated sums), so the results are too.

pub(crate) mod codec;
mod rows;

pub(crate) use rows::{
    Ranges, Scales, column, decode, encode, fake, fused_encode, fused_fake, ranges, search, straight_through,
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

/// Defines a function that runs the inline body `generic::$name`, compiled for AVX2 where the machine has it. AVX-512 is
/// not worth a third copy: the loops wait for divisions, which are slower per value in its registers (measured: 8.5
/// against 10 GB/s for int4 groups in cache on Sapphire Rapids).
macro_rules! multiversion {
    ($($(#[$doc:meta])* fn $name:ident$(<$g:ident: $bound:path>)?($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {$(
        $(#[$doc])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        pub(crate) fn $name$(<$g: $bound>)?($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                #[target_feature(enable = "avx2")]
                fn avx2$(<$g: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                    generic::$name($($arg),*)
                }
                // SAFETY: the machine has just said that it has AVX2.
                return unsafe { avx2($($arg),*) };
            }
            generic::$name($($arg),*)
        }
    )*};
}
pub(crate) use multiversion;
