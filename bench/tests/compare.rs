//! The comparison itself, on what needs nothing installed: both variants of the floor.

use std::{fs, process::Command};

use serde_json::Value;

#[test]
fn both_variants_of_the_floor_deliver_everything_and_are_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["--rounds", "2", "--seconds", "0.5", "--room-only", "--only", "floor", "--out"])
        .arg(dir.path())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("compare: 4 runs, 0 failed"), "{said}");

    let json = fs::read(dir.path().join("compare.json")).expect("written");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    let runs = json["room"].as_array().expect("runs");
    let names: Vec<_> = runs.iter().map(|run| run["system"].as_str().expect("a name")).collect();
    assert_eq!(names, ["floor epoll", "floor uring", "floor uring", "floor epoll"], "in turn");
    for run in runs {
        assert_eq!(
            (&run["delivered"], &run["lost"], &run["disordered"]),
            (&40_000.into(), &0.into(), &0.into())
        );
        assert!(run["cpu_us"].as_f64().expect("a figure") > 0.0);
    }
    let text = fs::read_to_string(dir.path().join("compare.md")).expect("written");
    assert!(text.contains("| floor uring ") && text.contains("The floor is its faster variant"), "{text}");
    let chart = fs::read_to_string(dir.path().join("cpu.svg")).expect("written");
    assert!(chart.starts_with("<svg ") && chart.contains("floor epoll"));
}

#[test]
fn a_name_that_no_system_has_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["--only", "apache", "--out", "."])
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--only names no system"));
}
