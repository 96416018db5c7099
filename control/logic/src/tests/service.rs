//! Logins, sessions, counts and clients' messages, as a comet in the same process sees them.

use super::*;

#[tokio::test]
async fn a_trusted_login_gets_what_it_asks_for() {
    let setup = Setup::new(&[]).await;
    let token = r#"{"mid":123,"key":"k1","room_id":"live://1000","platform":"web","accepts":[1000,1001],
        "rooms":["live://1","live://2"]}"#;
    let session = setup.logic.connect(login("a:1", token)).await.unwrap();
    assert_eq!((session.mid, session.key.as_str()), (Mid(123), "k1"));
    assert_eq!(session.room, Some(room(ROOM)));
    assert_eq!(session.rooms, [room("live://1"), room("live://2")]);
    assert_eq!(session.accepts, [Op(1000), Op(1001)]);
    assert_eq!(session.heartbeat, Duration::from_secs(480));
    assert_eq!(setup.deps.metrics.logins.of(LoginResult::Ok).get(), 1);
    let stored = setup.deps.sessions.servers_of_keys(&[Key::new("k1")]).await.unwrap();
    assert_eq!(stored, [Some(server("a:1"))]);
}

#[tokio::test]
async fn a_login_without_a_key_gets_one_of_its_own() {
    let setup = Setup::new(&[]).await;
    let first = setup.logic.connect(login("a:1", "{}")).await.unwrap();
    let second = setup.logic.connect(login("a:1", "null")).await.unwrap();
    assert_eq!((first.mid, first.room, first.accepts), (Mid(0), None, vec![]));
    assert!(Uuid::parse_str(first.key.as_str()).is_ok_and(|uuid| uuid.get_version_num() == 4));
    assert_ne!(first.key, second.key);
}

#[tokio::test]
async fn a_login_that_makes_no_sense_is_refused_without_repeating_it() {
    let setup = Setup::new(&[]).await;
    for token in ["", "hunter2", r#"{"mid":"hunter2"}"#, r#"{"accepts":["hunter2"]}"#] {
        let error = setup.logic.connect(login("a:1", token)).await.unwrap_err();
        assert!(matches!(error, LogicError::Refused { reason: CloseReason::LoginRefused, .. }), "{token}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    assert_eq!(setup.deps.metrics.logins.of(LoginResult::Refused).get(), 4);
}

/// goim's clients beat every four minutes, its benchmark too, and its wire does not tell them otherwise. By a default of 90 s
/// they were closed between two beats.
#[tokio::test]
async fn the_defaults_keep_clients_that_beat_as_goims_do() {
    let setup = Setup::new(&[]).await;
    let session = setup.logic.connect(login("a:1", "{}")).await.unwrap();
    assert!(session.heartbeat > Duration::from_secs(240 + 30), "{:?}", session.heartbeat);
    for file in ["goim", "goim-example"] {
        let path = format!("{}/../../tests/cluster/files/{file}/logic.toml", env!("CARGO_MANIFEST_DIR"));
        let theirs: toml::Table = std::fs::read_to_string(&path).expect(&path).parse().expect(&path);
        let node = &crate::config::LogicConfig::default().node;
        assert_eq!(theirs["node"]["heartbeat"].as_str(), Some(&*node.heartbeat.to_string()), "{file}");
        assert_eq!(
            theirs["node"]["heartbeatMax"].as_integer(),
            Some(node.heartbeat_max.u32().into()),
            "{file}"
        );
    }
}

/// A comet, or this logic, stood still with a login in its hands; its client had given it up and logged in elsewhere. The
/// late one was dated by when it was decided, took the key, and the client's live connection was closed.
#[tokio::test(start_paused = true)]
async fn a_login_that_was_given_up_outranks_none_that_was_made_since() {
    let setup = Setup::new(&[]).await;
    let token = r#"{"mid":1,"key":"k1"}"#;
    let three = Duration::from_secs(3);
    let before = setup.deps.sessions.now_us();
    let live = setup.logic.connect(login("b:1", token)).await.unwrap();
    let frozen_comet = ConnectRequest { arrival: ago(three), ..login("a:1", token) };
    let frozen_logic =
        ConnectRequest { arrival: ago(Duration::ZERO).by(Some(before - 1)), ..login("a:1", token) };
    for late in [frozen_comet, frozen_logic] {
        let refused = setup.logic.connect(late).await.unwrap_err();
        assert!(matches!(refused, LogicError::Refused { reason: CloseReason::Replaced, .. }), "{refused}");
    }
    let holder = setup.logic.sessions_of_keys(&[Key::new("k1")]).await.unwrap().remove(0).unwrap();
    assert_eq!((holder.server, holder.generation), (server("b:1"), live.generation));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.comet.kicks(), []);

    // What its comet waits for no more was asked elsewhere meanwhile, or given up.
    let unwanted = ConnectRequest { wanted_until_us: Some(before), ..login("a:1", token) };
    assert!(matches!(setup.logic.connect(unwanted).await, Err(LogicError::Unavailable(_))));
    assert_eq!(setup.deps.metrics.logins.of(LoginResult::Late).get(), 1);

    // Without one made since, a late login is a login.
    let alone = ConnectRequest { arrival: ago(three), ..login("a:1", r#"{"mid":1,"key":"k2"}"#) };
    assert!(setup.logic.connect(alone).await.is_ok());
}

/// The store's clock was ahead at a login, and was set right; then logic was started anew. The device was refused for as
/// long as the clock had been ahead, as replaced, for which clients stay away.
#[tokio::test(start_paused = true)]
async fn a_device_whose_session_is_from_the_future_gets_in() {
    let setup = Setup::new(&[]).await;
    let token = r#"{"mid":1,"key":"k1"}"#;
    let ahead = setup.deps.sessions.now_us() as i64 + 3_600_000_000;
    let session =
        NewSession { mid: Mid(1), key: Key::new("k1"), server: server("b:1"), generation: Generation(ahead) };
    setup.deps.sessions.put(session).await.unwrap();
    // One that waited may be older, or not. Its client has to come again.
    let late = ConnectRequest { arrival: ago(Duration::from_secs(3)), ..login("a:1", token) };
    let refused = setup.logic.connect(late).await.unwrap_err();
    assert!(matches!(refused, LogicError::Refused { reason: CloseReason::ServerError, .. }), "{refused}");
    assert_eq!(setup.deps.metrics.logins.of(LoginResult::Undecided).get(), 1);

    let back = setup.logic.connect(login("a:1", token)).await.unwrap();
    assert_eq!(back.generation, Some(Generation(ahead + 1)), "every fence orders it behind the other");
    tokio::time::sleep(Duration::from_millis(1)).await;
    let kick = setup.comet.kicks().remove(0);
    assert_eq!((kick.key, kick.below), (Key::new("k1"), back.generation));
    let again = setup.logic.connect(login("a:1", token)).await.unwrap();
    assert!(again.generation > back.generation);
}

#[tokio::test]
async fn the_end_of_a_replaced_login_changes_nothing() {
    let setup = Setup::new(&[]).await;
    let token = r#"{"mid":1,"key":"k1"}"#;
    let old = setup.logic.connect(login("a:1", token)).await.unwrap();
    let new = setup.logic.connect(login("b:1", token)).await.unwrap();
    assert!(new.generation > old.generation);
    let reference = |session: &Session, on: &str| SessionRef {
        mid: session.mid,
        key: session.key.clone(),
        server: server(on),
        generation: session.generation,
    };
    assert!(!setup.logic.disconnect(reference(&old, "a:1")).await.unwrap());
    let renewed = setup.logic.renew(vec![reference(&old, "a:1")]).await.unwrap();
    assert_eq!(renewed.superseded, [(Key::new("k1"), new.generation.unwrap())]);
    let stored = setup.deps.sessions.servers_of_keys(&[Key::new("k1")]).await.unwrap();
    assert_eq!(stored, [Some(server("b:1"))]);
    assert!(setup.logic.disconnect(reference(&new, "b:1")).await.unwrap());
}

#[tokio::test]
async fn a_login_overtaken_by_a_newer_one_is_closed_as_replaced() {
    let setup = Setup::new(&[]).await;
    let newer = NewSession {
        mid: Mid(1),
        key: Key::new("k1"),
        server: server("b:1"),
        generation: Generation(setup.deps.sessions.now_us() as i64),
    };
    setup.deps.sessions.put(newer).await.unwrap();
    let late = ConnectRequest { arrival: ago(Duration::from_secs(1)), ..login("a:1", r#"{"key":"k1"}"#) };
    let error = setup.logic.connect(late).await.unwrap_err();
    assert!(matches!(error, LogicError::Refused { reason: CloseReason::Replaced, .. }));
    assert_eq!(setup.deps.metrics.logins.of(LoginResult::Superseded).get(), 1);
}

#[tokio::test]
async fn without_sessions_logins_are_to_be_tried_again() {
    let setup = Setup::with_sessions(&[], Arc::new(NoSessions)).await;
    let error = setup.logic.connect(login("a:1", "{}")).await.unwrap_err();
    assert!(matches!(error, LogicError::Unavailable(_)), "{error}");
    let session = SessionRef { mid: Mid(1), key: Key::new("k"), server: server("a:1"), generation: None };
    assert!(setup.logic.disconnect(session.clone()).await.is_err());
    assert!(setup.logic.renew(vec![session]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn comets_learn_how_many_people_are_in_a_room_over_all_comets() {
    let setup = Setup::new(&[]).await;
    let report = |people| HashMap::from([(room(ROOM), people)]);
    let clients = ClientCount { connections: 2, addresses: 1 };
    assert_eq!(setup.logic.renew_online(server("a:1"), report(2), clients).await.unwrap(), report(2));
    assert_eq!(setup.logic.renew_online(server("b:1"), report(3), clients).await.unwrap(), report(5));
    let none = setup.logic.renew_online(server("c:1"), HashMap::new(), clients).await.unwrap();
    assert!(none.is_empty(), "only the rooms it has: {none:?}");
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(setup.logic.renew_online(server("b:1"), report(3), clients).await.unwrap(), report(3));
}

fn said(op: i32, in_room: Option<&str>) -> ClientMessage {
    ClientMessage {
        mid: Mid(1),
        key: Key::new("k1"),
        room: in_room.map(room),
        header: Header { ver: 0, op: Op(op), seq: 7 },
        body: Bytes::from_static(b"hi"),
    }
}

#[tokio::test]
async fn what_a_client_says_goes_to_its_room_with_its_origin() {
    let mut setup = Setup::new(&[]).await;
    assert_eq!(setup.logic.receive(said(4, Some(ROOM))).await.unwrap(), MessageReply::Room);
    let published = setup.published().await;
    assert_eq!(published.len(), 1);
    let Envelope { target, op, body, origin, accepted_at_us } = &published[0];
    assert_eq!((target, *op, &body[..]), (&Target::Room(room(ROOM)), Op(5), &b"hi"[..]));
    assert_eq!(*origin, Some(Origin { key: Key::new("k1"), seq: 7, ver: 0 }));
    assert!(*accepted_at_us > 0);
}

#[tokio::test]
async fn what_has_nowhere_to_go_is_answered_empty() {
    let empty = MessageReply::Body(Bytes::new());
    let mut setup = Setup::new(&[]).await;
    assert_eq!(setup.logic.receive(said(4, None)).await.unwrap(), empty, "no room");
    assert_eq!(setup.logic.receive(said(1000, Some(ROOM))).await.unwrap(), empty, "not operation 4");
    assert_eq!(setup.published().await, []);
    let mut refusing = Setup::new(&["clientMessages=refuse"]).await;
    assert_eq!(refusing.logic.receive(said(4, Some(ROOM))).await.unwrap(), empty);
    assert_eq!(refusing.published().await, []);
    assert_eq!(setup.deps.metrics.client_messages.of(crate::metrics::MessageResult::Empty).get(), 2);
}

#[tokio::test]
async fn what_the_broker_does_not_take_is_no_success() {
    let setup = Setup::new(&["limits.brokerEntries=100"]).await;
    for _ in 0..100 {
        setup.logic.receive(said(4, Some(ROOM))).await.unwrap();
    }
    let error = setup.logic.receive(said(4, Some(ROOM))).await.unwrap_err();
    assert!(matches!(error, LogicError::Overloaded), "{error}");
    setup.deps.broker.close().await;
    let error = setup.logic.receive(said(4, Some(ROOM))).await.unwrap_err();
    assert!(matches!(error, LogicError::Unavailable(_)), "{error}");
}
