//! Number grids, fake quantization and packing: the one place where a value is rounded.

pub mod args;

/// Version of the rounding rules in this crate. Every dylib carries its own copy of the crate, so the number travels in
/// the plugin probe and a host refuses a plugin whose number differs. Raise it whenever any code or scale could change.
pub const GRID_VERSION: u32 = 1;
