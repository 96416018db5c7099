//! Asking for io_uring, with and without the memory for it.

use std::{os::unix::process::CommandExt, process::Command};

use halley_ring::{Refusal, probe_io_uring};

const ENTRIES: u32 = 1024;

/// Exit codes of the child below.
const REFUSED_FOR_MEMORY: i32 = 10;
const ALLOWED: i32 = 11;
const REFUSED_OTHERWISE: i32 = 12;

#[test]
fn the_real_rings_are_allowed_or_the_reason_is_named() {
    match probe_io_uring(ENTRIES, 4) {
        Ok(()) => {}
        Err(Refusal::Other(error)) => panic!("a cause nobody named: {error}"),
        Err(refusal) => eprintln!("SKIPPED: {refusal}"),
    }
}

/// Root is exempt from the memory limit, so the question is asked by a child without privileges.
#[test]
fn rings_beyond_the_memory_limit_are_refused_with_its_name() {
    if let Err(refusal) = probe_io_uring(ENTRIES, 1) {
        assert!(std::env::var_os("REQUIRE_REAL").is_none(), "{refusal}");
        eprintln!("SKIPPED: {refusal}");
        return;
    }
    let mut child = Command::new("/bin/sh");
    let test_program = std::env::current_exe().unwrap();
    child
        .args(["-c", "ulimit -l 64 && exec \"$0\" --exact child_asks_for_rings --ignored"])
        .arg(test_program);
    if rustix::process::geteuid().is_root() {
        child.uid(65_534).gid(65_534).current_dir("/");
    }
    let output = child.output().expect("a shell");
    match output.status.code() {
        Some(REFUSED_FOR_MEMORY) => {}
        Some(ALLOWED) => eprintln!("SKIPPED: this kernel does not count rings against RLIMIT_MEMLOCK"),
        Some(126 | 127) => eprintln!("SKIPPED: user 65534 may not run the test program"),
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
#[ignore = "runs as the child of the test above"]
fn child_asks_for_rings() {
    let code = match probe_io_uring(ENTRIES, 1) {
        Err(Refusal::Memory { memlock_bytes: Some(65_536), .. }) => REFUSED_FOR_MEMORY,
        Err(refusal) => {
            eprintln!("{refusal}");
            REFUSED_OTHERWISE
        }
        Ok(()) => ALLOWED,
    };
    std::process::exit(code);
}
