//! Statistics that a transform had gathered when it was interrupted.

use workbench_api::job::Statistic;
use workbench_model::Activations;

use super::super::common::{Resume, When};
use crate::{
    calib::{self, Found, Wanted},
    error::Result,
    exec::{Held, NodeReporter},
    progress::Progress as _,
    store::Scratch,
};

/// The scratch folder of the node, from which it goes on behind the last block.
pub(super) struct Gathered<'a> {
    resume: Resume<Found>,
    reporter: &'a NodeReporter,
    /// Comes to the end of a block before the node stops. Nothing where nothing is kept: Gram matrices of all blocks are as large as the
    /// model, and are gathered again.
    held: Option<Held<'a>>,
    blocks: usize,
}

impl<'a> Gathered<'a> {
    pub(super) fn open(scratch: &Scratch, wanted: &Wanted, blocks: usize, reporter: &'a NodeReporter) -> Result<Self> {
        let has_grams = wanted.values().any(|kinds| kinds.contains(&Statistic::Gram));
        let held = (!has_grams).then(|| reporter.hold()).transpose()?;
        Ok(Self { resume: Resume::open(scratch, "statistics.json")?, reporter, held, blocks })
    }
}

impl calib::Kept for Gathered<'_> {
    fn found(&self) -> (usize, Found) {
        (self.resume.blocks(), self.resume.progress().clone())
    }

    fn load(&self, hidden: &mut Activations) -> Result<()> {
        self.resume.load(&mut [hidden])
    }

    fn done(&mut self, blocks: usize, hidden: &Activations, found: &Found) -> Result<()> {
        let stop = self.held.as_ref().map_or(Ok(()), Held::check);
        if self.held.is_some() {
            let when = if blocks == self.blocks { When::Now } else { When::before(&stop) };
            self.resume.save(blocks, Some(&[hidden]), found, when)?;
        }
        self.reporter.progress(blocks as u64, self.blocks as u64, "blocks");
        stop
    }
}
