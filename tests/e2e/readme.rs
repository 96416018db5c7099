//! What README says about TLS, done as it stands there. Only paths and ports are the test's own.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::harness::{Client, Login, Server, Transport, eventually, tls::relay};

const SECTIONS: [(&str, &str); 2] =
    [("README.md", "## TLS in five minutes"), ("README.zh-CN.md", "## 五分钟配好 TLS")];

/// The blocks of code of the section, in order: language and text.
fn blocks(file: &str, heading: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a README");
    let (_, section) = text.split_once(heading).unwrap_or_else(|| panic!("{file} has no {heading}"));
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let fenced = section.split("```").skip(1).step_by(2);
    fenced
        .map(|block| block.split_once('\n').expect("a language"))
        .map(|(a, b)| (a.into(), b.into()))
        .collect()
}

fn block(language: &str) -> String {
    let [(file, heading), _] = SECTIONS;
    let all = blocks(file, heading);
    all.into_iter().find(|(other, _)| other == language).unwrap_or_else(|| panic!("no {language}")).1
}

fn sh(directory: &Path, script: &str) -> String {
    let output = Command::new("timeout")
        .args(["-k", "1", "20", "bash", "-c", script])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The certificate of the first block, made as it says.
fn certificate(directory: &Path) -> [String; 2] {
    let block = block("sh");
    let (make, _) = block.split_once("cargo run").expect("a start");
    let said = sh(directory, make);
    ["localhost.crt", "localhost.key"].map(|name| {
        let path = directory.join(name);
        assert!(path.exists(), "{said}");
        path.to_str().expect("UTF-8").to_owned()
    })
}

#[test]
fn both_readmes_say_the_same() {
    let [english, chinese] = SECTIONS.map(|(file, heading)| blocks(file, heading));
    assert_eq!(english, chinese);
    assert_eq!(english.iter().map(|(language, _)| &**language).collect::<Vec<_>>(), ["sh", "toml", "nginx"]);
}

#[test]
fn a_certificate_of_one_s_own_makes_wss() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = certificate(directory.path());
    let block = block("sh");
    let (_, start) = block.split_once("cargo run --release -- ").expect("a start");
    let (start, client) = start.split_once("\n\n").expect("another terminal");
    let mut args: Vec<String> =
        start.split_whitespace().filter(|word| *word != "\\").map(str::to_owned).collect();
    for arg in &mut args {
        for (name, path) in ["localhost.crt", "localhost.key"].iter().zip(&files) {
            *arg = arg.replace(name, path);
        }
    }
    args.extend(["--set".to_owned(), "comet.websocket.tlsBind=127.0.0.1:0".to_owned()]);
    let server = Server::start_with(&args);
    let wss = server.secure(Transport::WebSocket);
    // The client reads until the server ends, which it does when no login comes.
    let said = sh(directory.path(), &client.replace("127.0.0.1:3103", &wss.to_string()));
    assert!(said.contains("101 Switching Protocols"), "{said}");
}

#[test]
fn the_files_of_certbot_are_a_right_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    let [chain, key] = certificate(directory.path());
    let place = "/etc/letsencrypt/live/push.example.com";
    let text = block("toml");
    let text = text
        .replace(&format!("{place}/fullchain.pem"), &chain)
        .replace(&format!("{place}/privkey.pem"), &key)
        .replace(":3103", "127.0.0.1:0");
    let file = directory.path().join("halley.toml");
    fs::write(&file, text).expect("a file");
    let server = Server::start_with(&["--config".to_owned(), file.to_str().expect("UTF-8").to_owned()]);
    assert_ne!(server.secure(Transport::WebSocket).port(), 0);
}

/// nginx, until it is dropped.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // One process, without a master.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nginx_has_the_certificate_and_tells_the_address() {
    let directory = tempfile::tempdir().expect("a directory");
    let [chain, key] = certificate(directory.path());
    let server = Server::start(&["comet.proxies.trusted=127.0.0.1", "log.level=debug"]);
    let [port] = services::free_ports();
    let place = "/etc/letsencrypt/live/push.example.com";
    let site = block("nginx")
        .replace(&format!("{place}/fullchain.pem"), &chain)
        .replace(&format!("{place}/privkey.pem"), &key)
        .replace("listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl"))
        .replace("127.0.0.1:3102", &server.ws.to_string());
    let home = directory.path().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {home}/{what}; "))
        .concat();
    let text = format!(
        "daemon off; master_process off; pid {home}/pid; error_log {home}/error.log;\nevents {{}}\n\
         http {{ access_log off; {temporary}\n{site} }}\n"
    );
    let file = directory.path().join("nginx.conf");
    fs::write(&file, text).expect("a file");
    let mut command = Command::new("nginx");
    command.arg("-e").arg(directory.path().join("error.log")).arg("-c").arg(&file);
    let nginx = command.stderr(Stdio::null()).spawn().expect("nginx (`make deps` installs it)");
    let nginx = Nginx(nginx);
    let address = ([127, 0, 0, 1], port).into();
    eventually("nginx listens", || {
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
    });
    let trust = testkit::trust::client_of(&fs::read(&chain).expect("a file"));
    let mut client = Client::raw(Transport::WebSocket, relay(address, std::sync::Arc::new(trust)));
    // The client is on the proxy's own machine, so the address before it counts.
    client.upgrade("/sub", "X-Forwarded-For: 203.0.113.9\r\n");
    client.login(&Login::key("through-nginx").accepts(&[1000]));
    server.push("keys?operation=1000&keys=through-nginx", "hello");
    client.expect_push(1000, "hello");
    eventually("the log tells the address", || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains("through-nginx"))?;
        assert!(line.contains("203.0.113.9"), "{line}");
        Some(())
    });
    drop(nginx);
}
