/// Holm's step-down adjustment of a family of p-values: the adjusted value of the i-th smallest is the running maximum
/// of `(m - i) p_i` (i from 0), at most 1. Controls the chance of any false rejection under every dependence, which
/// matters here: all rows are compared with the same baseline on the same items.
///
/// Returned in the order of the input. S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]).then(a.cmp(&b)));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut running = 0.0_f64;
    for (rank, &index) in order.iter().enumerate() {
        let scaled = (p_values.len() - rank) as f64 * p_values[index];
        running = running.max(scaled).min(1.0);
        adjusted[index] = running;
    }
    adjusted
}
