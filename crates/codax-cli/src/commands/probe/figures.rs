//! Many samples of one figure in a few numbers.

use serde::Serialize;

/// Median and spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    /// From here to `high` lies the middle half of the samples.
    pub low: f64,
    pub high: f64,
    /// How many samples there are.
    pub count: usize,
}

impl Summary {
    /// Of some samples, kept to a tenth; zeros without any.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |quarters: usize| {
            let last = samples.len().saturating_sub(1);
            let value = samples.get((last * quarters + 2) / 4).copied().unwrap_or_default();
            (value * 10.0).round() / 10.0
        };
        Self { median: at(2), low: at(1), high: at(3), count: samples.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        let five = Summary::of(vec![5.0, 1.0, 4.0, 2.0, 3.04]);
        assert_eq!(five, Summary { median: 3.0, low: 2.0, high: 4.0, count: 5 });
        assert_eq!(Summary::of(vec![7.0]), Summary { median: 7.0, low: 7.0, high: 7.0, count: 1 });
        assert_eq!(Summary::of(vec![]), Summary::default());
    }
}
