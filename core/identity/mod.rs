//! What things are known by: keys, the canonical text that they are hashes of, digests of files, kinds of nodes, places in
//! scripts. Everything that stores, plans or runs nodes speaks of these; here nothing is known of any of that.

pub mod canonical;
pub mod digest;
mod key;
mod kind;
mod origin;

pub use digest::FileDigests;
pub use key::Key;
pub use kind::NodeKind;
pub use origin::Origin;
