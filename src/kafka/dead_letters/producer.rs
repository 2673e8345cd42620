//! Writes dead letters to their topic.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
    types::RDKafkaErrorCode,
    util::Timeout,
};

use super::letter::{Cut, DeadLetter};
use crate::kafka::{
    client::{CommonContext, count_error},
    consumer::{Origin, bytes_of},
    error::{KafkaError, describe},
    options::KafkaOptions,
};
use crate::{sync::lock, telemetry::metric};

/// Why dead letters were not written. All dead letters of the call should be sent again; duplicates are harmless.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The broker has not acknowledged them.
    #[error("writing dead letters to topic {topic:?}: {failed} of {all} not acknowledged: {detail}")]
    NotAcknowledged {
        /// The dead-letter topic.
        topic: String,
        /// The number that failed.
        failed: usize,
        /// The number to be sent.
        all: usize,
        /// The client library's message for the first failure.
        detail: String,
    },
    /// Even the headers alone are too large for the broker.
    #[error(
        "writing the dead letter of {origin} to topic {topic:?}: even its headers alone are too large for the broker; raise max.message.bytes of the topic"
    )]
    TooLarge {
        /// The dead-letter topic.
        topic: String,
        /// The record.
        origin: Origin,
    },
}

/// Counts of dead letters written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeadLetterCounts {
    /// Dead letters with their key, value and headers complete.
    pub whole: usize,
    /// Dead letters with a truncated value or without key or headers, because the complete ones were too large for the broker.
    pub truncated: usize,
}

/// The most bytes of dead letters sent at once.
const BATCH_BYTES: usize = 32 << 20;

/// Writes dead letters.
#[derive(Clone)]
pub struct DeadLetters {
    producer: Arc<Mutex<FutureProducer<CommonContext>>>,
    config: ClientConfig,
    client: CommonContext,
    topic: Arc<str>,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

enum SendOutcome {
    Written,
    TooLarge,
    Failed(String),
}

impl DeadLetters {
    /// Creates the producer, which connects when the first dead letter is sent. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`KafkaError`] for invalid settings.
    pub fn new(options: &KafkaOptions) -> Result<Self, KafkaError> {
        options.check()?;
        let mut config = options.producer_config();
        if !options.properties.0.contains_key("linger.ms") {
            // Dead letters are sent in batches already, and commits wait for them.
            config.set("linger.ms", "1");
        }
        let client = CommonContext::default();
        Ok(Self {
            producer: Arc::new(Mutex::new(producer(&config, &client)?)),
            config,
            client,
            topic: options.dead_letter_topic().into(),
        })
    }

    /// The dead-letter topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The error of a send that fails at a fail point.
    #[cfg(all(feature = "fail-points", debug_assertions))]
    pub(crate) fn at_fail_point(&self, letters: &[DeadLetter]) -> DeadLetterError {
        DeadLetterError::NotAcknowledged {
            topic: self.topic.to_string(),
            failed: letters.len(),
            all: letters.len(),
            detail: "at a fail point".to_owned(),
        }
    }

    /// Sends dead letters and resolves when all in-sync replicas have them. If one is too large for the broker, its value is
    /// truncated, and the key or the record's headers are omitted if they are too large. [`super::header::TRUNCATED`],
    /// [`super::header::KEY_OMITTED`] and [`super::header::HEADERS_OMITTED`] mark such dead letters.
    ///
    /// # Errors
    /// [`DeadLetterError`] if any isn't written. The caller must hold back the offsets and send all of them again.
    pub async fn send(&self, letters: &[DeadLetter]) -> Result<DeadLetterCounts, DeadLetterError> {
        let sent = self.try_send(letters).await;
        if sent.is_err() {
            self.replace_producer();
        }
        sent
    }

    /// Replaces the producer after a failed send. An idempotent producer that has given up on a record may never be able to
    /// write again, because the broker may refuse its epoch or its next sequence number. Nothing is in flight when this is
    /// called.
    fn replace_producer(&self) {
        match producer(&self.config, &self.client) {
            Ok(fresh) => {
                let old = std::mem::replace(&mut *lock(&self.producer), fresh);
                // Dropping a producer may wait for its thread.
                tokio::task::spawn_blocking(move || drop(old));
            }
            Err(error) => tracing::warn!(%error, "can't replace the dead-letter producer; keeping the old one"),
        }
    }

    async fn try_send(&self, letters: &[DeadLetter]) -> Result<DeadLetterCounts, DeadLetterError> {
        let mut sent = DeadLetterCounts::default();
        let mut rest = letters;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_len(rest));
            rest = later;
            let outcomes = join_all(batch.iter().map(|letter| self.write(letter, Cut::whole(letter)))).await;
            let failures: Vec<&String> = outcomes
                .iter()
                .filter_map(|outcome| {
                    if let SendOutcome::Failed(detail) = outcome {
                        Some(detail)
                    } else {
                        None
                    }
                })
                .collect();
            if let Some(detail) = failures.first() {
                return Err(self.not_acknowledged(failures.len(), letters.len(), (*detail).clone()));
            }
            for (letter, outcome) in batch.iter().zip(outcomes) {
                if matches!(outcome, SendOutcome::TooLarge) && !self.write_smaller(letter, letters.len()).await? {
                    sent.truncated += 1;
                } else {
                    sent.whole += 1;
                }
            }
        }
        metrics::counter!(metric::DEAD_LETTERS).increment(letters.len() as u64);
        Ok(sent)
    }

    /// Sends a dead letter that was refused as too large. Returns whether it was accepted complete after all.
    async fn write_smaller(&self, letter: &DeadLetter, all: usize) -> Result<bool, DeadLetterError> {
        // The broker refuses whole produce requests, so first send it complete in a request of its own.
        for cut in Cut::all(letter) {
            match self.write(letter, cut).await {
                SendOutcome::Written => {
                    let whole = cut == Cut::whole(letter);
                    if !whole {
                        tracing::warn!(
                            origin = %letter.origin,
                            bytes = letter.value_bytes(),
                            kept = cut.bytes,
                            key_bytes = letter.key.as_ref().map(Bytes::len),
                            key_kept = cut.key,
                            headers_kept = cut.headers,
                            topic = %self.topic,
                            "dead letter truncated: too large for the broker"
                        );
                    }
                    return Ok(whole);
                }
                SendOutcome::Failed(detail) => return Err(self.not_acknowledged(1, all, detail)),
                SendOutcome::TooLarge => {}
            }
        }
        Err(DeadLetterError::TooLarge {
            topic: self.topic.to_string(),
            origin: letter.origin.clone(),
        })
    }

    async fn write(&self, letter: &DeadLetter, cut: Cut) -> SendOutcome {
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&self.topic).headers(cut.headers(letter));
        if let Some(value) = &letter.value {
            record = record.payload(value.get(..cut.bytes).unwrap_or(value));
        }
        if let Some(key) = letter.key.as_ref().filter(|_| cut.key) {
            record = record.key(&key[..]);
        }
        let producer = lock(&self.producer).clone();
        let error = match producer.send(record, Timeout::After(Duration::from_secs(30))).await {
            Ok(_) => return SendOutcome::Written,
            Err((error, _)) => error,
        };
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
            return SendOutcome::TooLarge;
        }
        count_error("produce");
        metrics::counter!(metric::DEAD_LETTER_ERRORS).increment(1);
        let reason = self
            .client
            .last_error()
            .map_or_else(String::new, |(_, reason)| format!(" ({reason})"));
        SendOutcome::Failed(format!("{}{reason}", describe(&error)))
    }

    fn not_acknowledged(&self, failed: usize, all: usize, detail: String) -> DeadLetterError {
        DeadLetterError::NotAcknowledged {
            topic: self.topic.to_string(),
            failed,
            all,
            detail,
        }
    }
}

fn producer(config: &ClientConfig, client: &CommonContext) -> Result<FutureProducer<CommonContext>, KafkaError> {
    config
        .create_with_context(client.clone())
        .map_err(|error| KafkaError::client("creating the dead-letter producer", &error))
}

/// The number of dead letters from the front that are sent at once: at least one, of at most [`BATCH_BYTES`] together.
fn batch_len(letters: &[DeadLetter]) -> usize {
    let mut bytes = 0;
    letters
        .iter()
        .position(|letter| {
            bytes += bytes_of(letter.key.as_ref(), letter.value.as_ref(), letter.headers.as_ref());
            bytes > BATCH_BYTES
        })
        .map_or(letters.len(), |end| end.max(1))
}

#[cfg(test)]
mod tests {
    use super::{super::letter::tests::letter, *};

    #[test]
    fn a_batch_is_bounded_by_bytes_but_has_at_least_one_dead_letter() {
        assert_eq!(batch_len(&[letter(1), letter(2)]), 2);
        assert_eq!(batch_len(&[letter(BATCH_BYTES + 1), letter(2)]), 1);
        assert_eq!(batch_len(&[letter(BATCH_BYTES - 1), letter(1), letter(1)]), 2);
        let keyed = DeadLetter {
            key: Some(Bytes::from(vec![0; BATCH_BYTES])),
            ..letter(1)
        };
        assert_eq!(batch_len(&[keyed, letter(1)]), 1, "keys count too");
    }
}
