//! Metrics of the process, read from `/proc/self` with each scrape.

use std::{fmt, fs, time::UNIX_EPOCH};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

use super::lost_lines;
use crate::build;

/// Ticks a second in `/proc/<pid>/stat`: USER_HZ. The kernel's interface fixes it for every architecture that we build
/// for.
const USER_HZ: f64 = 100.0;

/// Adds `halley_build_info`, `halley_log_lines_lost_total`, the HTTP server's counters and the ends of certificates. Adds
/// under the names that dashboards know `process_start_time_seconds`, `process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`,
/// `process_resident_memory_bytes` and `process_anonymous_memory_bytes` (the part of it that belongs to no file: what
/// connections cost). Call this once and early, since the time of the call counts as the start.
pub fn register(metrics: &mut Registry) {
    let labels = vec![("version", build::VERSION), ("commit", build::COMMIT)];
    metrics.register("halley_build", "What is running", Info::new(labels));
    let started = crate::clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    metrics.register_collector(Box::new(Process { started }));
    crate::http::register(metrics);
    metrics.register_collector(Box::new(crate::tls::certificates::Ends));
}

/// Adds `halley_insecure`: 1 if strangers can log in as anybody, or push to everybody.
pub fn register_insecure(metrics: &mut Registry, insecure: bool) {
    let gauge = ConstGauge::new(i64::from(insecure));
    let help = "1 when strangers can log in as anybody, or push to everybody";
    metrics.register("halley_insecure", help, gauge);
}

#[derive(Debug)]
struct Process {
    /// Seconds since the epoch.
    started: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut put =
            |name: &str, help: &str, metric: &dyn EncodeMetricObject| metric.put(&mut encoder, name, help);
        put(
            "process_start_time_seconds",
            "Start, in seconds since the epoch.",
            &ConstGauge::new(self.started),
        )?;
        put(
            "halley_log_lines_lost",
            "Log lines that could not be written.",
            &ConstCounter::new(lost_lines()),
        )?;
        // Without /proc, as in some sandboxes, the other metrics are missing.
        if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat))
        {
            put(
                "process_cpu_seconds",
                "CPU time of all threads, user and system.",
                &ConstCounter::new(seconds),
            )?;
        }
        if let Some(open) = open_fds() {
            put("process_open_fds", "Open descriptors.", &ConstGauge::new(open))?;
        }
        if let Some(max) = fs::read_to_string("/proc/self/limits").ok().and_then(|limits| max_fds(&limits)) {
            put("process_max_fds", "Descriptors that may be open, the soft limit.", &ConstGauge::new(max))?;
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(bytes) = status_bytes(&status, "VmRSS") {
            put("process_resident_memory_bytes", "Resident memory.", &ConstGauge::new(bytes))?;
        }
        if let Some(bytes) = status_bytes(&status, "RssAnon") {
            put(
                "process_anonymous_memory_bytes",
                "Resident memory that is no file.",
                &ConstGauge::new(bytes),
            )?;
        }
        Ok(())
    }
}

/// A metric behind a reference, so that each metric above takes one line.
trait EncodeMetricObject {
    fn put(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> EncodeMetricObject for M {
    fn put(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

/// User and system time from `/proc/self/stat`, in seconds.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name, in brackets, may itself contain blanks and brackets. Field 3 comes after it; utime and stime are 14 and
    // 15.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(14 - 3);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) as f64 / USER_HZ)
}

/// Open descriptors of this process.
fn open_fds() -> Option<i64> {
    const FDS: &str = "/proc/self/fd";
    // Since Linux 6.2 the size is the number of descriptors. Before that it is 0, and we have to count the entries,
    // perhaps a million, without the one that counting itself holds.
    let counted = fs::metadata(FDS).ok()?.len();
    let open = if counted > 0 { counted } else { (fs::read_dir(FDS).ok()?.count() as u64).saturating_sub(1) };
    i64::try_from(open).ok()
}

/// The soft limit from `/proc/self/limits`; none if there is no limit.
fn max_fds(limits: &str) -> Option<i64> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// One `Name:  123 kB` of `/proc/self/status`, in bytes.
fn status_bytes(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_process_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 7 20 0 3 0 12345 1000 200";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        for broken in ["", "42 (halley", "42 (halley) S 1 2", "42 (h) S 1 42 42 0 -1 4194560 100 0 0 0 x y"] {
            assert_eq!(cpu_seconds(broken), None, "{broken}");
        }
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\thalley\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\nRssFile:\t 1 kB\n";
        assert_eq!(status_bytes(status, "VmRSS"), Some(2 << 20));
        assert_eq!(status_bytes(status, "RssAnon"), Some(512 << 10));
        assert_eq!(status_bytes(status, "Rss"), None);
        assert_eq!(status_bytes(status, "Name"), None);
    }

    #[test]
    fn the_soft_limit_is_the_first_of_the_two() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds(&limits.replace("1024", "unlimited")), None);
    }

    #[test]
    fn an_opened_descriptor_is_counted() {
        // Other tests open and close some of their own at the same time, never so many.
        let before = open_fds().unwrap();
        let held: Vec<_> = (0..200).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        let during = open_fds().unwrap();
        assert!((150..=250).contains(&(during - before)), "{before} then {during}");
        drop(held);
    }

    #[test]
    fn every_metric_is_there_under_its_name() {
        let mut metrics = Registry::default();
        register(&mut metrics);
        let mut body = String::new();
        text::encode(&mut body, &metrics).unwrap();
        let value = |name: &str| -> f64 {
            let line = body.lines().find(|line| line.split(' ').next() == Some(name));
            line.unwrap_or_else(|| panic!("no {name} in:\n{body}"))
                .rsplit(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap()
        };
        let build =
            format!("halley_build_info{{version=\"{}\",commit=\"{}\"}} 1\n", build::VERSION, build::COMMIT);
        assert!(body.contains(&build), "{body}");
        assert!(value("process_start_time_seconds") > 1.7e9);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_anonymous_memory_bytes") >= 4096.0);
        assert!(value("process_resident_memory_bytes") >= value("process_anonymous_memory_bytes"));
        assert!(value("halley_log_lines_lost_total") >= 0.0);
    }
}
