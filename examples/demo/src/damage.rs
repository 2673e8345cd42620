//! Damaged records of several kinds.

use fastrand::Rng;

/// A damaged record: one line, never empty.
pub(crate) fn record(rng: &mut Rng) -> Vec<u8> {
    let id = rng.u64(1_000_000..10_000_000);
    match rng.u8(..10) {
        // Cut off in the middle of a value.
        0 => format!(r#"{{"id":"{id}","text":"the connection broke while I was writ"#).into_bytes(),
        // Latin-1 instead of UTF-8.
        1 => [br#"{"id":"9"#, id.to_string().as_bytes(), b"\",\"text\":\"caf\xe9 cr\xe8me\",\"created_at\":\"2026-01-01T00:00:00Z\"}"].concat(),
        2 => format!(r#"{{"id":"{id}","text":{}{}}}"#, "[".repeat(2_000), "]".repeat(2_000)).into_bytes(),
        3 => format!(r#"{{"id":"{id}","text":"an hour ago, I think","created_at":"yesterday"}}"#).into_bytes(),
        4 => format!(r#"{{"id":"{id}","text":"from the far future","created_at":"9999-12-31T23:59:59Z"}}"#).into_bytes(),
        5 => format!(r#"{{"limit":{{"track":{id},"timestamp_ms":"1767225600000"}}}}"#).into_bytes(),
        6 => format!(r#"{{"temperature":21.5,"sensor":{id}}}"#).into_bytes(),
        7 => format!(r#"{{"id":"{id}","text":"","created_at":"2026-01-01T00:00:00Z"}}"#).into_bytes(),
        8 => format!(r#"{{"id":"{id}","text":{id},"created_at":"2026-01-01T00:00:00Z"}}"#).into_bytes(),
        // A like: part of the same stream, but not a post.
        _ => format!(
            r#"{{"did":"did:plc:{id:024}","time_us":1767225600000000,"kind":"commit","commit":{{"rev":"3mbc{id}","operation":"create","collection":"app.bsky.feed.like","rkey":"3mbd{id}","record":{{"$type":"app.bsky.feed.like","createdAt":"2026-01-01T00:00:00Z","subject":{{"cid":"bafyrei{id}","uri":"at://did:plc:{id:024}/app.bsky.feed.post/3mbe{id}"}}}},"cid":"bafyrei{id}"}}}}"#
        )
        .into_bytes(),
    }
}
