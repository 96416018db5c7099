//! What `/metrics` says, read strictly enough that a scraper would be content.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    samples: BTreeMap<String, f64>,
    /// Name and type of each family.
    families: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads OpenMetrics text: every sample belongs to the family announced last, no family and no sample is there twice,
    /// and the end is marked.
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Metrics {
        let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
        let mut family = String::new();
        let Some(text) = text.strip_suffix("# EOF\n") else { panic!("no end mark in:\n{text}") };
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                family = name.to_owned();
                let before = families.insert(family.clone(), kind.to_owned());
                assert_eq!(before, None, "{name} is announced twice");
            } else if !line.starts_with("# ") {
                let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                assert!(name.starts_with(&family), "{name} stands under {family}");
                let value = value.parse().unwrap_or_else(|_| panic!("no number in {line:?}"));
                assert!(samples.insert(name.to_owned(), value).is_none(), "{name} is there twice");
            }
        }
        Metrics { samples, families }
    }

    /// Value of a sample, named with its labels as they stand.
    pub(crate) fn get(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }

    /// Value of a counter, 0 when it never moved.
    pub(crate) fn count(&self, sample: &str) -> f64 {
        self.get(sample).unwrap_or(0.0)
    }

    /// Sum over all labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of_name = |sample: &str| {
            sample.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        self.samples.iter().filter(|(sample, _)| of_name(sample)).map(|(_, value)| value).sum()
    }

    /// Families that are announced and have no sample.
    pub(crate) fn families_without_samples(&self) -> Vec<&str> {
        let has_one = |family: &str| self.samples.keys().any(|sample| sample.starts_with(family));
        self.families.keys().map(String::as_str).filter(|family| !has_one(family)).collect()
    }

    /// Type of a family.
    pub(crate) fn family(&self, name: &str) -> Option<&str> {
        self.families.get(name).map(String::as_str)
    }
}
