//! One measurement of one system.

use std::time::Duration;

use anyhow::{Context, Result};
use loadgen::{
    clock::{Clock, ns},
    latency::{OWN_SHARE_MAX, Point, Times},
};
use serde::Serialize;

use crate::{
    account,
    fleet::Fleet,
    publisher::{Publisher, Schedule},
    systems::{Server, Setting, System},
};

/// Nothing comes for so long: nothing more will.
const PATIENCE: Duration = Duration::from_secs(5);

/// Messages are begun so long after they are decided on, so that the schedule starts on time.
const LEAD: Duration = Duration::from_millis(50);

/// Messages of a rate for some time to one room.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) members: usize,
    /// Messages a second.
    pub(crate) rate: f64,
    /// Bytes of a body.
    pub(crate) size: usize,
    pub(crate) seconds: f64,
}

/// What one load cost.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) system: &'static str,
    pub(crate) round: usize,
    pub(crate) load: Load,
    /// CPU of all processes of the server per delivery, µs.
    pub(crate) cpu_us: f64,
    /// From planned send to the client's read, ms.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    /// What the generator itself was late at the same points, in publishing and in reading, ms. It is part of the above.
    pub(crate) own_p50_ms: f64,
    pub(crate) own_p99_ms: f64,
    pub(crate) delivered: u64,
    /// Messages that one read brought: above 1 the server, or the network, had joined some.
    pub(crate) per_read: f64,
    pub(crate) lost: u64,
    pub(crate) disordered: u64,
    /// Publications the server refused.
    pub(crate) refused: u32,
    /// Time from the first publication to the last delivery, seconds.
    pub(crate) took_s: f64,
    /// CPU of the server per connect and login, µs, of those who joined for this room.
    pub(crate) join_us: f64,
    /// How busy the generator's core was, percent.
    pub(crate) generator_percent: f64,
    /// Why publications were refused.
    pub(crate) note: Option<String>,
}

impl Outcome {
    /// More of its p99 may be the generator's than can be overlooked.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.own_p99_ms > self.p99_ms * OWN_SHARE_MAX
    }
}

/// What idle connections cost.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) system: &'static str,
    pub(crate) round: usize,
    pub(crate) connections: usize,
    /// User space memory per connection, bytes, over those that were added to the first ones.
    pub(crate) bytes: f64,
    /// CPU per connect and login, µs, 100 in flight.
    pub(crate) join_us: f64,
}

/// A server with a room.
pub(crate) struct Room<'a> {
    system: &'a System,
    round: usize,
    server: Server,
    fleet: Fleet,
    publisher: Option<Publisher>,
    clock: Clock,
    run: u32,
    next: u32,
    join_us: f64,
}

impl<'a> Room<'a> {
    /// Starts the system and lets `members` join.
    pub(crate) fn open(system: &'a System, setting: &Setting, members: usize, round: usize) -> Result<Self> {
        let server = system.start(setting, members)?;
        let clock = Clock::start();
        let run = 0xc0_0000 + round as u32;
        let mut fleet = Fleet::new(system.language, server.address, clock, run, setting.size)?;
        let before = account::cpu(server.pid())?;
        fleet.join(members).with_context(|| format!("{}: members", system.name))?;
        let join_us = micros(account::cpu(server.pid())? - before) / members as f64;
        let publisher = Some(Publisher::connect(&server.way)?);
        Ok(Self { system, round, server, fleet, publisher, clock, run, next: 0, join_us })
    }

    /// Publishes at a rate and hears it all.
    pub(crate) fn publish(&mut self, load: Load) -> Result<Outcome> {
        let count = (load.rate * load.seconds).round() as u32;
        let expected = u64::from(count) * load.members as u64;
        let schedule = Schedule {
            run: self.run,
            size: load.size,
            first: self.next,
            count,
            rate: load.rate,
            start_ns: self.clock.now_ns() + ns(LEAD),
        };
        self.fleet.expect_from(self.next);
        self.next += count;
        let (cpu, own) = (account::cpu(self.server.pid())?, account::own_cpu()?);
        let publisher = self.publisher.take().context("one load at a time")?.run(schedule, self.clock);
        self.fleet.hear(expected, PATIENCE)?;
        let cpu = account::cpu(self.server.pid())? - cpu;
        let took = Duration::from_nanos(self.clock.now_ns() - schedule.start_ns);
        let busy = account::own_cpu()? - own;
        let published = publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))?;
        self.publisher = Some(published.publisher);
        let heard = &self.fleet.heard;
        let ms = |times: &Times, point| {
            times.quantiles().and_then(|quantiles| quantiles.at(point)).unwrap_or_default() as f64 / 1000.0
        };
        let own = |point| ms(&published.lateness, point) + ms(&heard.reader, point);
        Ok(Outcome {
            system: self.system.name,
            round: self.round,
            load,
            cpu_us: micros(cpu) / heard.messages.max(1) as f64,
            p50_ms: ms(&heard.latency, Point::P50),
            p99_ms: ms(&heard.latency, Point::P99),
            p999_ms: ms(&heard.latency, Point::P999),
            own_p50_ms: own(Point::P50),
            own_p99_ms: own(Point::P99),
            delivered: heard.messages,
            per_read: heard.messages as f64 / heard.reads.max(1) as f64,
            lost: expected.saturating_sub(heard.messages),
            disordered: heard.disordered,
            refused: published.refused,
            took_s: took.as_secs_f64(),
            join_us: self.join_us,
            generator_percent: 100.0 * busy.as_secs_f64() / took.as_secs_f64(),
            note: published.why,
        })
    }
}

/// Idle connections: `first` join and settle, then `more` join, who are what is measured.
pub(crate) fn idle(
    system: &System,
    setting: &Setting,
    first: usize,
    more: usize,
    round: usize,
) -> Result<Idle> {
    let server = system.start(setting, first + more)?;
    let mut fleet = Fleet::new(system.language, server.address, Clock::start(), 0, setting.size)?;
    fleet.join(first)?;
    fleet.idle(Duration::from_secs(1))?;
    let (memory, cpu) = (account::memory(server.pid())?, account::cpu(server.pid())?);
    fleet.join(first + more)?;
    let cpu = account::cpu(server.pid())? - cpu;
    fleet.idle(Duration::from_secs(2))?;
    let memory = account::memory(server.pid())? as f64 - memory as f64;
    Ok(Idle {
        system: system.name,
        round,
        connections: fleet.joined(),
        bytes: memory / more as f64,
        join_us: micros(cpu) / more as f64,
    })
}

fn micros(cpu: Duration) -> f64 {
    cpu.as_nanos() as f64 / 1000.0
}
