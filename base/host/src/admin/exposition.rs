//! Chooses the text format of `/metrics`: OpenMetrics for a client that accepts it, otherwise Prometheus' older format
//! 0.0.4.

use std::fmt::{self, Write as _};

use axum::http::{HeaderMap, header::ACCEPT};
use prometheus_client::{encoding::text, registry::Registry};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposition {
    OpenMetrics,
    /// What every reader since 2014 understands, and curl's user too.
    Text,
}

impl Exposition {
    /// The format that the client likes best. OpenMetrics has to be named. A client that accepts neither gets text, as
    /// from Prometheus' own libraries.
    pub(super) fn accepted(headers: &HeaderMap) -> Exposition {
        let (mut open_metrics, mut text) = (0, [None; 3]);
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in ranges.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1000, None);
            for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
                match name.trim_end().to_ascii_lowercase().as_str() {
                    "q" => quality = thousandths(value),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            let specific = match kind.as_str() {
                "application/openmetrics-text" if version.is_none_or(|version| version == "1.0.0") => {
                    open_metrics = open_metrics.max(quality);
                    continue;
                }
                "text/plain" if version.is_none_or(|version| version == "0.0.4") => 0,
                "text/*" => 1,
                "*/*" => 2,
                _ => continue,
            };
            text[specific] = text[specific].max(Some(quality));
        }
        // The most specific range counts.
        let text = text.into_iter().flatten().next().unwrap_or(0);
        if open_metrics > 0 && open_metrics >= text { Exposition::OpenMetrics } else { Exposition::Text }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Exposition::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    pub(super) fn encode(self, metrics: &Registry) -> Result<String, fmt::Error> {
        let mut body = String::new();
        text::encode(&mut body, metrics)?;
        match self {
            Exposition::OpenMetrics => Ok(body),
            Exposition::Text => as_text(&body),
        }
    }
}

/// A quality such as `0.75` in thousandths. A malformed one counts as 0.
fn thousandths(quality: &str) -> u16 {
    let quality: f32 = quality.trim().parse().unwrap_or(0.0);
    (quality.clamp(0.0, 1.0) * 1000.0) as u16
}

/// Rewrites OpenMetrics in the older format: families are named like their samples, and there are no units, no info and
/// no end mark.
fn as_text(open_metrics: &str) -> Result<String, fmt::Error> {
    let (mut out, mut help) = (String::with_capacity(open_metrics.len()), None);
    for line in open_metrics.lines() {
        if let Some(named) = line.strip_prefix("# HELP ") {
            // The name depends on the type, which comes in a later line.
            help = named.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some(help) = help.take() {
                writeln!(out, "# HELP {name}{suffix} {help}")?;
            }
            writeln!(out, "# TYPE {name}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use prometheus_client::{
        metrics::{counter::Counter, gauge::Gauge, histogram::Histogram, info::Info},
        registry::Unit,
    };

    use super::*;

    #[test]
    fn who_does_not_ask_for_openmetrics_gets_text() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                            q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                            encoding=delimited;q=0.7,application/openmetrics-text;version=1.0.0;\
                            escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, open_metrics) in [
            (&[][..], false),
            (&["*/*"], false),
            (&[""], false),
            (&["text/plain;version=0.0.4"], false),
            (&["text/html, application/json;q=0.9"], false),
            (&["application/*"], false),
            (&["application/openmetrics-text"], true),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8"], true),
            (&["application/openmetrics-text;version=0.0.1"], false),
            (&["application/openmetrics-text; q=0, */*"], false),
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.6"], false),
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.4,*/*;q=1"], true),
            (&["text/plain;q=0.5", "application/openmetrics-text"], true),
            (&["application/openmetrics-text;q=much"], false),
            (&[prometheus_2], true),
            (&[prometheus_3], true),
        ] {
            let headers: HeaderMap =
                accept.iter().map(|value| (ACCEPT, HeaderValue::from_str(value).unwrap())).collect();
            let expected = if open_metrics { Exposition::OpenMetrics } else { Exposition::Text };
            assert_eq!(Exposition::accepted(&headers), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_older_format_has_its_own_names_and_types() {
        let mut metrics = Registry::default();
        metrics.register("h_build", "What is running", Info::new([("version", "1 # EOF")]));
        metrics.register("h_pushes", "Pushes", Counter::<u64>::default());
        metrics.register_with_unit("h_size", "Size", Unit::Bytes, Gauge::<i64>::default());
        metrics.register("h_seconds", "Time", Histogram::new([0.5]));
        let text = Exposition::Text.encode(&metrics).unwrap();
        let expected = "# HELP h_build_info What is running.\n# TYPE h_build_info gauge\n\
                        h_build_info{version=\"1 # EOF\"} 1\n\
                        # HELP h_pushes_total Pushes.\n# TYPE h_pushes_total counter\nh_pushes_total 0\n\
                        # HELP h_size_bytes Size.\n# TYPE h_size_bytes gauge\nh_size_bytes 0\n\
                        # HELP h_seconds Time.\n# TYPE h_seconds histogram\n\
                        h_seconds_sum 0.0\nh_seconds_count 0\n\
                        h_seconds_bucket{le=\"0.5\"} 0\nh_seconds_bucket{le=\"+Inf\"} 0\n";
        assert_eq!(text, expected);
        assert!(Exposition::OpenMetrics.encode(&metrics).unwrap().ends_with("# EOF\n"));
    }
}
