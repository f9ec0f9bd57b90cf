//! Gradient clipping by the norm over all parameters.

use workbench_model::decoder::Gradients;

use crate::TrainError;

/// The Euclidean norm of all gradients together, summed in f64 in the order of the names.
pub fn global_norm(gradients: &Gradients) -> Result<f64, TrainError> {
    const LANES: usize = 16;
    let mut total = 0.0;
    for (name, _) in gradients.iter() {
        let squares = gradients.read(name, |values| {
            let mut lanes = [0f64; LANES];
            for chunk in values.chunks(LANES) {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(*value) * f64::from(*value);
                }
            }
            lanes.iter().sum::<f64>()
        })?;
        total += squares.unwrap_or(0.0);
    }
    Ok(total.sqrt())
}

/// What gradients of norm `norm` are multiplied by so that they do not exceed `max_norm`; 0 stands for no limit.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 && norm > max_norm { max_norm / norm } else { 1.0 }
}
