//! Creates the partitions of days.

use std::collections::BTreeSet;

use sqlx::{Connection, PgConnection};
use time::{Date, Duration, OffsetDateTime};

use super::{
    Store,
    error::StoreError,
    partition::{PARTITIONED, POSTS, Span, TablePartition, day_of, lock_partitions, partitions_of},
    retention::{Retention, retention_mark},
};

use crate::sync::lock;

/// Days whose partitions are created in one transaction: this bounds its locks.
const DAYS_AT_ONCE: usize = 32;

/// Longest retention, in days, for which each day has its own partition.
const MOST_DAY_PARTITIONS: u32 = 366;

impl Store {
    /// Creates the missing partitions of today (UTC) and of the next `days_ahead` days. Returns how many of `post` were
    /// missing.
    pub async fn ensure_partitions(&self, now: OffsetDateTime, days_ahead: u16) -> Result<usize, StoreError> {
        let days: Vec<Date> = (0..=i64::from(days_ahead))
            .map(|ahead| day_of(now + Duration::days(ahead)))
            .collect();
        self.ensure_days(&days).await
    }

    /// Creates the missing partitions of these days. Returns how many of `post` were missing. Partitions of days that
    /// retention has dropped are not created again, because posts of those days are late.
    pub(super) async fn ensure_days(&self, days: &[Date]) -> Result<usize, StoreError> {
        let unknown: Vec<Date> = {
            let known = lock(&self.state.days);
            days.iter().copied().filter(|day| !known.contains(day)).collect()
        };
        let mut made = 0;
        for days in unknown.chunks(DAYS_AT_ONCE) {
            made += self
                .run("creating partitions", async |connection| {
                    make_days(connection, days, self.retention.as_ref()).await
                })
                .await?;
            lock(&self.state.days).extend(days);
        }
        Ok(made)
    }

    /// Clears the cache of days with partitions: another process may have dropped some.
    pub(super) fn forget_days(&self) {
        lock(&self.state.days).clear();
    }
}

/// The longest span that a partition for a day may have.
///
/// A query without pruning locks every partition of a table and its indexes, and the lock table of a stock Postgres has
/// room for 6,400 locks. So days have their own partitions only if retention drops them within a year. Otherwise there is
/// one partition for each month, and one for each year before the last, whatever dates the posts have.
fn coarsest(day: Date, today: Date, days_kept: Option<u32>) -> Span {
    match days_kept {
        Some(days) if days <= MOST_DAY_PARTITIONS => Span::Day,
        _ if day.year() < today.year() - 1 => Span::Year,
        _ => Span::Month,
    }
}

async fn make_days(
    connection: &mut PgConnection,
    days: &[Date],
    retention: Option<&Retention>,
) -> Result<usize, sqlx::Error> {
    let mut tx = connection.begin().await?;
    lock_partitions(&mut tx).await?;
    // Read under the lock that dropping takes too, so a partition dropped a moment ago is not created again.
    let mark = retention_mark(&mut tx).await?;
    let days = days
        .iter()
        .copied()
        .filter(|day| !mark.is_late(day.midnight().assume_utc()));
    let today = day_of(OffsetDateTime::now_utc());
    let mut made = 0;
    for table in PARTITIONED {
        let mut there: BTreeSet<TablePartition> = partitions_of(&mut tx, table).await?.into_iter().collect();
        for day in days.clone() {
            let most = match retention {
                Some(retention) => coarsest(day, today, retention.of(table)),
                None => Span::Day,
            };
            if let Some(partition) = table.missing(day, most, &there) {
                partition.make(&mut tx).await?;
                made += usize::from(partition.of == POSTS);
                there.insert(partition);
            }
        }
    }
    tx.commit().await?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;

    #[test]
    fn days_kept_longer_than_a_year_share_partitions() {
        let today = date!(2026 - 11 - 27);
        assert_eq!(coarsest(date!(1970 - 01 - 01), today, Some(30)), Span::Day);
        assert_eq!(coarsest(today, today, Some(367)), Span::Month);
        assert_eq!(coarsest(date!(2025 - 01 - 01), today, None), Span::Month);
        assert_eq!(coarsest(date!(2024 - 12 - 31), today, None), Span::Year);
    }
}
