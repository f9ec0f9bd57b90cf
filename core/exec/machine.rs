//! What the kernel says about this machine and its processes.

use std::fs;

use rustix::process::Pid;

use crate::process::below;

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn meminfo(name: &str) -> u64 {
    fs::read_to_string("/proc/meminfo").ok().and_then(|t| field(&t, name)).unwrap_or(0)
}

/// Bytes of memory of this machine.
pub fn total_memory() -> u64 {
    meminfo("MemTotal")
}

/// Bytes of memory that new work can use without swapping.
pub fn available_memory() -> u64 {
    meminfo("MemAvailable")
}

/// Bytes of anonymous memory of a process, in memory and swapped out. Mapped checkpoints do not count.
fn anonymous_memory(process: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    Some(field(&status, "RssAnon")? + field(&status, "VmSwap").unwrap_or(0))
}

/// Bytes of anonymous memory of a process and of all below it. What a fork shares with its parent counts once, though the kernel
/// only says so slowly: that is asked past `limit` alone.
pub(super) fn tree_memory(process: Pid, limit: u64) -> u64 {
    let below = below(process);
    let all = || below.iter().chain([&process]);
    let plain = all().filter_map(|p| anonymous_memory(*p)).sum();
    if plain <= limit || below.is_empty() {
        return plain;
    }
    all().filter_map(|p| own_share(*p).or_else(|| anonymous_memory(*p))).sum()
}

/// Anonymous memory of a process, shared pages divided by those who share them.
fn own_share(process: Pid) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.as_raw_nonzero())).ok()?;
    Some(field(&rollup, "Pss_Anon")? + field(&rollup, "SwapPss").unwrap_or(0))
}

/// The largest resident size that this process ever had, in bytes.
pub fn peak_memory() -> u64 {
    fs::read_to_string("/proc/self/status").ok().and_then(|t| field(&t, "VmHWM")).unwrap_or(0)
}

/// Gives memory that was freed back to the system, before somebody with an allocator of their own (a plugin) needs it. Otherwise
/// that happens at some later allocation.
pub fn return_freed_memory() {
    // SAFETY: the call takes no pointers, and may be made by any thread at any time.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
    // What plugins have freed: they allocate with the C library.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes a number, and may be made by any thread at any time.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The CPU's name as the kernel tells it, with the vector extensions that change the last bits of a product.
pub fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| {
        let found = info.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_once(':'));
        found.map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
    };
    let flags = line("flags");
    let widest = ["avx512_bf16", "avx512f", "avx2", "avx"]
        .into_iter()
        .find(|w| flags.split(' ').any(|f| f == *w))
        .unwrap_or("sse2");
    format!("{} ({widest})", line("model name"))
}

#[cfg(test)]
mod tests {
    use rustix::process::getpid;

    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        assert_eq!(field("VmSwap:\t       0 kB\nRssAnon:\t     12 kB\n", "RssAnon"), Some(12 * 1024));
        assert_eq!(field("RssAnonX:\t     12 kB\n", "RssAnon"), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(anonymous_memory(getpid()).is_some_and(|b| b > 0) && tree_memory(getpid(), 1) > 0);
        assert!(peak_memory() > 0 && total_memory() >= available_memory());
    }
}
