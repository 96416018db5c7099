//! Hands the git commit to `src/build.rs`.

use std::{path::Path, process::Command};

fn main() {
    // For builds without a repository around them, such as from a source archive.
    println!("cargo:rerun-if-env-changed=HALLEY_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    let given = std::env::var("HALLEY_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| git(&["rev-parse", "--short", "HEAD"]));
    // HEAD changes with the branch, not with each commit: to follow those would build every crate above this one anew
    // after each. A file that is not there would do the same.
    if let Some(head) = git(&["rev-parse", "--git-path", "HEAD"]).filter(|head| Path::new(head).exists()) {
        println!("cargo:rerun-if-changed={head}");
    }
    println!("cargo:rustc-env=HALLEY_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// One line of git's output; none without git or without a repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}
