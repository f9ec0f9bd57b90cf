//! Memory of trainings that keep codes and learn their scales.

use workbench_quant::{Grid, StorageDtype};

use super::making::{Batch, TRAINER, reading, sequences_of, taught};
use crate::{
    graph::{MemoryNeed, node::DataSource, params::Train},
    script::Signature,
};

/// Bytes of a weight of codes: the code, once more where it is written, the number that a decoder multiplies, and its gradient.
const CODED: u64 = 1 + 1 + 4 + 4;
/// Of another weight, which stays as it is.
const PLAIN: u64 = 4;
/// Of a scale: the one that training begins at, its variable, AdamW's two moments, its gradient, and a checkpoint that is written.
const SCALE: u64 = 4 + 4 + 8 + 4 + 24;
/// Of the best scales so far, where they are kept.
const BEST: u64 = 8;
/// On disk: scales and moments of the last checkpoint, and those of the one that takes its place.
const SAVED: u64 = 2 * 3 * 4;

/// What such a training is expected to need, and what of it lies on disk while it runs.
pub(in crate::script::api) fn training_of_codes<'a>(
    model: &Signature,
    teacher: Option<&Signature>,
    train: &Train,
    data: impl IntoIterator<Item = (&'a String, &'a DataSource)>,
) -> (MemoryNeed, u64) {
    let config = &model.config;
    let batch = Batch::of_training(config, train);
    let (coded, scales) = codes_and_scales(model);
    let best = if train.parameters["keep_best"] == true { BEST * scales } else { 0 };
    let weights = CODED * coded + PLAIN * model.parameters.saturating_sub(coded) + SCALE * scales + best;
    let taught = teacher.map_or(0, |teacher| taught(teacher, &batch, config));
    let rest = reading(config, train, data) + sequences_of(train) + TRAINER;
    let saved = if train.parameters["checkpoint_every"] == 0 { 0 } else { SAVED * scales };
    (MemoryNeed::from((rest + taught + weights).saturating_add(batch.step(config))), saved)
}

/// How many weights of the blocks are codes, and how many scales they have.
fn codes_and_scales(model: &Signature) -> (u64, u64) {
    let linears = model.config.linears();
    let (mut codes, mut scales) = (0, 0);
    for group in &model.schemes.groups {
        // The dtype of scales does not change how many there are.
        let grid = group.scheme.args.weights.as_ref();
        let grid = grid.and_then(|args| Grid::new(args, StorageDtype::F32, group.scheme.conventions).ok());
        for linear in linears.iter().filter(|linear| group.modules.contains(&linear.name)) {
            let shape =
                grid.as_ref().and_then(|grid| grid.parameters_shape(linear.out_features, linear.in_features).ok());
            codes += (linear.out_features * linear.in_features) as u64;
            scales += shape.map_or(0, |[down, across]| (down * across) as u64);
        }
    }
    (codes, scales)
}
