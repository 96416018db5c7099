//! gRPC whose both ends show a certificate: who comes in, and who does not.

use std::{fs, net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Duration};

use grpc::halley::{RenewReq, logic_client::LogicClient};
use services::{Authority, TlsFiles};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinHandle};
use tonic::{Code, service::Routes, transport::Server};

use super::{Mutual, MutualConfig, stream::FAILED};
use crate::{
    accept::{incoming, listen},
    dial::{Dial, Peer, is_answer, never_left},
    shutdown::Reload,
};

const LIMIT: Duration = Duration::from_secs(10);

/// The section of a part that this authority certifies for 127.0.0.1 and localhost.
fn part(authority: &Authority) -> MutualConfig {
    let TlsFiles { ca, cert, key, .. } = authority.sign("part");
    MutualConfig { ca, cert, key }
}

fn start(section: &MutualConfig, reload: &Reload) -> Mutual {
    let read = section.read("").expect("files that can be used").expect("they are named");
    section.start(read, "", reload)
}

/// A server without a service: who comes in is told so.
fn serve(mutual: Option<Mutual>) -> (SocketAddr, JoinHandle<()>) {
    let listener = listen("0.0.0.0:0".parse().unwrap()).expect("a port");
    let address = ([127, 0, 0, 1], listener.local_addr().expect("an address").port()).into();
    let server = Server::builder().add_routes(Routes::default());
    let serving = tokio::spawn(async move {
        server.serve_with_incoming(incoming(listener, mutual)).await.expect("it serves");
    });
    (address, serving)
}

/// The server's answer; none where it gave none.
async fn call(address: impl ToString, tls: Option<Mutual>) -> Option<Code> {
    let peer = Peer::new(&address.to_string(), &Dial { limit: LIMIT, tls }).expect("an address");
    let answer = peer.in_time(LogicClient::new(peer.channel()).renew(RenewReq::default())).await;
    let status = answer.expect_err("there is no service");
    is_answer(&status).then(|| status.code())
}

/// Whether a call has certainly not reached the server.
async fn never_arrived(address: impl ToString, tls: Option<Mutual>) -> bool {
    let peer = Peer::new(&address.to_string(), &Dial { limit: LIMIT, tls }).expect("an address");
    let answer = peer.in_time(LogicClient::new(peer.channel()).renew(RenewReq::default())).await;
    never_left(&answer.expect_err("there is no service"))
}

#[tokio::test]
async fn whom_the_authority_has_certified_comes_in_and_nobody_else() {
    let (reload, ours, strangers) = (Reload::new(), Authority::new(), Authority::new());
    let stranger = start(&part(&strangers), &reload);
    let part = start(&part(&ours), &reload);
    let (address, serving) = serve(Some(part.clone()));
    assert_eq!(call(address, Some(part.clone())).await, Some(Code::Unimplemented));
    let failed = FAILED.load(Relaxed);
    // Neither a stranger, nor who shows nothing, nor who speaks no TLS.
    assert_eq!(call(address, Some(stranger.clone())).await, None);
    assert!(never_arrived(address, Some(stranger.clone())).await, "another server may be asked");
    assert_eq!(call(address, None).await, None);
    assert!(FAILED.load(Relaxed) >= failed + 2);
    // Nor do we call a stranger, or somebody in clear text, or one whose certificate is for another host.
    let (of_stranger, _serving) = serve(Some(stranger));
    assert_eq!(call(of_stranger, Some(part.clone())).await, None);
    let (in_clear, _serving) = serve(None);
    assert_eq!(call(in_clear, Some(part.clone())).await, None);
    assert_eq!(call(format!("127.0.0.2:{}", address.port()), Some(part.clone())).await, None);
    // After all that the server still serves.
    assert_eq!(call(address, Some(part)).await, Some(Code::Unimplemented));
    assert!(!serving.is_finished());
}

#[tokio::test]
async fn silent_connections_and_bad_handshakes_hold_nobody_up() {
    let authority = Authority::new();
    let part = start(&part(&authority), &Reload::new());
    let (address, serving) = serve(Some(part.clone()));
    let mut others = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        if n % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc").await.expect("it takes bytes");
        }
        others.push(stream);
    }
    let soon = tokio::time::timeout(Duration::from_secs(4), call(address, Some(part.clone()))).await;
    assert_eq!(soon, Ok(Some(Code::Unimplemented)));
    drop(others);
    assert_eq!(call(address, Some(part)).await, Some(Code::Unimplemented));
    assert!(!serving.is_finished());
}

#[tokio::test]
async fn certificates_are_exchanged_and_a_bad_file_changes_nothing() {
    let (reload, authority, other) = (Reload::new(), Authority::new(), Authority::new());
    let first = part(&authority);
    let server = start(&first, &reload);
    let client = start(&first, &Reload::new());
    let (address, _serving) = serve(Some(server.clone()));
    assert_eq!(call(address, Some(client.clone())).await, Some(Code::Unimplemented));
    fs::write(&first.ca, "nothing").expect("a file");
    let before = server.get();
    assert!(reload.ask());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(std::sync::Arc::ptr_eq(&before, &server.get()));
    assert_eq!(call(address, Some(client.clone())).await, Some(Code::Unimplemented));
    // Another authority, whose files stand where the old ones stood.
    let next = part(&other);
    for (from, to) in [(&next.ca, &first.ca), (&next.cert, &first.cert), (&next.key, &first.key)] {
        fs::copy(from, to).expect("a file");
    }
    assert!(reload.ask());
    for _ in 0..500 {
        if !std::sync::Arc::ptr_eq(&before, &server.get()) {
            assert_eq!(call(address, Some(client)).await, None);
            assert_eq!(call(address, Some(start(&next, &reload))).await, Some(Code::Unimplemented));
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the certificates were not read anew");
}

#[test]
fn what_is_wrong_with_the_section_is_told_by_key() {
    let authority = Authority::new();
    let right = part(&authority);
    let wrong = |change: fn(&mut MutualConfig)| {
        let mut section = right.clone();
        change(&mut section);
        let errors = section.read("comet.").expect_err("it is wrong");
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(matches!(MutualConfig::default().read(""), Ok(None)));
    for (said, parts) in [
        (wrong(|section| section.ca.clear()), &["comet.tls.ca = ", "needs ca, cert and key"][..]),
        (wrong(|section| section.key.clear()), &["comet.tls.key = "]),
        (wrong(|section| section.ca = "/nowhere".to_owned()), &["comet.tls.ca = ", "cannot be read"]),
        (wrong(|section| section.ca = section.key.clone()), &["comet.tls.ca = ", "no certificate"]),
        (
            wrong(|section| {
                let authority = Authority::new();
                let other = part(&authority);
                (section.cert, section.key) = (copy(&other.cert), copy(&other.key));
            }),
            &["comet.tls.cert = ", "has not signed it"],
        ),
        (wrong(|section| section.cert = section.ca.clone()), &["comet.tls.key = ", "does not belong"]),
        (wrong(|section| section.key = section.ca.clone()), &["comet.tls.key = ", "no private key"]),
    ] {
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    }
}

/// A copy of a file that stays.
fn copy(file: &str) -> String {
    let kept = tempfile::NamedTempFile::new().expect("a file").into_temp_path().keep().expect("a file");
    fs::copy(file, &kept).expect("a file");
    kept.display().to_string()
}
