//! Where tensors lie, and where they are multiplied.
//!
//! A node computes on one device. It asks for it once ([`chosen`]), as it opens its model, and hands it down; what makes tensors from
//! then on takes the device of what they meet. [`HOST`] is the memory of the program: there files are mapped, activations kept,
//! codes decoded, and there kernels on slices work. Nobody else names a device.
//!
//! Kernels for the memory of the program alone ask for an [`OnHost`], and each has a twin of candle's operations, which any device
//! has: `Block::load` for `Block::load_packed`, `ops::composed` for the decoder's operations.

use candle_core::Device;

/// The memory of the program.
pub const HOST: Device = Device::Cpu;

/// The device on which a node computes.
pub fn chosen() -> Device {
    HOST
}

/// That a device is the memory of the program: what kernels ask for that work nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnHost(());

impl OnHost {
    /// `None` for any other device.
    pub fn of(device: &Device) -> Option<Self> {
        device.is_cpu().then_some(Self(()))
    }
}
