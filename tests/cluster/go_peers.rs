//! Go programs among ours: goim's libraries in its versions, opened with its options (`tests/goim`).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use services::GoPeer;

use crate::{
    harness::{BOTH, Frame, Http, Login, SUCCESS, eventually, within},
    store::etcdctl,
    world::{Cluster, Queue, expect_comets, kill},
};

/// A rebalance after a kill waits for a session to end: a Go job's lives for 30 s.
const REBALANCE: Duration = Duration::from_secs(90);

/// Device keys that are pushed to, enough for some in each partition.
const KEYS: usize = 16;

/// Pushes that count as a flow.
const SOME: usize = 100;

/// The bytes of a Go program's `[]byte`.
fn bytes(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().expect("bytes")).expect("base64")
}

fn number(body: &[u8]) -> usize {
    std::str::from_utf8(body).expect("text").parse().expect("a number")
}

/// A comet of goim's, known to everybody. It has users once somebody logs in there.
fn go_comet(cluster: &Cluster) -> (GoPeer, String) {
    let (comet, address) = GoPeer::serve("comet", &json!({}));
    etcdctl(&cluster.etcd, &["put", &format!("/goim.comet/prod/sh/sh001/{address}"), &address]);
    (comet, address)
}

/// Goes on pushing to all keys in turn, each push its number, until it is stopped.
struct Pusher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Pusher {
    /// A few hundred pushes a second.
    const PAUSE: Duration = Duration::from_millis(4);

    fn start(logic: SocketAddr) -> Pusher {
        let stop = Arc::<AtomicBool>::default();
        let is_over = Arc::clone(&stop);
        let push = move || {
            let mut http = Http::connect(logic);
            for n in 0.. {
                if is_over.load(Relaxed) {
                    return n;
                }
                let target = format!("/goim/push/keys?operation=1000&keys=k{}", n % KEYS);
                http.send("POST", &target, &[], n.to_string().as_bytes());
                assert_eq!(http.answer().body, SUCCESS, "push {n}");
                thread::sleep(Self::PAUSE);
            }
            unreachable!("numbers do not end");
        };
        Pusher { stop, thread: thread::spawn(push) }
    }

    /// How many were accepted.
    fn stop(self) -> usize {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("all were accepted")
    }
}

/// The pushes of a Go job's records, or those that a Go comet was told of by our job: key and number.
fn handled(peer: &GoPeer) -> Vec<(String, usize)> {
    let read = |line: &Value| {
        let (keys, body) = match (&line["Push"], line["Method"].as_str()) {
            (Value::Null, Some("PushMsg")) => {
                let req = &line["Req"];
                let frames = Frame::all(&bytes(&req["Proto"]["Body"]));
                assert_eq!(frames.len(), 1, "pushes to keys are not joined");
                (&req["Keys"], frames[0].body.clone())
            }
            (Value::Null, _) => return None,
            (push, _) => (&push["Keys"], bytes(&push["Msg"])),
        };
        Some((keys[0].as_str().expect("a key").to_owned(), number(&body)))
    };
    peer.said(|lines| lines.iter().filter_map(read).collect())
}

/// Waits until it has handled more than by now.
#[track_caller]
fn expect_flow(peer: &GoPeer, who: &str) {
    let before = handled(peer).len();
    within(REBALANCE, &format!("{who} handles pushes"), || {
        thread::sleep(Duration::from_millis(100));
        (handled(peer).len() >= before + SOME).then_some(())
    });
}

/// Waits until the Go job said so.
#[track_caller]
fn expect_said(job: &GoPeer, what: &str, is_it: impl Fn(&Value) -> bool) {
    within(REBALANCE, what, || job.said(|lines| lines.iter().any(&is_it)).then_some(()));
}

/// Every key's pushes come in their order; what comes again had come before. The numbers that came.
#[track_caller]
fn expect_order(handled: &[(String, usize)], who: &str) -> BTreeSet<usize> {
    let (mut last, mut seen) = (BTreeMap::<&str, usize>::new(), BTreeSet::new());
    for (key, n) in handled {
        assert_eq!(*key, format!("k{}", n % KEYS));
        let is_new = seen.insert(*n);
        let before = last.entry(key).or_default();
        assert!(!is_new || *before <= *n, "{who}: {n} came behind {before}");
        *before = (*before).max(*n);
    }
    seen
}

/// Go's Kafka client and ours cannot share a group; Kafka admits one kind, and the other stands by.
#[test]
fn a_go_job_and_ours_in_one_group_relieve_each_other_without_loss() {
    let mut cluster = Cluster::servers_for_goim();
    let brokers = cluster.kafka.as_ref().expect("a Kafka").addr();
    cluster.logics.push(cluster.logic(&[]));
    let (comet, server) = go_comet(&cluster);
    let logic = &cluster.logics[0];
    logic.expect_ready();
    let mut users = GoPeer::start(&["call", "logic", &logic.logic_rpc.to_string()]);
    for n in 0..KEYS {
        let token = BASE64.encode(format!(r#"{{"mid":{n},"key":"k{n}","accepts":[1000]}}"#));
        let login = json!({"Method": "Connect", "Req": {"Server": server, "Token": token}});
        assert_eq!(users.ask(&login)["Code"], 0);
    }

    // Go alone. Where nothing was ever committed it begins with what comes next, so it has to hold all before the first push.
    let holds_all = |line: &Value| line["Holds"] == json!([0, 1, 2, 3]);
    let mut first = GoPeer::start(&["job", &brokers]);
    expect_said(&first, "the Go job has all partitions", holds_all);
    let pusher = Pusher::start(logic.http);
    expect_flow(&first, "the first Go job");

    // Ours comes: Go goes on.
    let mut ours = cluster.job(&[]);
    eventually("ours stands by", || ours.log().contains("standing by").then_some(()));
    ours.expect_ready();
    expect_flow(&first, "the first Go job, beside ours,");
    assert!(handled(&comet).is_empty());

    // Go leaves: ours takes over.
    first.leave();
    expect_flow(&comet, "ours");

    // Go comes: ours goes on. Ours dies: Go takes over.
    let mut second = GoPeer::start(&["job", &brokers]);
    expect_said(&second, "the Go job is refused", |line| line["Error"].is_string());
    expect_flow(&comet, "ours, beside a Go job,");
    assert!(handled(&second).is_empty());
    kill(&mut ours);
    expect_flow(&second, "the second Go job");

    // Ours comes again and Go dies: ours takes over.
    let again = cluster.job(&[]);
    eventually("ours stands by again", || again.log().contains("standing by").then_some(()));
    // It commits once a second, and has just taken what waited while nobody was there.
    thread::sleep(Duration::from_secs(3));
    second.kill();
    expect_flow(&comet, "ours, after Go died,");

    let pushes = pusher.stop();
    let of_first = expect_order(&handled(&first), "the first Go job");
    let of_second = expect_order(&handled(&second), "the second Go job");
    let of_ours = within(REBALANCE, "everything is handled", || {
        let of_ours = expect_order(&handled(&comet), "ours");
        let all: HashSet<usize> = of_first.iter().chain(&of_second).chain(&of_ours).copied().collect();
        (all.len() == pushes).then_some(of_ours)
    });
    // Who leaves has committed: the next goes on behind it. Who is killed has not, for a moment.
    let again = |these: &BTreeSet<usize>, those: &BTreeSet<usize>| these.intersection(those).count();
    assert_eq!(again(&of_first, &of_ours) + again(&of_first, &of_second), 0, "{pushes} pushes");
    let repeated = again(&of_second, &of_ours);
    assert!(repeated < pushes / 4, "{repeated} of {pushes} came again");
    drop(users);
}

/// What Go's job sends for one message: operation 9, the body one complete frame.
fn raw(body: &str) -> Value {
    json!({"Ver": 1, "Op": 9, "Seq": 0, "Body": BASE64.encode(Frame::new(1000, 0, body).bytes())})
}

/// The calls of a method that a Go server got.
fn calls(server: &GoPeer, method: &str) -> Vec<Value> {
    let of_method = |line: &&Value| line["Method"] == method;
    server.said(|lines| lines.iter().filter(of_method).map(|line| line["Req"].clone()).collect())
}

/// A Go comet among ours: it is called as Go's job calls it.
#[test]
fn a_go_comet_gets_goim_s_calls_from_our_job_and_its_users_from_our_logic() {
    let mut cluster = Cluster::start();
    cluster.jobs.truncate(1);
    let (go, server) = go_comet(&cluster);
    expect_comets(&cluster.logics[0], 3);
    eventually("job knows it", || (cluster.jobs[0].log().contains(&server)).then_some(()));
    let mut sessions = GoPeer::start(&["call", "logic", &cluster.logics[0].logic_rpc.to_string()]);
    let token = BASE64.encode(r#"{"mid":5,"key":"go","room_id":"live://1","accepts":[1000]}"#);
    let login = json!({"Method": "Connect", "Req": {"Server": server, "Token": token}});
    assert_eq!(sessions.ask(&login)["Reply"]["RoomID"], "live://1");
    let mut ours =
        cluster.comets[0].client(BOTH[1], &Login::key("ours").mid(5).room("live://1").accepts(&[1000]));

    cluster.logics[1].push("mids?operation=1000&mids=5", "mids");
    ours.expect_push(1000, "mids");
    cluster.logics[1].push("room?operation=1000&type=live&room=1", "room");
    ours.expect_push(1000, "room");
    cluster.logics[1].push("all?operation=1000&speed=300", "all");
    ours.expect_push(1000, "all");
    let expected = [
        ("PushMsg", json!({"Keys": ["go"], "Proto": raw("mids"), "ProtoOp": 1000})),
        ("BroadcastRoom", json!({"RoomID": "live://1", "Proto": raw("room")})),
        ("Broadcast", json!({"ProtoOp": 1000, "Proto": raw("all"), "Speed": 100})),
    ];
    // Unary calls of different kinds may pass each other.
    for (method, req) in &expected {
        let told = eventually(method, || Some(calls(&go, method)).filter(|told| !told.is_empty()));
        assert_eq!(told, std::slice::from_ref(req));
    }

    // It has no kick: that is said, and who can be kicked is.
    let answer = cluster.logics[0].post("/halley/kick/mids?mids=5", "");
    answer.expect_error(503, -500);
    let words = answer.json()["message"].as_str().expect("a text").to_owned();
    assert!(words.contains(&server) && words.contains("no kick"), "{words}");
    ours.end();
    // Its user goes to a comet of ours: nothing tells the Go comet, whose end of the old connection changes nothing.
    let mut moved = cluster.comets[1].client(BOTH[0], &Login::key("go").mid(5).accepts(&[1001]));
    let end = json!({"Method": "Disconnect", "Req": {"Mid": 5, "Key": "go", "Server": server}});
    assert_eq!(sessions.ask(&end)["Reply"]["Has"], false);
    cluster.logics[1].push("keys?operation=1001&keys=go", "moved");
    moved.expect_push(1001, "moved");
    let told = expected.iter().map(|(method, _)| calls(&go, method).len()).sum::<usize>();
    assert_eq!(told, 3);
}

/// A logic of goim's: it knows no `halley.v1`, no generations and no rooms of ours.
#[test]
fn our_comet_works_under_a_go_logic() {
    let mut cluster = Cluster::servers_only(Queue::List);
    let replies = json!({
        "Connect": {"Mid": 9, "Key": "go-key", "RoomID": "live://go", "Accepts": [1000], "Heartbeat": 240_000_000_000_i64},
        "Disconnect": {"Has": true},
        // Seven in the room, over all comets.
        "RenewOnline": {"AllRoomCount": {"live://go": 7}},
    });
    let (go, address) = GoPeer::serve("logic", &replies);
    etcdctl(&cluster.etcd, &["put", &format!("/goim.logic/prod/sh/sh001/{address}"), &address]);
    cluster.comets.push(cluster.comet(&["protocol.renewInterval=1s"]));
    let comet = &cluster.comets[0];
    comet.expect_ready();
    let server = comet.comet_rpc.to_string();

    let mut refused = comet.connect(BOTH[1]);
    refused.send(7, 1, "no JSON");
    assert_eq!(refused.end().code(), Some(4401), "what goim's logic answers with an error is no outage");

    let login = Login::key("asked-for").mid(1);
    let mut client = comet.client(BOTH[1], &login);
    // What the program says of a call may be read after the call's answer.
    let asked = eventually("both logins were asked", || calls(&go, "Connect").get(1).cloned());
    assert_eq!(asked, json!({"Server": server, "Cookie": "", "Token": BASE64.encode(login.body())}));
    // The comet in the room pushes to what logic said.
    let report = json!({"Server": server, "RoomCount": {"live://go": 1}});
    eventually("the report came", || calls(&go, "RenewOnline").contains(&report).then_some(()));
    go.said(|lines| {
        let mut reports = lines.iter().filter(|line| line["Method"] == "RenewOnline");
        assert!(reports.all(|line| line["Encoding"] == "gzip"), "{lines:?}");
    });
    eventually("the heartbeat says what logic said", || {
        client.send(2, 1, "");
        (client.frame().body == 7_i32.to_be_bytes()).then_some(())
    });
    // goim's renewal: one call for each session.
    let session = json!({"Mid": 9, "Key": "go-key", "Server": server});
    let beat = eventually("the session was renewed", || {
        client.send(2, 1, "");
        assert_eq!(client.frame().op, 3);
        calls(&go, "Heartbeat").first().cloned()
    });
    assert_eq!(beat, session);
    client.send(1234, 8, "ask");
    client.expect_reply(Frame::new(1235, 8, ""));
    let proto = json!({"Ver": 1, "Op": 1234, "Seq": 8, "Body": BASE64.encode("ask")});
    let received = eventually("the message was told", || calls(&go, "Receive").first().cloned());
    assert_eq!(received, json!({"Mid": 9, "Proto": proto}));
    client.leave();
    let ended = eventually("the end was told", || calls(&go, "Disconnect").first().cloned());
    assert_eq!(ended, session);
}

/// goim's logic only hears of what clients say; its comet hands it to the room. Ours left it to logic: the sender got an
/// empty reply, and nobody the message.
#[test]
fn what_a_client_says_under_a_go_logic_reaches_the_room_on_its_comet() {
    let mut cluster = Cluster::servers_only(Queue::List);
    let replies = json!({"Connect": {"RoomID": "live://go", "Heartbeat": 240_000_000_000_i64}});
    let (go, address) = GoPeer::serve("logic", &replies);
    etcdctl(&cluster.etcd, &["put", &format!("/goim.logic/prod/sh/sh001/{address}"), &address]);
    cluster.comets.push(cluster.comet(&[]));
    let comet = &cluster.comets[0];
    comet.expect_ready();
    let [mut speaker, mut member] =
        [("speaker", BOTH[0]), ("member", BOTH[1])].map(|(key, by)| comet.client(by, &Login::key(key)));
    speaker.send(4, 77, "to the room");
    speaker.expect_reply(Frame::new(5, 77, "to the room"));
    member.expect_push(5, "to the room");
    speaker.send_bytes(&Frame { ver: 0, ..Frame::new(4, 80, "of version 0") }.bytes());
    speaker.expect_reply(Frame { ver: 0, ..Frame::new(5, 80, "of version 0") });
    assert_eq!(member.frame(), Frame { ver: 0, ..Frame::new(5, 0, "of version 0") });
    eventually("goim's logic is told all the same", || (calls(&go, "Receive").len() == 2).then_some(()));
    member.send(12, 1, "live://elsewhere");
    member.expect_reply(Frame::new(13, 1, "live://elsewhere"));
    speaker.send(4, 78, "to those who stay");
    speaker.expect_reply(Frame::new(5, 78, "to those who stay"));
    member.expect_silence();
}

/// Every method of goim's comet service, called by grpc-go as goim's job calls.
#[test]
fn a_go_program_calls_every_method_of_our_comet() {
    let cluster = Cluster::start();
    let login = Login::key("k1").mid(1).room("live://1").accepts(&[1000]);
    let mut clients = BOTH.map(|transport| {
        let login = if transport == BOTH[1] {
            Login::key("k2").room("live://1").accepts(&[1000])
        } else {
            login.clone()
        };
        cluster.comets[0].client(transport, &login)
    });
    let mut job = GoPeer::start(&["call", "comet", &cluster.comets[0].comet_rpc.to_string()]);
    let mut call = |method: &str, req: Value| job.ask(&json!({"Method": method, "Req": req}));
    let done = json!({"Code": 0, "Words": "", "Reply": {}});
    let keys = json!(["k1", "absent", "k2"]);
    assert_eq!(call("PushMsg", json!({"Keys": keys, "Proto": raw("keys"), "ProtoOp": 1000})), done);
    assert_eq!(call("BroadcastRoom", json!({"RoomID": "live://1", "Proto": raw("room")})), done);
    assert_eq!(call("Broadcast", json!({"ProtoOp": 1000, "Proto": raw("all"), "Speed": 64})), done);
    let rooms = json!({"Code": 0, "Words": "", "Reply": {"Rooms": {"live://1": true}}});
    eventually("the shards told of the room", || (call("Rooms", json!({})) == rooms).then_some(()));
    for client in &mut clients {
        client.expect_push(1000, "keys");
        client.expect_push(1000, "room");
        client.expect_push(1000, "all");
    }
    // INVALID_ARGUMENT, and the connection is as good as before.
    assert_eq!(call("PushMsg", json!({"Keys": ["k1"]}))["Code"], 3);
    let long = "x".repeat(200_000);
    assert_eq!(call("PushMsg", json!({"Keys": ["k2"], "Proto": raw(&long), "ProtoOp": 1000})), done);
    clients[1].expect_push(1000, long);
    clients[0].expect_silence();
}

/// Every method of goim's logic service, called by grpc-go as goim's comet calls: the authority is a path, reports are gzip.
#[test]
fn a_go_program_calls_every_method_of_our_logic() {
    const SERVER: &str = "127.0.0.1:9999";
    let mut cluster = Cluster::start();
    cluster.jobs.truncate(1);
    let logic = &cluster.logics[0];
    let mut comet = GoPeer::start(&["call", "logic", &logic.logic_rpc.to_string()]);
    let mut call = |method: &str, req: Value| comet.ask(&json!({"Method": method, "Req": req}));
    let token = BASE64.encode(r#"{"mid":123,"key":"k1","room_id":"live://1000","accepts":[1000,1001]}"#);
    let connect = json!({"Server": SERVER, "Cookie": "a=b", "Token": token});
    let session = json!({"Mid": 123, "Key": "k1", "Server": SERVER});
    let answer = |reply: Value| json!({"Code": 0, "Words": "", "Reply": reply});

    let login = json!({"Mid": 123, "Key": "k1", "RoomID": "live://1000", "Accepts": [1000, 1001], "Heartbeat": 480_000_000_000_i64});
    assert_eq!(call("Connect", connect), answer(login));
    let refused = call("Connect", json!({"Server": SERVER, "Token": BASE64.encode("no JSON")}));
    assert_eq!(refused["Code"], 16, "UNAUTHENTICATED: {refused}");
    assert_eq!(call("Heartbeat", session.clone()), answer(json!({})));
    let report = json!({"Server": SERVER, "RoomCount": {"live://1000": 5}});
    assert_eq!(call("RenewOnline", report), answer(json!({"AllRoomCount": {"live://1000": 5}})));
    let message = json!({"Ver": 1, "Op": 1000, "Seq": 7, "Body": BASE64.encode("hello")});
    assert_eq!(call("Receive", json!({"Mid": 123, "Proto": message})), answer(json!({})));
    let nodes = call("Nodes", json!({"Platform": "web", "ClientIP": "127.0.0.1"}));
    assert_eq!(
        (&nodes["Code"], &nodes["Reply"]["TCPPort"], &nodes["Reply"]["HeartbeatMax"]),
        (&json!(0), &json!(3101), &json!(2))
    );
    assert_eq!(nodes["Reply"]["Backoff"]["MaxDelay"], 300);
    assert_eq!(nodes["Reply"]["Backoff"]["Factor"], 1.8, "a float of 32 bits, in the shortest form");
    assert_eq!(call("Disconnect", session.clone()), answer(json!({"Has": true})));
    assert_eq!(call("Disconnect", session), answer(json!({"Has": false})));
    expect_comets(logic, 2);
}
