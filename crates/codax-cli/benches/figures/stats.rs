//! Median and spread.

/// Middle value.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (q * (sorted.len() - 1) as f64).round();
    sorted[at as usize]
}

/// Median, and the range in which the middle half of the values lies.
pub fn spread(values: &[f64], unit: &str) -> String {
    format!(
        "{:.3} {unit} (middle half {:.3} to {:.3}, {} rounds)",
        median(values),
        quantile(values, 0.25),
        quantile(values, 0.75),
        values.len()
    )
}

/// Ratios of pairs measured next to each other.
pub fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a / b).collect()
}
