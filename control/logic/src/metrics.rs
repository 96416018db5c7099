//! What logic counts.

use host::metrics::{CounterBy, Latency};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// HTTP statuses of refusals and failures. Each counter stands at 0 from the start.
pub(crate) const HTTP_ERRORS: [u16; 10] = [400, 401, 403, 404, 405, 408, 413, 429, 503, 504];

host::label! {
    /// What a push is addressed to.
    PushKind, "kind" {
        /// Devices.
        Keys = "keys",
        /// Users.
        Mids = "mids",
        /// Rooms.
        Room = "room",
        /// Everybody.
        All = "all",
    }
}

host::label! {
    /// How a login ended.
    LoginResult, "result" {
        /// Accepted.
        Ok = "ok",
        /// Refused for good.
        Refused = "refused",
        /// The session store was away.
        Unavailable = "unavailable",
        /// A newer login of the same key came first.
        Superseded = "superseded",
        /// logic reached it after its comet had stopped waiting, and did not begin it.
        Late = "late",
        /// The key's session lies ahead of the store's clock, so the client has to come again.
        Undecided = "undecided",
    }
}

host::label! {
    /// What became of the kick of a connection whose key logged in on another comet.
    ReplacedKick, "result" {
        /// The other comet has taken the kick.
        Taken = "taken",
        /// The other comet is away or gone, or too many kicks were under way.
        Failed = "failed",
        /// The other comet is goim's, which knows no kick.
        Unsupported = "unsupported",
    }
}

host::label! {
    /// What became of a client's message.
    MessageResult, "result" {
        /// Published to the sender's room.
        Room = "room",
        /// Answered with an empty body: the sender has no room, the configuration refuses it, or nobody serves the
        /// operation.
        Empty = "empty",
        /// The broker did not take it.
        Failed = "failed",
    }
}

/// What logic measures.
#[derive(Clone, Debug)]
pub struct LogicMetrics {
    /// Pushes accepted.
    pub pushes: CounterBy<PushKind>,
    /// Keys and users of accepted pushes that were not online.
    pub push_offline: Counter,
    /// Requests of the HTTP API that were refused or failed, by status.
    pub http_errors: Family<[(&'static str, u16); 1], Counter>,
    /// How long the broker took to take a push.
    pub publish: Latency,
    /// Time from the acceptance of a push until the broker has it.
    pub accept_to_broker: Latency,
    /// Logins.
    pub logins: CounterBy<LoginResult>,
    /// Messages of clients.
    pub client_messages: CounterBy<MessageResult>,
    /// Kicks of connections whose key logged in on another comet.
    pub replaced: CounterBy<ReplacedKick>,
}

impl Default for LogicMetrics {
    fn default() -> Self {
        let http_errors = Family::<_, Counter>::default();
        HTTP_ERRORS.iter().for_each(|status| drop(http_errors.get_or_create(&[("code", *status)])));
        LogicMetrics {
            pushes: CounterBy::default(),
            push_offline: Counter::default(),
            http_errors,
            publish: Latency::default(),
            accept_to_broker: Latency::default(),
            logins: CounterBy::default(),
            client_messages: CounterBy::default(),
            replaced: CounterBy::default(),
        }
    }
}

impl LogicMetrics {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.pushes.register(registry, "halley_pushes", "Pushes accepted");
        registry.register(
            "halley_push_offline",
            "Keys and users of accepted pushes that nobody is online for",
            self.push_offline.clone(),
        );
        registry.register("halley_http_errors", "HTTP answers of 400 and above", self.http_errors.clone());
        self.publish.register(registry, "halley_publish_seconds", "How long the broker took to take a push");
        self.accept_to_broker.register(
            registry,
            "halley_accept_to_broker_seconds",
            "From the acceptance of a push to the broker having it",
        );
        self.logins.register(registry, "halley_logic_logins", "Logins decided");
        self.client_messages.register(
            registry,
            "halley_client_messages",
            "Messages of clients that logic took",
        );
        self.replaced.register(
            registry,
            "halley_replaced_kicks",
            "Kicks of connections whose key logged in on another comet",
        );
    }

    /// Counts an answer of the HTTP API that is not a success.
    pub fn http_error(&self, status: u16) {
        debug_assert!(HTTP_ERRORS.contains(&status), "{status} is not in HTTP_ERRORS");
        self.http_errors.get_or_create(&[("code", status)]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_exposed_under_its_name() {
        let mut registry = Registry::default();
        let logic = LogicMetrics::default();
        logic.register(&mut registry);
        logic.pushes.of(PushKind::Room).inc();
        logic.http_error(429);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "halley_pushes_total{kind=\"room\"} 1",
            "halley_pushes_total{kind=\"all\"} 0",
            "halley_http_errors_total{code=\"429\"} 1",
            "halley_http_errors_total{code=\"503\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
    }
}
