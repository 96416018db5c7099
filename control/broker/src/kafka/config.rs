//! The `[kafka]` sections of logic and of job.

use config::{ConfigError, Parts, Secret, StringList};
use host::tls::{TlsClient, TlsClientConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

const TOPIC: &str = "goim-push-topic";
const GROUP: &str = "goim-push-group-job";
const BROKERS: &str = "127.0.0.1:9092";

/// Where the keys stand, for errors.
const SECTION: &str = "kafka";

/// Where logic puts pushes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct KafkaConfig {
    /// The topic.
    #[serde(flatten)]
    pub queue: KafkaTopicConfig,
    /// Where the brokers are, and the login.
    #[serde(flatten)]
    pub servers: KafkaServersConfig,
    /// TLS to all brokers.
    #[serde(flatten)]
    pub tls: TlsClientConfig,
}

impl<'de> Deserialize<'de> for KafkaConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let config = KafkaConfig { queue: parts.read()?, servers: parts.read()?, tls: parts.read()? };
        parts.end().map(|()| config)
    }
}

impl KafkaConfig {
    /// Checks what concerns several keys, reads the files of TLS, and gives all that is wrong.
    pub fn check(&self) -> Vec<ConfigError> {
        check(&self.servers, &self.tls)
    }
}

/// Where job takes pushes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct KafkaJobConfig {
    /// The topic and the group.
    #[serde(flatten)]
    pub queue: KafkaGroupConfig,
    /// Where the brokers are, and the login.
    #[serde(flatten)]
    pub servers: KafkaServersConfig,
    /// TLS to all brokers.
    #[serde(flatten)]
    pub tls: TlsClientConfig,
}

impl<'de> Deserialize<'de> for KafkaJobConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let config = KafkaJobConfig { queue: parts.read()?, servers: parts.read()?, tls: parts.read()? };
        parts.end().map(|()| config)
    }
}

impl KafkaJobConfig {
    /// As [`KafkaConfig::check`].
    pub fn check(&self) -> Vec<ConfigError> {
        check(&self.servers, &self.tls)
    }
}

/// What logic has to know of the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct KafkaTopicConfig {
    /// The topic; goim's. Where the brokers do not create topics by themselves it has to be there.
    pub topic: String,
}

impl Default for KafkaTopicConfig {
    fn default() -> Self {
        KafkaTopicConfig { topic: TOPIC.into() }
    }
}

/// What job has to know of the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct KafkaGroupConfig {
    /// The topic; goim's.
    pub topic: String,
    /// The consumer group; goim's. The jobs of one group share the partitions, so more jobs than partitions idle; another
    /// group gets everything once more.
    pub group: String,
    /// How the jobs of the group share the partitions. All of a group have to agree: others are refused while it has
    /// members, and stand by.
    pub assignor: Assignor,
}

impl Default for KafkaGroupConfig {
    fn default() -> Self {
        KafkaGroupConfig { topic: TOPIC.into(), group: GROUP.into(), assignor: Assignor::default() }
    }
}

/// Where the brokers are, and the login.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct KafkaServersConfig {
    /// Some of the brokers, `host:port`; the others are learnt from them.
    pub brokers: StringList,
    /// How this process logs in. Without `tls` anybody on the way can read a password that is sent by "plain".
    pub sasl: Sasl,
    /// User of the brokers, if `sasl` is not "off".
    pub user: String,
    /// Password of the user.
    pub password: Secret,
}

impl Default for KafkaServersConfig {
    fn default() -> Self {
        KafkaServersConfig {
            brokers: StringList::from_iter([BROKERS]),
            sasl: Sasl::Off,
            user: String::new(),
            password: Secret::default(),
        }
    }
}

/// How a client logs in to the brokers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sasl {
    /// Not at all, or by the certificate of TLS.
    #[default]
    #[serde(rename = "off")]
    Off,
    /// The password as it is.
    #[serde(rename = "plain")]
    Plain,
    /// By a proof that it knows the password, with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

impl Sasl {
    /// Its name in Kafka; none for no login.
    pub(super) const fn mechanism(self) -> Option<&'static str> {
        match self {
            Sasl::Off => None,
            Sasl::Plain => Some("PLAIN"),
            Sasl::ScramSha256 => Some("SCRAM-SHA-256"),
            Sasl::ScramSha512 => Some("SCRAM-SHA-512"),
        }
    }
}

fn check(servers: &KafkaServersConfig, tls: &TlsClientConfig) -> Vec<ConfigError> {
    let KafkaServersConfig { brokers, sasl, user, password } = servers;
    let mut wrong = tls.check(SECTION);
    let mut add = |name: &str, value: &str, reason: &str| {
        wrong.push(ConfigError::value(format!("{SECTION}.{name}"), value, reason));
    };
    if brokers.is_empty() {
        add("brokers", "[]", "needs at least one host:port of Kafka");
    }
    match sasl {
        Sasl::Off if !user.is_empty() => add("user", user, "would not be used, kafka.sasl is \"off\""),
        Sasl::Off if !password.is_empty() => add("password", "", "would not be used, kafka.sasl is \"off\""),
        Sasl::Off => {}
        _ if user.is_empty() => add("user", "\"\"", "kafka.sasl needs a user"),
        _ if password.is_empty() => add("password", "", "kafka.sasl needs a password"),
        _ => {}
    }
    wrong
}

/// What TLS needs; `None` without it.
pub(super) fn load_tls(tls: &TlsClientConfig) -> Result<Option<TlsClient>, ConfigError> {
    tls.load(SECTION).map_err(|mut errors| errors.swap_remove(0))
}

/// How members of a group share the partitions.
///
/// A Go job (sarama-cluster) uses ranges, and cannot share a group with librdkafka: as the leader it fails, again and again,
/// on the longer descriptions that ours give of themselves, and nobody gets a partition; as the leader ours leaves the Go
/// job's out. With an assignor that Go jobs do not know Kafka admits the one kind or the other, and who is refused
/// stands by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Assignor {
    /// Only the partitions that move stop. Where Go jobs are in the group ours stand by until the last has left, and the
    /// other way round.
    #[default]
    CooperativeSticky,
    /// By ranges: when a member comes or goes all stop for a moment. Beside Go jobs the whole group stops for good.
    Range,
}

impl Assignor {
    /// Its name in the group protocol.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::CooperativeSticky => "cooperative-sticky",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned + Default>(sets: &[&str]) -> T {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        config::load(None, &sets, &[]).expect("a readable configuration").config
    }

    #[test]
    fn goims_keys_are_read_as_they_are() {
        let logic: KafkaConfig = read(&["topic=t", "brokers=a:9092,b:9092"]);
        let brokers = logic.servers.brokers.join(" ");
        assert_eq!((logic.queue.topic.as_str(), brokers.as_str()), ("t", "a:9092 b:9092"));
        let job: KafkaJobConfig = read(&["topic=t", "group=g", "brokers=a:9092"]);
        assert_eq!((job.queue.group.as_str(), job.queue.assignor), ("g", Assignor::CooperativeSticky));
    }

    #[test]
    fn the_assignor_is_called_as_in_kafka() {
        for assignor in [Assignor::CooperativeSticky, Assignor::Range] {
            let job: KafkaJobConfig = read(&[&format!("assignor={}", assignor.name())]);
            assert_eq!(job.queue.assignor, assignor);
        }
    }

    #[test]
    fn mechanisms_are_called_as_in_kafka() {
        for sasl in [Sasl::Plain, Sasl::ScramSha256, Sasl::ScramSha512] {
            let name = sasl.mechanism().expect("a login").to_lowercase();
            let logic: KafkaConfig = read(&[&format!("sasl={name}"), "user=u", "password=p"]);
            assert_eq!(logic.servers.sasl, sasl);
            assert!(logic.check().is_empty());
        }
    }

    #[test]
    fn a_section_that_cannot_work_is_refused_with_its_key() {
        for (sets, told) in [
            (&["brokers=[]"][..], "kafka.brokers = []: needs at least one"),
            (&["user=u"], "kafka.user = u: would not be used, kafka.sasl is \"off\""),
            (&["password=sesame"], "kafka.password = (hidden): would not be used"),
            (&["sasl=plain"], "kafka.user = \"\": kafka.sasl needs a user"),
            (&["sasl=scram-sha-256", "user=u"], "kafka.password = (hidden): kafka.sasl needs a password"),
            (&["cert=/a.pem"], "kafka.cert = \"/a.pem\": would not be used, kafka.tls is false"),
        ] {
            let (logic, job): (KafkaConfig, KafkaJobConfig) = (read(sets), read(sets));
            for wrong in [logic.check(), job.check()] {
                let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
                assert!(matches!(&wrong[..], [one] if one.starts_with(told)), "{wrong:?}");
            }
        }
    }
}
