//! Who publishes: on a fixed schedule, whatever the server does.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use loadgen::{clock::Clock, latency::Times, message::Stamp};

use crate::wire::Language;

/// How a message gets to the server.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// POST to this URL.
    Http(String),
    /// A connection of its own, in the language of the system.
    Own(Language, SocketAddr),
}

/// One publisher with its connection.
pub(crate) enum Publisher {
    Http(Box<ureq::Agent>, String),
    Own(Language, TcpStream),
}

/// Messages to publish: number `first`, at `start_ns`, and so on.
#[derive(Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) run: u32,
    pub(crate) size: usize,
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// Messages a second.
    pub(crate) rate: f64,
    pub(crate) start_ns: u64,
}

/// What became of a schedule.
pub(crate) struct Published {
    pub(crate) publisher: Publisher,
    /// How late each was begun for no reason of the server's.
    pub(crate) lateness: Times,
    /// What was not accepted, and why the first of them was not.
    pub(crate) refused: u32,
    pub(crate) why: Option<String>,
}

impl Publisher {
    /// Connects.
    pub(crate) fn connect(way: &Way) -> Result<Self> {
        Ok(match way {
            Way::Http(url) => {
                let config = ureq::Agent::config_builder()
                    .http_status_as_error(false)
                    .timeout_global(Some(Duration::from_secs(10)));
                Publisher::Http(Box::new(config.build().into()), url.clone())
            }
            Way::Own(language, address) => {
                let mut stream = TcpStream::connect(address)
                    .with_context(|| format!("no publisher's connection to {address}"))?;
                stream.set_nodelay(true)?;
                stream.write_all(&language.publisher_hello())?;
                Publisher::Own(*language, stream)
            }
        })
    }

    fn publish(&mut self, body: &[u8]) -> Result<()> {
        match self {
            Publisher::Http(agent, url) => {
                let mut response = agent.post(url.as_str()).send(body)?;
                let status = response.status();
                let answer = response.body_mut().read_to_string()?;
                anyhow::ensure!(status.is_success(), "{status}: {answer}");
            }
            Publisher::Own(language, stream) => stream.write_all(&language.publish(body))?,
        }
        Ok(())
    }

    /// Publishes on a thread of its own. A server that answers late makes the next message late, and that counts as
    /// latency, since it runs from the planned time.
    pub(crate) fn run(mut self, schedule: Schedule, clock: Clock) -> JoinHandle<Published> {
        thread::spawn(move || {
            let (mut lateness, mut refused, mut why) = (Times::default(), 0, None);
            let mut body = Vec::new();
            let mut free_ns = 0;
            for n in 0..schedule.count {
                let planned_ns = schedule.start_ns + (f64::from(n) * 1e9 / schedule.rate) as u64;
                let early = planned_ns.saturating_sub(clock.now_ns());
                if early > 0 {
                    thread::sleep(Duration::from_nanos(early));
                }
                lateness.record_ns(clock.now_ns().saturating_sub(planned_ns.max(free_ns)));
                let stamp = Stamp { run: schedule.run, stream: 0, seq: schedule.first + n, planned_ns };
                stamp.write(schedule.size, &mut body);
                if let Err(error) = self.publish(&body) {
                    refused += 1;
                    why.get_or_insert_with(|| format!("{error:#}"));
                }
                free_ns = clock.now_ns();
            }
            Published { publisher: self, lateness, refused, why }
        })
    }
}
