//! The day partitions of `post` and `emotion_rollup`.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::{Date, Duration, OffsetDateTime, UtcOffset};

use super::{Store, error::StoreError, lock};

/// Advisory lock of all who make or drop partitions. The number means nothing, only that it is ours.
const PARTITION_LOCK: i64 = 0x6d6f_6f64_7374_7265;

/// Days made in one transaction: a bound on the locks it holds.
const DAYS_AT_ONCE: usize = 32;

const DOING: &str = "making day partitions";

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

/// `20190703`: the end of a partition's name.
pub(super) fn day_name(day: Date) -> String {
    format!("{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day())
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

/// Waits until nobody else makes or drops partitions; until the end of the transaction.
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

    /// Makes the partitions of these days as far as they are missing; returns how many were.
    pub(super) async fn ensure_days(&self, days: &[Date]) -> Result<usize, StoreError> {
        let unknown: Vec<Date> = {
            let known = lock(&self.state.days);
            days.iter().copied().filter(|day| !known.contains(day)).collect()
        };
        let mut made = 0;
        for days in unknown.chunks(DAYS_AT_ONCE) {
            let mut connection = self.acquire(DOING).await?;
            made += make_days(&mut connection, days)
                .await
                .map_err(StoreError::when(DOING))?;
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
    let mut made = 0;
    for &day in days {
        let name = day_name(day);
        let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(format!("post_{name}"))
            .fetch_one(&mut *tx)
            .await?;
        if exists {
            continue;
        }
        let (from, to) = (day_literal(day), day_literal(next_day(day)));
        // Made apart and then attached: that stops neither readers nor writers of the other days, as CREATE
        // TABLE ... PARTITION OF would.
        let sql = ["post", "emotion_rollup"].map(|table| {
            format!(
                "CREATE TABLE {table}_{name} (LIKE {table} INCLUDING ALL);
                 ALTER TABLE {table} ATTACH PARTITION {table}_{name} FOR VALUES FROM ({from}) TO ({to});"
            )
        });
        sqlx::raw_sql(AssertSqlSafe(sql.concat())).execute(&mut *tx).await?;
        made += 1;
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
        assert_eq!(floor_micros(at), datetime!(2019-07-02 22:30:59.999_999 UTC));
        let old = datetime!(1969-12-31 23:59:59.000_000_001 UTC);
        assert_eq!(floor_micros(old), datetime!(1969-12-31 23:59:59 UTC));
        assert_eq!(minute_of(old), datetime!(1969-12-31 23:59 UTC));
        assert_eq!(day_name(date!(2019 - 07 - 03)), "20190703");
        assert_eq!(day_literal(next_day(date!(2019 - 12 - 31))), "'2020-01-01 00:00:00+00'");
    }
}
