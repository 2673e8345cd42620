//! Rows of `post` in the binary format of COPY:
//! <https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS>.

use std::{borrow::Cow, sync::Arc};

use time::{OffsetDateTime, macros::datetime};

use super::flush::{MAX_HASHTAG_BYTES, PostRow};
use crate::model::ModelInfo;

/// The statement that takes what [`CopyWriter`] makes.
pub(super) const COPY_POST: &str = "COPY post (source, post_id, created_at, author_id, lang, text, repost_of, emotion, score, scores, \
     model_id, topics, hashtags, kafka_topic, kafka_partition, kafka_offset) FROM STDIN (FORMAT binary)";
const COLUMNS: i16 = 16;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const TEXT_OID: i32 = 25;
const POSTGRES_EPOCH: OffsetDateTime = datetime!(2000-01-01 00:00 UTC);

/// Longest language tag taken for one (RFC 5646 asks for 35 at least); what is longer is unknown.
const MAX_LANG_BYTES: usize = 35;

/// The text as Postgres can hold it: it has no NUL character.
pub(super) fn sql_text(text: &str) -> Cow<'_, str> {
    if text.as_bytes().contains(&0) { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A post's language as it is stored.
pub(super) fn lang(row: &PostRow) -> Cow<'_, str> {
    match row.post.lang.as_str() {
        lang if lang.is_empty() || lang.len() > MAX_LANG_BYTES => Cow::Borrowed("und"),
        lang => sql_text(lang),
    }
}

/// A post's tracked topics as they are stored: without repeats, as each counts once in the rollups.
pub(super) fn topics(row: &PostRow) -> Vec<&str> {
    let mut topics: Vec<&str> = Vec::with_capacity(row.topics.len());
    for topic in &row.topics {
        if !topics.contains(&&**topic) {
            topics.push(topic);
        }
    }
    topics
}

/// Encodes rows; hands the bytes out in pieces so that a flush of long texts is not held twice.
pub(super) struct CopyWriter {
    buffer: Vec<u8>,
    model_id: Arc<str>,
    /// Each label as a JSON string with its colon.
    labels: Vec<String>,
}

impl CopyWriter {
    pub(super) fn new(model: &ModelInfo) -> Self {
        let mut buffer = Vec::with_capacity(64 * 1024);
        buffer.extend_from_slice(SIGNATURE);
        buffer.extend_from_slice(&[0; 8]); // no flags, no header extension
        let labels = model.labels.iter().map(|label| format!("{}:", serde_json::Value::from(&**label))).collect();
        Self { buffer, model_id: model.id.clone(), labels }
    }

    /// The bytes so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Forgets the bytes so far: they were sent.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
    }

    /// Ends the stream.
    pub(super) fn end(&mut self) {
        self.buffer.extend_from_slice(&(-1_i16).to_be_bytes());
    }

    pub(super) fn row(&mut self, row: &PostRow) {
        let post = &row.post;
        self.buffer.extend_from_slice(&COLUMNS.to_be_bytes());
        self.text(post.source.as_str());
        self.text(&post.id);
        self.fixed(&postgres_micros(row.created_at()).to_be_bytes());
        self.optional_text(post.author_id.as_deref());
        self.text(&lang(row));
        self.text(&post.text);
        self.optional_text(post.repost_of.as_deref());
        self.text(&row.verdict.emotion);
        self.fixed(&row.verdict.score.to_be_bytes());
        self.scores(&row.verdict.scores);
        let model_id = self.model_id.clone();
        self.text(&model_id);
        self.text_array(&topics(row));
        let hashtags: Vec<&str> =
            post.hashtags.iter().map(String::as_str).filter(|tag| tag.len() <= MAX_HASHTAG_BYTES).collect();
        self.text_array(&hashtags);
        self.text(&row.origin.topic);
        self.fixed(&row.origin.partition.to_be_bytes());
        self.fixed(&row.origin.offset.to_be_bytes());
    }

    fn length(&mut self, length: usize) {
        // A record is a few megabytes at most: the limits of the parser.
        self.buffer.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
    }

    fn fixed(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.buffer.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.fixed(sql_text(text).as_bytes());
    }

    fn optional_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.buffer.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }

    /// Writes a value whose length is known once it is written.
    fn measured(&mut self, write: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.length(0);
        write(self);
        let length = i32::try_from(self.buffer.len() - start - 4).unwrap_or(i32::MAX);
        self.buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// `jsonb`: a version, then the text of the JSON.
    fn scores(&mut self, scores: &[f64]) {
        self.measured(|writer| {
            writer.buffer.push(1);
            writer.buffer.push(b'{');
            for (place, (label, score)) in writer.labels.iter().zip(scores).enumerate() {
                if place > 0 {
                    writer.buffer.push(b',');
                }
                writer.buffer.extend_from_slice(label.as_bytes());
                // Plain decimals that read back as the same number: valid JSON, as scores are finite.
                writer.buffer.extend_from_slice(score.to_string().as_bytes());
            }
            writer.buffer.push(b'}');
        });
    }

    /// `text[]`: dimensions, whether there are nulls, element type; length and lower bound; the elements.
    fn text_array(&mut self, items: &[&str]) {
        self.measured(|writer| {
            let dimensions = i32::from(!items.is_empty());
            for word in [dimensions, 0, TEXT_OID] {
                writer.buffer.extend_from_slice(&word.to_be_bytes());
            }
            if items.is_empty() {
                return;
            }
            writer.length(items.len());
            writer.buffer.extend_from_slice(&1_i32.to_be_bytes());
            for item in items {
                writer.text(item);
            }
        });
    }
}

/// Microseconds since 2000-01-01 UTC.
fn postgres_micros(at: OffsetDateTime) -> i64 {
    i64::try_from((at - POSTGRES_EPOCH).whole_microseconds()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        model::Verdict,
        post::{Post, Source, Origin},
    };

    fn row() -> PostRow {
        PostRow {
            post: Box::new(Post {
                source: Source::Plain,
                id: "a\0b".into(),
                created_at: datetime!(2000-01-01 00:00:00.000_002_9 UTC),
                author_id: None,
                lang: String::new(),
                text: "t".into(),
                repost_of: None,
                quoted_text: None,
                hashtags: vec!["x".repeat(600), "y".into()],
            }),
            verdict: Verdict { emotion: "joy".into(), score: 0.5, scores: [0.5, 2f64.powi(-20)].into() },
            topics: vec!["t1".into(), "t1".into()],
            origin: Origin { topic: "k".into(), partition: 1, offset: 2 },
        }
    }

    /// Takes the fields of one encoded row apart again.
    fn fields(mut bytes: &[u8]) -> Vec<Option<&[u8]>> {
        let mut take = |n: usize| {
            let (head, tail) = bytes.split_at(n);
            bytes = tail;
            head
        };
        let count = i16::from_be_bytes(take(2).try_into().unwrap());
        let fields = (0..count)
            .map(|_| {
                let length = i32::from_be_bytes(take(4).try_into().unwrap());
                usize::try_from(length).ok().map(&mut take)
            })
            .collect();
        assert!(bytes.is_empty());
        fields
    }

    #[test]
    fn a_row_is_laid_out_as_documented() {
        let model = ModelInfo { id: "m@1".into(), labels: ["joy".into(), "a\"b".into()].into() };
        let mut writer = CopyWriter::new(&model);
        assert_eq!(writer.bytes(), [SIGNATURE, &[0; 8]].concat());
        writer.clear();
        writer.row(&row());
        let fields = fields(writer.bytes());
        assert_eq!(fields.len(), 16);
        assert_eq!(fields[1], Some("a\u{fffd}b".as_bytes()), "NUL is replaced");
        assert_eq!(fields[2], Some(&2_i64.to_be_bytes()[..]), "whole microseconds since 2000");
        assert_eq!(fields[3], None);
        assert_eq!(fields[4], Some(&b"und"[..]), "no language is unknown");
        assert_eq!(fields[9], Some(&b"\x01{\"joy\":0.5,\"a\\\"b\":0.00000095367431640625}"[..]));
        assert_eq!(fields[11].unwrap().len(), 20 + 4 + 2, "repeated topics count once");
        assert_eq!(fields[12].unwrap().len(), 20 + 4 + 1, "an overlong hashtag is left out");
        writer.clear();
        writer.end();
        assert_eq!(writer.bytes(), [0xff, 0xff]);
    }
}
