//! The partitions of `post` and of the rollups.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use time::{Date, Duration, Month, OffsetDateTime, UtcOffset};

/// The advisory lock for creating and dropping partitions. The number has no meaning.
const PARTITION_LOCK: i64 = 0x6d6f_6f64_7374_7265;

/// A partitioned table, and the shortest span of its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartitionedTable {
    pub(super) table: &'static str,
    pub(super) span: Span,
}

pub(super) const POSTS: PartitionedTable = PartitionedTable {
    table: "post",
    span: Span::Day,
};
pub(super) const MINUTES: PartitionedTable = PartitionedTable {
    table: "emotion_rollup",
    span: Span::Day,
};
pub(super) const HOURS: PartitionedTable = PartitionedTable {
    table: "emotion_rollup_hour",
    span: Span::Month,
};
pub(super) const DAYS: PartitionedTable = PartitionedTable {
    table: "emotion_rollup_day",
    span: Span::Year,
};

/// All partitioned tables: a post needs a partition of each.
pub(super) const PARTITIONED: [PartitionedTable; 4] = [POSTS, MINUTES, HOURS, DAYS];

/// The time that a partition covers (UTC). The coarser a rollup, the longer its span: a year's trend should touch few
/// partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Span {
    Day,
    Month,
    Year,
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TablePartition {
    pub(super) of: PartitionedTable,
    pub(super) span: Span,
    /// Its first day.
    pub(super) from: Date,
}

impl PartitionedTable {
    /// The partition for a day at the table's own span. The day may be in one with a longer span instead: see
    /// [`PartitionedTable::missing`].
    pub(super) fn partition(self, day: Date) -> TablePartition {
        self.partition_of(self.span, day)
    }

    fn partition_of(self, span: Span, day: Date) -> TablePartition {
        let first = |month| Date::from_calendar_date(day.year(), month, 1).unwrap_or(day);
        let from = match span {
            Span::Day => day,
            Span::Month => first(day.month()),
            Span::Year => first(Month::January),
        };
        TablePartition { of: self, span, from }
    }

    /// The partition to create for a day, given the existing ones. `None` if one of them covers the day; otherwise the
    /// longest span, up to `most`, that overlaps none of them.
    pub(super) fn missing(self, day: Date, most: Span, there: &BTreeSet<TablePartition>) -> Option<TablePartition> {
        if there.iter().any(|partition| partition.holds(day)) {
            return None;
        }
        [Span::Year, Span::Month, Span::Day]
            .into_iter()
            .filter(|span| *span >= self.span && *span <= most.max(self.span))
            .map(|span| self.partition_of(span, day))
            .find(|new| !there.iter().any(|partition| partition.overlaps(*new)))
    }

    /// Parses a partition's name; `None` if it is not one of this table's.
    pub(super) fn parse(self, name: &str) -> Option<TablePartition> {
        let digits = name.strip_prefix(self.table)?.strip_prefix('_')?;
        let part = |range: std::ops::Range<usize>| digits.get(range)?.parse::<u8>().ok();
        let year = digits.get(0..4)?.parse::<u16>().ok()?;
        let (span, month, day) = match digits.len() {
            4 => (Span::Year, 1, 1),
            6 => (Span::Month, part(4..6)?, 1),
            _ => (Span::Day, part(4..6)?, part(6..8)?),
        };
        let from = Date::from_calendar_date(i32::from(year), Month::try_from(month).ok()?, day).ok()?;
        Some(TablePartition { of: self, span, from }).filter(|partition| span >= self.span && partition.name() == name)
    }
}

impl TablePartition {
    /// `post_20190703`, `emotion_rollup_hour_201907`, `emotion_rollup_day_2019`.
    pub(super) fn name(self) -> String {
        let (table, year, month) = (self.of.table, self.from.year(), u8::from(self.from.month()));
        match self.span {
            Span::Day => format!("{table}_{year:04}{month:02}{:02}", self.from.day()),
            Span::Month => format!("{table}_{year:04}{month:02}"),
            Span::Year => format!("{table}_{year:04}"),
        }
    }

    /// The first day after it.
    pub(super) fn until(self) -> Date {
        // A month has at most 31 days and a year at most 366, so these days are in the next one.
        let holding = |day| self.of.partition_of(self.span, day).from;
        match self.span {
            Span::Day => next_day(self.from),
            Span::Month => holding(self.from.saturating_add(Duration::days(31))),
            Span::Year => holding(self.from.saturating_add(Duration::days(366))),
        }
    }

    fn holds(self, day: Date) -> bool {
        self.from <= day && day < self.until()
    }

    fn overlaps(self, other: Self) -> bool {
        self.from < other.until() && other.from < self.until()
    }

    /// Its bounds as SQL literals, for a condition with which the planner prunes all other partitions.
    pub(super) fn bounds(self) -> (String, String) {
        (day_literal(self.from), day_literal(self.until()))
    }

    /// The part of its name after the table's name.
    fn suffix(self) -> String {
        self.name()[self.of.table.len() + 1..].to_owned()
    }

    /// Creates it, through a `SECURITY DEFINER` function: see `migrations/0010_least_rights.sql`. Rows of the coarse
    /// rollups are updated by every flush of their hour or day: with free space in the page, updates don't touch the
    /// indexes (heap-only tuples).
    pub(super) async fn make(self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
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

    /// Drops it with all its rows, if it exists.
    pub(super) async fn drop(self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT drop_partition($1, $2)")
            .bind(self.of.table)
            .bind(self.suffix())
            .execute(tx)
            .await
            .map(drop)
    }
}

/// The UTC day of a moment, which determines its partition.
#[must_use]
pub fn day_of(at: OffsetDateTime) -> Date {
    at.to_offset(UtcOffset::UTC).date()
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

/// The day after. The parser bounds years to 1970..=2200; for the last day of `time`'s calendar, the same day.
pub(super) fn next_day(day: Date) -> Date {
    day.next_day().unwrap_or(day)
}

/// Waits until no other transaction creates or drops partitions, and blocks others until this one ends.
pub(super) async fn lock_partitions(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(PARTITION_LOCK)
        .execute(connection)
        .await
        .map(drop)
}

/// The existing partitions of a table.
pub(super) async fn partitions_of(
    connection: &mut PgConnection,
    table: PartitionedTable,
) -> Result<Vec<TablePartition>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = $1::text::regclass",
    )
    .bind(table.table)
    .fetch_all(connection)
    .await?;
    Ok(names.iter().filter_map(|name| table.parse(name)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use time::macros::{date, datetime};

    use super::*;

    #[test]
    fn days_and_minutes_are_utc() {
        let at = datetime!(2019-07-03 00:30:59.999_999_999 +02:00);
        assert_eq!(day_of(at), date!(2019 - 07 - 02));
        assert_eq!(minute_of(at), datetime!(2019-07-02 22:30 UTC));
        assert_eq!(hour_of(at), datetime!(2019-07-02 22:00 UTC));
        let old = datetime!(1969-12-31 23:59:59.000_000_001 UTC);
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
    fn partition_names_are_parsed() {
        for day in [date!(2019 - 07 - 03), date!(2020 - 12 - 31)] {
            for table in PARTITIONED {
                let partition = table.partition(day);
                assert_eq!(table.parse(&partition.name()), Some(partition));
            }
        }
        for odd in [
            "20",
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
        assert_eq!(DAYS.parse("emotion_rollup_day_201907"), None);
        let month = POSTS.parse("post_201907").unwrap();
        assert_eq!(
            (month.from, month.until()),
            (date!(2019 - 07 - 01), date!(2019 - 08 - 01))
        );
    }

    #[test]
    fn a_new_partition_overlaps_no_existing_one() {
        let mut there = BTreeSet::new();
        let mut make = |day, most| {
            let new = POSTS.missing(day, most, &there)?;
            there.insert(new);
            Some(new.name())
        };
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(make(date!(2019 - 07 - 03), Span::Day), name("post_20190703"));
        assert_eq!(make(date!(2019 - 07 - 03), Span::Year), None);
        assert_eq!(make(date!(2019 - 07 - 04), Span::Year), name("post_20190704"));
        assert_eq!(make(date!(2019 - 08 - 31), Span::Year), name("post_201908"));
        assert_eq!(make(date!(2019 - 08 - 01), Span::Day), None);
        assert_eq!(make(date!(2020 - 02 - 29), Span::Year), name("post_2020"));
        assert_eq!(make(date!(2020 - 12 - 31), Span::Month), None);
        assert_eq!(
            HOURS
                .missing(date!(2020 - 02 - 29), Span::Day, &BTreeSet::new())
                .map(TablePartition::name),
            name("emotion_rollup_hour_202002")
        );
    }
}
