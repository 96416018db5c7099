//! `sim`.
#![forbid(unsafe_code)]

use sim::{run::run, trace::Lines};

fn main() {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let lines = if std::env::args().any(|a| a == "--trace") { Lines::Print } else { Lines::Off };
    for seed in args[0]..args[0] + args.get(1).copied().unwrap_or(1) {
        println!("seed {seed}: {:?}", run(seed, None, lines));
    }
}
