//! AMX: `tdpbf16ps` multiplies 16 rows of 32 numbers in bfloat16 with 16 columns of them, 16,384 operations in 16 cycles.
//!
//! The instruction adds up the first products of 16 pairs and the second ones apart, then both to the result (Intel's manual, volume 2,
//! TDPBF16PS). Numbers below 1e-38 count as zero. The intrinsics are not stable in Rust yet, hence the assembler.

use super::{Amx, MicroKernel, RIGHT};
use crate::panels::{TILE_PAIRS, TILE_ROWS};

/// Whether the CPU has AMX for bfloat16 and the system lets this process use it.
pub(crate) fn available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        static PERMITTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *PERMITTED.get_or_init(|| x86::present() && x86::permitted())
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        false
    }
}

impl MicroKernel for Amx {
    type Left = u32;
    type Right = u32;

    const ROWS: usize = TILE_ROWS;
    const LEFT_UNITS: usize = 1;

    fn whole(left: &[u32], right: &[u32], to: &mut [f32], stride: usize, add: bool) {
        let steps = right.len() / (RIGHT * TILE_PAIRS);
        assert!(to.len() >= (TILE_ROWS - 1) * stride + RIGHT && left.len() >= steps * TILE_ROWS * TILE_PAIRS);
        // SAFETY: `available` holds, and `within` has configured the tiles of this thread; the panels hold `steps` steps, `to` the tile.
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        #[allow(unsafe_code)]
        unsafe {
            x86::multiply(steps, left.as_ptr(), right.as_ptr(), to.as_mut_ptr(), stride, add);
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        let _ = add;
    }

    fn within<T>(work: impl FnOnce() -> T) -> T {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        let _tiles = x86::Tiles::configured();
        work()
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;

    use super::{RIGHT, TILE_PAIRS, TILE_ROWS};

    /// Whether the CPU says that it has AMX-TILE and AMX-BF16.
    pub(super) fn present() -> bool {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        let features = __cpuid_count(7, 0).edx;
        features & BF16 != 0 && features & TILE != 0
    }

    /// Asks Linux to let this process use tiles: their state is large, so that it is saved for those alone who ask
    /// (Documentation/arch/x86/xstate.rst).
    pub(super) fn permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        // SAFETY: the call reads and writes no memory of ours.
        #[allow(unsafe_code)]
        unsafe {
            libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
        }
    }

    /// What `ldtilecfg` reads.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes_of_a_row: [u16; 16],
        rows: [u8; 16],
    }

    /// The tiles of this thread, given back when they go: while they are in use, a switch of threads has to save them.
    pub(super) struct Tiles;

    impl Tiles {
        /// Eight tiles of 16 rows of 64 bytes.
        pub(super) fn configured() -> Self {
            let mut config =
                Config { palette: 1, start_row: 0, reserved: [0; 14], bytes_of_a_row: [0; 16], rows: [0; 16] };
            config.bytes_of_a_row[..8].fill(64);
            config.rows[..8].fill(16);
            // SAFETY: `available` holds wherever the kernel is used, and the configuration is one of palette 1.
            #[allow(unsafe_code)]
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly));
            }
            Self
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: the tiles hold nothing that anybody still needs.
            #[allow(unsafe_code)]
            unsafe {
                asm!("tilerelease", options(nostack, nomem));
            }
        }
    }

    /// Multiplies `steps` steps: of the left panel `[steps, 2, 16, 16]`, of the right one `[steps, 16, 32]`.
    ///
    /// # Safety
    /// The tiles of this thread must be configured, the panels as long, and 32 rows of 32 values, `stride` apart, at `to`.
    #[allow(unsafe_code)]
    pub(super) unsafe fn multiply(
        steps: usize,
        left: *const u32,
        right: *const u32,
        to: *mut f32,
        stride: usize,
        add: bool,
    ) {
        const LEFT_TILE: usize = TILE_ROWS / 2 * TILE_PAIRS * size_of::<u32>();
        const RIGHT_ROW: usize = RIGHT * size_of::<u32>();
        let row = stride * size_of::<f32>();
        // SAFETY: the caller vouches for the memory behind the pointers: the four quarters of the tile begin at `to` and at its 16th
        // row, 16 columns apart; each step reads two tiles of either panel. No code of Rust's uses tiles.
        unsafe {
            let below = to.add(16 * stride);
            if add {
                asm!(
                    "tileloadd tmm0, [{to} + {row} * 1]",
                    "tileloadd tmm1, [{to} + {row} * 1 + 64]",
                    "tileloadd tmm2, [{below} + {row} * 1]",
                    "tileloadd tmm3, [{below} + {row} * 1 + 64]",
                    to = in(reg) to, below = in(reg) below, row = in(reg) row,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, readonly, preserves_flags),
                );
            } else {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, nomem, preserves_flags),
                );
            }
            asm!(
                "test {steps}, {steps}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{left} + {sixty_four} * 1]",
                "tileloadd tmm6, [{right} + {right_row} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {right_row} * 1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left} + {sixty_four} * 1 + {left_tile}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 2 * {left_tile}",
                "add {right}, {right_step}",
                "dec {steps}",
                "jnz 2b",
                "3:",
                left = inout(reg) left => _,
                right = inout(reg) right => _,
                steps = inout(reg) steps => _,
                sixty_four = in(reg) 64_usize,
                right_row = in(reg) RIGHT_ROW,
                left_tile = const LEFT_TILE,
                right_step = const TILE_PAIRS * RIGHT_ROW,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
            asm!(
                "tilestored [{to} + {row} * 1], tmm0",
                "tilestored [{to} + {row} * 1 + 64], tmm1",
                "tilestored [{below} + {row} * 1], tmm2",
                "tilestored [{below} + {row} * 1 + 64], tmm3",
                to = in(reg) to, below = in(reg) below, row = in(reg) row,
                options(nostack, preserves_flags),
            );
        }
    }
}
