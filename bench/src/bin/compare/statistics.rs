//! Medians, and how sure a ratio is.

use serde::Serialize;

/// A median with an interval of confidence that assumes nothing about the distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Median {
    /// The median.
    pub(crate) value: f64,
    /// The interval's ends: two of the values themselves.
    pub(crate) low: f64,
    /// The upper end.
    pub(crate) high: f64,
    /// How likely the interval holds the true median, percent.
    pub(crate) confidence: f64,
    /// How many values there were.
    pub(crate) count: usize,
}

/// The median of `values`, with the narrowest interval of order statistics that holds the true one with 95 % (sign test:
/// of nine values the second and the eighth); all values where there are too few for that. None of none.
pub(crate) fn median(values: &[f64]) -> Option<Median> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let middle = *sorted.get(count / 2)?;
    let value = if count % 2 == 1 { middle } else { f64::midpoint(sorted[count / 2 - 1], middle) };
    // Outside of all values with probability 2 / 2^n; each step inwards adds twice the next binomial term.
    let mut term = 0.5_f64.powi(count as i32);
    let (mut outside, mut skip) = (2.0 * term, 0);
    loop {
        term *= (count - skip) as f64 / (skip + 1) as f64;
        if outside + 2.0 * term > 0.05 || 2 * (skip + 1) >= count {
            break;
        }
        outside += 2.0 * term;
        skip += 1;
    }
    Some(Median {
        value,
        low: sorted[skip],
        high: sorted[count - 1 - skip],
        confidence: 100.0 * (1.0 - outside).max(0.0),
        count,
    })
}

/// The median of the ratios of pairs taken side by side.
pub(crate) fn ratio(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Median> {
    median(&pairs.into_iter().map(|(of, to)| of / to).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_values_give_the_second_and_the_eighth() {
        let m = median(&[9., 1., 8., 2., 7., 3., 6., 4., 5.]).expect("nine");
        assert_eq!((m.value, m.low, m.high, m.count), (5., 2., 8., 9));
        assert!((m.confidence - 96.1).abs() < 0.1, "{}", m.confidence);
    }

    #[test]
    fn few_values_give_all_of_them_and_say_how_little_that_is() {
        let m = median(&[3., 1., 2.]).expect("three");
        assert_eq!((m.value, m.low, m.high), (2., 1., 3.));
        assert!((m.confidence - 75.0).abs() < 0.1);
        assert_eq!(median(&[1., 2.]).expect("two").value, 1.5);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_ratio_is_taken_pair_by_pair() {
        let m = ratio([(2., 1.), (20., 10.), (3., 1.)]).expect("three");
        assert_eq!((m.value, m.low, m.high), (2., 2., 3.));
    }
}
