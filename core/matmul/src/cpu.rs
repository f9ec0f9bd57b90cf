//! Which kernel multiplies on this CPU.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::Precision;
use crate::kernel::amx;

/// The environment variable that takes another kernel than the rule's, by its name.
pub const OVERRIDE: &str = "WORKBENCH_MATMUL_KERNEL";

/// The instructions that multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Tiles of AMX, for bfloat16.
    Amx,
    /// `vdpbf16ps` of AVX512_BF16, for bfloat16.
    Avx512Bf16,
    /// FMA on 512 bits.
    Avx512,
    /// FMA on 256 bits.
    Avx2,
    /// What the compiler makes of a loop.
    Portable,
}

impl Kernel {
    /// All of them, the fastest first where a CPU has it.
    pub const ALL: [Self; 5] = [Self::Amx, Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Portable];

    /// The name in records and in the environment.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Whether it multiplies such operands.
    pub fn multiplies(self, precision: Precision) -> bool {
        precision == Precision::Bf16 || !matches!(self, Self::Amx | Self::Avx512Bf16)
    }

    /// Whether this CPU, and the system on it, have its instructions.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            match self {
                Self::Amx => amx::available(),
                Self::Avx512Bf16 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"),
                Self::Avx512 => is_x86_feature_detected!("avx512f"),
                Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
                Self::Portable => true,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// The kernel for such operands: the one that [`OVERRIDE`] names, where it is available and multiplies them, else the first of
    /// [`ALL`](Self::ALL) that does. `vdpbf16ps` is left out on Intel's CPUs, where it has half the rate of FMA in f32
    /// (measured on Emerald Rapids and Granite Rapids).
    pub fn of(precision: Precision) -> Self {
        static RULE: OnceLock<[Kernel; 2]> = OnceLock::new();
        let [f32, bf16] = *RULE.get_or_init(|| [Precision::F32, Precision::Bf16].map(Self::choose));
        match precision {
            Precision::F32 => f32,
            Precision::Bf16 => bf16,
        }
    }

    fn choose(precision: Precision) -> Self {
        let usable = |kernel: &Self| kernel.multiplies(precision) && kernel.available();
        let asked = std::env::var(OVERRIDE).ok().and_then(|name| name.parse().ok()).filter(usable);
        asked.unwrap_or_else(|| Self::by_rule(precision))
    }

    /// The kernel that the rule takes for such precision, whatever the environment says.
    pub fn by_rule(precision: Precision) -> Self {
        let slow = |kernel: &Self| *kernel == Self::Avx512Bf16 && made_by_intel();
        let usable = |kernel: &Self| kernel.multiplies(precision) && kernel.available() && !slow(kernel);
        Self::ALL.into_iter().find(usable).unwrap_or(Self::Portable)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernel {
    type Err = OverrideError;

    fn from_str(name: &str) -> Result<Self, OverrideError> {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.name() == name)
            .ok_or_else(|| OverrideError::Unknown(name.to_owned()))
    }
}

/// Why [`OVERRIDE`] cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverrideError {
    /// No kernel has this name.
    Unknown(String),
    /// This CPU does not have it.
    Unavailable(Kernel),
}

impl fmt::Display for OverrideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                let known = Kernel::ALL.map(Kernel::name).join(", ");
                write!(f, "{OVERRIDE} names no kernel `{name}`; there are {known}")
            }
            Self::Unavailable(kernel) => write!(f, "{OVERRIDE} asks for `{kernel}`, which this CPU does not have"),
        }
    }
}

impl std::error::Error for OverrideError {}

/// Whether [`OVERRIDE`], if it is set, can be followed. Programs ask before their first product: products themselves fall back to the
/// rule.
///
/// # Errors
/// It names no kernel, or one that this CPU does not have.
pub fn check_override() -> Result<(), OverrideError> {
    let Ok(name) = std::env::var(OVERRIDE) else { return Ok(()) };
    let kernel: Kernel = name.parse()?;
    if kernel.available() { Ok(()) } else { Err(OverrideError::Unavailable(kernel)) }
}

#[cfg(target_arch = "x86_64")]
fn made_by_intel() -> bool {
    // The vendor's name comes in this order of registers.
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn made_by_intel() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_the_rule_takes_what_is_there() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        assert!("sse9".parse::<Kernel>().unwrap_err().to_string().contains("avx512-bf16"));
        for precision in [Precision::F32, Precision::Bf16] {
            let kernel = Kernel::by_rule(precision);
            assert!(kernel.available() && kernel.multiplies(precision));
        }
        assert!(!Kernel::Amx.multiplies(Precision::F32));
    }
}
