//! The `workbench` program: parse, dispatch, print one error with its hints, exit with its code.

use std::process::ExitCode;

/// Large tensors are allocated and freed all the time; an allocator that keeps its pages makes element-wise work several
/// times faster than one that returns them to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    workbench::cli::main()
}
