//! What a program's `/metrics` says.

use std::collections::BTreeMap;

/// Samples by name and labels, as they are written there.
#[derive(Clone, Debug, Default)]
pub struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// Reads the text form.
    pub fn parse(text: &str) -> Samples {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Samples(samples.collect())
    }

    /// The sum over all samples of a name (`_total` included) whose labels hold every one of these pairs.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let is_meant = |sample: &str| {
            let (its_name, its_labels) = sample.split_once('{').unwrap_or((sample, ""));
            its_name == name && wanted.iter().all(|pair| its_labels.contains(pair))
        };
        self.0.iter().filter(|(sample, _)| is_meant(sample)).map(|(_, value)| value).sum()
    }

    /// Adds another's, sample by sample: counters of one program that was started several times.
    pub(super) fn add(&mut self, other: Samples) {
        for (sample, value) in other.0 {
            *self.0.entry(sample).or_default() += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels_and_starts() {
        let text =
            "# TYPE d counter\nd_total{reason=\"a\"} 2\nd_total{reason=\"b\"} 3\nd_totals 9\nup 1\n# EOF\n";
        let mut samples = Samples::parse(text);
        assert_eq!(samples.sum("d_total", &[]), 5.0);
        assert_eq!(samples.sum("d_total", &[("reason", "b")]), 3.0);
        assert_eq!(samples.sum("up", &[]), 1.0);
        samples.add(Samples::parse("d_total{reason=\"b\"} 4\n"));
        assert_eq!((samples.sum("d_total", &[]), samples.sum("nothing", &[])), (9.0, 0.0));
    }
}
