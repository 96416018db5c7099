//! Bytes to frames and back.
#![allow(missing_docs)] // criterion's macros

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use halley_micro::BODY;
use proto::{
    encoded::Encoded,
    frame::{FrameReader, Header, encode, frames_of_message},
    op::Op,
    websocket::{Item, MessageLimits, Opcode, Reader, client_frame},
};

const BODY_MAX: usize = 4096;

fn frames(count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seq in 0..count as i32 {
        encode(Header { ver: 1, op: Op(1000), seq }, &BODY, &mut bytes);
    }
    bytes
}

/// Reads all of `pieces` and returns how many frames were in them.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> usize {
    let mut reader = FrameReader::new();
    let mut count = 0;
    for mut piece in pieces {
        while let Some(frame) = reader.next(&mut piece, BODY_MAX).expect("frames") {
            black_box(frame);
            count += 1;
        }
    }
    count
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for count in [1, 32] {
        let bytes = frames(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("tcp frames of 60 B in one buffer", count), |bencher| {
            bencher.iter(|| assert_eq!(read(std::iter::once(black_box(bytes.as_slice()))), count));
        });
    }
    // Every frame is cut somewhere, at another place each.
    let bytes = frames(32);
    group.throughput(Throughput::Elements(32));
    group.bench_function("tcp frames of 60 B in pieces of 50 B/32", |bencher| {
        bencher.iter(|| assert_eq!(read(black_box(bytes.as_slice()).chunks(50)), 32));
    });
    for body in [60, 4080] {
        let (mut frame, mut message) = (Vec::new(), Vec::new());
        encode(Header { ver: 1, op: Op(1000), seq: 1 }, &vec![b'x'; body], &mut frame);
        client_frame(Opcode::Binary, &frame, [0x12, 0x34, 0x56, 0x78], &mut message);
        group.throughput(Throughput::Elements(1));
        // The payload is unmasked in place, so each round gets its own copy; making it is not timed.
        group.bench_function(BenchmarkId::new("websocket masked message, body", body), |bencher| {
            bencher.iter_batched_ref(
                || message.clone(),
                |bytes| {
                    let (mut reader, mut input) = (Reader::default(), bytes.as_mut_slice());
                    let item = reader.next(&mut input, &MessageLimits::default()).expect("a message");
                    let Some(Item::Message(message)) = item else { panic!("a message: {item:?}") };
                    assert_eq!(frames_of_message(message, BODY_MAX).filter(Result::is_ok).count(), 1);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for body in [60, 4080] {
        let bytes = vec![b'x'; body];
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("push for both wires, body", body), |bencher| {
            bencher.iter(|| Encoded::push(Op(1000), black_box(&bytes)));
        });
    }
    let batch = frames(20);
    group.throughput(Throughput::Elements(20));
    group.bench_function("batch of job's/20", |bencher| {
        bencher.iter(|| Encoded::push_frames(black_box(&batch)).expect("frames"));
    });
    group.finish();
}

criterion_group!(benches, decode, encoding);
criterion_main!(benches);
