//! The way of sequences through a model whose weights stay where they are stored.
//!
//! All sequences of a group pass one block before the next is widened to f32, as in calibration. So the model takes the memory
//! of one block, then of its head, instead of all its weights, and each weight is widened once for many thousand tokens. What
//! is computed for a batch is the same to the last bit, whatever else is in its group.

use std::ops::Range;

use candle_core::Tensor;
use workbench_model::{
    Block, HiddenStates, ModelError, Precision,
    config::{EMBEDDINGS, LM_HEAD},
    decoder::{Context, Head},
};

use super::{Loaded, Sequence};
use crate::{error::Result, progress::Progress};

/// Bytes of the hidden states of a group.
pub(super) const ROOM: usize = 128 << 20;

/// Sequences side by side in a forward pass.
pub(super) struct Batch<'a> {
    pub(super) sequences: Vec<&'a [u32]>,
    /// What counts: (sequence, position) whose next token is predicted, and that token.
    pub(super) positions: Vec<(usize, usize)>,
    pub(super) targets: Vec<u32>,
}

impl<'a> Batch<'a> {
    /// Of sequences as they are asked for.
    pub(super) fn of(sequences: &[Sequence<'a>]) -> Self {
        let mut batch = Self { sequences: Vec::new(), positions: Vec::new(), targets: Vec::new() };
        for (index, Sequence { ids, scored }) in sequences.iter().copied().enumerate() {
            batch.positions.extend((scored..ids.len()).map(|i| (index, i - 1)));
            batch.targets.extend_from_slice(&ids[scored.min(ids.len())..]);
            // The last token predicts nothing that is known.
            batch.sequences.push(&ids[..ids.len() - 1]);
        }
        batch
    }

    /// Token ids padded to the longest sequence, at the ends and with the sequence's own last token, which no scored position
    /// can see.
    fn padded(&self) -> (Vec<u32>, Context) {
        let lens: Vec<usize> = self.sequences.iter().map(|s| s.len()).collect();
        let len = lens.iter().copied().max().unwrap_or(0);
        let mut ids = Vec::with_capacity(len * lens.len());
        for sequence in &self.sequences {
            ids.extend_from_slice(sequence);
            ids.extend(std::iter::repeat_n(sequence.last().copied().unwrap_or(0), len - sequence.len()));
        }
        (ids, Context::full(lens.len(), len, Some(&lens)))
    }

    /// The hidden states of the positions that count, `[n, hidden]`.
    fn gather(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        let len = hidden.dim(1)?;
        let rows: Vec<u32> = self.positions.iter().map(|(s, p)| (s * len + p) as u32).collect();
        hidden.flatten_to(1)?.index_select(&Tensor::from_vec(rows, self.positions.len(), hidden.device())?, 0)
    }
}

/// Which sequences, of the given lengths and in batches of `batch`, go through a model of `hidden` channels together: as many
/// whole batches as have room, at least one.
pub(super) fn groups(lens: &[usize], batch: usize, hidden: usize) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, lens) in lens.chunks(batch).enumerate() {
        let more = lens.len() * lens.iter().copied().max().unwrap_or(0) * hidden * 4;
        if bytes > 0 && bytes + more > ROOM {
            found.push(start..index * batch);
            (start, bytes) = (index * batch, 0);
        }
        bytes += more;
    }
    if start < lens.len() {
        found.push(start..lens.len());
    }
    found
}

/// Tells how far the sequences are.
pub(super) struct Passes<'a> {
    progress: &'a dyn Progress,
    done: u64,
    total: u64,
}

impl<'a> Passes<'a> {
    /// Of so many batches through blocks and heads of models of these many blocks.
    pub(super) fn new(progress: &'a dyn Progress, batches: usize, models: &[&Loaded]) -> Self {
        let passes: usize = models.iter().map(|model| model.config().num_layers + 1).sum();
        Self { progress, done: 0, total: (batches * passes) as u64 }
    }

    /// A batch has passed something.
    pub(super) fn step(&mut self) {
        self.done += 1;
        self.progress.progress(self.done, self.total, "passes");
    }
}

impl Loaded {
    /// The last hidden states of what counts in each batch.
    pub(super) fn walk(&self, batches: &[Batch<'_>], passes: &mut Passes<'_>) -> Result<Vec<Tensor>> {
        let mut states = self.embed(batches)?;
        for index in 0..self.config().num_layers {
            let block = self.block(index)?;
            states.advance::<ModelError>(|_, hidden, context| {
                let next = block.forward(hidden, context, &mut ())?;
                passes.step();
                Ok(next)
            })?;
        }
        let gathered = batches.iter().enumerate().map(|(index, batch)| Ok(batch.gather(&states.get(index)?)?));
        Ok(gathered.collect::<Result<_, ModelError>>()?)
    }

    fn embed(&self, batches: &[Batch<'_>]) -> Result<HiddenStates, ModelError> {
        let (config, checkpoint) = (self.config(), self.checkpoint());
        let (mut ids, contexts): (Vec<_>, Vec<_>) = batches.iter().map(Batch::padded).unzip();
        let mut states = HiddenStates::in_memory(contexts, config.hidden_size, self.device());
        states.embed(config, checkpoint, |index| std::mem::take(&mut ids[index]).into())?;
        checkpoint.drop_pages([config.weight_of(EMBEDDINGS).as_str()]);
        Ok(states)
    }

    fn block(&self, index: usize) -> Result<Block, ModelError> {
        let mut block =
            Block::load_for_scoring(self.config(), self.checkpoint(), index, Precision::F32, self.device())?;
        self.checkpoint().drop_block_pages(index);
        self.quantizers().put_on_block(index, &mut block)?;
        Ok(block)
    }

    /// The final norm and `lm_head`, which take the hidden states of [`walk`](Self::walk).
    pub(super) fn head(&self) -> Result<Head> {
        let mut head = Head::load_for_scoring(self.config(), self.checkpoint(), Precision::F32, self.device())?;
        self.checkpoint().drop_pages([self.config().weight_of(LM_HEAD).as_str()]);
        self.quantizers().put_on_head(&mut head);
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_whole_batches_of_everything_in_order() {
        let hidden = 1 << 10;
        let most = ROOM / 4 / hidden;
        let lens = [most / 2, most / 2, 1, most, 3 * most, 1, 1];
        assert_eq!(groups(&lens, 1, hidden), [0..2, 2..3, 3..4, 4..5, 5..7]);
        // A batch takes the room of its longest sequence, for each.
        assert_eq!(groups(&lens, 2, hidden), [0..2, 2..4, 4..6, 6..7]);
        assert_eq!(groups(&lens[..2], 100, hidden).first(), Some(&(0..2)));
        assert!(groups(&[], 4, hidden).is_empty());
    }

    #[test]
    fn what_counts_is_what_is_predicted() {
        let sequences = [(&[5, 6, 7][..], 1), (&[8, 9, 1, 2, 3][..], 3)];
        let batch = Batch::of(&sequences.map(|(ids, scored)| Sequence { ids, scored }));
        assert_eq!(batch.positions, [(0, 0), (0, 1), (1, 2), (1, 3)]);
        assert_eq!(batch.targets, [6, 7, 2, 3]);
        let (ids, context) = batch.padded();
        assert_eq!(ids, [5, 6, 6, 6, 8, 9, 1, 2]);
        assert_eq!((context.lens(), context.len()), (&[2, 4][..], 4));
    }
}
