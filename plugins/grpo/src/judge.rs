//! The host as the judge of what a policy writes.

use workbench_api::rollouts::Completions;
use workbench_api::sdk::Host;
use workbench_train::{Judge, Judged, TrainError};

/// Asks the host.
pub(crate) struct HostJudge<'a, 'h>(pub(crate) &'a Host<'h>);

impl Judge for HostJudge<'_, '_> {
    fn judge(&mut self, prompt: usize, completions: &[Vec<u32>]) -> Result<Vec<Judged>, TrainError> {
        let asked = Completions { prompt, completions: completions.to_vec() };
        let found = self.0.rewards(&asked).map_err(|error| {
            let hint = error.hint.clone();
            TrainError::Reward { message: error.to_string(), hint }
        })?;
        Ok(found
            .into_iter()
            .map(|judged| Judged { rewards: judged.rewards, tokens: judged.tokens, ended: judged.ended })
            .collect())
    }

    fn measured(&mut self, step: u64, name: &str, value: f64) {
        self.0.metric(step, name, value);
    }
}
