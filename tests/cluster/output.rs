//! The programs of a cluster with what nobody thinks of: a log that cannot be written, signals, idle probes. They need no
//! server for that, so none is started.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    harness::{Http, PATIENCE, Stopwatch, eventually, http, metrics::Metrics},
    world::program,
};

/// A program whose standard output and error are full, at an address that nobody else has, as nobody is told which port was
/// chosen.
struct Mute {
    name: &'static str,
    child: Child,
    /// Its metrics and health.
    http: SocketAddr,
}

impl Mute {
    fn start(name: &'static str, number: u8) -> Mute {
        let pid = std::process::id();
        let ip = format!("127.{number}.{}.{}", pid >> 8 & 255, pid & 255);
        let mut addresses = match name {
            "comet" => vec!["tcp.bind", "websocket.bind", "rpcServer.addr"],
            "logic" => vec!["rpcServer.addr"],
            _ => Vec::new(),
        };
        let http = if name == "logic" { "httpServer.addr" } else { "admin.addr" };
        addresses.push(http);
        let port = |key: &str| if key == http { 3111 } else { 0 };
        let mut sets: Vec<String> = addresses.iter().map(|key| format!("{key}={ip}:{}", port(key))).collect();
        sets.push("discovery.nodes=127.0.0.1:1".to_owned());
        match name {
            "comet" => sets.extend(["reactor.ringEntries=256", "drain.spread=0s"].map(str::to_owned)),
            _ => sets.extend(["redis.addr=127.0.0.1:1", "consume.redisEnable=true"].map(str::to_owned)),
        }
        let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
        let mut command = Command::new(program(name));
        command.args(sets.iter().flat_map(|set| ["--set", set])).stdin(Stdio::null());
        let child = command.stdout(full()).stderr(full()).spawn().expect("it starts");
        let mute = Mute { name, child, http: format!("{ip}:3111").parse().expect("an address") };
        eventually("it listens", || TcpStream::connect_timeout(&mute.http, PATIENCE).ok());
        mute
    }

    fn metrics(&self) -> Metrics {
        let accept = ["Accept: application/openmetrics-text"];
        Metrics::parse(&http::request(self.http, "GET", "/metrics", &accept, b"").body)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    fn is_healthy(&self) -> bool {
        http::request(self.http, "GET", "/healthz", &[], b"").status == 200
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn all() -> [Mute; 3] {
    [Mute::start("comet", 202), Mute::start("logic", 203), Mute::start("job", 204)]
}

/// Each was aborted by its first line.
#[test]
fn every_program_serves_while_its_log_cannot_be_written_and_sigquit_ends_it_properly() {
    for mut program in all() {
        let name = program.name;
        assert!(program.is_healthy(), "{name}");
        let lost = eventually("the start lines are counted", || {
            Some(program.metrics().count("halley_log_lines_lost_total")).filter(|lost| *lost >= 3.0)
        });
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM] {
            program.signal(signal);
        }
        eventually("their lines are counted", || {
            (program.metrics().count("halley_log_lines_lost_total") >= lost + 4.0).then_some(())
        });
        program.signal(Signal::QUIT);
        let limit = Duration::from_secs(30);
        let status = crate::harness::within(limit, name, || program.child.try_wait().expect("a child"));
        assert_eq!(status.code(), Some(0), "{name}");
    }
}

#[test]
fn every_program_has_every_series_from_the_start_and_speaks_both_formats() {
    for program in all() {
        let metrics = program.metrics();
        assert_eq!(metrics.families_without_samples(), [""; 0], "{}", program.name);
        let answer =
            http::request(program.http, "GET", "/metrics", &["Accept: text/plain;version=0.0.4"], b"");
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        assert!(answer.body.starts_with("# HELP halley_build_info "), "{}", answer.body);
    }
}

/// The admin port has 64 places; idle probes and half a request held them all.
#[test]
fn idle_connections_to_the_admin_port_keep_no_probe_waiting() {
    for program in [Mute::start("comet", 205), Mute::start("job", 206)] {
        let idle: Vec<Http> = (0..100)
            .map(|n| {
                let mut connection = Http::connect(program.http);
                if n % 2 == 0 {
                    connection.send("GET", "/healthz", &[], b"");
                    assert_eq!(connection.answer().status, 200);
                } else {
                    connection.write(b"GET /healthz HTTP/1.1\r\nHo".to_vec());
                }
                connection
            })
            .collect();
        let started = Stopwatch::start();
        assert!(program.is_healthy());
        assert!(started.elapsed() < Duration::from_secs(5), "{}: {:?}", program.name, started.elapsed());
        assert!(program.metrics().sum("halley_http_closed_total") > 0.0);
        drop(idle);
    }
}

#[test]
fn an_answer_that_cannot_be_printed_is_a_status_of_every_program() {
    for name in ["comet", "logic", "job", "loadgen"] {
        for question in ["--help", "--version", "--print-default-config"] {
            if name == "loadgen" && question == "--print-default-config" {
                continue;
            }
            let full = File::options().write(true).open("/dev/full").expect("Linux has it");
            let output =
                Command::new(program(name)).arg(question).stdout(full).stderr(Stdio::piped()).output();
            let output = output.expect("it starts");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(74), "{name} {question}: {said}");
            assert!(said.starts_with(name) && said.lines().count() == 1, "{name} {question}: {said}");
        }
    }
}
