//! The partitions of `post` and of the rollups.

use sqlx::{Connection, PgConnection};
use time::{Date, Duration, Month, OffsetDateTime, UtcOffset};

use super::{Store, error::StoreError, lock, retention_mark::retired_until};

/// The advisory lock for creating and dropping partitions. The number has no meaning.
const PARTITION_LOCK: i64 = 0x6d6f_6f64_7374_7265;

/// Days made in one transaction: a bound on the locks it holds.
const DAYS_AT_ONCE: usize = 32;

const DOING: &str = "making partitions";

/// A partitioned table, and what one partition of it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Partitioned {
    pub(super) table: &'static str,
    pub(super) span: Span,
}

pub(super) const POSTS: Partitioned = Partitioned {
    table: "post",
    span: Span::Day,
};
pub(super) const MINUTES: Partitioned = Partitioned {
    table: "emotion_rollup",
    span: Span::Day,
};
pub(super) const HOURS: Partitioned = Partitioned {
    table: "emotion_rollup_hour",
    span: Span::Month,
};
pub(super) const DAYS: Partitioned = Partitioned {
    table: "emotion_rollup_day",
    span: Span::Year,
};

/// All of them: a post needs a partition of each.
pub(super) const PARTITIONED: [Partitioned; 4] = [POSTS, MINUTES, HOURS, DAYS];

/// A piece of the calendar (UTC). The coarser a rollup, the longer: a year's trend should meet few partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Span {
    Day,
    Month,
    Year,
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Partition {
    pub(super) of: Partitioned,
    /// Its first day.
    pub(super) from: Date,
}

impl Partitioned {
    /// The partition that holds a day.
    pub(super) fn partition(self, day: Date) -> Partition {
        let first = |month| Date::from_calendar_date(day.year(), month, 1).unwrap_or(day);
        let from = match self.span {
            Span::Day => day,
            Span::Month => first(day.month()),
            Span::Year => first(Month::January),
        };
        Partition { of: self, from }
    }

    /// The partition of that name, if it is one of this table's.
    pub(super) fn parse(self, name: &str) -> Option<Partition> {
        let digits = name.strip_prefix(self.table)?.strip_prefix('_')?;
        let part = |range: std::ops::Range<usize>| digits.get(range)?.parse::<u8>().ok();
        let year = digits.get(0..4)?.parse::<u16>().ok()?;
        let (month, day) = match self.span {
            Span::Day => (part(4..6)?, part(6..8)?),
            Span::Month => (part(4..6)?, 1),
            Span::Year => (1, 1),
        };
        let from = Date::from_calendar_date(i32::from(year), Month::try_from(month).ok()?, day).ok()?;
        Some(Partition { of: self, from }).filter(|partition| partition.name() == name)
    }
}

impl Partition {
    /// `post_20190703`, `emotion_rollup_hour_201907`, `emotion_rollup_day_2019`.
    pub(super) fn name(self) -> String {
        let (table, year, month) = (self.of.table, self.from.year(), u8::from(self.from.month()));
        match self.of.span {
            Span::Day => format!("{table}_{year:04}{month:02}{:02}", self.from.day()),
            Span::Month => format!("{table}_{year:04}{month:02}"),
            Span::Year => format!("{table}_{year:04}"),
        }
    }

    /// The first day after it.
    pub(super) fn until(self) -> Date {
        // A year has one month that is followed by another year, and a month at most 31 days.
        match self.of.span {
            Span::Day => next_day(self.from),
            Span::Month => self.of.partition(self.from.saturating_add(Duration::days(31))).from,
            Span::Year => self.of.partition(self.from.saturating_add(Duration::days(366))).from,
        }
    }

    /// Its bounds as SQL literals, for a condition that lets the planner use this partition alone.
    pub(super) fn bounds(self) -> (String, String) {
        (day_literal(self.from), day_literal(self.until()))
    }

    /// What its name has after the table's.
    fn suffix(self) -> String {
        self.name()[self.of.table.len() + 1..].to_owned()
    }

    /// Makes it, through a function of the owner's: see `migrations/0010_least_rights.sql`. Rows of the coarse rollups
    /// are changed by every flush of their hour or day: with room in the page, their indexes are left alone (a
    /// heap-only tuple).
    async fn make(self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        let fill = if matches!(self.of.span, Span::Day) { 100 } else { 50 };
        sqlx::query("SELECT add_partition($1, $2, $3, $4, $5)")
            .bind(self.of.table)
            .bind(self.suffix())
            .bind(self.from.midnight().assume_utc())
            .bind(self.until().midnight().assume_utc())
            .bind(fill)
            .execute(tx)
            .await
            .map(drop)
    }

    /// Drops it, with all that is in it, if it is there.
    pub(super) async fn drop(self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT drop_partition($1, $2)")
            .bind(self.of.table)
            .bind(self.suffix())
            .execute(tx)
            .await
            .map(drop)
    }
}

/// The UTC day of a moment: its partition.
#[must_use]
pub fn day_of(at: OffsetDateTime) -> Date {
    at.to_offset(UtcOffset::UTC).date()
}

/// The moment in UTC and whole microseconds, which is what Postgres keeps.
pub(super) fn floor_micros(at: OffsetDateTime) -> OffsetDateTime {
    let at = at.to_offset(UtcOffset::UTC);
    at - Duration::nanoseconds(i64::from(at.nanosecond() % 1_000))
}

/// Start of the minute, in UTC.
pub(super) fn minute_of(at: OffsetDateTime) -> OffsetDateTime {
    let at = at.to_offset(UtcOffset::UTC);
    at - Duration::new(i64::from(at.second()), i32::try_from(at.nanosecond()).unwrap_or(0))
}

/// Start of the hour, in UTC.
pub(super) fn hour_of(at: OffsetDateTime) -> OffsetDateTime {
    let minute = minute_of(at);
    minute - Duration::minutes(i64::from(minute.minute()))
}

/// `'2019-07-03 00:00:00+00'`: the start of a day as an SQL literal.
pub(super) fn day_literal(day: Date) -> String {
    format!(
        "'{:04}-{:02}-{:02} 00:00:00+00'",
        day.year(),
        u8::from(day.month()),
        day.day()
    )
}

/// The day after. The years are bounded to 1970..=2200 by the parser; time's own end is the same day again.
pub(super) fn next_day(day: Date) -> Date {
    day.next_day().unwrap_or(day)
}

/// Waits until no other transaction creates or drops partitions, and keeps others waiting until this one ends.
pub(super) async fn lock_partitions(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(PARTITION_LOCK)
        .execute(connection)
        .await
        .map(drop)
}

impl Store {
    /// Makes the partitions of today (UTC) and of as many days after it; returns how many were missing.
    pub async fn ensure_partitions(&self, now: OffsetDateTime, days_ahead: u16) -> Result<usize, StoreError> {
        let days: Vec<Date> = (0..=i64::from(days_ahead))
            .map(|ahead| day_of(now + Duration::days(ahead)))
            .collect();
        self.ensure_days(&days).await
    }

    /// Makes the partitions of these days as far as they are missing; returns how many were. Those of days that
    /// retention has dropped are not made again: nothing is to be stored on them.
    pub(super) async fn ensure_days(&self, days: &[Date]) -> Result<usize, StoreError> {
        let unknown: Vec<Date> = {
            let known = lock(&self.state.days);
            days.iter().copied().filter(|day| !known.contains(day)).collect()
        };
        let mut made = 0;
        for days in unknown.chunks(DAYS_AT_ONCE) {
            made += self
                .with(DOING, async |connection| {
                    make_days(connection, days).await.map_err(StoreError::when(DOING))
                })
                .await?;
            lock(&self.state.days).extend(days);
        }
        Ok(made)
    }

    /// Forgets which days have partitions: another process may have dropped some.
    pub(super) fn forget_days(&self) {
        lock(&self.state.days).clear();
    }
}

async fn make_days(connection: &mut PgConnection, days: &[Date]) -> Result<usize, sqlx::Error> {
    let mut tx = connection.begin().await?;
    lock_partitions(&mut tx).await?;
    // Under the lock that dropping takes too, so a flush that doesn't know of it yet finds no partition.
    let retired = retired_until(&mut tx).await?;
    let days = days
        .iter()
        .copied()
        .filter(|day| retired.is_none_or(|until| day.midnight().assume_utc() >= until));
    let mut wanted: Vec<Partition> = PARTITIONED
        .iter()
        .flat_map(|table| days.clone().map(|day| table.partition(day)))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let names: Vec<String> = wanted.iter().map(|partition| partition.name()).collect();
    let there: Vec<bool> = sqlx::query_scalar(
        "SELECT to_regclass(name) IS NOT NULL FROM unnest($1::text[]) WITH ORDINALITY AS n (name, place)
         ORDER BY place",
    )
    .bind(names)
    .fetch_all(&mut *tx)
    .await?;
    let mut made = 0;
    for (partition, _) in wanted.into_iter().zip(there).filter(|(_, there)| !there) {
        partition.make(&mut tx).await?;
        made += usize::from(partition.of == POSTS);
    }
    tx.commit().await?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use time::macros::{date, datetime};

    use super::*;

    #[test]
    fn days_and_minutes_are_utc() {
        let at = datetime!(2019-07-03 00:30:59.999_999_999 +02:00);
        assert_eq!(day_of(at), date!(2019 - 07 - 02));
        assert_eq!(minute_of(at), datetime!(2019-07-02 22:30 UTC));
        assert_eq!(hour_of(at), datetime!(2019-07-02 22:00 UTC));
        assert_eq!(floor_micros(at), datetime!(2019-07-02 22:30:59.999_999 UTC));
        let old = datetime!(1969-12-31 23:59:59.000_000_001 UTC);
        assert_eq!(floor_micros(old), datetime!(1969-12-31 23:59:59 UTC));
        assert_eq!(minute_of(old), datetime!(1969-12-31 23:59 UTC));
        assert_eq!(day_literal(next_day(date!(2019 - 12 - 31))), "'2020-01-01 00:00:00+00'");
    }

    #[test]
    fn partitions_hold_whole_days_months_and_years() {
        let day = date!(2020 - 02 - 29);
        let names = PARTITIONED.map(|table| table.partition(day).name());
        let expected = [
            "post_20200229",
            "emotion_rollup_20200229",
            "emotion_rollup_hour_202002",
            "emotion_rollup_day_2020",
        ];
        assert_eq!(names, expected);
        let until = PARTITIONED.map(|table| table.partition(day).until());
        assert_eq!(
            until[1..],
            [date!(2020 - 03 - 01), date!(2020 - 03 - 01), date!(2021 - 01 - 01)]
        );
        assert_eq!(DAYS.partition(date!(2019 - 12 - 31)).until(), date!(2020 - 01 - 01));
        assert_eq!(HOURS.partition(date!(2019 - 12 - 31)).until(), date!(2020 - 01 - 01));
    }

    #[test]
    fn partition_names_are_read_back() {
        for day in [date!(2019 - 07 - 03), date!(2020 - 12 - 31)] {
            for table in PARTITIONED {
                let partition = table.partition(day);
                assert_eq!(table.parse(&partition.name()), Some(partition));
            }
        }
        for odd in [
            "2019",
            "20191301",
            "20190230",
            "2019070x",
            "ä2019070",
            "201907030",
            "+2190703",
        ] {
            assert_eq!(POSTS.parse(&format!("post_{odd}")), None, "{odd}");
        }
        assert_eq!(MINUTES.parse("emotion_rollup_hour_201907"), None);
    }
}
