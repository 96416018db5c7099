//! What the monoio driver relies on, pinned on io_uring and epoll: waiting and writing at once, ends,
//! short writes, resets, handing over.

mod common;

use std::{
    cell::Cell,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::OwnedFd,
    rc::Rc,
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use common::{Driver, connection, drivers, listener, on_both_drivers, on_thread, receive_all};
use halley_ring::{ListenOptions, Monoio, MonoioSocket, Socket as _, Turns};
use monoio::time::{sleep, timeout};
use rustix::net::sockopt;

/// Small enough that a reader who stops is felt after some tens of kilobytes.
fn small_buffers() -> ListenOptions {
    ListenOptions { send_buffer: Some(16_384), receive_buffer: Some(16_384), ..ListenOptions::default() }
}

/// Neither repeating nor compressible by accident: a lost, doubled or moved part is seen.
fn pattern(length: usize) -> Rc<Bytes> {
    let words = (0_u32..).flat_map(|n| n.wrapping_mul(0x9E37_79B9).to_be_bytes());
    Rc::new(words.take(length).collect())
}

fn close_with_reset(peer: TcpStream) {
    sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
}

#[test]
fn a_socket_is_written_while_it_is_awaited() {
    on_both_drivers(|| async {
        let (socket, mut peer) = connection(&ListenOptions::default()).await;
        let reader = monoio::spawn({
            let socket = Rc::clone(&socket);
            async move {
                socket.readable().await.unwrap();
                let mut buf = [0; 16];
                let length = socket.try_receive(&mut buf).unwrap();
                buf[..length].to_vec()
            }
        });
        sleep(Duration::from_millis(5)).await; // the reader waits in the kernel now
        let (result, written) = socket.send(Rc::new(Bytes::from_static(b"__hello")), 2).await;
        assert_eq!((result.unwrap(), written), ((), 5));

        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        peer.write_all(b"back").unwrap();
        assert_eq!(reader.await, b"back");
    });
}

#[test]
fn receiving_never_waits() {
    on_both_drivers(|| async {
        let (socket, mut peer) = connection(&ListenOptions::default()).await;
        let mut buf = [0; 4];
        assert_eq!(socket.try_receive(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
        peer.write_all(b"123456").unwrap();
        socket.readable().await.unwrap();
        assert_eq!(socket.try_receive(&mut buf).unwrap(), 4);
        assert_eq!(socket.try_receive(&mut buf).unwrap(), 2);
        assert_eq!(socket.try_receive(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(peer);
        socket.readable().await.unwrap();
        assert_eq!(socket.try_receive(&mut buf).unwrap(), 0);
    });
}

#[test]
fn shutdown_wakes_a_waiting_reader_who_then_reads_the_end() {
    on_both_drivers(|| async {
        let (socket, _peer) = connection(&ListenOptions::default()).await;
        let reader = monoio::spawn({
            let socket = Rc::clone(&socket);
            async move {
                socket.readable().await.unwrap();
                socket.try_receive(&mut [0; 16]).unwrap()
            }
        });
        sleep(Duration::from_millis(5)).await;
        socket.shutdown(Shutdown::Both).unwrap();
        assert_eq!(reader.await, 0);
    });
}

#[test]
fn a_short_write_is_continued_when_the_reader_resumes() {
    on_both_drivers(|| async {
        let (socket, mut peer) = connection(&small_buffers()).await;
        let sent = pattern(1 << 20);
        let expected = Rc::clone(&sent).to_vec();
        let reader = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50)); // long enough for every buffer to fill
            let mut got = Vec::new();
            peer.read_to_end(&mut got).unwrap();
            got
        });
        let (result, written) = socket.send(Rc::clone(&sent), 0).await;
        result.unwrap();
        assert_eq!(written, sent.len());
        assert_eq!(Rc::strong_count(&sent), 1, "the send has let go of the bytes");
        socket.shutdown(Shutdown::Write).unwrap();
        assert!(reader.join().unwrap() == expected, "the bytes arrive once and in order");
    });
}

#[test]
fn a_send_of_nothing_is_done_at_once() {
    on_both_drivers(|| async {
        let (socket, _peer) = connection(&ListenOptions::default()).await;
        let (result, written) = socket.send(Rc::new(Bytes::from_static(b"abc")), 3).await;
        assert_eq!((result.unwrap(), written), ((), 0));
    });
}

#[test]
fn a_reset_in_the_middle_of_a_send_is_an_error_with_the_bytes_written() {
    on_both_drivers(|| async {
        let (socket, peer) = connection(&small_buffers()).await;
        let bytes = pattern(1 << 20);
        let sender = monoio::spawn({
            let socket = Rc::clone(&socket);
            async move { socket.send(bytes, 0).await }
        });
        while socket.unsent_bytes().unwrap() == 0 {
            sleep(Duration::from_millis(1)).await; // until the send is under way
        }
        close_with_reset(peer);
        let (result, written) = sender.await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!((1..1 << 20).contains(&written), "{written}");

        let (result, written) = socket.send(pattern(10), 0).await;
        assert_eq!(written, 0);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe, "and no SIGPIPE");
    });
}

#[test]
fn a_reset_wakes_a_waiting_reader() {
    on_both_drivers(|| async {
        let (socket, peer) = connection(&ListenOptions::default()).await;
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            close_with_reset(peer);
        });
        socket.readable().await.unwrap();
        assert_eq!(socket.try_receive(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_hang_up_is_seen_without_reading_even_behind_unread_bytes() {
    on_both_drivers(|| async {
        let (socket, mut peer) = connection(&ListenOptions::default()).await;
        assert!(!socket.has_hung_up());
        peer.write_all(b"login").unwrap();
        socket.readable().await.unwrap();
        assert!(!socket.has_hung_up(), "bytes are no hang-up");
        drop(peer);
        assert!(socket.has_hung_up());
        assert_eq!(socket.try_receive(&mut [0; 16]).unwrap(), 5, "and nothing was taken");

        let (socket, peer) = connection(&ListenOptions::default()).await;
        close_with_reset(peer);
        assert!(socket.has_hung_up());
    });
}

/// A thread that stood still reads a login as if it had just come: its client may have gone elsewhere since.
#[test]
fn the_age_of_bytes_is_known_however_late_they_are_accepted_and_read() {
    on_both_drivers(|| async {
        let listener = listener(&ListenOptions::default());
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        thread::sleep(Duration::from_millis(400));
        peer.write_all(b"login").unwrap();
        thread::sleep(Duration::from_millis(300));
        // Neither its end, nor what it does not send, makes it younger.
        peer.shutdown(Shutdown::Write).unwrap();
        thread::sleep(Duration::from_millis(100));
        let (socket, _) = listener.accept().await.unwrap().unwrap();
        let least = Duration::from_millis(380);
        let age = socket.newest_bytes_age();
        assert!((least..Duration::from_millis(800)).contains(&age), "{age:?}");
        assert_eq!(socket.try_receive(&mut [0; 16]).unwrap(), 5);
        assert!(socket.newest_bytes_age() >= age, "being read makes them no younger");

        let (socket, mut peer) = connection(&ListenOptions::default()).await;
        thread::sleep(Duration::from_millis(900));
        peer.write_all(b"login").unwrap();
        socket.readable().await.unwrap();
        assert!(socket.newest_bytes_age() < Duration::from_millis(800), "what was sent now is new");
    });
}

#[test]
fn what_a_stalled_reader_leaves_in_the_kernel_is_known() {
    on_both_drivers(|| async {
        let (socket, mut peer) = connection(&small_buffers()).await;
        assert_eq!(socket.unsent_bytes().unwrap(), 0);
        let sender = monoio::spawn({
            let socket = Rc::clone(&socket);
            async move { socket.send(pattern(1 << 20), 0).await.0.unwrap() }
        });
        while socket.unsent_bytes().unwrap() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let unsent = socket.unsent_bytes().unwrap();
        assert!((1..200_000).contains(&unsent), "about SO_SNDBUF and not all of it: {unsent}");
        thread::spawn(move || peer.read_exact(&mut vec![0; 1 << 20]).unwrap());
        sender.await;
    });
}

#[test]
fn a_close_resets_when_told_so_and_else_delivers() {
    on_both_drivers(|| async {
        let (socket, mut peer) = connection(&ListenOptions::default()).await;
        socket.set_reset_on_close().unwrap();
        drop(socket);
        sleep(Duration::from_millis(5)).await; // the close is an operation too
        assert_eq!(peer.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionReset);

        let (socket, mut peer) = connection(&ListenOptions::default()).await;
        socket.send(Rc::new(Bytes::from_static(b"bye")), 0).await.0.unwrap();
        drop(socket);
        sleep(Duration::from_millis(5)).await;
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"bye");
    });
}

/// A connection moves between two threads and back while its peer writes and closes, from every
/// driver to every driver. This also pins that io_uring waits on a nonblocking socket.
#[test]
fn handing_over_loses_no_byte() {
    const ROUNDS: usize = 100;
    for from in drivers() {
        for to in drivers() {
            hand_over(from, to, ROUNDS);
        }
    }
}

fn hand_over(from: Driver, to: Driver, rounds: usize) {
    let (there, arrivals) = mpsc::sync_channel::<OwnedFd>(1);
    let (back, returns) = mpsc::sync_channel::<OwnedFd>(1);
    // The second thread takes one piece of what has come in by then and hands back.
    let second = on_thread(to, move || async move {
        for fd in arrivals {
            let socket = Rc::new(MonoioSocket::adopt(fd).unwrap());
            socket.readable().await.unwrap();
            let mut buf = [0; 7];
            let length = socket.try_receive(&mut buf).unwrap();
            let (result, _) = socket.send(Rc::new(Bytes::copy_from_slice(&buf[..length])), 0).await;
            result.unwrap();
            back.send(MonoioSocket::detach(socket).unwrap()).unwrap();
        }
    });
    let first = on_thread(from, move || async move {
        for round in 0..rounds {
            let (socket, mut peer) = connection(&ListenOptions::default()).await;
            let sent = pattern(1000 + round).to_vec();
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
            socket.readable().await.unwrap();
            let mut buf = [0; 5];
            let length = socket.try_receive(&mut buf).unwrap();
            let mut received = buf[..length].to_vec();
            there.send(MonoioSocket::detach(socket).unwrap()).unwrap();

            let socket = Rc::new(MonoioSocket::adopt(returns.recv().unwrap()).unwrap());
            let rest = receive_all(&socket).await;
            socket.shutdown(Shutdown::Both).unwrap();
            drop(socket);
            sleep(Duration::from_millis(1)).await; // submits the close, which ends the writer's read
            let taken_there = writer.join().unwrap();
            received.extend_from_slice(&taken_there);
            received.extend_from_slice(&rest);
            assert!(received == expected, "round {round} from {from:?} to {to:?}");
        }
    });
    first();
    second();
}

#[test]
fn detaching_while_an_operation_runs_is_an_error_and_keeps_the_socket() {
    on_both_drivers(|| async {
        let (socket, mut peer) = connection(&small_buffers()).await;
        let sender = monoio::spawn({
            let socket = Rc::clone(&socket);
            async move { socket.send(pattern(1 << 20), 0).await }
        });
        sleep(Duration::from_millis(5)).await;
        let error = MonoioSocket::detach(socket).unwrap_err();
        assert!(error.to_string().contains("still uses"), "{error}");
        let socket = error.socket;

        let reader = thread::spawn(move || peer.read_exact(&mut vec![0; 1 << 20]).map(|()| peer).unwrap());
        sender.await.0.unwrap();
        let _peer = reader.join().unwrap();
        let fd = MonoioSocket::detach(socket).expect("nothing runs any more");
        assert!(sockopt::socket_error(&fd).unwrap().is_ok());
    });
}

#[test]
fn detaching_after_an_operation_was_abandoned_is_an_error_and_no_panic() {
    on_both_drivers(|| async {
        let (socket, _peer) = connection(&small_buffers()).await;
        let abandoned = timeout(Duration::from_millis(5), socket.readable()).await;
        assert!(abandoned.is_err(), "nothing arrives");
        assert!(MonoioSocket::detach(socket).is_err());
    });
}

#[test]
fn accepted_sockets_inherit_the_options_and_are_not_blocking_nor_inherited_by_children() {
    on_both_drivers(|| async {
        let options = ListenOptions {
            send_buffer: Some(20_000),
            user_timeout: Some(Duration::from_secs(7)),
            ..ListenOptions::default()
        };
        let (socket, _peer) = connection(&options).await;
        let fd = MonoioSocket::detach(socket).unwrap();
        assert_eq!(sockopt::socket_send_buffer_size(&fd).unwrap(), 40_000, "the kernel doubles it");
        assert_eq!(sockopt::tcp_user_timeout(&fd).unwrap(), 7_000);
        assert!(sockopt::socket_keepalive(&fd).unwrap());
        assert!(sockopt::tcp_nodelay(&fd).unwrap());
        let descriptor_flags = rustix::io::fcntl_getfd(&fd).unwrap();
        assert!(descriptor_flags.contains(rustix::io::FdFlags::CLOEXEC));
        let error = rustix::io::read(&fd, &mut [0; 1]).unwrap_err();
        assert_eq!(error, rustix::io::Errno::AGAIN, "a plain read would block otherwise");
    });
}

#[test]
fn a_stopped_listener_ends_its_accept_and_frees_the_port() {
    on_both_drivers(|| async {
        let listener = Rc::new(listener(&ListenOptions::default()));
        let address = listener.local_addr().unwrap();
        let accepting = monoio::spawn({
            let listener = Rc::clone(&listener);
            async move { listener.accept().await.is_none() }
        });
        sleep(Duration::from_millis(5)).await;
        listener.stop();
        assert!(accepting.await);
        assert!(listener.accept().await.is_none(), "and stays stopped");
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        halley_ring::refuse_second_process(address).expect("the port is free again");
    });
}

#[test]
fn a_storm_of_connections_leaves_turns_to_others() {
    const CONNECTIONS: usize = 1000;
    on_both_drivers(|| async {
        let listener = listener(&ListenOptions::default());
        let address = listener.local_addr().unwrap();
        let mut peers = Vec::new();
        let mut sockets = Vec::new();
        // All are in the kernel's queue before the first is accepted.
        peers.resize_with(CONNECTIONS, || TcpStream::connect(address).unwrap());

        let turns = Turns::start::<Monoio>().unwrap();
        let passed = Rc::new(Cell::new(0));
        monoio::spawn({
            let passed = Rc::clone(&passed);
            async move {
                loop {
                    turns.next().await;
                    passed.set(passed.get() + 1);
                }
            }
        });
        for _ in 0..CONNECTIONS {
            sockets.push(listener.accept().await.unwrap().unwrap());
        }
        assert!(passed.get() >= CONNECTIONS / 64 / 2, "{} turns", passed.get());
    });
}
