//! The graph that a script builds: nodes, their keys, and the plan that says which of them still have to run.
//!
//! Nothing here computes a result or writes a file. A node is a *meaning*: a kind, parameters with every default filled
//! in, the keys of its inputs, the identity of the plugin and of the host code that run it, and the digests of the files
//! it reads. The key is a hash of that and of nothing else, so two scripts that ask for the same thing share the answer.

mod labels;
pub mod node;
pub mod params;
pub mod plan;
mod targets;

pub use crate::identity::{FileDigests, Key, canonical, digest};
pub use node::{Graph, Input, MemoryNeed, Node, NodeId, NodeKind};
pub use plan::{Plan, PlanNode, State};
pub use targets::{coded, embeddings, experts, fused, selector};
