//! The final table, on the terminal and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    latency::{Point, Quantiles, human_us},
    tally::Reasons,
};

/// Everything a load found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    /// The command line.
    pub(crate) command: Vec<String>,
    pub(crate) transport: &'static str,
    pub(crate) clients: u64,
    /// Clients that logged in.
    pub(crate) connected: u64,
    pub(crate) connect_failures: Reasons,
    pub(crate) disconnects: Reasons,
    /// From the first connect to the last login.
    pub(crate) connect_seconds: f64,
    pub(crate) connect_latency: Option<Quantiles>,
    /// None when this process pushed nothing; then nothing can be said about what is missing either.
    pub(crate) pushes: Option<Pushes>,
    /// The time deliveries a second are counted over: from the first push to the last delivery, or how
    /// long the connections were held.
    pub(crate) seconds: f64,
    pub(crate) deliveries: u64,
    /// Messages of other runs and programs among them.
    pub(crate) foreign: u64,
    pub(crate) bytes: u64,
    pub(crate) heartbeats_sent: u64,
    pub(crate) heartbeats_answered: u64,
    /// CPU time of this process over those seconds.
    pub(crate) cpu_seconds: f64,
    /// Was everything as it should be? Decides the exit status.
    pub(crate) ok: bool,
}

/// What became of this process's pushes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pushes {
    pub(crate) kind: String,
    pub(crate) rate: f64,
    pub(crate) size: usize,
    pub(crate) accepted: u64,
    /// Not accepted for everybody they named.
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    pub(crate) answers: Option<Quantiles>,
    /// Messages that should have arrived.
    pub(crate) expected: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) damaged: u64,
    /// From the planned send time to the read; none, or none from some point on, when it may not be reported.
    pub(crate) latency: Option<Quantiles>,
    pub(crate) latency_not_reported: Option<String>,
    pub(crate) own_pusher: Option<Quantiles>,
    pub(crate) own_reader: Option<Quantiles>,
}

impl Pushes {
    /// Did every message arrive where it should, once and in order?
    pub(crate) fn ok(&self) -> bool {
        self.failed + self.lost + self.duplicated + self.out_of_order + self.damaged == 0
    }
}

impl Report {
    /// The table, no line of it wider than so many columns where words can be parted.
    pub(crate) fn table(&self, columns: usize) -> String {
        let mut rows: Vec<(&str, String)> = Vec::new();
        let mut row = |name, text| rows.push((name, text));

        let connected = format!("{} of {}", grouped(self.connected), grouped(self.clients));
        row("connected", format!("{connected} ({})", self.transport));
        if self.connect_failures.total() > 0 {
            row("not connected", self.connect_failures.text());
        }
        row("disconnected", self.disconnects.text());
        if self.connected > 0 {
            let each_us = (self.connect_seconds * 1e6 / self.connected as f64) as u64;
            let rate = per_second(self.connected, self.connect_seconds);
            row("connect rate", format!("{rate}, one in {}", human_us(each_us)));
        }
        row("connect time", distribution(self.connect_latency));
        if let Some(pushes) = &self.pushes {
            let accepted = grouped(pushes.accepted);
            row("pushes", format!("{accepted} accepted, {} failed", grouped(pushes.failed)));
            if let Some(failure) = &pushes.first_failure {
                row("first failure", failure.clone());
            }
            row("push answered", distribution(pushes.answers));
        }
        let rate = per_second(self.deliveries, self.seconds);
        row("deliveries", format!("{} ({rate} over {:.2} s)", grouped(self.deliveries), self.seconds));
        match &self.pushes {
            Some(pushes) => {
                row("lost", format!("{} of {}", grouped(pushes.lost), grouped(pushes.expected)));
                row("duplicated", grouped(pushes.duplicated));
                row("out of order", grouped(pushes.out_of_order));
                row("damaged", grouped(pushes.damaged));
                if self.foreign > 0 {
                    row("foreign", format!("{} from others", grouped(self.foreign)));
                }
            }
            None => row("lost", "not checked without --push".to_owned()),
        }
        row("bytes", grouped(self.bytes));
        let answered = grouped(self.heartbeats_answered);
        row("heartbeats", format!("{} sent, {answered} answered", grouped(self.heartbeats_sent)));
        if let Some(pushes) = &self.pushes {
            match (&pushes.latency, &pushes.latency_not_reported) {
                (None, Some(why)) => row("latency", format!("not reported: {why}")),
                (some, why) => {
                    row("latency", distribution(*some));
                    if let Some(why) = why {
                        row("", format!("the rest is not reported: {why}"));
                    }
                }
            }
            row("own: pusher", distribution(pushes.own_pusher));
            row("own: reader", distribution(pushes.own_reader));
        }
        let cores = self.cpu_seconds / self.seconds.max(1e-9);
        let mut cpu = format!("{:.2} s, {cores:.2} of a core", self.cpu_seconds);
        if self.deliveries > 0 {
            let each = self.cpu_seconds * 1e6 / self.deliveries as f64;
            let _ = write!(cpu, ", {each:.2} µs a delivery");
        }
        row("own: CPU", cpu);

        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut table = String::new();
        for (name, text) in &rows {
            let mut name = *name;
            for line in wrap(text, columns.saturating_sub(width + 2)) {
                let _ = writeln!(table, "{name:width$}  {line}");
                name = "";
            }
        }
        table
    }
}

/// Breaks a text between its parts, which two spaces part, or else between words.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let between = if text.contains("  ") { "  " } else { " " };
    let mut lines = vec![String::new()];
    for part in text.split(between) {
        let line = lines.last_mut().expect("there is one from the start");
        if line.is_empty() {
            line.push_str(part);
        } else if line.chars().count() + between.len() + part.chars().count() <= columns {
            line.push_str(between);
            line.push_str(part);
        } else {
            lines.push(part.to_owned());
        }
    }
    lines
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1,234/s`; with decimals where the number is small.
pub(crate) fn per_second(count: u64, seconds: f64) -> String {
    let rate = count as f64 / seconds.max(1e-9);
    match rate {
        rate if count == 0 || rate >= 100.0 => format!("{}/s", grouped(rate.round() as u64)),
        rate => format!("{rate:.1}/s"),
    }
}

fn distribution(quantiles: Option<Quantiles>) -> String {
    let Some(quantiles) = quantiles else { return "none".to_owned() };
    let points = Point::ALL.iter().filter_map(|&point| quantiles.at(point).map(|us| (point, us)));
    let texts: Vec<_> = points.map(|(point, us)| format!("{} {}", point.name(), human_us(us))).collect();
    texts.join("  ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::latency::Times;

    /// What the table below shows.
    fn times() -> Option<Quantiles> {
        let mut times = Times::default();
        for (count, us) in [(60, 800), (31, 1200), (8, 15_000)] {
            (0..count * 10).for_each(|_| times.record_ns(us * 1000));
        }
        (0..9).for_each(|_| times.record_ns(16_000_000));
        times.record_ns(2_000_000_000);
        times.quantiles()
    }

    fn report() -> Report {
        let mut disconnects = Reasons::default();
        disconnects.add("reset");
        Report {
            version: "0",
            command: vec!["loadgen".to_owned()],
            transport: "TCP",
            clients: 10_000,
            connected: 9_999,
            connect_failures: Reasons::default(),
            disconnects,
            connect_seconds: 2.0,
            connect_latency: times(),
            pushes: Some(Pushes {
                kind: "room".to_owned(),
                rate: 8.0,
                size: 60,
                accepted: 160,
                failed: 0,
                first_failure: None,
                answers: times(),
                expected: 1_600_000,
                lost: 3,
                duplicated: 2,
                out_of_order: 1,
                damaged: 0,
                latency: times(),
                latency_not_reported: None,
                own_pusher: times(),
                own_reader: None,
            }),
            seconds: 20.0,
            deliveries: 1_599_997,
            foreign: 0,
            bytes: 121_599_772,
            heartbeats_sent: 5,
            heartbeats_answered: 5,
            cpu_seconds: 8.0,
            ok: false,
        }
    }

    #[test]
    fn the_table_is_aligned_and_complete() {
        let expected = "\
connected      9,999 of 10,000 (TCP)
disconnected   1 (1 reset)
connect rate   5,000/s, one in 200 µs
connect time   p50 800 µs  p90 1.20 ms  p99 15.0 ms  p99.9 16.0 ms  max 2.00 s
pushes         160 accepted, 0 failed
push answered  p50 800 µs  p90 1.20 ms  p99 15.0 ms  p99.9 16.0 ms  max 2.00 s
deliveries     1,599,997 (80,000/s over 20.00 s)
lost           3 of 1,600,000
duplicated     2
out of order   1
damaged        0
bytes          121,599,772
heartbeats     5 sent, 5 answered
latency        p50 800 µs  p90 1.20 ms  p99 15.0 ms  p99.9 16.0 ms  max 2.00 s
own: pusher    p50 800 µs  p90 1.20 ms  p99 15.0 ms  p99.9 16.0 ms  max 2.00 s
own: reader    none
own: CPU       8.00 s, 0.40 of a core, 5.00 µs a delivery
";
        assert_eq!(report().table(80), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut report = report();
        let pushes = report.pushes.as_mut().expect("it pushed");
        pushes.first_failure = Some(
            "the server answered something that takes more than a line of anybody's terminal".to_owned(),
        );
        for columns in [40, 60, 80, 120] {
            let table = report.table(columns);
            for line in table.lines() {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&table), words(&report.table(1000)), "and nothing is left out");
        }
    }

    #[test]
    fn latency_that_may_not_be_reported_is_a_reason_and_null() {
        let mut report = report();
        let pushes = report.pushes.as_mut().expect("it pushed");
        pushes.latency = None;
        pushes.latency_not_reported = Some("this generator was late by 3.00 ms".to_owned());
        let table = report.table(80);
        assert!(
            table.contains("latency        not reported: this generator was late by 3.00 ms\n"),
            "{table}"
        );
        let json = serde_json::to_value(&report).expect("JSON");
        assert!(json["pushes"]["latency"].is_null());
        assert!(json["pushes"]["latency_not_reported"].is_string());
        assert_eq!(json["disconnects"]["reset"], 1);
    }

    #[test]
    fn each_kind_of_trouble_spoils_the_run() {
        let mut pushes = report().pushes.expect("it pushed");
        (pushes.lost, pushes.duplicated, pushes.out_of_order) = (0, 0, 0);
        assert!(pushes.ok());
        for spoil in [
            |p: &mut Pushes| p.lost = 1,
            |p: &mut Pushes| p.duplicated = 1,
            |p: &mut Pushes| p.out_of_order = 1,
            |p: &mut Pushes| p.damaged = 1,
            |p: &mut Pushes| p.failed = 1,
        ] {
            let mut spoiled = pushes.clone();
            spoil(&mut spoiled);
            assert!(!spoiled.ok(), "{spoiled:?}");
        }
    }

    #[test]
    fn without_pushes_nothing_is_claimed_about_losses() {
        let report = Report { pushes: None, deliveries: 0, ..report() };
        assert!(
            report.table(80).contains("lost          not checked without --push"),
            "{}",
            report.table(80)
        );
        assert!(!report.table(80).contains("\nlatency"));
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(per_second(5, 2.0), "2.5/s");
        assert_eq!(per_second(0, 2.0), "0/s");
    }
}
