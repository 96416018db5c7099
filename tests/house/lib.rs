//! Nothing: the rules of the tree are tests (`tests/rules.rs`, `tests/circles.rs`), which `make lint` runs.
#![forbid(unsafe_code)]
