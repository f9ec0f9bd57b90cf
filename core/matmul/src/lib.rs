//! Matrix products of packed operands, with sums in f32.
//!
//! A matrix product spends its time in a *microkernel*: a loop that keeps a small tile of the result in registers and
//! runs along the summed dimension. It reads its operands in the order in which they lie in memory, so both are
//! *packed* first, into panels of a few rows (`panels`). Packing costs a pass over the operand; a weight is packed
//! once and multiplied as often as there are batches, and an input once for all linears that read it.
//!
//! Operands are f32, or bfloat16 where the model has no more than that. A product of two bfloat16 numbers is exact in
//! f32, so only sums are rounded, within Higham 2002, section 3.1. Which instructions multiply is decided by the CPU
//! alone ([`Kernel::of`]):
//!
//! | kernel | operands | tile | where |
//! |---|---|---|---|
//! | `amx` | bf16 | 32 x 32 | Intel from Sapphire Rapids on: 2,048 operations a cycle |
//! | `avx512-bf16` | bf16 | 12 x 32 | AMD from Zen 4 on: `vdpbf16ps` has twice the rate of an FMA; on Intel it has half |
//! | `avx512` | both | 12 x 32 | FMA in f32; bfloat16 weights are widened in registers |
//! | `avx2` | both | 6 x 16 | the same on 256 bits |
//! | `portable` | both | 12 x 32 | anywhere |
//!
//! Results do not depend on the number of threads: every element is one sum in an order that the shapes decide. They
//! are the same bits for `avx512` and `avx2`, and for bfloat16 operands those of `avx512-bf16` and `portable` too, apart from
//! numbers below 1e-38, which that instruction takes for zero. `amx` adds in another order.

mod cpu;
mod kernel;
mod narrow;
mod operand;
mod panels;
mod parallel_fill;
mod product;
mod rate;
mod simd;

pub use cpu::{Kernel, OVERRIDE, OverrideError, check_override};
pub use narrow::{narrow, rounded, widen};
pub use operand::{Input, Weight, add_gram};
pub use panels::Layout;
pub use parallel_fill::{by_pieces, copied_by_pieces};
pub use product::{Left, Right, product};
pub use rate::rate;

/// The precision in which numbers are kept or multiplied. Sums of products are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they were computed.
    #[default]
    F32,
    /// Rounded to bfloat16, to nearest even.
    Bf16,
}
