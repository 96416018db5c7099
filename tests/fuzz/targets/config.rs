#![no_main]
//! Configuration: any file and any `--set` is a configuration that reads back as itself, or mistakes of one line each.

use std::{
    cell::RefCell,
    fs::File,
    io::{Seek, SeekFrom, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use comet::config::CometConfig;
use config::{Loaded, Mistakes, load};
use fuzz::bounded;
use job::config::JobConfig;
use libfuzzer_sys::fuzz_target;
use logic::config::{Expire, LogicConfig};
use serde::{Deserialize, Serialize};

/// As the `halley` program has it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    comet: CometConfig,
    logic: LogicConfig,
    job: JobConfig,
}

const UNUSED: [&str; 4] = ["logic.httpServer.network", "logic.rpcClient.*", "job.room.idle", "job.comet.*"];

fuzz_target!(|input: &[u8]| bounded(|| {
    // A file, then as many sets as there are, with zeros between.
    let mut parts = input.split(|byte| *byte == 0);
    let text = parts.next().unwrap_or_default();
    let sets: Vec<String> = parts.map(|set| String::from_utf8_lossy(set).into_owned()).collect();
    match read(text, &sets) {
        Ok(Loaded { config, unused }) => {
            assert!(unused.iter().all(|key| is_one_line(key)));
            usable(&config);
            reads_back(&config);
        }
        Err(mistakes) => {
            let lines = mistakes.lines();
            assert!(!lines.is_empty() && lines.iter().all(|line| is_one_line(line)), "{mistakes}");
        }
    }
}));

fn read(text: &[u8], sets: &[String]) -> Result<Loaded<Config>, Mistakes> {
    thread_local! {
        static FILE: RefCell<(File, PathBuf)> = {
            let file = tempfile::tempfile().expect("a temporary file");
            let path = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string());
            RefCell::new((file, path))
        };
    }
    FILE.with_borrow_mut(|(file, path)| {
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(text))
            .expect("room for a small file");
        load(Some(path.as_path()), sets, &UNUSED)
    })
}

/// What the program does with it before it binds a port.
fn usable(config: &Config) {
    for error in
        config.logic.check("logic.", Expire::secs::<1800>()).into_iter().chain(config.comet.check("comet."))
    {
        assert!(is_one_line(&error.to_string()), "{error}");
    }
    config.comet.shard(3, 1000);
}

fn reads_back(config: &Config) {
    let text = toml::to_string(config).expect("a configuration is TOML");
    let again = read(text.as_bytes(), &[]).expect("what was written reads back");
    // As text: a number that is none differs from itself.
    assert_eq!(toml::to_string(&again.config).expect("a configuration is TOML"), text);
}

fn is_one_line(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}
