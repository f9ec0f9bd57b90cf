//! Errors as they cross the boundary.

use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RString, RVec};

/// What went wrong, for the host's reports; the message says the rest.
#[repr(u8)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The parameters contradict each other or the model.
    Parameters,
    /// The model, its tensors or the batches are not what the method needs.
    Input,
    /// The method cannot do this, though it is well formed.
    Unsupported,
    /// The computation left the finite numbers or did not converge.
    Numeric,
    /// The plugin panicked.
    Panic,
    /// The host asked to stop.
    Cancelled,
    /// The host could not serve a call.
    Host,
    /// Anything else.
    Other,
}

/// An error of a plugin (or, on the way into one, of the host).
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct PluginError {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// What happened, in one sentence.
    pub message: RString,
    /// What the user can do about it.
    pub hint: ROption<RString>,
    /// What was being done, innermost first.
    pub context: RVec<RString>,
}
