//! Event times, in every notation that the formats use.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset, format_description::well_known::Rfc3339};

use super::{EventTime, Reason, Reject, json::Scalar};

/// Unix milliseconds at which Twitter's snowflake ids count zero.
const SNOWFLAKE_EPOCH_MS: i128 = 1_288_834_974_657;
/// The first snowflake id; smaller ones were plain counters without a time in them.
const FIRST_SNOWFLAKE: u64 = 29_700_859_247;

/// The time in a field: RFC 3339, Twitter's `Wed Jul 03 06:29:00 +0000 2019`, or Unix seconds,
/// milliseconds or microseconds (told apart by magnitude), as a number or as a string of digits.
///
/// # Errors
///
/// [`Reason::BadTime`] if it can't be read or lies outside the years 1970 to 2200.
pub(super) fn read(value: &Scalar<'_>, field: &str) -> Result<Option<EventTime>, Reject> {
    let time = match value {
        Scalar::Absent => return Ok(None),
        Scalar::Integer(number) => unix(*number),
        Scalar::Float(number) => unix_fraction(*number),
        Scalar::Text(text) => from_text(text.trim()),
        other => return Err(other.wrong(field, "a time")),
    };
    match time.map(EventTime::new) {
        Some(Ok(time)) => Ok(Some(time)),
        Some(Err(_)) | None => Err(unreadable(value, field)),
    }
}

fn unreadable(value: &Scalar<'_>, field: &str) -> Reject {
    let shown = match value {
        Scalar::Text(text) => format!("`{}`", text.chars().take(60).collect::<String>()),
        Scalar::Integer(number) => number.to_string(),
        Scalar::Float(number) => number.to_string(),
        _ => String::new(),
    };
    let detail = format!("`{field}` is {shown}: no RFC 3339 or Unix time within the years 1970 to 2200");
    Reject::new(Reason::BadTime, detail)
}

/// The time within a Twitter id, if the id is new enough to hold one.
pub(super) fn snowflake(id: &str) -> Option<EventTime> {
    let id: u64 = id.parse().ok()?;
    if id < FIRST_SNOWFLAKE {
        return None;
    }
    let milliseconds = i128::from(id >> 22) + SNOWFLAKE_EPOCH_MS;
    EventTime::new(from_microseconds(milliseconds * 1_000)?).ok()
}

fn from_text(text: &str) -> Option<OffsetDateTime> {
    match text.as_bytes() {
        [first, ..] if first.is_ascii_alphabetic() => twitter(text),
        [_, ..] if text.bytes().all(|byte| byte.is_ascii_digit()) => unix(text.parse().ok()?),
        // RFC 3339 allows a space for the `T`, as databases and data frames write it.
        [.., _] if text.as_bytes().get(10) == Some(&b' ') => {
            let mut text = text.to_owned();
            text.replace_range(10..11, "T");
            OffsetDateTime::parse(&text, &Rfc3339).ok()
        }
        _ => OffsetDateTime::parse(text, &Rfc3339).ok(),
    }
}

/// `Wed Jul 03 06:29:00 +0000 2019`
fn twitter(text: &str) -> Option<OffsetDateTime> {
    let mut parts = text.split_ascii_whitespace();
    let mut next = || parts.next();
    let (_weekday, month, day, clock, offset, year) = (next()?, next()?, next()?, next()?, next()?, next()?);
    if next().is_some() {
        return None;
    }
    let month = match month {
        "Jan" => Month::January,
        "Feb" => Month::February,
        "Mar" => Month::March,
        "Apr" => Month::April,
        "May" => Month::May,
        "Jun" => Month::June,
        "Jul" => Month::July,
        "Aug" => Month::August,
        "Sep" => Month::September,
        "Oct" => Month::October,
        "Nov" => Month::November,
        "Dec" => Month::December,
        _ => return None,
    };
    let date = Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()?;
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<u8>().ok());
    let time = Time::from_hms(clock.next()??, clock.next()??, clock.next()??).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_offset(utc_offset(offset)?))
}

/// `+0000`
fn utc_offset(text: &str) -> Option<UtcOffset> {
    let (sign, digits) = match text.as_bytes() {
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let digits: Vec<i8> = digits
        .iter()
        .map_while(|d| d.is_ascii_digit().then(|| (d - b'0') as i8))
        .collect();
    let [h1, h0, m1, m0] = digits[..] else { return None };
    UtcOffset::from_hms(sign * (h1 * 10 + h0), sign * (m1 * 10 + m0), 0).ok()
}

/// Magnitudes don't overlap within the years 1973 to 5138.
fn unix(number: i128) -> Option<OffsetDateTime> {
    match number.checked_abs()? {
        0..100_000_000_000 => from_microseconds(number * 1_000_000),
        100_000_000_000..100_000_000_000_000 => from_microseconds(number * 1_000),
        _ => from_microseconds(number),
    }
}

fn unix_fraction(number: f64) -> Option<OffsetDateTime> {
    let scale = match number.abs() {
        size if size < 1e11 => 1e6,
        size if size < 1e14 => 1e3,
        size if size < 1e17 => 1.0,
        _ => return None,
    };
    // At most 1e17, and a float to integer cast saturates.
    #[allow(clippy::cast_possible_truncation)]
    from_microseconds((number * scale).round() as i128)
}

fn from_microseconds(microseconds: i128) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(microseconds.checked_mul(1_000)?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::borrow::Cow;

    use time::macros::datetime;

    use super::*;

    fn text(text: &str) -> Result<Option<OffsetDateTime>, Reject> {
        Ok(read(&Scalar::Text(Cow::Borrowed(text)), "created_at")?.map(EventTime::get))
    }

    #[test]
    fn every_notation_of_one_instant_is_that_instant() {
        let instant = datetime!(2019-07-03 06:29:00.662 UTC);
        for notation in [
            "2019-07-03T06:29:00.662Z",
            "2019-07-03T08:29:00.662+02:00",
            "2019-07-03 06:29:00.662+00:00",
            "1562135340662",
            "1562135340662000",
        ] {
            assert_eq!(text(notation).unwrap(), Some(instant), "{notation}");
        }
        assert_eq!(read(&Scalar::Float(1_562_135_340.662), "t").unwrap().unwrap(), instant);
        assert_eq!(
            read(&Scalar::Integer(1_562_135_340_662), "t").unwrap().unwrap(),
            instant
        );
        let whole = datetime!(2019-07-03 06:29:00 UTC);
        assert_eq!(text("Wed Jul 03 06:29:00 +0000 2019").unwrap(), Some(whole));
        assert_eq!(text("Wed Jul 03 01:59:00 -0430 2019").unwrap(), Some(whole));
        assert_eq!(read(&Scalar::Integer(1_562_135_340), "t").unwrap().unwrap(), whole);
    }

    #[test]
    fn absurd_times_are_refused_and_shown() {
        let absurd = [
            "",
            "yesterday",
            "0000-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2201-01-01T00:00:00Z",
            "9999-12-31T23:59:59-23:59",
            "2019-02-30T00:00:00Z",
            "2019-07-03T06:29:00",
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
            assert_eq!(
                read(&Scalar::Integer(number), "t").unwrap_err().reason,
                Reason::BadTime,
                "{number}"
            );
        }
        for number in [f64::NAN, f64::INFINITY, -1.5, 1e300] {
            assert_eq!(
                read(&Scalar::Float(number), "t").unwrap_err().reason,
                Reason::BadTime,
                "{number}"
            );
        }
        assert_eq!(read(&Scalar::List, "t").unwrap_err().reason, Reason::BadField);
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
