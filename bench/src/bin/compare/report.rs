//! Everything that was measured, as JSON, and as tables that people read.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::Result;
use serde::Serialize;

use crate::{
    measure::{Idle, Load, Outcome},
    statistics::{Median, median, ratio},
};

/// A generator that is busier, percent of its core, delays what it measures.
const GENERATOR_FULL: f64 = 90.0;

/// A comparison from beginning to end.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) environment: Environment,
    pub(crate) systems: Vec<About>,
    pub(crate) load: Load,
    /// The canonical room, round by round.
    pub(crate) room: Vec<Outcome>,
    /// One pass over the rates.
    pub(crate) sweep: Vec<Outcome>,
    pub(crate) idle: Vec<Idle>,
    /// Runs that ended early, in words.
    pub(crate) failures: Vec<String>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Environment {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) rustc: String,
    pub(crate) command: String,
    pub(crate) server_cpus: String,
    pub(crate) client_cpu: usize,
}

/// One system of it.
#[derive(Debug, Serialize)]
pub(crate) struct About {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) version: String,
    pub(crate) is_floor: bool,
}

impl Environment {
    /// Asks the machine.
    pub(crate) fn of_this_machine(server_cpus: &str, client_cpu: usize) -> Self {
        let say = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output();
            output.map_or_else(
                |_| String::new(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            )
        };
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let dirty = if say("git", &["status", "--porcelain", "-uno"]).is_empty() { "" } else { "-dirty" };
        let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        Self {
            date: say("date", &["-u", "+%FT%TZ"]),
            commit: say("git", &["rev-parse", "--short", "HEAD"]) + dirty,
            kernel: say("uname", &["-r"]),
            cpu: model.map_or_else(String::new, |(_, model)| model.to_owned()),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            rustc: say("rustc", &["--version"]),
            command: format!("compare {arguments}").trim_end().to_owned(),
            server_cpus: server_cpus.to_owned(),
            client_cpu,
        }
    }
}

impl Report {
    /// Rounds of one system.
    fn rounds(&self, name: &str) -> impl Iterator<Item = &Outcome> {
        self.room.iter().filter(move |run| run.system == name)
    }

    /// CPU per delivery of one system, µs.
    pub(crate) fn cpu(&self, name: &str) -> Option<Median> {
        median(&self.rounds(name).map(|run| run.cpu_us).collect::<Vec<_>>())
    }

    /// The cheaper of the floor's variants in this run.
    pub(crate) fn floor(&self) -> Option<&'static str> {
        let floors = self.systems.iter().filter(|system| system.is_floor);
        let cost = |name: &str| self.cpu(name).map(|median| median.value);
        floors
            .filter_map(|system| cost(system.name).map(|cost| (system.name, cost)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(name, _)| name)
    }

    /// CPU of one system over that of another, round by round.
    pub(crate) fn cpu_ratio(&self, of: &str, to: &str) -> Option<Median> {
        let pairs = self.rounds(of).filter_map(|run| {
            let other = self.rounds(to).find(|other| other.round == run.round)?;
            Some((run.cpu_us, other.cpu_us))
        });
        ratio(pairs.collect::<Vec<_>>())
    }

    /// Writes `compare.json` and `compare.md` into `folder`, and gives the latter's text.
    pub(crate) fn write(&self, folder: &Path) -> Result<String> {
        fs::write(folder.join("compare.json"), serde_json::to_string_pretty(self)? + "\n")?;
        let text = self.text();
        fs::write(folder.join("compare.md"), &text)?;
        Ok(text)
    }

    fn text(&self) -> String {
        let Environment { date, commit, kernel, cpu, cores, rustc, command, server_cpus, client_cpu } =
            &self.environment;
        let Load { members, rate, size, seconds } = self.load;
        let mut out = format!(
            "# Halley beside the floor and its peers\n\n\
             `{command}` on {date}, commit {commit}, Linux {kernel}, {cpu}, {cores} cores, {rustc}. Servers on core \
             {server_cpus}, the generator on core {client_cpu}, loopback. CPU is the kernel's account of every process \
             of a server; latency runs from the planned send to the client's read.\n"
        );
        let mut section = |title: &str, words: &str, table: Table| {
            if table.has_rows() {
                let _ = write!(out, "\n## {title}\n\n{words}\n\n{}", table.markdown());
            }
        };
        section(
            "What was compared",
            "Each alone, pinned, with nothing it does not need.",
            self.about_table(),
        );
        section(
            "The canonical room",
            &format!(
                "{members} members, {rate} messages a second of {size} B for {seconds} s, a fresh server each time, \
                 systems interleaved. Medians of the rounds; in brackets the interval that holds the true median with \
                 95 % (sign test). Ratios are taken within each round. \"Own\" is what the generator itself was late in publishing and reading, a \
                 part of the latency beside it. \"A read\" is how many messages one read of a client \
                 brought: above 1 they were joined on the way. The floor is its faster variant, {}.",
                self.floor().unwrap_or("missing"),
            ),
            self.room_table(),
        );
        section(
            "Rate against latency",
            "The same room, rates one after the other, one pass, each system with its defaults, until one is three seconds \
             behind. p50 / p99 in ms, then CPU per delivery in µs; `×` what was lost; `†` the generator's core was full, so \
             that the latency may be its own.",
            self.sweep_table(),
        );
        section(
            "Idle connections and logins",
            "Memory of the server in user space per idle connection, and its CPU per connect and login with 100 in \
             flight; median of the rounds, then all of them.",
            self.idle_table(),
        );
        out.push_str("\n## What went badly\n\n");
        let bad = self.went_badly();
        if bad.is_empty() {
            out.push_str("Nothing was lost, refused or out of order, and every server started.\n");
        }
        for line in bad {
            let _ = writeln!(out, "- {line}");
        }
        out
    }

    fn about_table(&self) -> Table {
        let mut table = Table::new(&["system", "version", "what"]);
        for About { name, about, version, .. } in &self.systems {
            table.row([(*name).to_owned(), version.clone(), (*about).to_owned()]);
        }
        table
    }

    fn room_table(&self) -> Table {
        let mut table = Table::new(&[
            "system",
            "CPU per delivery, µs",
            "× floor",
            "× nchan",
            "p50, ms",
            "p99, ms",
            "p99.9, ms",
            "own p50 / p99",
            "login, µs",
            "a read",
            "lost",
            "generator",
        ]);
        for About { name, .. } in &self.systems {
            let Some(cpu) = self.cpu(name) else { continue };
            let of = |value: fn(&Outcome) -> f64| {
                median(&self.rounds(name).map(value).collect::<Vec<_>>())
                    .map_or_else(|| "–".to_owned(), |median| digits(median.value))
            };
            let to = |other: &str| self.cpu_ratio(name, other).map_or_else(|| "–".to_owned(), interval);
            table.row([
                (*name).to_owned(),
                interval(cpu),
                self.floor().map_or_else(|| "–".to_owned(), to),
                to("nchan"),
                of(|run| run.p50_ms),
                of(|run| run.p99_ms),
                of(|run| run.p999_ms),
                of(|run| run.own_p50_ms) + " / " + &of(|run| run.own_p99_ms),
                of(|run| run.join_us),
                of(|run| run.per_read),
                self.rounds(name).map(|run| run.lost).sum::<u64>().to_string(),
                of(|run| run.generator_percent) + " %",
            ]);
        }
        table
    }

    fn sweep_table(&self) -> Table {
        let mut rates: Vec<f64> = self.sweep.iter().map(|run| run.load.rate).collect();
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        let heads = rates.iter().map(|rate| format!("{rate}/s"));
        let heads: Vec<String> = ["system".to_owned()].into_iter().chain(heads).collect();
        let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
        for About { name, .. } in &self.systems {
            let of = |rate: f64| self.sweep.iter().find(|run| run.system == *name && run.load.rate == rate);
            let cells: Vec<String> =
                rates.iter().map(|rate| of(*rate).map_or_else(String::new, sweep_cell)).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                table.row([(*name).to_owned()].into_iter().chain(cells));
            }
        }
        table
    }

    fn idle_table(&self) -> Table {
        let mut table = Table::new(&["system", "bytes per connection", "rounds", "login, µs", "rounds"]);
        for About { name, .. } in &self.systems {
            let rounds: Vec<&Idle> = self.idle.iter().filter(|run| run.system == *name).collect();
            let of = |value: fn(&Idle) -> f64| {
                let values: Vec<f64> = rounds.iter().map(|run| value(run)).collect();
                let all = values.iter().map(|value| digits(*value)).collect::<Vec<_>>().join(", ");
                median(&values).map(|median| (digits(median.value), all))
            };
            if let (Some((bytes, all_bytes)), Some((join, all_join))) =
                (of(|run| run.bytes), of(|run| run.join_us))
            {
                table.row([(*name).to_owned(), bytes, all_bytes, join, all_join]);
            }
        }
        table
    }

    /// Every run that was not clean, in words.
    fn went_badly(&self) -> Vec<String> {
        let mut bad = self.failures.clone();
        for (part, runs) in [("room", &self.room), ("sweep", &self.sweep)] {
            for run in runs {
                let Outcome { system, round, lost, disordered, refused, load, note, .. } = run;
                let at = format!("{system}, {part}, round {round}, {} messages a second", load.rate);
                if *lost > 0 || *disordered > 0 || *refused > 0 {
                    let of = run.delivered + lost;
                    bad.push(format!(
                        "{at}: {lost} of {of} lost, {disordered} out of order, {refused} refused"
                    ));
                }
                if let Some(note) = note {
                    bad.push(format!("{at}: {note}"));
                }
            }
        }
        for About { name, .. } in &self.systems {
            let spoiled = self.rounds(name).filter(|run| run.is_spoiled()).count();
            if spoiled > 0 {
                let rounds = self.rounds(name).count();
                bad.push(format!(
                    "{name}: in {spoiled} of {rounds} rounds more than a quarter of the p99 may be the generator's own"
                ));
            }
        }
        bad
    }
}

fn sweep_cell(run: &Outcome) -> String {
    let lost = if run.lost > 0 { format!(" ×{}", run.lost) } else { String::new() };
    let full = if run.generator_percent > GENERATOR_FULL { " †" } else { "" };
    format!("{} / {}; {}{lost}{full}", digits(run.p50_ms), digits(run.p99_ms), digits(run.cpu_us))
}

/// `1.23 [1.20, 1.31]`.
fn interval(median: Median) -> String {
    let Median { value, low, high, .. } = median;
    format!("{} [{}, {}]", digits(value), digits(low), digits(high))
}

/// Three digits where there are that many.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// A table whose columns align, in a terminal and as Markdown.
struct Table(Vec<Vec<String>>);

impl Table {
    fn new(heads: &[&str]) -> Self {
        Self(vec![heads.iter().map(|head| (*head).to_owned()).collect()])
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }

    fn has_rows(&self) -> bool {
        self.0.len() > 1
    }

    fn markdown(&self) -> String {
        let width = |column: usize| {
            self.0
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.0[0].len()).map(width).collect();
        let mut out = String::new();
        for (n, row) in self.0.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(out, "| {cell:<width$} ");
            }
            out.push_str("|\n");
            if n == 0 {
                for width in &widths {
                    let _ = write!(out, "| {} ", "-".repeat(*width));
                }
                out.push_str("|\n");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["system", "µs"]);
        table.row(["halley".to_owned(), "5.43 [5.3, 6.1]".to_owned()]);
        let text = table.markdown();
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths, [widths[0]; 3], "{text}");
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([1.234, 12.34, 123.4, 9.999].map(digits), ["1.23", "12.3", "123", "10.0"]);
    }
}
