//! What holds for every input: round trips, cuts that change nothing, no panic on noise.

mod common;

use common::{
    Opcode, Said, cut, frames, masked, read,
    spoil::{spoil, spots},
    upgrade,
};
use proptest::{collection::vec, prelude::*};
use proto::{
    encoded::Encoded,
    frame::{CLIENT_BODY_MAX, Decoded, HEADER_LEN, Header, decode, encode, frames_of_message},
    ids::RoomId,
    login::{Login, extras},
    op::Op,
    websocket::{ClientUpgrade, UpgradeRules},
};

fn header() -> impl Strategy<Value = Header> {
    (any::<i16>(), any::<i32>(), any::<i32>()).prop_map(|(ver, op, seq)| Header { ver, op: Op(op), seq })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), 0..64), 1 => vec(any::<u8>(), 0..=CLIENT_BODY_MAX)]
}

fn stream_of(frames: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut stream = Vec::new();
    frames.iter().for_each(|(header, body)| encode(*header, body, &mut stream));
    stream
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(any::<usize>(), 0..12)
}

/// One message of a client as it may be sent: fragments, with control frames between them.
#[derive(Clone, Debug)]
struct Sent {
    text: bool,
    payload: Vec<u8>,
    cuts: Vec<usize>,
    ping: Option<Vec<u8>>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let payload = prop_oneof![
        vec(any::<u8>(), 0..300).prop_map(|payload| (false, payload)),
        ".{0,80}".prop_map(|text: String| (true, text.into_bytes())),
    ];
    (payload, vec(any::<usize>(), 0..5), proptest::option::of(vec(any::<u8>(), 0..=125)))
        .prop_map(|((text, payload), cuts, ping)| Sent { text, payload, cuts, ping })
}

/// The frames of a message, and what a reader must make of them.
fn client_stream(script: &[Sent]) -> (Vec<u8>, Vec<Said>) {
    let (mut stream, mut wanted) = (Vec::new(), Vec::new());
    for sent in script {
        let fragments = cut(&sent.payload, &sent.cuts);
        for (i, fragment) in fragments.iter().enumerate() {
            if let Some(ping) = &sent.ping {
                stream.extend(masked(0x89, ping));
                wanted.push(Said::Ping(ping.clone()));
            }
            let opcode = match (i, sent.text) {
                (0, true) => Opcode::Text,
                (0, false) => Opcode::Binary,
                _ => Opcode::Continuation,
            };
            let fin = if i + 1 == fragments.len() { 0x80 } else { 0 };
            stream.extend(masked(fin | opcode.bits(), fragment));
        }
        wanted.push(Said::Message(sent.payload.clone()));
    }
    (stream, wanted)
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_however_cut(sent in vec((header(), body()), 0..6), cuts in cuts()) {
        let stream = stream_of(&sent);
        prop_assert_eq!(frames(&cut(&stream, &cuts), CLIENT_BODY_MAX), (sent, None));
    }

    #[test]
    fn a_spoiled_stream_of_frames_says_the_same_however_cut(
        sent in vec((header(), vec(any::<u8>(), 0..40)), 1..6), spots in spots(), cuts in cuts()
    ) {
        let stream = spoil(stream_of(&sent), &spots);
        prop_assert_eq!(frames(&cut(&stream, &cuts), CLIENT_BODY_MAX), frames(&[&stream], CLIENT_BODY_MAX));
    }

    #[test]
    fn a_message_holds_what_the_same_bytes_say_as_a_stream(
        sent in vec((header(), vec(any::<u8>(), 0..40)), 0..6), spots in spots()
    ) {
        let message = spoil(stream_of(&sent), &spots);
        let (in_stream, violation) = frames(&[&message], CLIENT_BODY_MAX);
        let items: Vec<_> = frames_of_message(&message, CLIENT_BODY_MAX).collect();
        let good: Vec<_> = items.iter().filter_map(|item| item.as_ref().ok())
            .map(|frame| (frame.header, frame.body.to_vec())).collect();
        prop_assert_eq!(&good, &in_stream);
        // A message may end badly where a stream would wait, but never the other way round.
        prop_assert!(violation.is_none() || items.last().unwrap().is_err());
        prop_assert!(items.iter().rev().skip(1).all(Result::is_ok), "an error is the last item");
    }

    #[test]
    fn noise_is_answered_within_the_limits(noise in vec(any::<u8>(), 0..64), body_max in 0usize..10_000) {
        match decode(&noise, body_max) {
            Ok(Decoded::NeedMore { at_least }) => {
                prop_assert!(at_least > noise.len() && at_least <= HEADER_LEN + body_max);
            }
            Ok(Decoded::Frame { frame, used }) => {
                prop_assert!(used <= noise.len() && frame.body.len() <= body_max);
                let mut again = Vec::new();
                encode(frame.header, frame.body, &mut again);
                prop_assert_eq!(&again, &noise[..used]);
            }
            Err(violation) => prop_assert!(!violation.label().is_empty()),
        }
    }

    #[test]
    fn a_push_reads_back_on_both_transports(op in any::<i32>(), body in body()) {
        let push = Encoded::push(Op(op), &body);
        let inner = (Header { ver: 1, op: Op(op), seq: 0 }, body);
        prop_assert_eq!(frames(&[push.tcp()], usize::MAX), (vec![inner], None));

        let mut reader = proto::websocket::Reader::of_server();
        let (said, violation) = common::read_with(&mut reader, &[push.ws()], &Default::default());
        prop_assert_eq!(violation, None);
        let [Said::Message(message)] = &said[..] else { panic!("{said:?}") };
        let wrapper = (Header { ver: 1, op: Op::RAW, seq: 0 }, push.tcp().to_vec());
        prop_assert_eq!(frames(&[message], usize::MAX), (vec![wrapper], None));
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_fragmented_and_cut(
        script in vec(sent(), 0..5), cuts in cuts()
    ) {
        let (stream, wanted) = client_stream(&script);
        prop_assert_eq!(read(&cut(&stream, &cuts)), (wanted, None));
    }

    #[test]
    fn a_spoiled_websocket_stream_says_the_same_however_cut(
        script in vec(sent(), 1..4), spots in spots(), cuts in cuts()
    ) {
        let stream = spoil(client_stream(&script).0, &spots);
        prop_assert_eq!(read(&cut(&stream, &cuts)), read(&[&stream]));
    }

    #[test]
    fn websocket_noise_says_the_same_however_cut(noise in vec(any::<u8>(), 0..200), cuts in cuts()) {
        // Mask bit and a plausible first byte, so that noise gets beyond them.
        let steered: Vec<u8> = noise.iter().enumerate()
            .map(|(i, &byte)| match i { 0 => byte & 0x8f, 1 => byte | 0x80, _ => byte }).collect();
        prop_assert_eq!(read(&cut(&steered, &cuts)), read(&[&steered]));
    }

    #[test]
    fn a_spoiled_upgrade_says_the_same_however_cut(
        spots in spots(), cuts in cuts(), after in vec(any::<u8>(), 0..20)
    ) {
        let client = ClientUpgrade::new(*b"0123456789abcdef");
        let headers = [("Cookie", "a=1"), ("Origin", "http://h:1"), ("Sec-WebSocket-Protocol", "a, b")];
        let request = client.request("h:2", "/sub?token=1", &headers);
        let stream = [spoil(request, &spots), after].concat();
        let rules = UpgradeRules::default();
        prop_assert_eq!(upgrade(&cut(&stream, &cuts), &rules), upgrade(&[&stream], &rules));
    }

    #[test]
    fn an_upgrade_of_noise_is_refused_or_waited_for(noise in vec(any::<u8>(), 0..300)) {
        prop_assert!(!matches!(upgrade(&[&noise], &UpgradeRules::default()), Ok(Some(_))));
    }

    #[test]
    fn any_bytes_are_a_login_or_refused(noise in vec(any::<u8>(), 0..100)) {
        let _ = Login::parse(&noise);
        let _ = extras(&noise);
    }

    #[test]
    fn a_spoiled_login_is_read_within_its_bounds(spots in spots()) {
        let login = br#"{"mid":123,"key":"k1","room_id":"live://1","accepts":[1,2],"features":["reasons"],"rooms":["a"]}"#;
        let body = spoil(login.to_vec(), &spots);
        if let Ok(login) = Login::parse(&body) {
            let extras = extras(&body);
            prop_assert_eq!((login.features, login.rooms), (extras.features, extras.rooms));
        }
    }

    #[test]
    fn a_room_id_is_kept_whole(kind in "[a-z]{1,9}", name in "[^\\p{Cc}]{0,20}") {
        let room = RoomId::of(&kind, &name).unwrap();
        prop_assert_eq!(room.kind(), &kind);
        prop_assert_eq!(room.name(), &name);
    }
}
