//! Places in scripts.

use serde::{Deserialize, Serialize};

/// Where in a script a node was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub file: String,
    pub line: usize,
    pub column: usize,
}
