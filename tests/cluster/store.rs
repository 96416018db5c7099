//! What stands in Redis and etcd, read and written as goim's programs, or an operator, would.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use services::{Etcd, Redis};

use crate::harness::PATIENCE;

/// One command on a connection of its own: a text as it is, else the first line of the answer without the sign of a number.
#[track_caller]
pub(crate) fn redis_bytes(redis: &Redis, words: &[&[u8]]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    let mut stream = BufReader::new(TcpStream::connect(redis.addr()).expect("Redis accepts"));
    stream.get_ref().set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream.get_mut().write_all(&command).expect("written");
    let mut line = String::new();
    stream.read_line(&mut line).expect("an answer");
    if let Some(len) = line.strip_prefix('$').and_then(|len| len.trim_end().parse::<usize>().ok()) {
        let mut text = vec![0; len];
        stream.read_exact(&mut text).expect("the whole answer");
        return text;
    }
    line.trim_end().trim_start_matches(':').into()
}

/// The same in text.
#[track_caller]
pub(crate) fn redis(server: &Redis, words: &[&str]) -> String {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    String::from_utf8_lossy(&redis_bytes(server, &words)).into_owned()
}

/// Every session in Redis: of a text the value, of a hash a row for each field, named `key field`.
#[track_caller]
pub(crate) fn sessions(server: &Redis) -> BTreeMap<String, String> {
    const DUMP: &str = "local rows = {} \
        for _, key in ipairs(redis.call('KEYS', 'golang_im:*')) do \
          if string.find(key, '^golang_im:mid_') then \
            local pairs = redis.call('HGETALL', key) \
            for n = 1, #pairs, 2 do rows[#rows + 1] = key .. ' ' .. pairs[n] .. '\\t' .. pairs[n + 1] end \
          elseif string.find(key, '^golang_im:[kg]e[yn]_') then \
            rows[#rows + 1] = key .. '\\t' .. redis.call('GET', key) \
          end \
        end \
        return table.concat(rows, '\\n')";
    let dump = redis(server, &["EVAL", DUMP, "0"]);
    let row = |line: &str| {
        let (key, value) = line.split_once('\t').unwrap_or_else(|| panic!("no row: {dump:?}"));
        (key.to_owned(), value.to_owned())
    };
    dump.lines().map(row).collect()
}

/// `etcdctl` with these words; what it prints, line by line.
#[track_caller]
pub(crate) fn etcdctl(etcd: &Etcd, args: &[&str]) -> Vec<String> {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.addr()])
        .args(args)
        .output()
        .expect("etcdctl (`make deps` installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}
