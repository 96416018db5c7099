//! Devices by name: lookups and kicks, over HTTP.

use axum::http::header;

use super::{
    http::{ask, send},
    *,
};

const OK: &str = r#"{"code":0,"message":""}"#;

fn kick(key: &str, below: i64, text: Option<&str>) -> Kick {
    let (key, text) = (Key::new(key), text.map(ToOwned::to_owned));
    Kick { key, below: Some(Generation(below)), reason: CloseReason::Kicked, text }
}

impl Setup {
    /// A session as it stands in the store.
    async fn store(&self, mid: i64, key: &str, on: &str, generation: i64) {
        let (key, server) = (Key::new(key), server(on));
        let session = NewSession { mid: Mid(mid), key, server, generation: Generation(generation) };
        assert!(matches!(self.deps.sessions.put(session).await, Ok(Put::Stored { .. })));
    }

    /// Devices b and a of user 1 on two comets, device c of user 2, and device d of user 0, put back by a comet that
    /// knows no generations.
    async fn with_devices(sets: &[&str]) -> Self {
        let setup = Self::new(sets).await;
        setup.store(1, "b", "b:1", 1_700_000_001_999_999).await;
        setup.store(1, "a", "a:1", 1_700_000_000_000_000).await;
        setup.store(2, "c", "a:1", 1_800_000_000_000_000).await;
        let (key, server) = (Key::new("d"), server("go:1"));
        let session = SessionRef { mid: Mid(0), key, server, generation: None };
        assert_eq!(setup.deps.sessions.renew(&[session]).await, Ok(vec![Renewal::Current]));
        setup
    }
}

#[tokio::test]
async fn devices_are_told_with_user_comet_and_time() {
    let setup = Setup::with_devices(&[]).await;
    let router = setup.router();
    let a = r#""server":"a:1","since":1700000000}"#;
    let b = r#""server":"b:1","since":1700000001}"#;
    for (url, data) in [
        ("keys?keys=a", format!(r#"{{"a":{{"mid":"1",{a}}}"#)),
        (
            "keys/?keys=x&keys=b&keys=a&keys=b",
            format!(r#"{{"a":{{"mid":"1",{a},"b":{{"mid":"1",{b},"x":null}}"#),
        ),
        ("keys?keys=a,b", r#"{"a,b":null}"#.to_owned()),
        ("keys?keys=d", r#"{"d":{"mid":"0","server":"go:1","since":null}}"#.to_owned()),
        // By number, a user's devices by key.
        (
            "mids?mids=10&mids=2&mids=1&mids=1",
            format!(
                r#"{{"1":[{{"key":"a",{a},{{"key":"b",{b}],"2":[{{"key":"c","server":"a:1","since":1800000000}}],"10":[]}}"#
            ),
        ),
        ("mids/?mids=0", r#"{"0":[{"key":"d","server":"go:1","since":null}]}"#.to_owned()),
    ] {
        let (status, body) = ask(&router, "GET", &format!("/halley/online/{url}"), "").await;
        assert_eq!((status, body), (200, format!(r#"{{"code":0,"message":"","data":{data}}}"#)), "{url}");
    }
}

#[tokio::test]
async fn a_login_is_told_with_its_time() {
    let setup = Setup::with_clients(&[]).await;
    let (_, body) = ask(&setup.router(), "GET", "/halley/online/keys?keys=k1", "").await;
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    let since = answer["data"]["k1"]["since"].as_u64().expect("a time");
    let now = wall_micros() / 1_000_000;
    assert!((now - 60..=now).contains(&since), "{since} at {now}");
}

#[tokio::test]
async fn kicks_reach_the_comet_fenced_and_with_their_words() {
    let mut setup = Setup::with_devices(&[]).await;
    let router = setup.router();
    let (a, b, c) = (1_700_000_000_000_001, 1_700_000_002_000_000, 1_800_000_000_000_001);
    let unfenced = Kick { below: None, ..kick("d", 0, None) };
    let long = "ü".repeat(61);
    for (url, answer, kicks) in [
        ("keys?keys=a", OK, vec![kick("a", a, None)]),
        ("keys/?keys=a&reason=", OK, vec![kick("a", a, None)]),
        ("keys?keys=c&keys=b&reason=two+words%21", OK, {
            vec![kick("c", c, Some("two words!")), kick("b", b, Some("two words!"))]
        }),
        (&format!("keys?keys=a&reason={long}"), OK, vec![kick("a", a, Some(&long))]),
        ("keys?keys=d", OK, vec![unfenced.clone()]),
        (
            "keys?keys=x&keys=a&keys=y&keys=x",
            r#"{"code":0,"message":"","data":{"offline":["x","y"]}}"#,
            vec![kick("a", a, None)],
        ),
        ("keys?keys=a&keys=c&keys=a", OK, vec![kick("a", a, None), kick("c", c, None)]),
        ("mids?mids=1&mids=1", OK, vec![kick("a", a, None), kick("b", b, None)]),
        ("mids/?mids=2&reason=out", OK, vec![kick("c", c, Some("out"))]),
        ("mids?mids=7&mids=0", r#"{"code":0,"message":"","data":{"offline":["7"]}}"#, vec![unfenced.clone()]),
    ] {
        let (status, body) = ask(&router, "POST", &format!("/halley/kick/{url}"), "not read").await;
        assert_eq!((status, body.as_str()), (200, answer), "{url}");
        assert_eq!(setup.comet.kicks(), kicks, "{url}");
    }
    assert_eq!(setup.published().await, [], "a kick is no push");
}

#[tokio::test]
async fn a_login_newer_than_the_one_looked_up_survives_the_kick() {
    let setup = Setup::new(&[]).await;
    let old = setup.logic.connect(login("a:1", r#"{"mid":1,"key":"k"}"#)).await.unwrap();
    assert_eq!(ask(&setup.router(), "POST", "/halley/kick/keys?keys=k", "").await.0, 200);
    // It arrives at the comet after this login.
    let new = setup.logic.connect(login("a:1", r#"{"mid":1,"key":"k"}"#)).await.unwrap();
    let below = setup.comet.kicks()[0].below;
    assert!(old.generation < below && new.generation >= below, "{below:?}: {old:?}, {new:?}");
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_a_400_and_kicks_nobody() {
    let setup = Setup::with_devices(&[]).await;
    let router = setup.router();
    let long = format!("keys?keys=a&reason={}", "r".repeat(124));
    for (url, words) in [
        ("keys", "keys is required"),
        ("keys?keys=", "keys is empty"),
        ("keys?keys=a&keys=", "keys is empty"),
        ("keys?keys=%ff", "the URL is not UTF-8"),
        ("keys?mids=1", "keys is required"),
        ("mids", "mids is required"),
        ("mids?mids=1&mids=", "mids is empty"),
        ("mids?mids=1,2", "mids is not an integer of 64 bits"),
        ("mids?mids=1&mids=-1", "mids is negative"),
        ("mids?mids=9223372036854775808", "mids is not"),
    ] {
        for (method, path) in [("GET", "online"), ("POST", "kick")] {
            let (status, body) = ask(&router, method, &format!("/halley/{path}/{url}"), "").await;
            let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, answer["code"].as_i64()), (400, Some(-400)), "{path}/{url}: {body}");
            assert!(answer["message"].as_str().unwrap().contains(words), "{url}: {body}");
        }
    }
    for url in [&long, "keys?keys=a&reason=%ff"] {
        let (status, body) = ask(&router, "POST", &format!("/halley/kick/{url}"), "").await;
        assert_eq!(status, 400, "{body}");
    }
    for (method, url, expected) in [
        ("POST", "/halley/online/keys?keys=a", 405),
        ("GET", "/halley/kick/mids?mids=1", 405),
        ("GET", "/halley", 404),
        ("POST", "/halley/kick", 404),
        ("POST", "/halley/kick/room?room=1", 404),
    ] {
        let (status, body) = ask(&router, method, url, "").await;
        assert_eq!(status, expected, "{url}");
        assert!(body.starts_with(&format!(r#"{{"code":-{expected},"message":""#)), "{body}");
    }
    assert_eq!(setup.comet.kicks(), []);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_reached_is_a_503_and_the_others_are_kicked() {
    let no_sessions = Setup::with_sessions(&[], Arc::new(NoSessions)).await;
    for (method, url) in [
        ("GET", "/halley/online/keys?keys=a"),
        ("GET", "/halley/online/mids?mids=1"),
        ("POST", "/halley/kick/keys?keys=a"),
        ("POST", "/halley/kick/mids?mids=1"),
    ] {
        let (status, headers, body) = send(&no_sessions.router(), method, url, Body::empty(), &[]).await;
        assert_eq!((status, &headers[header::RETRY_AFTER]), (503, &"1".parse().unwrap()), "{body}");
        assert!(body.starts_with(r#"{"code":-500,"message":""#) && body.contains("gone"), "{body}");
    }

    let setup = Setup::with_devices(&[]).await;
    let router = setup.router();
    setup.store(1, "0", "away:1", 5).await;
    let (status, body) = ask(&router, "POST", "/halley/kick/mids?mids=1", "").await;
    let words = "comet away:1 does not take the kick: there is no way to it";
    assert_eq!((status, body), (503, format!(r#"{{"code":-500,"message":"{words}"}}"#)));
    let kicked: Vec<_> = setup.comet.kicks().into_iter().map(|kick| kick.key).collect();
    assert_eq!(kicked, ["a", "b"].map(Key::new));

    is_unreachable(&setup.comet);
    let (status, body) = ask(&router, "POST", "/halley/kick/keys?keys=a", "").await;
    assert!(status == 503 && body.contains("comet a:1") && body.contains("gone"), "{body}");

    // A stuck one is waited for once, however many of its devices are meant.
    is_stuck(&setup.comet);
    let started = Instant::now();
    let (status, body) = ask(&router, "POST", "/halley/kick/keys?keys=a&keys=c", "").await;
    assert_eq!((status, started.elapsed()), (503, Duration::from_secs(5)), "{body}");
}
