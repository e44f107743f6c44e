//! Medians and spread of a few rounds.

use serde::{Deserialize, Serialize};

/// The middle of some values, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// As many values are above as below; of an even number the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// `None` when there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }
}

/// The median alone; 0 of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(values).map_or(0.0, |spread| spread.median)
}

/// The position of the value that is closest to the median: the run to show when one is to stand
/// for all.
pub fn most_typical(values: &[f64]) -> Option<usize> {
    let middle = median(values.iter().copied());
    let distance = |at: &usize| (values[*at] - middle).abs();
    (0..values.len()).min_by(|left, right| distance(left).total_cmp(&distance(right)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_one_outlier_does_not_move_it() {
        let odd = Spread::of([3.0, 1.0, 100.0]).expect("values");
        assert_eq!((odd.median, odd.min, odd.max), (3.0, 1.0, 100.0));
        let even = Spread::of([4.0, 1.0, 2.0, 3.0]).expect("values");
        assert_eq!((even.median, even.min, even.max), (2.5, 1.0, 4.0));
        assert_eq!(Spread::of([7.0]).expect("a value").median, 7.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn the_typical_run_is_the_one_next_to_the_median() {
        assert_eq!(most_typical(&[9.0, 2.0, 3.0, 2.5, 1.0]), Some(3));
        assert_eq!(most_typical(&[5.0]), Some(0));
        assert_eq!(most_typical(&[]), None);
    }
}
