//! Makes one file for `halley` of goim's three.

use std::{path::PathBuf, process::ExitCode};

use config::{ConfigError, Mistakes};
use host::{
    process,
    process::{EXIT_CONFIG, ProgramConfig as _},
    telemetry,
};
use toml::{Table, Value};

use crate::file::{CLUSTER_ONLY, HalleyConfig};

/// The sections that tell goim's files apart. job's file has no section that it must have.
const MARKS: [(&str, &[&str]); 2] = [
    ("comet", &["tcp", "websocket", "protocol", "whitelist", "bucket"]),
    ("logic", &["httpServer", "node", "backoff", "regions"]),
];

/// The keys of logic's section `redis` that are about sessions, not about Redis.
const SESSIONS: &str = "expire";

/// Prints one file for `halley` with the content of these files.
pub(crate) fn run(files: &[PathBuf]) -> ExitCode {
    match import(files) {
        Ok(text) => process::print("halley", &text),
        Err(mistakes) => {
            mistakes.lines().iter().for_each(|line| telemetry::say(&format!("halley: {line}\n")));
            telemetry::flush();
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn import(files: &[PathBuf]) -> Result<String, Mistakes> {
    let (mut whole, mut left_out) = (Table::new(), Vec::new());
    for path in files {
        let mut table = config::read_table(path)?;
        let service = service(&table);
        if let Some(reason) = is_not_goims(&table, service) {
            return Err(ConfigError::value("--import", path.display(), reason).into());
        }
        for section in CLUSTER_ONLY {
            take(&mut table, section, service, &mut left_out);
        }
        match table.get_mut("redis").and_then(Value::as_table_mut) {
            Some(redis) if service == "logic" => {
                let keys: Vec<String> = redis.keys().filter(|key| *key != SESSIONS).cloned().collect();
                keys.iter().for_each(|key| _ = redis.remove(key));
                left_out.extend(keys.iter().map(|key| format!("logic.redis.{key}")));
            }
            _ => take(&mut table, "redis", service, &mut left_out),
        }
        if whole.insert(service.to_owned(), Value::Table(table)).is_some() {
            let reason = format!("is the second file of {service}: give one of each service");
            return Err(ConfigError::value("--import", path.display(), reason).into());
        }
    }
    for key in HalleyConfig::unused_goim_keys() {
        let (path, is_section) = key.strip_suffix(".*").map_or((key.as_str(), false), |path| (path, true));
        let (sections, name) = path.rsplit_once('.').unwrap_or(("", path));
        let section = sections.split('.').try_fold(&mut whole, |at, name| at.get_mut(name)?.as_table_mut());
        if section.is_some_and(|section| section.remove(name).is_some()) && !is_section {
            left_out.push(path.to_owned());
        }
    }
    let comment = match left_out.is_empty() {
        true => String::new(),
        false => format!("# Left out, for one process has no use for it: {}\n\n", left_out.join(", ")),
    };
    let text = toml::to_string(&whole).expect("what was read as TOML can be written");
    Ok(format!("{comment}{text}"))
}

/// Why a file is not goim's; none if it is. Its content would otherwise land where nobody reads it.
fn is_not_goims(table: &Table, service: &str) -> Option<String> {
    let default = Table::try_from(HalleyConfig::default()).ok()?;
    if table.keys().any(|key| ["comet", "logic", "job"].contains(&key.as_str())) {
        return Some(
            "is Halley's own: halley --config FILE --check-config says whether it is right".to_owned(),
        );
    }
    if table.is_empty() {
        return Some("has none of goim's sections".to_owned());
    }
    let unused = HalleyConfig::unused_goim_keys();
    let is_known = |section: &str| {
        let path = format!("{service}.{section}");
        default[service].get(section).is_some()
            || section == "redis"
            || CLUSTER_ONLY.contains(&section)
            || unused.iter().any(|key| {
                key.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    };
    let unknown = table.keys().find(|section| !is_known(section))?;
    Some(format!("has {unknown}, which goim's {service} has not"))
}

fn take(table: &mut Table, section: &str, service: &str, left_out: &mut Vec<String>) {
    if table.remove(section).is_some() {
        left_out.push(format!("{service}.{section}"));
    }
}

/// The service that a file belongs to.
fn service(table: &Table) -> &'static str {
    let is_of = |(_, marks): &&(&str, &[&str])| marks.iter().any(|mark| table.contains_key(*mark));
    MARKS.iter().find(is_of).map_or("job", |(service, _)| service)
}
