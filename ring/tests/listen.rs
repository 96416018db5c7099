//! One port for all shards of a process and for no second process.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
};

use halley_ring::{ListenOptions, listen, refuse_second_process};

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

#[test]
fn shards_share_a_port_and_a_second_process_is_refused() {
    let options = ListenOptions::default();
    let first = listen(any_port(), &options).unwrap();
    let address = first.local_addr().unwrap();
    let second = listen(address, &options).expect("another shard");
    assert_eq!(refuse_second_process(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(first);
    assert_eq!(refuse_second_process(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(second);
    refuse_second_process(address).expect("nobody listens any more");
}

#[test]
fn a_plain_listener_of_somebody_else_is_refused_too() {
    let other = TcpListener::bind(any_port()).unwrap();
    let address = other.local_addr().unwrap();
    assert_eq!(refuse_second_process(address).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn connections_left_by_an_earlier_process_do_not_refuse_the_next() {
    let earlier = listen(any_port(), &ListenOptions::default()).unwrap();
    let address = earlier.local_addr().unwrap();
    earlier.set_nonblocking(false).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let (accepted, _) = earlier.accept().unwrap();
    // Who closes first keeps the address in TIME_WAIT.
    drop(accepted);
    drop(client);
    drop(earlier);
    refuse_second_process(address).unwrap();
    listen(address, &ListenOptions::default()).unwrap();
}

#[test]
fn asking_for_a_free_port_takes_none() {
    refuse_second_process(any_port()).unwrap();
    let first = listen(any_port(), &ListenOptions::default()).unwrap();
    let second = listen(any_port(), &ListenOptions::default()).unwrap();
    assert_ne!(first.local_addr().unwrap(), second.local_addr().unwrap());
}
