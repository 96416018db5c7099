//! The program by itself. That it is tested here is also why cargo builds it for the tests of whole clusters.

use std::process::Command;

#[test]
fn it_reads_the_file_that_it_prints() {
    let program = || Command::new(env!("CARGO_BIN_EXE_logic"));
    let printed = program().arg("--print-default-config").output().expect("it starts");
    assert!(printed.status.success(), "{printed:?}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, &printed.stdout).expect("it is written");
    let checked =
        program().arg("--config").arg(file.path()).arg("--check-config").output().expect("it starts");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.contains("the configuration is right"), "{checked:?}");
}
