//! The configurations of librdkafka's clients.

use rdkafka::ClientConfig;

use super::{
    KafkaOptions,
    properties::{CONSUMER_ONLY, PRODUCER_ONLY},
};

impl KafkaOptions {
    pub(in crate::kafka) fn consumer_config(&self) -> ClientConfig {
        let mut config = self.reader_config();
        config
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("statistics.interval.ms", "1000")
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", self.prefetch_kib.max(1).to_string())
            // The default of one second is meant for deep queues; these are shallow.
            .set("fetch.queue.backoff.ms", "20")
            // Bounds a fetch without records. Kafka answers as soon as there is one, but other brokers look for new records
            // only at this interval, and a newly assigned partition waits until a fetch in progress ends.
            .set("fetch.wait.max.ms", "20");
        let next_generation = self
            .properties
            .0
            .get("group.protocol")
            .is_some_and(|protocol| protocol.to_string() == "consumer");
        if !next_generation {
            config
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("session.timeout.ms", "6000")
                .set("heartbeat.interval.ms", "1500");
        }
        self.properties.apply(&mut config, PRODUCER_ONLY);
        config
    }

    /// For reading by manual assignment, without joining the group.
    pub(in crate::kafka) fn watermark_client_config(&self) -> ClientConfig {
        let mut config = self.reader_config();
        self.properties.apply(&mut config, PRODUCER_ONLY);
        config
            .set("enable.partition.eof", "true")
            .set("statistics.interval.ms", "20")
            .set("fetch.wait.max.ms", "20")
            // Only one batch of each partition is needed.
            .set("fetch.message.max.bytes", "1024")
            .set("queued.min.messages", "1")
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.queue.backoff.ms", "10");
        config
    }

    /// For reading all dead letters by manual assignment.
    pub(in crate::kafka) fn dead_letter_reader_config(&self) -> ClientConfig {
        let mut config = self.reader_config();
        self.properties.apply(&mut config, PRODUCER_ONLY);
        config.set("enable.partition.eof", "true");
        config
    }

    fn reader_config(&self) -> ClientConfig {
        let mut config = self.base_config();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // Reports a corrupt batch as an error instead of returning its records.
            .set("check.crcs", "true")
            .set("allow.auto.create.topics", "false");
        config
    }

    /// For idempotent producers whose records are acknowledged by all in-sync replicas.
    pub(crate) fn producer_config(&self) -> ClientConfig {
        let mut config = self.base_config();
        config
            .set("enable.idempotence", "true")
            // Leaves the limit to the broker, since a record read from Kafka can be large.
            .set("message.max.bytes", "1000000000")
            .set("message.timeout.ms", "30000");
        self.properties.apply(&mut config, CONSUMER_ONLY);
        config
    }

    /// For requests about topics, brokers and their settings.
    pub(crate) fn admin_config(&self) -> ClientConfig {
        let mut config = self.base_config();
        self.properties
            .apply(&mut config, &[CONSUMER_ONLY, PRODUCER_ONLY].concat());
        config
    }

    fn base_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "moodstream")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000");
        config
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn with_properties(properties: &[(&str, &str)]) -> KafkaOptions {
        KafkaOptions {
            properties: properties.iter().copied().collect(),
            ..KafkaOptions::default()
        }
    }

    #[test]
    fn properties_override_defaults_and_are_set_only_on_clients_that_know_them() {
        let options = with_properties(&[
            ("session.timeout.ms", "9000"),
            ("linger.ms", "7"),
            ("security.protocol", "ssl"),
        ]);
        let (consumer, producer) = (options.consumer_config(), options.producer_config());
        assert_eq!(consumer.get("session.timeout.ms"), Some("9000"));
        assert_eq!(consumer.get("linger.ms"), None);
        assert_eq!(producer.get("linger.ms"), Some("7"));
        assert_eq!(producer.get("session.timeout.ms"), None);
        assert_eq!(
            (consumer.get("security.protocol"), producer.get("security.protocol")),
            (Some("ssl"), Some("ssl"))
        );
    }

    #[test]
    fn the_consumer_group_protocol_gets_no_settings_of_the_classic_one() {
        let options = with_properties(&[("group.protocol", "consumer")]);
        assert_eq!(options.consumer_config().get("session.timeout.ms"), None);
        assert_eq!(options.consumer_config().get("partition.assignment.strategy"), None);
    }

    #[test]
    fn property_values_may_be_strings_integers_or_booleans() {
        let options: KafkaOptions = toml::from_str(
            "topics = ['a']\n[properties]\n'session.timeout.ms' = 9000\n'check.crcs' = true\n'client.id' = 'me'",
        )
        .unwrap();
        let config = options.consumer_config();
        assert_eq!(config.get("session.timeout.ms"), Some("9000"));
        assert_eq!(config.get("check.crcs"), Some("true"));
        assert_eq!(config.get("client.id"), Some("me"));
    }
}
