//! The push API as a client: pushes and online counts over one kept-alive HTTP connection.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::{
    ids::{Key, Mid, RoomId},
    op::Op,
};
use serde::Deserialize;
use ureq::{Agent, http::Response};

/// goim's answer to a push, to the letter.
const SUCCESS: &[u8] = br#"{"code":0,"message":""}"#;

/// The longest answer read, in bytes.
const ANSWER_LEN_MAX: u64 = 1 << 20;

/// How long each step of a request may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// One user of the push API, with a connection of its own.
pub(crate) struct Api {
    agent: Agent,
    base: String,
    authorization: Option<String>,
    answer: Vec<u8>,
}

/// Whom one push is for.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Room(RoomId),
    All,
    Mids(Vec<Mid>),
    Keys(Vec<Key>),
}

/// An HTTP status and a body.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    /// Was the push accepted for everybody it named?
    pub(crate) fn is_success(&self) -> bool {
        self.status == 200 && self.body == SUCCESS
    }

    /// Status and body, for people.
    pub(crate) fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(self.body))
    }
}

#[derive(Deserialize)]
struct RoomCounts {
    data: std::collections::HashMap<String, u64>,
}

#[derive(Deserialize)]
struct Total {
    data: TotalCounts,
}

#[derive(Deserialize)]
struct TotalCounts {
    conn_count: u64,
}

impl Api {
    /// For the server at `base`, such as `http://127.0.0.1:3111`, with an optional bearer token.
    pub(crate) fn new(base: &str, token: Option<&str>) -> Result<Self> {
        ensure!(base.starts_with("http://"), "{base}: the push API's address starts with http://");
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Not `timeout_global`: with it every request resolves its address in a thread of its own.
            .timeout_connect(Some(STEP_TIMEOUT))
            .timeout_send_request(Some(STEP_TIMEOUT))
            .timeout_send_body(Some(STEP_TIMEOUT))
            .timeout_recv_response(Some(STEP_TIMEOUT))
            .timeout_recv_body(Some(STEP_TIMEOUT))
            .user_agent(concat!("loadgen/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            base: base.trim_end_matches('/').to_owned(),
            authorization: token.map(|token| format!("Bearer {token}")),
            answer: Vec::new(),
        })
    }

    /// The address of a push, made once and used for many.
    pub(crate) fn push_url(&self, target: &Target, op: Op) -> String {
        let mut url = format!("{}/goim/push/", self.base);
        let kind = match target {
            Target::Room(_) => "room",
            Target::All => "all",
            Target::Mids(_) => "mids",
            Target::Keys(_) => "keys",
        };
        url.push_str(&format!("{kind}?operation={op}"));
        match target {
            Target::Room(room) => {
                parameter("type", room.kind(), &mut url);
                parameter("room", room.name(), &mut url);
            }
            Target::All => parameter("speed", "0", &mut url),
            Target::Mids(mids) => mids.iter().for_each(|mid| parameter("mids", &mid.to_string(), &mut url)),
            Target::Keys(keys) => keys.iter().for_each(|key| parameter("keys", key.as_str(), &mut url)),
        }
        url
    }

    /// Posts one message. An error means that no answer came.
    pub(crate) fn push(&mut self, url: &str, body: &[u8]) -> Result<Answer<'_>> {
        let mut request = self.agent.post(url);
        if let Some(value) = &self.authorization {
            request = request.header("Authorization", value);
        }
        let response = request.send(body)?;
        self.read(response)
    }

    /// How many connections the server has in all.
    pub(crate) fn online_total(&mut self) -> Result<u64> {
        let url = format!("{}/goim/online/total", self.base);
        let answer = self.get(&url)?;
        let total: Total =
            serde_json::from_slice(answer.body).with_context(|| format!("{url}: {}", answer.text()))?;
        Ok(total.data.conn_count)
    }

    /// How many members each of `rooms` has, in the same order.
    pub(crate) fn online_rooms(&mut self, rooms: &[RoomId]) -> Result<Vec<u64>> {
        let mut counts = Vec::with_capacity(rooms.len());
        for room in rooms {
            let mut url = format!("{}/goim/online/room?", self.base);
            url.push_str("type=");
            escape(room.kind(), &mut url);
            parameter("rooms", room.name(), &mut url);
            let answer = self.get(&url)?;
            let answered: RoomCounts =
                serde_json::from_slice(answer.body).with_context(|| format!("{url}: {}", answer.text()))?;
            counts.push(answered.data.get(room.name()).copied().unwrap_or(0));
        }
        Ok(counts)
    }

    fn get(&mut self, url: &str) -> Result<Answer<'_>> {
        let response = self.agent.get(url).call().with_context(|| url.to_owned())?;
        self.read(response)
    }

    fn read(&mut self, mut response: Response<ureq::Body>) -> Result<Answer<'_>> {
        let status = response.status().as_u16();
        self.answer = response.body_mut().with_config().limit(ANSWER_LEN_MAX).read_to_vec()?;
        Ok(Answer { status, body: &self.answer })
    }
}

fn parameter(name: &str, value: &str, url: &mut String) {
    url.push('&');
    url.push_str(name);
    url.push('=');
    escape(value, url);
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn escape(value: &str, url: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push(byte as char),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_addresses_are_goims() {
        let api = Api::new("http://h:3111/", None).expect("an address");
        let room = RoomId::parse("live://a b&c").expect("room");
        for (target, url) in [
            (Target::Room(room), "http://h:3111/goim/push/room?operation=1000&type=live&room=a%20b%26c"),
            (Target::All, "http://h:3111/goim/push/all?operation=1000&speed=0"),
            (Target::Mids(vec![Mid(1), Mid(2)]), "http://h:3111/goim/push/mids?operation=1000&mids=1&mids=2"),
            (Target::Keys(vec![Key::new("web_1")]), "http://h:3111/goim/push/keys?operation=1000&keys=web_1"),
        ] {
            assert_eq!(api.push_url(&target, Op(1000)), url);
        }
    }

    #[test]
    fn only_goims_exact_answer_is_success() {
        for (status, body, success) in [
            (200, r#"{"code":0,"message":""}"#, true),
            (200, r#"{"code":0,"message":"","data":{"offline":["b"]}}"#, false),
            (503, r#"{"code":-500,"message":"x"}"#, false),
            (200, "", false),
        ] {
            let body = body.as_bytes();
            assert_eq!(Answer { status, body }.is_success(), success);
        }
    }
}
