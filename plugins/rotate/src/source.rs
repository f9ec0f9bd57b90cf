//! The host as what takes the folded weights.

use workbench_api::sdk::{Error, Host, Tensor};

use crate::fold::Sink;

/// Puts tensors of the resulting model.
pub(crate) struct HostSink<'a, 'h>(pub(crate) &'a Host<'h>);

impl Sink for HostSink<'_, '_> {
    fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<(), Error> {
        self.0.put_tensor(name, Tensor::from_vec(shape, values)?)
    }

    fn progress(&mut self, done: u64, total: u64) -> Result<(), Error> {
        self.0.progress(done, total);
        self.0.check_cancelled()
    }
}
