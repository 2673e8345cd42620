//! Shifts all event times of a recording by the same amount, so that the newest is now and a
//! monitor shows the recording as if it were live.
//!
//! Times are replaced in place: the rest of a line stays byte for byte the same, including field order,
//! whitespace and escapes. Event times are recognised by field name in all formats that the service
//! reads: `created_at`, `createdAt`, `postedTime`, `timestamp_ms` and `time_us`. Times within a user's
//! profile are not changed, such as a Twitter account's `created_at`, the time when it was opened.

use std::{borrow::Cow, io};

use time::{
    Duration, OffsetDateTime, PrimitiveDateTime, UtcOffset, format_description::BorrowedFormatItem,
    macros::format_description,
};

use super::records::{FeedInput, Records};

/// The fields with event times.
const FIELDS: &[&[u8]] = &[
    b"created_at",
    b"createdAt",
    b"edited_at",
    b"postedTime",
    b"timestamp_ms",
    b"time_us",
];
/// Fields whose values describe a user.
const PEOPLE: &[&[u8]] = &[
    b"user",
    b"users",
    b"author",
    b"account",
    b"accounts",
    b"actor",
    b"profile",
];
/// A field whose value is JSON in a string, as in Mastodon's streaming events.
const NESTED: &[u8] = b"payload";
/// The maximum nesting depth. Deeper lines are not changed.
const MAX_DEPTH: usize = 128;

/// Returns the newest event time of a line, or `None` if it has none.
#[must_use]
pub fn newest(line: &[u8]) -> Option<OffsetDateTime> {
    let mut newest = None;
    // For a truncated line, the times before its end still count.
    let _ = walk(line, &mut |time| {
        newest = newest.max(Some(time.at));
        None
    });
    newest
}

/// Returns the newest event time of an input, read as in [`feed`](super::feed()).
///
/// # Errors
/// Returns an error if the input can't be read.
pub fn newest_in(input: &FeedInput, any_text: bool) -> io::Result<Option<OffsetDateTime>> {
    let mut records = Records::open(input, any_text)?;
    let mut found = None;
    while let Some(record) = records.next()? {
        found = found.max(newest(record));
    }
    Ok(found)
}

/// Shifts the event times of a line. A line without any is returned unchanged.
#[must_use]
pub fn shift(line: &[u8], shift: Duration) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let mut copied = 0;
    for (range, text) in walk(line, &mut |time| time.shifted(shift)) {
        out.extend_from_slice(&line[copied..range.start]);
        out.extend_from_slice(text.as_bytes());
        copied = range.end;
    }
    if copied == 0 {
        return Cow::Borrowed(line);
    }
    out.extend_from_slice(&line[copied..]);
    Cow::Owned(out)
}

/// The notation of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `Wed Oct 10 20:19:24 +0000 2018`, as in Twitter's API v1.1.
    Twitter,
    /// ISO 8601 with a number of decimal places and an offset, which may be written as `Z`.
    Iso {
        digits: usize,
        offset: UtcOffset,
        zulu: bool,
    },
    /// Units since 1970, with the number of units per second.
    Epoch { per_second: i128 },
}

#[derive(Debug, Clone, Copy)]
struct Time {
    at: OffsetDateTime,
    style: Style,
}

const TWITTER: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short] [month repr:short] [day padding:zero] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute] [year]"
);
const ISO_SECOND: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
const ISO_OFFSET: &[BorrowedFormatItem<'_>] = format_description!("[offset_hour sign:mandatory]:[offset_minute]");
const NANOS: i128 = 1_000_000_000;

impl Time {
    fn parse_text(text: &str) -> Option<Self> {
        if let Ok(at) = OffsetDateTime::parse(text, TWITTER) {
            return Some(Self {
                at,
                style: Style::Twitter,
            });
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::parse_number(text);
        }
        let (second, rest) = text.split_at_checked(19)?;
        let second = PrimitiveDateTime::parse(second, ISO_SECOND).ok()?;
        let digits = rest
            .strip_prefix('.')
            .map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        let (fraction, zone) = if rest.starts_with('.') {
            rest.get(1..)?.split_at_checked(digits)?
        } else {
            ("", rest)
        };
        if digits > 9 || (rest.starts_with('.') && digits == 0) {
            return None;
        }
        let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
        let zulu = zone == "Z";
        let offset = if zulu {
            UtcOffset::UTC
        } else {
            UtcOffset::parse(zone, ISO_OFFSET).ok()?
        };
        Some(Self {
            at: second.replace_nanosecond(nanos).ok()?.assume_offset(offset),
            style: Style::Iso { digits, offset, zulu },
        })
    }

    /// Parses seconds, milliseconds or microseconds since 1970, distinguished by magnitude.
    fn parse_number(text: &str) -> Option<Self> {
        let number: i128 = text.parse().ok()?;
        let per_second = match number {
            100_000_000..100_000_000_000 => 1,
            100_000_000_000..100_000_000_000_000 => 1_000,
            100_000_000_000_000..100_000_000_000_000_000 => 1_000_000,
            _ => return None,
        };
        let at = OffsetDateTime::from_unix_timestamp_nanos(number * (NANOS / per_second)).ok()?;
        Some(Self {
            at,
            style: Style::Epoch { per_second },
        })
    }

    /// Returns the shifted time in the same notation, or `None` if it is beyond the calendar.
    fn shifted(self, shift: Duration) -> Option<String> {
        let at = self.at.checked_add(shift)?;
        match self.style {
            Style::Twitter => at.format(TWITTER).ok(),
            Style::Epoch { per_second } => Some((at.unix_timestamp_nanos().div_euclid(NANOS / per_second)).to_string()),
            Style::Iso { digits, offset, zulu } => {
                let at = at.to_offset(offset);
                let mut text = at.format(ISO_SECOND).ok()?;
                if digits > 0 {
                    let nanos = format!("{:09}", at.nanosecond());
                    text.push('.');
                    text.push_str(nanos.get(..digits)?);
                }
                text.push_str(&if zulu {
                    "Z".to_owned()
                } else {
                    at.format(ISO_OFFSET).ok()?
                });
                Some(text)
            }
        }
    }
}

type Replacement = (std::ops::Range<usize>, String);

/// Calls `visit` for each event time and collects the replacements. For a line that is not JSON, returns the replacements
/// before the first error; the line need not be valid.
fn walk(line: &[u8], visit: &mut dyn FnMut(Time) -> Option<String>) -> Vec<Replacement> {
    let mut replacements = Vec::new();
    // For each open bracket, whether it is within a user's profile.
    let mut within: Vec<bool> = Vec::new();
    let mut key: Option<&[u8]> = None;
    let mut at = 0;
    while let Some(&byte) = line.get(at) {
        match byte {
            b'"' => {
                let Some(end) = string_end(line, at) else {
                    return replacements;
                };
                let text = &line[at + 1..end];
                let after = skip_space(line, end + 1);
                if line.get(after) == Some(&b':') {
                    key = Some(text);
                    at = after + 1;
                    continue;
                }
                let person = within.last().copied().unwrap_or(false);
                match key.take() {
                    Some(key) if !person && FIELDS.contains(&key) => {
                        let time = std::str::from_utf8(text).ok().and_then(Time::parse_text);
                        if let Some(new) = time.and_then(&mut *visit) {
                            replacements.push((at + 1..end, new));
                        }
                    }
                    Some(key) if !person && key == NESTED && text.starts_with(b"{") => {
                        nested(line, at..end + 1, visit, &mut replacements);
                    }
                    _ => {}
                }
                at = end + 1;
            }
            b'{' | b'[' => {
                if within.len() >= MAX_DEPTH {
                    return replacements;
                }
                // An array's elements belong to the array's key.
                let person =
                    within.last().copied().unwrap_or(false) || key.take().is_some_and(|key| PEOPLE.contains(&key));
                within.push(person);
                at += 1;
            }
            b'}' | b']' => {
                within.pop();
                key = None;
                at += 1;
            }
            b'0'..=b'9' => {
                let end = at + line[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let whole = !matches!(line.get(end), Some(b'.' | b'e' | b'E'));
                let person = within.last().copied().unwrap_or(false);
                if let Some(name) = key.take()
                    && whole
                    && !person
                    && FIELDS.contains(&name)
                {
                    let time = std::str::from_utf8(&line[at..end]).ok().and_then(Time::parse_number);
                    if let Some(new) = time.and_then(&mut *visit) {
                        replacements.push((at..end, new));
                    }
                }
                at = end;
            }
            b',' => {
                key = None;
                at += 1;
            }
            _ => at += 1,
        }
    }
    replacements
}

/// Handles JSON within a JSON string. Escapes may be rewritten in an equivalent form.
fn nested(
    line: &[u8],
    range: std::ops::Range<usize>,
    visit: &mut dyn FnMut(Time) -> Option<String>,
    replacements: &mut Vec<Replacement>,
) {
    let Ok(inner) = serde_json::from_slice::<String>(&line[range.clone()]) else {
        return;
    };
    // Each level of escapes adds at most one level of recursion.
    let found = walk(inner.as_bytes(), visit);
    if found.is_empty() {
        return;
    }
    let mut text = String::with_capacity(inner.len() + 16);
    let mut copied = 0;
    for (place, new) in found {
        text.push_str(&inner[copied..place.start]);
        text.push_str(&new);
        copied = place.end;
    }
    text.push_str(&inner[copied..]);
    if let Ok(text) = serde_json::to_string(&text) {
        replacements.push((range, text));
    }
}

/// Returns the position of the closing quote of the string that begins at `start`.
fn string_end(line: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match line.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn skip_space(line: &[u8], from: usize) -> usize {
    from + line.get(from..).map_or(0, |rest| {
        rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn moved(line: &str, by: Duration) -> String {
        String::from_utf8(shift(line.as_bytes(), by).into_owned()).unwrap()
    }

    #[test]
    fn times_in_every_format_are_shifted_and_nothing_else() {
        let cases = [
            // Twitter v1.1: the account's time is kept, the original post's is shifted.
            (
                r#"{"created_at":"Wed Oct 10 20:19:24 +0000 2018","id":1050118621198921728, "user":{"created_at":"Mon Jan 01 00:00:00 +0000 2007"},"retweeted_status":{"created_at":"Wed Oct 10 20:00:00 +0000 2018"},"timestamp_ms":"1539202764123"}"#,
                r#"{"created_at":"Thu Oct 11 20:19:24 +0000 2018","id":1050118621198921728, "user":{"created_at":"Mon Jan 01 00:00:00 +0000 2007"},"retweeted_status":{"created_at":"Thu Oct 11 20:00:00 +0000 2018"},"timestamp_ms":"1539289164123"}"#,
            ),
            // Twitter v2: the users in `includes` are kept.
            (
                r#"{"data":{"created_at":"2021-02-28T23:59:59.000Z","text":"created_at"},"includes":{"users":[{"created_at":"2010-01-01T00:00:00.000Z"}],"tweets":[{"created_at":"2021-02-27T01:02:03.000Z"}]}}"#,
                r#"{"data":{"created_at":"2021-03-01T23:59:59.000Z","text":"created_at"},"includes":{"users":[{"created_at":"2010-01-01T00:00:00.000Z"}],"tweets":[{"created_at":"2021-02-28T01:02:03.000Z"}]}}"#,
            ),
            // Bluesky Jetstream.
            (
                r#"{"did":"d","time_us":1725911162329308,"commit":{"record":{"createdAt":"2024-09-09T19:46:02.102Z"}}}"#,
                r#"{"did":"d","time_us":1725997562329308,"commit":{"record":{"createdAt":"2024-09-10T19:46:02.102Z"}}}"#,
            ),
            // Activity Streams.
            (
                r#"{"postedTime":"2013-10-10T20:19:24.000Z","actor":{"postedTime":"2009-01-01T00:00:00.000Z"},"object":{"postedTime":"2013-10-10T20:19:24.000Z"}}"#,
                r#"{"postedTime":"2013-10-11T20:19:24.000Z","actor":{"postedTime":"2009-01-01T00:00:00.000Z"},"object":{"postedTime":"2013-10-11T20:19:24.000Z"}}"#,
            ),
            // Mastodon's streaming API: JSON in a string within JSON.
            (
                r#"{"event":"update","payload":"{\"created_at\":\"2024-01-31T10:00:00.5+01:00\",\"account\":{\"created_at\":\"2017-01-01T00:00:00.000Z\"}}"}"#,
                r#"{"event":"update","payload":"{\"created_at\":\"2024-02-01T10:00:00.5+01:00\",\"account\":{\"created_at\":\"2017-01-01T00:00:00.000Z\"}}"}"#,
            ),
            // Plain, in seconds and milliseconds.
            (
                r#"{"created_at": 1700000000 ,"text":"a"}"#,
                r#"{"created_at": 1700086400 ,"text":"a"}"#,
            ),
            (r#"{"created_at":1700000000123}"#, r#"{"created_at":1700086400123}"#),
        ];
        for (before, after) in cases {
            assert_eq!(moved(before, Duration::DAY), after);
        }
    }

    #[test]
    fn lines_without_times_are_unchanged() {
        let lines = [
            "",
            "a text",
            "{",
            r#"{"created_at":"#,
            r#"{"created_at":"yesterday"}"#,
            r#"{"created_at":1700000000.5}"#,
            r#"{"created_at":-5,"x":[1,2]}"#,
            r#"{"text":"\"created_at\":\"2021-02-28T23:59:59Z\""}"#,
            r#"{"created_at":"2021-02-28T23:59:59.Z"}"#,
            r#"{"created_at":{"at":"2021-02-28T23:59:59Z"}}"#,
            r#"["created_at","2021-02-28T23:59:59Z"]"#,
            "\"open",
            "\"\\",
        ];
        for line in lines {
            assert!(
                matches!(shift(line.as_bytes(), Duration::DAY), Cow::Borrowed(_)),
                "{line}"
            );
            assert_eq!(newest(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn the_newest_of_a_line_is_found() {
        let line = r#"{"created_at":"Wed Oct 10 20:19:24 +0000 2018","retweeted_status":{"created_at":"Wed Oct 10 20:00:00 +0000 2018"},"user":{"created_at":"Wed Oct 10 20:00:00 +0000 2028"}}"#;
        assert_eq!(newest(line.as_bytes()), Some(datetime!(2018-10-10 20:19:24 UTC)));
    }

    #[test]
    fn a_time_beyond_the_calendar_is_unchanged() {
        let line = r#"{"created_at":"9999-12-31T23:59:59Z"}"#;
        assert_eq!(moved(line, Duration::DAY), line);
    }

    proptest! {
        #[test]
        fn shifting_forth_and_back_restores_the_bytes(
            seconds in 200_000_000i64..4_000_000_000,
            millis in 0i64..1_000,
            by in -100_000_000i64..100_000_000,
            text in "\\PC{0,20}",
        ) {
            let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap() + Duration::milliseconds(millis);
            let iso = Time { at, style: Style::Iso { digits: 3, offset: UtcOffset::UTC, zulu: true } }.shifted(Duration::ZERO).unwrap();
            let twitter = Time { at, style: Style::Twitter }.shifted(Duration::ZERO).unwrap();
            let line = serde_json::json!({ "text": text, "created_at": twitter, "timestamp_ms": (seconds * 1_000 + millis).to_string(), "data": { "createdAt": iso } }).to_string();
            let by = Duration::seconds(by);
            let there = shift(line.as_bytes(), by);
            prop_assert_eq!(newest(&there), Some(at + by));
            let back = shift(&there, -by);
            prop_assert_eq!(&*back, line.as_bytes());
        }

        #[test]
        fn any_bytes_are_handled_and_json_remains_json(bytes in prop::collection::vec(any::<u8>(), 0..200), depth in 0usize..400) {
            let _ = shift(&bytes, Duration::DAY);
            let deep = format!("{}{}", "{\"a\":[".repeat(depth), "]}".repeat(depth));
            prop_assert_eq!(moved(&deep, Duration::DAY), deep);
        }
    }
}
