//! A Go comet's side of gRPC in its very bytes: HTTP/2 frames with grpc-go's header blocks.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use loona_hpack::Decoder;

use super::{PATIENCE, hex};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// `/goim.logic.Logic/Connect`, the first call, for `:authority: goim.logic/prod/sh`: Huffman code, all that is new into the table.
pub(crate) const CONNECT: &str = "8386449262639a95e83cc622f9cf3188c5e3d551489f418d98e6a57a0f3188c5761e46113f5f8b1d75d0620d263d4c4d\
    65647a8a9acac8b4c7602b884bb34082497f864d833505b11f40899acac8b24d494f6a7f867df7df13b6ff";
/// `/goim.logic.Logic/RenewOnline`, the second call, with `grpc-encoding: gzip`; the authority is an index into the table.
pub(crate) const RENEW: &str = "8386449562639a95e83cc622f9cf3188c6d2d45f1aaaa0d517c3c2c1c07f00867df7df6436ff408a9acac8b16a21e435537f\
    839bd9ab";
/// The first again, behind the second: nothing but indices.
pub(crate) const CONNECT_AGAIN: &str = "8386c6c5c4c3c2c1";

/// `OnlineReq { server: "127.0.0.1:9999", room_count: {"live://1000": 5} }` through gzip.
pub(crate) const REPORT: &str =
    "1f8b0800000000000203e3e2333432d7330042432b4b2010e2e7e2cec92c4bb5d2d737343030106005009ca5335d21000000";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One connection of a Go comet to logic.
pub(crate) struct GoComet {
    stream: TcpStream,
    decoder: Decoder<'static>,
}

impl GoComet {
    pub(crate) fn connect(address: SocketAddr) -> GoComet {
        let mut stream = TcpStream::connect(address).expect("the port answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
        stream.write_all(&hello).expect("written");
        GoComet { stream, decoder: Decoder::new() }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("written");
    }

    /// The next frame that is for the caller: kind, flags, payload.
    #[track_caller]
    fn frame(&mut self) -> (u8, u8, Vec<u8>) {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).expect("a frame in time");
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.stream.read_exact(&mut payload).expect("a payload in time");
            match (head[3], head[4] & 1) {
                (kind @ (SETTINGS | PING), 0) => {
                    let answer = if kind == PING { &payload[..] } else { &[] };
                    self.send(&frame(kind, 1, 0, answer));
                }
                (RST_STREAM | GOAWAY, _) => panic!("refused with frame {}: {payload:?}", head[3]),
                (DATA | HEADERS | PING, _) => return (head[3], head[4], payload),
                _ => {}
            }
        }
    }

    /// goim's keepalive: a ping without a call under way, and its answer.
    #[track_caller]
    pub(crate) fn ping(&mut self, data: u64) {
        self.send(&frame(PING, 0, 0, &data.to_be_bytes()));
        assert_eq!(self.frame(), (PING, 1, data.to_be_bytes().to_vec()));
    }

    /// One call: the status and the message of the answer.
    #[track_caller]
    pub(crate) fn call(
        &mut self,
        stream: u32,
        block: &str,
        is_gzip: bool,
        message: &[u8],
    ) -> (String, Vec<u8>) {
        let len = u32::try_from(message.len()).expect("a short message").to_be_bytes();
        let message = [&[u8::from(is_gzip)], &len[..], message].concat();
        self.send(&frame(HEADERS, 4, stream, &hex(block)));
        self.send(&frame(DATA, 1, stream, &message));
        let (mut status, mut body) = (String::new(), Vec::new());
        loop {
            let (kind, flags, payload) = self.frame();
            if kind == HEADERS {
                let fields = self.decoder.decode(&payload).expect("a header block");
                if let Some((_, value)) = fields.into_iter().find(|(name, _)| name == b"grpc-status") {
                    status = String::from_utf8(value).expect("digits");
                }
            } else {
                body.extend(payload);
            }
            if flags & 1 != 0 {
                return (status, body.split_off(body.len().min(5)));
            }
        }
    }
}
