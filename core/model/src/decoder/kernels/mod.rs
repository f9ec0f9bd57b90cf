//! Kernels of the decoder on plain f32 slices, forward and backward.
//!
//! Every kernel splits its work into pieces whose borders depend on shapes alone, and adds up partial sums in a fixed
//! order. So results are equal to the last bit at any number of threads. Vector code comes from the compiler: a loop is
//! written once, compiled for several instruction sets and chosen at run time. No fused multiply-adds are used
//! outside of the matrix products, so that the instruction set does not change a bit either.

pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod divergence;
pub(crate) mod gating;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod rotary;
pub(crate) mod sampling;
pub(crate) mod vector;

/// Elements from which on a loop is worth being split over threads.
const PARALLEL: usize = 1 << 15;

/// A pointer that tasks share in order to write disjoint parts of one buffer.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: whoever makes one promises that the tasks that use it write disjoint elements.
#[allow(unsafe_code)]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer. A method, so that closures capture the whole of `self` and not the bare pointer.
    fn get(self) -> *mut f32 {
        self.0
    }
}
