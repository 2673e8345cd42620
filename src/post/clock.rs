//! Parses event times in the notations of the supported formats and in common human-written ones.

use std::fmt;

use jiff::{
    civil::DateTime,
    fmt::{rfc2822, strtime, temporal::Pieces},
    tz::TimeZone,
};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{EventTime, Reason, Reject, json::Scalar};

/// The Unix time, in milliseconds, of the epoch of Twitter's snowflake ids.
const SNOWFLAKE_EPOCH_MS: i128 = 1_288_834_974_657;
/// The first snowflake id. Smaller ids were sequential and do not contain a time.
const FIRST_SNOWFLAKE: u64 = 29_700_859_247;

/// The time zone of times that do not specify one: an IANA name (`Europe/Berlin`) or a fixed offset (`+02:00`). UTC by
/// default.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Zone(TimeZone);

/// A time zone that is neither an IANA name nor an offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time zone: use an IANA name (`Europe/Berlin`) or an offset (`+02:00`)")]
pub struct ZoneError(String);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.iana_name() {
            Some(name) => f.write_str(name),
            None => fmt::Debug::fmt(&self.0, f),
        }
    }
}

impl TryFrom<String> for Zone {
    type Error = ZoneError;

    fn try_from(name: String) -> Result<Self, ZoneError> {
        // Parsed as the suffix of a timestamp.
        let offset = || {
            let time = format!("2000-01-01T00:00:00{name}");
            let offset = Pieces::parse(&time).ok()?.offset()?.to_numeric_offset();
            (offset.seconds().abs() < 86_400).then_some(offset)
        };
        match (TimeZone::get(&name), offset()) {
            (Ok(zone), _) => Ok(Self(zone)),
            (Err(_), Some(offset)) => Ok(Self(TimeZone::fixed(offset))),
            (Err(_), None) => Err(ZoneError(name.chars().take(60).collect())),
        }
    }
}

/// Parses the time in a field, in one of these notations:
///
/// - ISO 8601 and RFC 3339, and SQL timestamps with a space instead of the `T`; a date without a time is midnight;
/// - RFC 2822, as used in mail and feeds: `Wed, 03 Jul 2019 06:29:00 +0000`;
/// - Twitter's, which is C's `asctime` with a zone: `Wed Jul 03 06:29:00 +0000 2019`;
/// - Unix seconds, milliseconds, microseconds or nanoseconds, distinguished by magnitude, as a number or a string of
///   digits.
///
/// A time without a zone is in `zone`. If it is ambiguous because clocks are set back, the earlier instant is used.
///
/// # Errors
///
/// Returns [`Reason::BadTime`] if the time can't be parsed or is outside the years 1970 to 2200.
pub(super) fn read(value: &Scalar<'_>, field: &str, zone: &Zone) -> Result<Option<EventTime>, Reject> {
    let time = match value {
        Scalar::Absent => return Ok(None),
        Scalar::Text(text) if text.trim().is_empty() => return Ok(None),
        Scalar::Integer(number) => unix(*number),
        Scalar::Float(number) => unix_fraction(*number),
        Scalar::Text(text) => from_text(text.trim(), zone),
        other => return Err(other.type_error(field, "a time")),
    };
    match time.map(EventTime::new) {
        Some(Ok(time)) => Ok(Some(time)),
        Some(Err(_)) | None => Err(unreadable(value, field)),
    }
}

/// Returns the first readable time among these fields. An unreadable one does not hide those after it.
///
/// # Errors
///
/// If no field is readable, returns the error of the first unreadable one, as [`read`] does.
pub(super) fn first(fields: &[(&Scalar<'_>, &str)], zone: &Zone) -> Result<Option<EventTime>, Reject> {
    let mut fault = None;
    for (value, field) in fields {
        match read(value, field, zone) {
            Ok(Some(time)) => return Ok(Some(time)),
            Ok(None) => {}
            Err(reject) => {
                fault.get_or_insert(reject);
            }
        }
    }
    fault.map_or(Ok(None), Err)
}

fn unreadable(value: &Scalar<'_>, field: &str) -> Reject {
    let shown = match value {
        Scalar::Text(text) => format!("`{}`", text.chars().take(60).collect::<String>()),
        Scalar::Integer(number) => number.to_string(),
        Scalar::Float(number) => number.to_string(),
        _ => String::new(),
    };
    let detail = format!("`{field}` is {shown}: not an ISO 8601, RFC 2822 or Unix time within the years 1970 to 2200");
    Reject::new(Reason::BadTime, detail)
}

/// Returns the time in a snowflake id, or `None` if the id is too old to contain one.
pub(super) fn snowflake(id: &str) -> Option<EventTime> {
    let id: u64 = id.parse().ok()?;
    if id < FIRST_SNOWFLAKE {
        return None;
    }
    let milliseconds = i128::from(id >> 22) + SNOWFLAKE_EPOCH_MS;
    EventTime::new(from_nanoseconds(milliseconds * 1_000_000)?).ok()
}

fn from_text(text: &str, zone: &Zone) -> Option<OffsetDateTime> {
    match text.as_bytes() {
        [first, ..] if first.is_ascii_alphabetic() => asctime(text, zone).or_else(|| from_rfc2822(text, zone)),
        [_, ..] if text.bytes().all(|byte| byte.is_ascii_digit()) => match text.len() {
            // A date in ISO 8601's basic format.
            8 => iso(text, zone),
            _ => unix(text.parse().ok()?),
        },
        [_, ..] if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => unix_fraction(text.parse().ok()?),
        _ => iso(text, zone).or_else(|| from_rfc2822(text, zone)),
    }
}

/// Parses ISO 8601 and its variants: with `T` or a space, and with `Z`, `UTC`, an offset with or without a colon, or no zone.
fn iso(text: &str, zone: &Zone) -> Option<OffsetDateTime> {
    // With a bracketed zone name (RFC 9557). An offset given as well must be valid in that zone at that time.
    if text.ends_with(']') {
        return at(text.parse::<jiff::ZonedDateTime>().ok()?.timestamp());
    }
    // `2019/07/03 06:29:00`: with the year first, the order is unambiguous.
    let slashed = match text.as_bytes() {
        [a, b, c, d, b'/', _, _, b'/', ..] if [a, b, c, d].iter().all(|digit| digit.is_ascii_digit()) => {
            Some(text.replacen('/', "-", 2))
        }
        _ => None,
    };
    let text = slashed.as_deref().unwrap_or(text);
    let (text, utc) = match text.strip_suffix("UTC").or_else(|| text.strip_suffix("GMT")) {
        Some(text) => (text.trim_end(), true),
        None => (text, false),
    };
    // SQL clients and Ruby write a space before the offset.
    let joined = match text.rsplit_once(' ') {
        Some((time, offset)) if offset.starts_with(['+', '-', 'Z']) => Some([time, offset].concat()),
        _ => None,
    };
    let pieces = Pieces::parse(joined.as_deref().unwrap_or(text)).ok()?;
    let civil = DateTime::from_parts(pieces.date(), pieces.time().unwrap_or_default());
    match pieces.offset() {
        Some(_) if utc => None,
        Some(offset) => at(offset.to_numeric_offset().to_timestamp(civil).ok()?),
        None if utc => in_zone(civil, &Zone::default()),
        None => in_zone(civil, zone),
    }
}

/// Parses `Wed Jul 03 06:29:00 +0000 2019`, and the output of `asctime` and `date`, with a zone name or without a zone.
fn asctime(text: &str, zone: &Zone) -> Option<OffsetDateTime> {
    if let Ok(parsed) = strtime::parse("%a %b %d %H:%M:%S %z %Y", text) {
        return at(parsed.to_timestamp().ok()?);
    }
    if let Ok(parsed) = strtime::parse("%a %b %d %H:%M:%S %Y", text) {
        return in_zone(parsed.to_datetime().ok()?, zone);
    }
    // JavaScript's `Date.toString`.
    let without_name = text.split_once(" (").map_or(text, |(time, _)| time);
    if let Ok(parsed) = strtime::parse("%a %b %d %Y %H:%M:%S GMT%z", without_name) {
        return at(parsed.to_timestamp().ok()?);
    }
    // The RFC 2822 parser knows some zone names. Reorder the parts for it.
    let parts: Vec<&str> = text.split_ascii_whitespace().collect();
    let [weekday, month, day, clock, name, year] = parts[..] else {
        return None;
    };
    from_rfc2822(&format!("{weekday}, {day} {month} {year} {clock} {name}"), zone)
}

/// Parses RFC 2822, `Wed, 03 Jul 2019 06:29:00 +0000`, with or without a zone.
fn from_rfc2822(text: &str, zone: &Zone) -> Option<OffsetDateTime> {
    const PARSER: rfc2822::DateTimeParser = rfc2822::DateTimeParser::new().relaxed_weekday(true);
    // The standard's zone names. The parser would read any other as offset 0, and a wrong time is worse than none.
    const NAMES: [&str; 12] = [
        "UT", "UTC", "GMT", "Z", "EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT",
    ];
    let without_comment = text.split_once('(').map_or(text, |(time, _)| time).trim_end();
    let name = without_comment.rsplit(' ').next().unwrap_or_default();
    if name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
    {
        return None;
    }
    if let Ok(timestamp) = PARSER.parse_timestamp(text) {
        return at(timestamp);
    }
    ["%a, %d %b %Y %H:%M:%S", "%d %b %Y %H:%M:%S"]
        .into_iter()
        .find_map(|format| strtime::parse(format, text).ok())
        .and_then(|parsed| in_zone(parsed.to_datetime().ok()?, zone))
}

fn in_zone(civil: DateTime, zone: &Zone) -> Option<OffsetDateTime> {
    at(zone.0.to_ambiguous_timestamp(civil).compatible().ok()?)
}

fn at(timestamp: jiff::Timestamp) -> Option<OffsetDateTime> {
    from_nanoseconds(timestamp.as_nanosecond())
}

/// Converts a Unix time, inferring the unit from the magnitude, which is unambiguous for the years 1973 to 5138. Smaller
/// numbers are not times: they may be years, dates without separators, spreadsheet day numbers, or defaults.
fn unix(number: i128) -> Option<OffsetDateTime> {
    let nanoseconds = match number.checked_abs()? {
        0..100_000_000 => return None,
        100_000_000..100_000_000_000 => 1_000_000_000,
        100_000_000_000..100_000_000_000_000 => 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => 1_000,
        _ => 1,
    };
    from_nanoseconds(number.checked_mul(nanoseconds)?)
}

fn unix_fraction(number: f64) -> Option<OffsetDateTime> {
    // Rounded to microseconds: for current dates a double is no more precise.
    let scale = match number.abs() {
        size if size < 1e8 => return None,
        size if size < 1e11 => 1e6,
        size if size < 1e14 => 1e3,
        size if size < 1e17 => 1.0,
        size if size < 1e20 => 1e-3,
        _ => return None,
    };
    // At most 1e17, and casting a float to an integer saturates.
    #[allow(clippy::cast_possible_truncation)]
    from_nanoseconds((number * scale).round() as i128 * 1_000)
}

fn from_nanoseconds(nanoseconds: i128) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::borrow::Cow;

    use time::macros::datetime;

    use super::*;

    fn text(text: &str) -> Result<Option<OffsetDateTime>, Reject> {
        in_zone(text, "UTC")
    }

    fn in_zone(text: &str, zone: &str) -> Result<Option<OffsetDateTime>, Reject> {
        let zone = Zone::try_from(zone.to_owned()).unwrap();
        Ok(read(&Scalar::Text(Cow::Borrowed(text)), "created_at", &zone)?.map(EventTime::get))
    }

    fn number(number: Scalar<'_>) -> Result<EventTime, Reject> {
        read(&number, "t", &Zone::default()).map(Option::unwrap)
    }

    #[test]
    fn all_notations_of_an_instant_are_parsed() {
        let instant = datetime!(2019-07-03 06:29:00.662 UTC);
        for notation in [
            "2019-07-03T06:29:00.662Z",
            "2019-07-03t06:29:00.662z",
            "2019-07-03T08:29:00.662+02:00",
            "2019-07-03T08:29:00.662+02",
            "2019-07-03 06:29:00.662+00:00",
            "2019-07-03 06:29:00.662+0000",
            "2019-07-03 06:29:00.662+00",
            "2019-07-03 06:29:00.662 +0000",
            "2019-07-03 06:29:00.662 UTC",
            "2019-07-03 06:29:00,662",
            "2019-07-03T06:29:00.662",
            "2019-07-03T08:29:00.662+02:00[Europe/Berlin]",
            "2019-07-03T08:29:00.662[Europe/Berlin]",
            "20190703T062900.662Z",
            "1562135340662",
            "1562135340662000",
            "1562135340662000000",
            "1562135340.662",
        ] {
            assert_eq!(text(notation).unwrap(), Some(instant), "{notation}");
        }
        for value in [
            Scalar::Float(1_562_135_340.662),
            Scalar::Float(1_562_135_340_662.0),
            Scalar::Integer(1_562_135_340_662),
            Scalar::Integer(1_562_135_340_662_000_999),
        ] {
            assert_eq!(number(value).unwrap(), instant);
        }
        let whole = datetime!(2019-07-03 06:29:00 UTC);
        for notation in [
            "Wed Jul 03 06:29:00 +0000 2019",
            "Wed Jul 03 01:59:00 -0430 2019",
            "Wed Jul  3 06:29:00 2019",
            "Tue Jul 02 23:29:00 PDT 2019",
            "Wed, 03 Jul 2019 06:29:00 +0000",
            "Wed, 3 Jul 2019 06:29:00 GMT",
            "Thu, 03 Jul 2019 06:29:00 +0000",
            "3 Jul 2019 02:29 EDT",
            "Wed Jul 03 2019 08:29:00 GMT+0200 (Central European Summer Time)",
            "2019/07/03 06:29:00",
            "2019-07-03T06:29",
            "1562135340",
        ] {
            assert_eq!(text(notation).unwrap(), Some(whole), "{notation}");
        }
        assert_eq!(number(Scalar::Integer(1_562_135_340)).unwrap(), whole);
        for date in ["2019-07-03", "20190703"] {
            assert_eq!(text(date).unwrap(), Some(datetime!(2019-07-03 00:00 UTC)), "{date}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_in_the_configured_zone() {
        for (zone, utc) in [
            ("UTC", datetime!(2019-07-03 06:29 UTC)),
            ("Europe/Berlin", datetime!(2019-07-03 04:29 UTC)),
            ("+02:00", datetime!(2019-07-03 04:29 UTC)),
            ("-0430", datetime!(2019-07-03 10:59 UTC)),
        ] {
            assert_eq!(in_zone("2019-07-03 06:29:00", zone).unwrap(), Some(utc), "{zone}");
            assert_eq!(in_zone("Wed Jul 03 06:29:00 2019", zone).unwrap(), Some(utc), "{zone}");
            assert_eq!(in_zone("Wed, 03 Jul 2019 06:29:00", zone).unwrap(), Some(utc), "{zone}");
            // A time with a zone is unaffected.
            let named = in_zone("2019-07-03 06:29:00 UTC", zone).unwrap();
            assert_eq!(named, Some(datetime!(2019-07-03 06:29 UTC)), "{zone}");
        }
        // Clocks are set back at 03:00 and forward at 02:00.
        assert_eq!(
            in_zone("2019-10-27 02:30:00", "Europe/Berlin").unwrap(),
            Some(datetime!(2019-10-27 00:30 UTC))
        );
        assert_eq!(
            in_zone("2019-03-31 02:30:00", "Europe/Berlin").unwrap(),
            Some(datetime!(2019-03-31 01:30 UTC))
        );
        for unknown in ["", "Berlin", "+25:00", "2", "+"] {
            assert!(Zone::try_from(unknown.to_owned()).is_err(), "{unknown}");
        }
    }

    #[test]
    fn invalid_times_are_refused_and_quoted() {
        let absurd = [
            "yesterday",
            "0000-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2201-01-01T00:00:00Z",
            "9999-12-31T23:59:59-23:59",
            "2019-02-30T00:00:00Z",
            "2019-07-03T06:29:00Z UTC",
            "2019-07-03T25:29:00",
            "07/03/2019 06:29",
            "Wed, 03 Jul 2019 06:29:00 CEST",
            "Wed Jul 03 06:29:00 JST 2019",
            "2019-07-03T06:29:00+05:00[Europe/Berlin]",
            "2019",
            "43649.5",
            "1.2.3",
            "Wed Jul 32 06:29:00 +0000 2019",
            "Wed Jul 03 25:29:00 +0000 2019",
            "Wed Jul 03 06:29:00 +0000 99999999999",
            "Wed Jul 03 06:29:00 +9900 2019",
            "99999999999999999999999999999999999999999",
        ];
        for notation in absurd {
            let reject = text(notation).unwrap_err();
            assert_eq!(reject.reason, Reason::BadTime, "{notation}");
            assert!(reject.detail.contains(notation), "{}", reject.detail);
        }
        for number in [i128::MIN, -1, 99_999_999_999, i128::MAX] {
            let reject = read(&Scalar::Integer(number), "t", &Zone::default()).unwrap_err();
            assert_eq!(reject.reason, Reason::BadTime, "{number}");
        }
        for number in [f64::NAN, f64::INFINITY, -1.5, 1e300] {
            let reject = read(&Scalar::Float(number), "t", &Zone::default()).unwrap_err();
            assert_eq!(reject.reason, Reason::BadTime, "{number}");
        }
        assert_eq!(
            read(&Scalar::List, "t", &Zone::default()).unwrap_err().reason,
            Reason::BadField
        );
    }

    #[test]
    fn nanoseconds_are_cut_to_what_the_database_keeps() {
        assert_eq!(
            text("2024-01-01T00:00:00.123456789Z").unwrap(),
            Some(datetime!(2024-01-01 0:00:00.123456 UTC))
        );
    }

    #[test]
    fn snowflakes_hold_their_time_and_older_ids_none() {
        assert_eq!(
            snowflake("1212092628029698048").unwrap(),
            datetime!(2019-12-31 19:26:16.771 UTC)
        );
        assert_eq!(snowflake("20"), None);
        assert_eq!(snowflake("three"), None);
    }
}
