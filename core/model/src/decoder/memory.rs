//! The allocator and large tensors.

/// Asks glibc's allocator to keep the pages of freed memory.
///
/// Every tensor operation returns new memory. By default glibc maps large blocks freshly and returns them when they are
/// freed, and faulting the pages in costs more than most operations: raising the limits makes element-wise work several
/// times faster. Call it once, where a process (or a plugin in one) starts; it does nothing with other allocators.
pub fn keep_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LIMIT: libc::c_int = 1 << 30;
        // SAFETY: mallopt takes plain integers and may be called at any time.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LIMIT);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}
