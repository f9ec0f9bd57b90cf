//! The plain-C symbol that tells what a library is before anything in it is called.

/// Name of the exported static.
pub const PROBE_SYMBOL: &str = "WORKBENCH_PLUGIN_PROBE";

/// First eight bytes of a [`Probe`].
pub const PROBE_MAGIC: [u8; 8] = *b"WBPLUGIN";

/// UTF-8 text with a static lifetime, as C sees it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    start: *const u8,
    length: usize,
}

impl Text {
    /// Text that a plugin's binary holds.
    pub const fn new(text: &'static str) -> Self {
        Self { start: text.as_ptr(), length: text.len() }
    }

    /// The text, or an empty one where the bytes are no UTF-8.
    ///
    /// # Safety
    /// The pointer and the length must describe readable memory that lives as long as the program: true of a `Text` made
    /// by [`Text::new`], and of one read from a library that was checked for the magic and this ABI version and stays loaded.
    #[allow(unsafe_code)]
    pub unsafe fn as_str(&self) -> &'static str {
        // SAFETY: guaranteed by the caller.
        let bytes = unsafe { std::slice::from_raw_parts(self.start, self.length) };
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// What every plugin exports as `WORKBENCH_PLUGIN_PROBE`.
///
/// The magic and the two version numbers keep their place forever; the rest may be read only when the versions match.
#[repr(C)]
pub struct Probe {
    /// [`PROBE_MAGIC`].
    pub magic: [u8; 8],
    /// [`ABI_MAJOR`](crate::ABI_MAJOR) of the plugin's copy of this crate.
    pub abi_major: u32,
    /// [`ABI_MINOR`](crate::ABI_MINOR) of the plugin's copy of this crate.
    pub abi_minor: u32,
    /// Version of the rounding rules that the plugin carries; 0 if it rounds nothing.
    pub grid_version: u32,
    /// Zero; keeps the texts aligned on every platform.
    pub reserved: u32,
    /// The plugin's name.
    pub name: Text,
    /// The plugin's version.
    pub version: Text,
    /// Digest of the sources it was built from; empty where its build script stamps none.
    pub source_digest: Text,
}

// SAFETY: a probe is never written, and its texts point at static memory.
#[allow(unsafe_code)]
unsafe impl Sync for Probe {}

impl Probe {
    /// The probe of a plugin built on this copy of the crate.
    pub const fn new(
        name: &'static str,
        version: &'static str,
        grid_version: u32,
        source_digest: Option<&'static str>,
    ) -> Self {
        Self {
            magic: PROBE_MAGIC,
            abi_major: crate::ABI_MAJOR,
            abi_minor: crate::ABI_MINOR,
            grid_version,
            reserved: 0,
            name: Text::new(name),
            version: Text::new(version),
            source_digest: Text::new(match source_digest {
                Some(digest) => digest,
                None => "",
            }),
        }
    }
}
