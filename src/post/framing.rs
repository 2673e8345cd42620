//! Framings and encodings that producers put around a record's JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Reason, Reject};

/// The schema registry header that Confluent's serializers prepend: a zero byte and the schema id, big endian.
///
/// <https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SchemaRegistry {
    schema: u32,
}

impl SchemaRegistry {
    /// Splits off the header, if there is one. Text never starts with a zero byte.
    pub(super) fn split(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (&[0, a, b, c, d], rest) = payload.split_first_chunk::<5>()? else {
            return None;
        };
        let schema = u32::from_be_bytes([a, b, c, d]);
        Some((Self { schema }, rest))
    }

    /// Returns the reject of a framed record whose content is not JSON.
    pub(super) fn not_json(self) -> Reject {
        let detail = format!(
            "a schema registry header (schema {}), but the content is not JSON: Avro and Protobuf are not supported",
            self.schema
        );
        Reject::new(Reason::SchemaRegistry, detail)
    }
}

/// Whether the bytes are UTF-16, judging by the byte order mark or by zeros in every second of the first four bytes.
pub(super) fn is_utf16(payload: &[u8]) -> bool {
    match payload {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [a, 0, b, 0, ..] | [0, a, 0, b, ..] => *a != 0 && *b != 0,
        _ => false,
    }
}

/// Decodes bytes from JSON: a base64 string, as Kafka Connect writes it, a list of numbers, or Node's `Buffer`.
pub(super) fn bytes_in_json(json: &str) -> Option<Vec<u8>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Bytes {
        Base64(String),
        Numbers(Vec<u8>),
        Buffer { data: Vec<u8> },
    }

    match serde_json::from_str(json).ok()? {
        Bytes::Base64(text) => STANDARD.decode(text.trim()).ok(),
        Bytes::Numbers(bytes) | Bytes::Buffer { data: bytes } => Some(bytes),
    }
}

/// Returns the data of a server-sent event that has no `event:` field, or `None` if `record` is not such an event.
///
/// <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>
pub(super) fn server_sent_data(record: &str) -> Option<String> {
    let mut data = Vec::new();
    for line in record.lines() {
        match line.split_once(':')? {
            ("data", value) => data.push(value.strip_prefix(' ').unwrap_or(value)),
            ("" | "id" | "retry", _) => {}
            _ => return None,
        }
    }
    (!data.is_empty()).then(|| data.join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_schema_registry_header_is_five_bytes() {
        let (head, rest) = SchemaRegistry::split(b"\0\0\0\x01\x02{}").unwrap();
        assert_eq!((head.schema, rest), (258, &b"{}"[..]));
        assert_eq!(SchemaRegistry::split(b"\0\0\0\0"), None);
        assert_eq!(SchemaRegistry::split(b"hello"), None);
    }

    #[test]
    fn utf16_is_distinguished_from_utf8() {
        let utf16 =
            |text: &str, to_bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(to_bytes).collect::<Vec<u8>>();
        assert!(is_utf16(&utf16("{\"a\"", u16::to_le_bytes)));
        assert!(is_utf16(&utf16("{\"a\"", u16::to_be_bytes)));
        assert!(is_utf16(&utf16("\u{feff}ж", u16::to_le_bytes)));
        for other in [&b"{\"a\""[..], b"\0\0\0\0\x07{}", b"a", b"", "é è".as_bytes()] {
            assert!(!is_utf16(other), "{other:?}");
        }
    }

    #[test]
    fn the_data_of_a_server_sent_event_is_joined() {
        assert_eq!(
            server_sent_data("data: {\"a\":\ndata: 1}\nid: 3").unwrap(),
            "{\"a\":\n1}"
        );
        assert_eq!(server_sent_data(": thump"), None);
        assert_eq!(server_sent_data("data: x\nso it goes"), None);
        assert_eq!(server_sent_data("words"), None);
    }
}
