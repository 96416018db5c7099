//! The ring that only sends, on real sockets.

use std::{
    io::{ErrorKind, Read},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    rc::Rc,
};

use bytes::Bytes;
use halley_ring::{SendDone, SendRing};

/// A connected pair: the side that sends, the side that reads.
fn pair() -> (Rc<OwnedFd>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let reader = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let (sender, _) = listener.accept().expect("accepts");
    (Rc::new(sender.into()), reader)
}

/// Waits for one completion.
fn one(ring: &mut SendRing) -> SendDone {
    ring.submit_and_wait(1).expect("the kernel takes it");
    ring.completed().expect("it waited for one")
}

#[test]
fn a_batch_goes_to_many_sockets_in_one_submission() {
    let mut ring = SendRing::new(64).expect("io_uring");
    let mut pairs: Vec<_> = (0..64).map(|_| pair()).collect();
    for round in 0..3_u8 {
        let bytes = Bytes::from(vec![round; 100]);
        for (n, (sender, _)) in pairs.iter().enumerate() {
            assert!(ring.send(n as u64, sender, &bytes));
        }
        assert!(!ring.send(99, &pairs[0].0, &bytes), "64 are in flight");
        ring.submit_and_wait(64).expect("the kernel takes it");
        let mut tokens: Vec<_> = std::iter::from_fn(|| ring.completed())
            .map(|done| (done.token, done.result.expect("sent")))
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..64).map(|n| (n, 100)).collect::<Vec<_>>());
        for (_, reader) in &mut pairs {
            let mut got = [9; 100];
            reader.read_exact(&mut got).expect("it was sent");
            assert_eq!(got, [round; 100]);
        }
    }
}

/// A send ends short where the buffers are full, so it has to be continued.
#[test]
fn what_a_short_send_left_is_sent_by_the_next() {
    let mut ring = SendRing::new(4).expect("io_uring");
    let (sender, mut reader) = pair();
    let bytes = Bytes::from(vec![7; 16 << 20]);
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).expect("until the end");
        got.len()
    });
    let (mut taken, mut sends) = (0, 0);
    while taken < bytes.len() {
        assert!(ring.send(1, &sender, &bytes.slice(taken..)));
        taken += one(&mut ring).result.expect("sent");
        sends += 1;
    }
    assert!(sends > 1, "16 MiB do not fit into the buffers");
    drop((ring, sender));
    assert_eq!(reading.join().expect("no panic"), bytes.len());
}

#[test]
fn a_peer_that_reset_is_an_error_of_that_send_alone() {
    let mut ring = SendRing::new(4).expect("io_uring");
    let (gone, reader) = pair();
    socket2::SockRef::from(&reader).set_linger(Some(std::time::Duration::ZERO)).expect("an option");
    drop(reader);
    let (alive, mut reader) = pair();
    let bytes = Bytes::from_static(b"hello");
    assert!(ring.send(1, &gone, &bytes) && ring.send(2, &alive, &bytes));
    ring.submit_and_wait(2).expect("the kernel takes it");
    for done in std::iter::from_fn(|| ring.completed()) {
        match (done.token, done.result) {
            (1, Err(error)) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            (2, Ok(5)) => {}
            other => panic!("{other:?}"),
        }
    }
    let mut got = [0; 5];
    reader.read_exact(&mut got).expect("it was sent");
}

/// A reader that stopped holds its sends in the kernel; a ring that is dropped takes them back and leaks nothing.
#[test]
fn dropping_the_ring_ends_sends_that_wait_for_a_slow_reader() {
    let bytes = Bytes::from(vec![7; 32 << 20]);
    {
        let mut ring = SendRing::new(4).expect("io_uring");
        let (sender, _reader) = pair();
        // Short sends fill the buffers; the one after them waits.
        let mut sends = 0;
        loop {
            assert!(ring.send(1, &sender, &bytes));
            ring.submit_and_wait(0).expect("the kernel takes it");
            if ring.completed().is_none() {
                break;
            }
            sends += 1;
            assert!(sends < 100, "buffers have an end");
        }
        drop(ring);
        assert_eq!(Rc::strong_count(&sender), 1, "nobody holds the socket any more");
    }
    assert!(bytes.is_unique(), "nobody holds the bytes any more");
}
