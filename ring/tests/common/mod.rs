//! Runs a test on both of monoio's drivers, with a deadline, and makes connections for it.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    future::Future,
    net::TcpStream,
    rc::Rc,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use halley_ring::{ListenOptions, Listener, Monoio, MonoioSocket, Turns, listen};

/// A test that takes longer hangs: a lost wake, or a wait nothing ends.
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    IoUring,
    Epoll,
}

/// The drivers this machine allows. Without io_uring half of a test is left out, visibly; where
/// `REQUIRE_REAL=1` says that it must be there, the test fails.
pub(crate) fn drivers() -> Vec<Driver> {
    match halley_ring::probe_io_uring(256, 1) {
        Ok(()) => vec![Driver::IoUring, Driver::Epoll],
        Err(refusal) => {
            assert!(std::env::var_os("REQUIRE_REAL").is_none(), "{refusal}");
            eprintln!("SKIPPED on io_uring: {refusal}");
            vec![Driver::Epoll]
        }
    }
}

/// Runs `test` on a fresh thread and runtime per driver.
pub(crate) fn on_both_drivers<F, T>(test: F)
where
    F: Fn() -> T + Clone + Send + 'static,
    T: Future<Output = ()>,
{
    for driver in drivers() {
        let test = test.clone();
        on_thread(driver, test)();
    }
}

/// Starts `test` on a thread with a runtime of its own; the result waits for its end.
#[must_use = "call it to wait for the thread"]
pub(crate) fn on_thread<F, T>(driver: Driver, test: F) -> impl FnOnce()
where
    F: FnOnce() -> T + Send + 'static,
    T: Future<Output = ()>,
{
    let (done, end) = mpsc::sync_channel(1);
    let thread = std::thread::spawn(move || {
        block_on(driver, test());
        done.send(()).expect("the test still waits");
    });
    move || match end.recv_timeout(DEADLINE) {
        Ok(()) => thread.join().expect("a thread that said so has ended well"),
        Err(RecvTimeoutError::Timeout) => panic!("hangs on {driver:?}"),
        Err(RecvTimeoutError::Disconnected) => {
            eprintln!("failed on {driver:?}");
            std::panic::resume_unwind(thread.join().expect_err("it did not say that it is done"))
        }
    }
}

fn block_on<T>(driver: Driver, test: impl Future<Output = T>) -> T {
    match driver {
        Driver::IoUring => Monoio::run_on_io_uring(256, test).expect("probed before"),
        Driver::Epoll => Monoio::run_on_epoll(256, test).expect("epoll is always there"),
    }
}

pub(crate) fn listener(options: &ListenOptions) -> Listener<Monoio> {
    let socket = listen(([127, 0, 0, 1], 0).into(), options).expect("a free port");
    Listener::from_std(socket, Turns::start::<Monoio>().unwrap()).unwrap()
}

/// Our end, and the peer's as a plain blocking socket.
pub(crate) async fn connection(options: &ListenOptions) -> (Rc<MonoioSocket>, TcpStream) {
    let listener = listener(options);
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, address) = listener.accept().await.expect("not stopped").unwrap();
    assert_eq!(address, peer.local_addr().unwrap());
    (Rc::new(socket), peer)
}

/// Reads until the end of the stream.
pub(crate) async fn receive_all(socket: &MonoioSocket) -> Vec<u8> {
    let mut received = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match socket.try_receive(&mut buf) {
            Ok(0) => return received,
            Ok(length) => received.extend_from_slice(&buf[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => socket.readable().await.unwrap(),
            Err(error) => panic!("{error} after {} bytes", received.len()),
        }
    }
}
