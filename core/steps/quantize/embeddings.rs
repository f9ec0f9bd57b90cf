//! What the host itself does to embeddings and head: the embeddings, which are looked up and have no activations to go by, and
//! an `lm_head` that is the same tensor or that the method cannot take.

use workbench_model::{
    Checkpoint,
    arch::{EMBEDDINGS, LM_HEAD},
};

use super::{super::schemes::grid_of, rounded::Rounded};
use crate::{
    error::{Error, Result},
    graph::{
        embeddings::{Asked, EMBEDDINGS_AND_HEAD, EmbeddingsAndHead},
        params::Group,
    },
};

/// Embeddings and head of the model that is made.
pub(super) struct RoundedEmbeddingsAndHead {
    /// The embeddings, rounded to nearest.
    pub embeddings: Option<Rounded>,
    /// `lm_head`, where the method does not quantize it; that of `embeddings` where both are one tensor.
    head: Option<Rounded>,
    shared: bool,
    /// Whether the head gets a weight of its own, which the model does not have.
    pub unties: bool,
    /// Which of both are quantized.
    pub quantized: Vec<&'static str>,
    /// What a reader of the result has to know.
    pub remarks: Vec<String>,
}

impl RoundedEmbeddingsAndHead {
    /// Chooses the scales of what is rounded here. `by_block` says that the method takes blocks as a whole.
    ///
    /// # Errors
    /// The choice of schemes does not fit the model, or a tensor cannot be read.
    pub(super) fn new(
        groups: &[Group],
        untie: bool,
        checkpoint: &Checkpoint,
        method: &str,
        by_block: bool,
    ) -> Result<Self> {
        let [head, embeddings] = EMBEDDINGS_AND_HEAD.map(|module| group(groups, module));
        let tied = checkpoint.config().tie_word_embeddings;
        let embeddings_and_head =
            EmbeddingsAndHead { head: head.map(Asked::from), embeddings: embeddings.map(Asked::from), tied, untie };
        embeddings_and_head.check().map_err(|problem| Error::refused(problem.message).hint(problem.hint))?;
        let rounded = |module: &str, group: Option<&Group>| -> Result<Option<Rounded>> {
            let Some((group, args)) = group.and_then(|g| Some((g, g.scheme.args.weights.as_ref()?))) else {
                return Ok(None);
            };
            let grid = grid_of(checkpoint.into(), module, args, group.scheme.conventions)?;
            Rounded::new(checkpoint, checkpoint.config().weight_of(module), &grid).map(Some)
        };
        let shared = embeddings_and_head.is_shared();
        Ok(Self {
            embeddings: rounded(EMBEDDINGS, embeddings)?,
            head: rounded(LM_HEAD, head.filter(|_| by_block && !shared))?,
            shared,
            unties: embeddings_and_head.unties(),
            quantized: EMBEDDINGS_AND_HEAD.into_iter().filter(|module| group(groups, module).is_some()).collect(),
            remarks: embeddings_and_head.remarks(method, by_block),
        })
    }

    /// What is rounded here of a linear; `None` where the method quantizes it.
    pub(super) fn of_linear(&self, module: &str) -> Option<&Rounded> {
        let head = if self.shared { self.embeddings.as_ref() } else { self.head.as_ref() };
        head.filter(|_| module == LM_HEAD)
    }
}

impl<'a> From<&'a Group> for Asked<'a> {
    fn from(group: &'a Group) -> Self {
        Self { scheme: &group.scheme.args, conventions: group.scheme.conventions }
    }
}

fn group<'a>(groups: &'a [Group], module: &str) -> Option<&'a Group> {
    groups.iter().find(|group| group.modules.iter().any(|name| name == module))
}
