//! Alone in its program, because it counts the descriptors of the process.

mod common;

use std::{io::Read, net::TcpStream, rc::Rc, time::Duration};

use bytes::Bytes;
use common::{listener, on_both_drivers};
use halley_ring::{ListenOptions, Socket as _, descriptors_open};
use monoio::time::sleep;

#[test]
fn a_thousand_connections_leave_no_descriptor() {
    on_both_drivers(|| async {
        let listener = listener(&ListenOptions::default());
        let address = listener.local_addr().unwrap();
        let before = descriptors_open().unwrap();
        for round in 0..1000 {
            let mut peer = TcpStream::connect(address).unwrap();
            let (socket, _) = listener.accept().await.unwrap().unwrap();
            if round % 2 == 0 {
                socket.send(Rc::new(Bytes::from_static(b"hello")), 0).await.0.unwrap();
                peer.read_exact(&mut [0; 5]).unwrap();
            }
        }
        // io_uring closes in its next turns.
        for _ in 0..100 {
            if descriptors_open().unwrap() == before {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(descriptors_open().unwrap(), before);
    });
}
