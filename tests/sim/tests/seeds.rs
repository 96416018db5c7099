//! What a seed promises, and what the simulator is for.

use std::process::Command;

use seam::Bug;
use sim::{
    run::{Seeds, run, run_many},
    trace::Lines,
};

/// Seeds that each planted bug is looked for in: those that `make test` runs.
const SEEDS: u64 = 500;

/// The number of a seed's trace, as another process comes to it.
fn trace_of_another_process(seed: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--seed", &seed.to_string()])
        .output()
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let trace = text.split("trace ").nth(1).and_then(|rest| rest.split_whitespace().next());
    trace.unwrap_or_else(|| panic!("no trace in {text}")).to_owned()
}

#[test]
fn a_seed_is_the_same_in_every_process_and_on_every_thread() {
    for seed in 0..12 {
        let here = run(seed, None, Lines::Off).expect("a clean seed");
        let there = std::thread::spawn(move || run(seed, None, Lines::Last).expect("a clean seed"));
        assert_eq!(here.hash, there.join().expect("no panic").hash, "seed {seed} on another thread");
        assert_eq!(format!("{:016x}", here.hash), trace_of_another_process(seed), "seed {seed} elsewhere");
    }
}

#[test]
fn seeds_differ() {
    let mut traces: Vec<u64> =
        (0..50).map(|seed| run(seed, None, Lines::Off).expect("a clean seed").hash).collect();
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 50);
}

#[test]
fn a_failure_is_replayed_to_the_same_event() {
    let seeds = Seeds { first: 0, count: SEEDS, bug: Some(Bug::ReloginRace), until_failure: true };
    let total = run_many(seeds, |_, _| ());
    let found = total.failures.first().expect("a planted bug is found");
    let again = run(found.seed, Some(Bug::ReloginRace), Lines::Last).expect_err("it is still there");
    assert_eq!((&again.what, again.hash, again.events), (&found.what, found.hash, found.events));
    assert!(!again.lines.is_empty(), "and this time with words");
}

#[test]
fn every_planted_bug_is_found() {
    for (name, bug) in Bug::ALL {
        let seeds = Seeds { first: 0, count: SEEDS, bug: Some(*bug), until_failure: true };
        let total = run_many(seeds, |_, _| ());
        assert!(!total.failures.is_empty(), "{name} is not found in {SEEDS} seeds");
    }
}
