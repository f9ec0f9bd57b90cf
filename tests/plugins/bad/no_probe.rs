//! A dynamic library that is no plugin.

/// Something to export.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub extern "C" fn add(left: i32, right: i32) -> i32 {
    left.wrapping_add(right)
}
