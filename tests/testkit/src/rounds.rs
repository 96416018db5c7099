//! Long forms of tests.

/// How often a test does what it can do many times: what `ROUNDS` says in the environment, once where it says nothing.
///
/// # Panics
/// It is no number.
pub fn rounds() -> usize {
    std::env::var("ROUNDS").map_or(1, |rounds| rounds.parse().expect("ROUNDS is a number"))
}
