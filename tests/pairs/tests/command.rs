//! The program `pairs`: what it says of itself. (That this needs the program lets cargo build it with the tests.)

use std::process::{Command, Output};

fn pairs(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pairs")).args(arguments).output().expect("it starts")
}

#[test]
fn the_list_names_every_pair_and_why_others_are_left_out() {
    let list = String::from_utf8(pairs(&["--list"]).stdout).expect("text");
    let lines: Vec<&str> = list.lines().filter(|line| !line.starts_with("--")).collect();
    let (left_out, run): (Vec<&str>, Vec<&str>) =
        lines.iter().partition(|line| line.contains(": left out, "));
    assert!(run.contains(&"streams / comet frozen / hop"), "{list}");
    assert!(left_out.iter().any(|line| line.starts_with("streams / kafka dead / pushes: ")), "{list}");
    assert!(list.lines().any(|line| line.starts_with("--scenario calm: ")), "{list}");
}

#[test]
fn what_there_is_not_is_refused() {
    for arguments in [["--only", "no such pair"], ["--scenario", "none"]] {
        let output = pairs(&arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--list"), "{output:?}");
    }
}
