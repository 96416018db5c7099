//! So many pushes to a room of so many members, through the rules of a shard and nothing else: the same instructions in
//! every run, for callgrind (`tuning/counts.sh`).
//!
//! `deliveries MEMBERS PUSHES`

use contract::Transport;
use halley_micro::{BODY, Gateway};
use proto::{encoded::Encoded, op::Op};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<usize>());
    let (Some(Ok(members)), Some(Ok(pushes)), None) = (numbers.next(), numbers.next(), numbers.next()) else {
        eprintln!("usage: deliveries MEMBERS PUSHES, such as deliveries 2000 50");
        std::process::exit(64);
    };
    let mut gateway = Gateway::with_members(members, Transport::Tcp);
    let mut delivered = 0;
    for _ in 0..pushes {
        gateway.push(&Encoded::push(Op(1000), &BODY));
        delivered += gateway.write();
    }
    println!("{delivered}");
}
