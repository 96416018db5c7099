//! What was found: a count and some examples of each kind.

use std::{collections::BTreeMap, fmt};

/// Examples that are kept of each kind.
const EXAMPLES: usize = 5;

/// Everything that can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Accepted for a receiver that was there all the time, never received, and in no counter.
    Lost,
    /// The same, but counters of drops, or the answer's own `offline`, cover it.
    LostButCounted,
    /// A connection received a push twice, or one that was refused.
    Doubled,
    /// A connection received pushes to one key, or one room, in another order than they were accepted in.
    Reordered,
    /// After the trouble a client is not connected, or a push does not reach it exactly once.
    Unreachable,
    /// After the trouble the online API does not say what is.
    CountedWrong,
    /// A program is not ready after the trouble, or was ready in it when it must not be.
    NotReady,
    /// Accepted for a key that came or went meanwhile, not received, and in no counter.
    InNoCounter,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 8] = [
        Verdict::Lost,
        Verdict::LostButCounted,
        Verdict::Doubled,
        Verdict::Reordered,
        Verdict::Unreachable,
        Verdict::CountedWrong,
        Verdict::NotReady,
        Verdict::InNoCounter,
    ];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Lost => "lost",
            Verdict::LostButCounted => "lost, counted",
            Verdict::Doubled => "doubled",
            Verdict::Reordered => "reordered",
            Verdict::Unreachable => "unreachable",
            Verdict::CountedWrong => "counted wrong",
            Verdict::NotReady => "not ready",
            Verdict::InNoCounter => "in no counter",
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Finding {
    count: u64,
    examples: Vec<String>,
}

/// All findings of a run.
#[derive(Clone, Debug, Default)]
pub struct Book(BTreeMap<Verdict, Finding>);

impl Book {
    /// Notes one.
    pub fn note(&mut self, verdict: Verdict, example: impl FnOnce() -> String) {
        self.note_many(verdict, 1, example);
    }

    /// Notes several with one example.
    pub fn note_many(&mut self, verdict: Verdict, count: u64, example: impl FnOnce() -> String) {
        if count == 0 {
            return;
        }
        let finding = self.0.entry(verdict).or_default();
        finding.count += count;
        if finding.examples.len() < EXAMPLES {
            finding.examples.push(example());
        }
    }

    /// How many of a kind there are.
    pub fn count(&self, verdict: Verdict) -> u64 {
        self.0.get(&verdict).map_or(0, |finding| finding.count)
    }

    /// Examples of a kind.
    pub fn examples(&self, verdict: Verdict) -> &[String] {
        self.0.get(&verdict).map_or(&[], |finding| finding.examples.as_slice())
    }

    /// Takes in what another found.
    pub fn add(&mut self, other: Book) {
        for (verdict, finding) in other.0 {
            let ours = self.0.entry(verdict).or_default();
            ours.count += finding.count;
            ours.examples.extend(finding.examples);
            ours.examples.truncate(EXAMPLES);
        }
    }

    /// What goes beyond what is allowed, a line each with its examples; nothing when all is well.
    pub fn beyond(&self, allowed: &Allowed) -> Option<String> {
        let too_many = |(verdict, finding): (&Verdict, &Finding)| {
            let limit = allowed.limit(*verdict);
            (finding.count > limit).then(|| {
                let examples = finding.examples.join("\n      ");
                format!("{}: {} ({limit} allowed)\n      {examples}", verdict.word(), finding.count)
            })
        };
        let lines: Vec<String> = self.0.iter().filter_map(too_many).collect();
        (!lines.is_empty()).then(|| lines.join("\n    "))
    }

    /// Fails a test with what goes beyond what is allowed.
    ///
    /// # Panics
    /// When anything does.
    #[track_caller]
    pub fn expect(&self, allowed: &Allowed) {
        if let Some(beyond) = self.beyond(allowed) {
            panic!("the ledger says:\n    {beyond}");
        }
    }
}

impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.iter().map(|(verdict, finding)| format!("{} {}", finding.count, verdict.word()));
        let counts: Vec<String> = counts.collect();
        f.write_str(if counts.is_empty() { "nothing" } else { "" })?;
        f.write_str(&counts.join(", "))
    }
}

/// How many of each kind a run may have; none unless it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(BTreeMap<Verdict, u64>);

impl Allowed {
    /// Nothing.
    pub fn nothing() -> Allowed {
        Allowed::default()
    }

    /// So many of a kind, too; the larger number of two counts.
    #[must_use]
    pub fn and(mut self, verdict: Verdict, count: u64) -> Allowed {
        let limit = self.0.entry(verdict).or_default();
        *limit = (*limit).max(count);
        self
    }

    /// What either allows.
    #[must_use]
    pub fn or(self, other: &Allowed) -> Allowed {
        other.0.iter().fold(self, |all, (verdict, count)| all.and(*verdict, *count))
    }

    fn limit(&self, verdict: Verdict) -> u64 {
        self.0.get(&verdict).copied().unwrap_or(0)
    }
}
