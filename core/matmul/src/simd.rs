//! Ordinary loops, compiled for the widest vectors of the CPU at hand.

/// Runs `work` as compiled for the best of x86-64's levels 1, 3 and 4 that this CPU has. `work` and what it calls must be
/// inlined for that to mean anything.
#[inline(always)]
pub(crate) fn widest<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
        fn level_4<T>(work: impl FnOnce() -> T) -> T {
            work()
        }
        #[target_feature(enable = "avx2")]
        fn level_3<T>(work: impl FnOnce() -> T) -> T {
            work()
        }
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
        {
            // SAFETY: the features that the function was compiled for have just been detected.
            #[allow(unsafe_code)]
            return unsafe { level_4(work) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            return unsafe { level_3(work) };
        }
    }
    work()
}
