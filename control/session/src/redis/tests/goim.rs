//! Sessions that a Go logic writes beside ours, by the commands it uses.

use super::*;

impl Setup {
    /// Go's Connect.
    async fn go_connect(&self, mid: i64, key: &str, server: &str) {
        let (mid, key) =
            (format!("golang_im:mid_{mid}"), [key, &format!("golang_im:key_{key}")].map(str::to_owned));
        self.run(&["HSET", &mid, &key[0], server]).await;
        self.run(&["EXPIRE", &mid, "1800"]).await;
        self.run(&["SET", &key[1], server, "EX", "1800"]).await;
    }

    /// Go's Disconnect.
    async fn go_disconnect(&self, mid: i64, key: &str) {
        self.run(&["HDEL", &format!("golang_im:mid_{mid}"), key]).await;
        self.run(&["DEL", &format!("golang_im:key_{key}")]).await;
    }
}

fn stored(mid: Option<i64>, key: &str, server: &str, generation: Option<i64>) -> StoredSession {
    let (key, server) = (Key::new(key), ServerId::new(server));
    StoredSession { mid: mid.map(Mid), key, server, generation: generation.map(Generation) }
}

fn go_holder(server: &str) -> Holder {
    Holder { server: ServerId::new(server), generation: Generation(0) }
}

#[tokio::test]
async fn a_go_login_is_found_by_key_and_by_user_and_ends_at_its_comet() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    setup.go_connect(1, "k1", "go:1").await;
    sessions.put(new(1, "k2", "a:1", 7)).await.unwrap();
    let k1 = Key::new("k1");
    assert_eq!(
        sessions.servers_of_keys(std::slice::from_ref(&k1)).await,
        Ok(vec![Some(ServerId::new("go:1"))])
    );
    let by_key = sessions.sessions_of_keys(&[k1]).await.unwrap();
    assert_eq!(by_key, [Some(stored(None, "k1", "go:1", None))], "goim keeps no user there");
    let mut by_mid = sessions.sessions_of_mids(&[Mid(1)]).await.unwrap().remove(0);
    by_mid.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(by_mid, [stored(Some(1), "k1", "go:1", None), stored(Some(1), "k2", "a:1", Some(7))]);
    assert_eq!(sessions.end(&reference(1, "k1", "a:1", None)).await, Ok(false));
    assert_eq!(sessions.end(&reference(1, "k1", "a:1", Some(9))).await, Ok(false));
    assert_eq!(sessions.end(&reference(1, "k1", "go:1", None)).await, Ok(true));
    let left = dump([("mid_1", r#"{"k2": "a:1"}"#), ("key_k2", "a:1"), ("gen_k2", "7 1 a:1")]);
    assert_eq!(setup.dump().await, left);
}

#[tokio::test]
async fn a_go_login_on_another_comet_is_newer_than_ours_and_older_than_our_next() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    sessions.put(new(1, "k", "a:1", 5)).await.unwrap();
    setup.go_connect(1, "k", "go:1").await;
    let by_key = sessions.sessions_of_keys(&[Key::new("k")]).await.unwrap();
    assert_eq!(by_key, [Some(stored(None, "k", "go:1", None))], "our fence is not the Go login's");
    assert_eq!(sessions.end(&reference(1, "k", "a:1", Some(5))).await, Ok(false), "our late end");
    let by = go_holder("go:1");
    let late = reference(1, "k", "a:1", Some(5));
    let superseded = Ok(vec![Renewal::Superseded { by: by.clone() }]);
    assert_eq!(sessions.renew(std::slice::from_ref(&late)).await, superseded, "our late renewal");
    let put = sessions.put(new(1, "k", "a:1", 4)).await;
    assert_eq!(put, Ok(Put::Superseded { by: by.clone() }), "our late arrival");
    let go = reference(1, "k", "go:1", None);
    assert_eq!(sessions.renew(&[go]).await, Ok(vec![Renewal::Current]), "a Go comet through our logic");
    assert_eq!(sessions.renew(&[late]).await, superseded, "and still");
    let put = sessions.put(new(1, "k", "b:1", 6)).await;
    assert_eq!(put, Ok(Put::Stored { previous: Some(by), generation: Generation(6) }));
    let of_mid = sessions.sessions_of_mids(&[Mid(1)]).await;
    assert_eq!(of_mid, Ok(vec![vec![stored(Some(1), "k", "b:1", Some(6))]]));
}

#[tokio::test]
async fn what_a_go_logic_ended_is_gone_and_comes_back_with_its_connection() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    sessions.put(new(1, "k", "a:1", 5)).await.unwrap();
    setup.go_disconnect(1, "k").await;
    assert_eq!(sessions.sessions_of_keys(&[Key::new("k")]).await, Ok(vec![None]));
    assert_eq!(sessions.sessions_of_mids(&[Mid(1)]).await, Ok(vec![vec![]]));
    assert_eq!(sessions.end(&reference(1, "k", "a:1", Some(5))).await, Ok(false));
    // Go's end was another connection's, as goim's G9 tells.
    let session = reference(1, "k", "a:1", Some(5));
    assert_eq!(sessions.renew(&[session]).await, Ok(vec![Renewal::Current]));
    assert_eq!(
        sessions.sessions_of_mids(&[Mid(1)]).await,
        Ok(vec![vec![stored(Some(1), "k", "a:1", Some(5))]])
    );
}

#[tokio::test]
async fn a_login_that_only_a_go_logic_renewed_keeps_its_comet() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    sessions.put(new(1, "k", "a:1", 5)).await.unwrap();
    // Go renews what it knows; ours has expired meanwhile.
    setup.run(&["DEL", "golang_im:gen_k"]).await;
    assert_eq!(
        sessions.sessions_of_keys(&[Key::new("k")]).await,
        Ok(vec![Some(stored(None, "k", "a:1", None))])
    );
    let session = reference(1, "k", "a:1", Some(5));
    assert_eq!(sessions.renew(&[session]).await, Ok(vec![Renewal::Current]));
    assert_eq!(setup.ask::<String>(&["GET", "golang_im:gen_k"]).await, "5 1 a:1", "its fence is back");
}

#[tokio::test]
async fn what_is_no_text_harms_nobody() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    let mut set = ::redis::cmd("SET");
    set.arg("golang_im:key_x").arg(&b"\xff:1"[..]);
    set.exec_async(&mut setup.operator.clone()).await.unwrap();
    setup.run(&["SET", "golang_im:gen_x", "7 not-a-number \u{e4}"]).await;
    sessions.put(new(1, "k", "a:1", 5)).await.unwrap();
    let found = sessions.sessions_of_keys(&["x", "k"].map(Key::new)).await.unwrap();
    assert_eq!(
        found,
        [Some(stored(None, "x", "\u{fffd}:1", None)), Some(stored(Some(1), "k", "a:1", Some(5)))]
    );
    assert!(matches!(sessions.put(new(1, "x", "a:1", 5)).await, Ok(Put::Stored { previous: Some(_), .. })));
}
