//! What a program prints, when nobody takes it: a pipe whose reader hangs, a full disk, a closed pipe.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _, pipe},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::OFlags,
    process::{Pid, Signal, kill_process},
};

use crate::harness::{
    BOTH, Client, Http, Login, PATIENCE, Transport, eventually, http, metrics::Metrics, server::HALLEY,
};

/// `halley`, its standard error in the hands of the test.
struct Halley {
    child: Child,
    reader: Option<BufReader<PipeReader>>,
    writer: PipeWriter,
    tcp: SocketAddr,
    ws: SocketAddr,
    http: SocketAddr,
}

impl Halley {
    /// Starts one and reads what the start prints, nothing behind it.
    fn start(level: &str) -> Halley {
        let (reader, writer) = pipe().expect("a pipe");
        let sets =
            ["tcp.bind", "websocket.bind", "rpcServer.addr"].map(|key| format!("comet.{key}=127.0.0.1:0"));
        let child = Command::new(HALLEY)
            .args(sets.iter().flat_map(|set| ["--set", set]))
            .args(["--set", "logic.httpServer.addr=127.0.0.1:0", "--set", "logic.rpcServer.addr=127.0.0.1:0"])
            .args(["--set", "comet.reactor.ringEntries=256", "--set", "comet.drain.spread=0s"])
            .args(["--set", &format!("log.level={level}")])
            .stdout(Stdio::null())
            .stderr(writer.try_clone().expect("a second descriptor"))
            .spawn()
            .expect("halley starts");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut halley = Halley {
            child,
            reader: Some(BufReader::new(reader)),
            writer,
            tcp: nowhere,
            ws: nowhere,
            http: nowhere,
        };
        let [tcp, ws, http] =
            [("clients, TCP", ""), ("clients, WebSocket", "ws://"), ("HTTP API", "http://")]
                .map(|(name, scheme)| halley.row(name, scheme));
        (halley.tcp, halley.ws, halley.http) = (tcp, ws, http);
        halley
    }

    fn row(&mut self, name: &str, scheme: &str) -> SocketAddr {
        let reader = self.reader.as_mut().expect("nobody hangs yet");
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).expect("a line") > 0, "it ended without {name:?}");
            if let Some(value) = line.trim_start().strip_prefix(name) {
                let value = value.trim().trim_start_matches(scheme).split('/').next().expect("a word");
                return value.parse().unwrap_or_else(|_| panic!("no address in {line:?}"));
            }
        }
    }

    /// From now on nobody reads, and the pipe is full.
    fn hang(&mut self) {
        let flags = rustix::fs::fcntl_getfl(&self.writer).expect("its flags");
        rustix::fs::fcntl_setfl(&self.writer, flags | OFlags::NONBLOCK).expect("a flag");
        while self.writer.write(&[b'.'; 4096]).is_ok() {}
        while self.writer.write(b".").is_ok() {}
        rustix::fs::fcntl_setfl(&self.writer, flags).expect("a flag");
    }

    fn clients(&self) -> Vec<Client> {
        let address = |transport| if transport == Transport::Tcp { self.tcp } else { self.ws };
        let log_in = |transport| {
            let mut client = Client::raw(transport, address(transport));
            if transport == Transport::WebSocket {
                client.upgrade("/sub", "");
            }
            client.login(&Login::key(&format!("{transport:?}")).room("live://1").reasons());
            client
        };
        BOTH.map(log_in).into()
    }

    fn push(&self) {
        http::request(self.http, "POST", "/goim/push/room?operation=1000&type=live&room=1", &[], b"hi")
            .expect_success();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    fn exit_status(&mut self) -> Option<i32> {
        eventually("the process ends", || self.child.try_wait().expect("a child")).code()
    }
}

impl Drop for Halley {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Neither the first nor the second SIGTERM ended it, and no client was told anything.
#[test]
fn nobody_waits_for_whoever_reads_the_log() {
    let mut halley = Halley::start("info");
    let mut clients = halley.clients();
    halley.hang();
    for signal in [Signal::HUP, Signal::USR1] {
        halley.signal(signal);
    }
    halley.push();
    assert_eq!(http::request(halley.http, "GET", "/healthz", &[], b"").status, 200);
    halley.signal(Signal::TERM);
    for client in &mut clients {
        client.expect_push(1000, "hi");
        assert_eq!(client.end().reason().expect("asked for")["code"], 1001);
    }
    assert_eq!(halley.exit_status(), Some(0));
}

/// At level debug strangers' bad input stopped pushes, logins and probes for ever.
#[test]
fn strangers_who_fill_the_log_stop_nothing() {
    let mut halley = Halley::start("debug");
    halley.hang();
    for _ in 0..40 {
        for (address, noise) in
            [(halley.tcp, &b"\0\0\0\x01noise"[..]), (halley.http, b"\x16\x03\x01\r\n\r\n")]
        {
            let mut stream = TcpStream::connect(address).expect("it accepts");
            let _ = stream.write_all(noise);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut clients = halley.clients();
    halley.push();
    clients.iter_mut().for_each(|client| client.expect_push(1000, "hi"));
    assert_eq!(http::request(halley.http, "GET", "/healthz", &[], b"").status, 200);
    halley.signal(Signal::QUIT);
    assert_eq!(halley.exit_status(), Some(0));
}

/// A drain that takes long is ended by the second signal, whoever reads the log.
#[test]
fn the_second_signal_ends_it_while_nobody_reads() {
    let mut halley = Halley::start("info");
    halley.hang();
    let mut slow = Http::connect(halley.http);
    slow.write(
        b"POST /goim/push/all?operation=1000 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1".to_vec(),
    );
    std::thread::sleep(Duration::from_millis(300));
    halley.signal(Signal::TERM);
    eventually("it drains", || TcpStream::connect(halley.http).is_err().then_some(()));
    halley.signal(Signal::TERM);
    assert_eq!(halley.exit_status(), Some(143));
}

/// The log's reader is gone: what cannot be printed is counted, and everything else goes on.
#[test]
fn a_closed_pipe_costs_lines_and_nothing_else() {
    let mut halley = Halley::start("info");
    let mut clients = halley.clients();
    halley.reader = None;
    halley.signal(Signal::HUP);
    halley.push();
    clients.iter_mut().for_each(|client| client.expect_push(1000, "hi"));
    eventually("the line is counted", || {
        let accept = "Accept: application/openmetrics-text";
        let text = http::request(halley.http, "GET", "/metrics", &[accept], b"").body;
        (Metrics::parse(&text).count("halley_log_lines_lost_total") >= 1.0).then_some(())
    });
    halley.signal(Signal::TERM);
    assert_eq!(halley.exit_status(), Some(0));
}

/// Every one of these ended with an abort, 134.
#[test]
fn an_answer_that_cannot_be_printed_is_a_status() {
    let full = || File::options().write(true).open("/dev/full").expect("Linux has it");
    for question in ["--print-default-config", "--help", "--version", "--check-config"] {
        let (reader, closed) = pipe().expect("a pipe");
        drop(reader);
        for (stdout, why) in [(Stdio::from(full()), "No space left"), (Stdio::from(closed), "Broken pipe")] {
            let output = Command::new(HALLEY).arg(question).stdout(stdout).stderr(Stdio::piped()).output();
            let output = output.expect("halley starts");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(74), "{question}: {said}");
            assert!(said.starts_with("halley: ") && said.contains(why), "{question}: {said}");
            assert_eq!(said.lines().count(), 1, "{question}: {said}");
        }
    }
    // Nowhere at all to say it.
    for (args, status) in
        [(&["--set", "comet.batch.mode=odd"][..], 64), (&["--odd"], 2), (&["--version"], 74)]
    {
        let output = Command::new(HALLEY).args(args).stdout(full()).stderr(full()).output();
        assert_eq!(output.expect("halley starts").status.code(), Some(status), "{args:?}");
    }
}

/// The disk under the log is full from the beginning: the start lines are lost and counted.
#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    // An address that nobody else has, as nobody is told which port was chosen.
    let pid = std::process::id();
    let ip = format!("127.201.{}.{}", pid >> 8 & 255, pid & 255);
    let full = || File::options().write(true).open("/dev/full").expect("Linux has it");
    let keys = ["comet.tcp.bind", "comet.websocket.bind", "comet.rpcServer.addr", "logic.rpcServer.addr"];
    let mut child = Command::new(HALLEY)
        .args(keys.iter().flat_map(|key| ["--set".to_owned(), format!("{key}={ip}:0")]))
        .args([
            "--set",
            &format!("logic.httpServer.addr={ip}:3111"),
            "--set",
            "comet.reactor.ringEntries=256",
        ])
        .stdout(full())
        .stderr(full())
        .spawn()
        .expect("halley starts");
    let address: SocketAddr = format!("{ip}:3111").parse().expect("an address");
    eventually("it listens", || TcpStream::connect_timeout(&address, PATIENCE).ok());
    eventually("it is ready", || {
        (http::request(address, "GET", "/readyz", &[], b"").status == 200).then_some(())
    });
    eventually("the start lines are counted", || {
        let accept = ["Accept: application/openmetrics-text"];
        let text = http::request(address, "GET", "/metrics", &accept, b"").body;
        (Metrics::parse(&text).count("halley_log_lines_lost_total") >= 5.0).then_some(())
    });
    kill_process(Pid::from_child(&child), Signal::TERM).expect("the process is there");
    let status = eventually("the process ends", || child.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(0));
}
