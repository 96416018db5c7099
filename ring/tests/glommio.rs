//! What a driver relies on, pinned on glommio. The whole of it is `comet/tests/driver`.
#![cfg(feature = "glommio")]

mod common;

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::OwnedFd,
    pin::pin,
    rc::Rc,
    sync::mpsc,
    task::Poll,
    thread,
    time::Duration,
};

use bytes::Bytes;
use common::{Driver, on_thread};
use halley_ring::{
    Glommio, GlommioSocket, ListenOptions, Listener, MonoioSocket, Runtime, Socket as _, Turns, listen,
    probe_io_uring, wake_pair,
};

/// Runs a test on glommio. Without io_uring it is left out, visibly; where `REQUIRE_REAL=1` says that it must be there,
/// the test fails.
fn on_glommio(test: impl Future<Output = ()>) {
    match probe_io_uring(256, 3) {
        Ok(()) => Glommio::run(256, test).expect("probed before"),
        Err(refusal) => {
            assert!(std::env::var_os("REQUIRE_REAL").is_none(), "{refusal}");
            eprintln!("SKIPPED: {refusal}");
        }
    }
}

fn listener() -> Listener<Glommio> {
    let socket = listen(([127, 0, 0, 1], 0).into(), &ListenOptions::default()).unwrap();
    Listener::from_std(socket, Turns::start::<Glommio>().unwrap()).unwrap()
}

async fn connection() -> (Rc<GlommioSocket>, TcpStream) {
    let listener = listener();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, address) = listener.accept().await.expect("not stopped").unwrap();
    assert_eq!(address, peer.local_addr().unwrap());
    (Rc::new(socket), peer)
}

/// A wait that is begun and given up.
async fn abandon(wait: impl Future) {
    let mut wait = pin!(wait);
    poll_fn(|context| {
        assert!(wait.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_task_never_begins_within_the_call_that_spawns_it() {
    on_glommio(async {
        let began = Rc::new(Cell::new(false));
        Glommio::spawn({
            let began = Rc::clone(&began);
            async move { began.set(true) }
        });
        assert!(!began.get());
        Glommio::sleep(Duration::from_millis(1)).await;
        assert!(began.get());
    });
}

#[test]
fn several_wakes_are_one_and_an_abandoned_wait_loses_none() {
    on_glommio(async {
        let (sender, seed) = wake_pair().unwrap();
        let mut receiver = seed.into_receiver::<Glommio>().unwrap();
        (0..5).for_each(|_| sender.wake());
        receiver.wait().await.unwrap();
        for _ in 0..3 {
            abandon(receiver.wait()).await;
            Glommio::sleep(Duration::from_millis(1)).await;
        }
        thread::spawn(move || sender.wake());
        receiver.wait().await.unwrap();
        abandon(receiver.wait()).await;
    });
}

#[test]
fn a_stopped_listener_ends_its_accept_and_frees_the_port() {
    on_glommio(async {
        let listener = Rc::new(listener());
        let address = listener.local_addr().unwrap();
        let ended = Rc::new(Cell::new(false));
        Glommio::spawn({
            let (listener, ended) = (Rc::clone(&listener), Rc::clone(&ended));
            async move { ended.set(listener.accept().await.is_none()) }
        });
        Glommio::sleep(Duration::from_millis(5)).await;
        listener.stop();
        Glommio::sleep(Duration::from_millis(50)).await;
        assert!(ended.get());
        halley_ring::refuse_second_process(address).expect("the port is free again");
    });
}

/// A connection moves to monoio and back while its peer writes and closes.
#[test]
fn handing_over_loses_no_byte() {
    let (there, arrivals) = mpsc::sync_channel::<OwnedFd>(1);
    let (back, returns) = mpsc::sync_channel::<OwnedFd>(1);
    let second = on_thread(Driver::Epoll, move || async move {
        for fd in arrivals {
            let socket = Rc::new(MonoioSocket::adopt(fd).unwrap());
            let buffer = RefCell::new(vec![0; 7]);
            let length = socket.receive(&buffer).await.unwrap();
            let taken = Bytes::copy_from_slice(&buffer.borrow()[..length]);
            socket.send(Rc::new(taken), 0).await.0.unwrap();
            back.send(MonoioSocket::detach(socket).unwrap()).unwrap();
        }
    });
    on_glommio(async move {
        for round in 0..100 {
            let (socket, mut peer) = connection().await;
            let sent: Vec<u8> = (0..1000 + round).map(|n: u32| n as u8).collect();
            let expected = sent.clone();
            let writer = thread::spawn(move || {
                let mut echoed = Vec::new();
                for piece in sent.chunks(97) {
                    peer.write_all(piece).unwrap();
                    thread::yield_now();
                }
                peer.shutdown(Shutdown::Write).unwrap();
                peer.read_to_end(&mut echoed).unwrap();
                echoed
            });
            let buffer = RefCell::new(vec![0; 5]);
            let length = socket.receive(&buffer).await.unwrap();
            let mut received = buffer.borrow()[..length].to_vec();
            there.send(GlommioSocket::detach(socket).unwrap()).unwrap();

            let socket = GlommioSocket::adopt(returns.recv().unwrap()).unwrap();
            let buffer = RefCell::new(vec![0; 4096]);
            let mut rest = Vec::new();
            loop {
                match socket.receive(&buffer).await.unwrap() {
                    0 => break,
                    length => rest.extend_from_slice(&buffer.borrow()[..length]),
                }
            }
            socket.shutdown(Shutdown::Both).unwrap();
            received.extend_from_slice(&writer.join().unwrap());
            received.extend_from_slice(&rest);
            assert!(received == expected, "round {round}");
        }
    });
    second();
}
