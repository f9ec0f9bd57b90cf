//! The order in which columns are rounded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which column comes first. Groups and their scales stay where they are in all of them, so that a checkpoint needs no list
/// of indices and nothing is slower at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActOrder {
    /// From left to right.
    None,
    /// By falling energy of the input channel, the diagonal of the Hessian: what is rounded early is compensated by all that
    /// comes later. `actorder: "static"` (or `weight`) of compressed-tensors.
    #[default]
    Static,
    /// Groups by their strongest channel, and by falling energy within a group, as GPTQModel's `act_group_aware`.
    GroupAware,
}

impl ActOrder {
    /// The columns in the order in which they are rounded; channels of equal energy from left to right.
    pub(crate) fn columns(self, energy: &[f64], group: usize) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..energy.len()).collect();
        let falling = |a: &usize, b: &usize| energy[*b].total_cmp(&energy[*a]);
        match self {
            Self::None => {}
            Self::Static => columns.sort_by(falling),
            Self::GroupAware => {
                let mut groups: Vec<Vec<usize>> = columns.chunks(group.max(1)).map(<[usize]>::to_vec).collect();
                groups.iter_mut().for_each(|group| group.sort_by(falling));
                groups.sort_by(|a, b| falling(&a[0], &b[0]));
                columns = groups.concat();
            }
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_follow_their_energy() {
        let energy = [1.0, 5.0, 2.0, 2.0, 9.0, 0.0];
        assert_eq!(ActOrder::None.columns(&energy, 2), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ActOrder::Static.columns(&energy, 2), [4, 1, 2, 3, 0, 5]);
        assert_eq!(ActOrder::GroupAware.columns(&energy, 2), [4, 5, 1, 0, 2, 3]);
        assert_eq!(ActOrder::GroupAware.columns(&energy, 6), ActOrder::Static.columns(&energy, 2));
    }
}
