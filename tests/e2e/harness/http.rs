//! A raw HTTP client: one request a connection, or many on one, nothing hidden.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use serde_json::Value;

use super::PATIENCE;

/// goim's answer to everything that went well and has nothing more to say.
pub(crate) const SUCCESS: &str = r#"{"code":0,"message":""}"#;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// Exactly goim's success.
    #[track_caller]
    pub(crate) fn expect_success(&self) {
        assert_eq!((self.status, self.body.as_str()), (200, SUCCESS));
    }

    /// An error in goim's form: this status, this code, some words.
    #[track_caller]
    pub(crate) fn expect_error(&self, status: u16, code: i64) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json; charset=utf-8"));
        let answer = self.json();
        assert_eq!(answer["code"], code, "{answer}");
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
        assert_eq!(answer.as_object().map(serde_json::Map::len), Some(2), "{answer}");
    }
}

/// Sends one request on a connection of its own. `headers` are whole lines without their ends.
#[track_caller]
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    let mut connection = Http::connect(address);
    connection.send(method, target, headers, body);
    connection.answer()
}

/// A connection that stays.
pub(crate) struct Http {
    stream: BufReader<TcpStream>,
}

impl Http {
    pub(crate) fn connect(address: SocketAddr) -> Http {
        Http::try_connect(address).expect("the HTTP port accepts")
    }

    /// None when nobody is there.
    pub(crate) fn try_connect(address: SocketAddr) -> Option<Http> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Some(Http { stream: BufReader::new(stream) })
    }

    /// Writes a request, its body from a thread of its own when it is too long for the buffers between here and there.
    pub(crate) fn send(&mut self, method: &str, target: &str, headers: &[&str], body: &[u8]) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
        for line in headers {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if !body.is_empty() || method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        self.write(request);
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: Vec<u8>) {
        let mut stream = self.stream.get_ref();
        if bytes.len() <= 64 << 10 {
            // The server may have said enough already, and closed.
            let _ = stream.write_all(&bytes);
            return;
        }
        let mut stream = stream.try_clone().expect("a second descriptor");
        thread::spawn(move || {
            let _ = stream.write_all(&bytes);
        });
    }

    /// Reads one answer, which has to come.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("an HTTP answer")
    }

    /// Reads one answer; `None` when the connection ends before it.
    #[track_caller]
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no HTTP status in {first:?}"));
        let mut headers = Vec::new();
        while let Some((name, value)) = self.line()?.split_once(':') {
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: String::new() };
        let length = answer.header("content-length").expect("an answer names its length");
        let mut body = vec![0; length.parse().expect("a length")];
        self.stream.read_exact(&mut body).ok()?;
        answer.body = String::from_utf8(body).expect("answers are text");
        Some(answer)
    }

    /// One line without its end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).ok().filter(|read| *read > 0);
        read.map(|_| line.trim_end().to_owned())
    }
}
