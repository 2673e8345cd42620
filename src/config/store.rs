//! The `[store]` section.

use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use super::error::SettingsError;
use crate::store::{Retention, Roles};

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// Days to keep posts; `None` keeps them forever.
    pub retention_days: Option<u32>,
    /// Days to keep rollups by minute; `None` keeps them as long as posts.
    pub minute_retention_days: Option<u32>,
    /// Days to keep rollups by hour; `None` keeps them forever.
    pub hour_retention_days: Option<u32>,
    /// Days to keep rollups by day; `None` keeps them forever.
    pub day_retention_days: Option<u32>,
    /// Days to keep deletions of posts never seen. A post that arrives later than that after its deletion is stored.
    pub unseen_deletion_days: u32,
    /// The number of days for which partitions are created in advance.
    pub partitions_ahead: u16,
    /// Seconds between rounds of creating and dropping partitions.
    pub maintenance_interval_seconds: u64,
    /// The maximum number of records in a transaction.
    pub max_flush_records: usize,
    /// Apply migrations at startup. Otherwise `run` waits while the schema is older than the program.
    pub migrate: bool,
    /// The role that the service connects as, if another role applies migrations. It is granted what it needs.
    pub service_role: Option<String>,
    /// A role that is granted read access to the tables.
    pub read_role: Option<String>,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            retention_days: None,
            minute_retention_days: None,
            hour_retention_days: None,
            day_retention_days: None,
            unseen_deletion_days: 30,
            partitions_ahead: 3,
            maintenance_interval_seconds: 600,
            max_flush_records: 32_768,
            migrate: true,
            service_role: None,
            read_role: None,
        }
    }
}

impl StoreSettings {
    /// Returns the retention periods.
    #[must_use]
    pub const fn retention(&self) -> Retention {
        Retention {
            days: self.retention_days,
            minute_days: match self.minute_retention_days {
                None => self.retention_days,
                minutes => minutes,
            },
            hour_days: self.hour_retention_days,
            day_days: self.day_retention_days,
        }
    }

    /// Returns the time before which stored deletions of posts never seen are forgotten, or `None` if it is beyond the
    /// calendar.
    #[must_use]
    pub fn unseen_deletions_before(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        now.checked_sub(Duration::days(self.unseen_deletion_days.into()))
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        if self.unseen_deletion_days == 0 {
            return Err(SettingsError::Zero {
                name: "store.unseen_deletion_days",
                advice: "a deletion may arrive before its post, so set it to at least 1",
            });
        }
        for (name, days) in [
            ("store.retention_days", self.retention_days),
            ("store.minute_retention_days", self.minute_retention_days),
            ("store.hour_retention_days", self.hour_retention_days),
            ("store.day_retention_days", self.day_retention_days),
        ] {
            let Some(days) = days else { continue };
            if days == 0 {
                let advice = "set it to at least 1, or remove it";
                return Err(SettingsError::Zero { name, advice });
            }
            // A late post or a deletion changes the rollups of its time, so they must still exist.
            if self.retention_days.is_none_or(|posts| days < posts) {
                let posts = self.retention_days;
                return Err(SettingsError::Retention { name, days, posts });
            }
        }
        Ok(())
    }

    /// Returns the roles that use the tables without owning them.
    #[must_use]
    pub fn roles(&self) -> Roles<'_> {
        Roles {
            service: self.service_role.as_deref(),
            read: self.read_role.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn error(settings: &StoreSettings) -> String {
        settings.check().unwrap_err().to_string()
    }

    #[test]
    fn rollups_must_be_kept_as_long_as_posts() {
        let mut settings = StoreSettings {
            hour_retention_days: Some(365),
            ..StoreSettings::default()
        };
        let kept_forever = error(&settings);
        assert!(
            kept_forever.contains("hour_retention_days is 365, but posts are kept forever"),
            "{kept_forever}"
        );
        settings.retention_days = Some(30);
        settings.check().unwrap();
        let retention = settings.retention();
        assert_eq!(
            (retention.minute_days, retention.hour_days, retention.day_days),
            (Some(30), Some(365), None)
        );
        settings.minute_retention_days = Some(7);
        let shorter = error(&settings);
        assert!(
            shorter.contains("minute_retention_days is 7, but posts are kept 30 days"),
            "{shorter}"
        );
        settings.minute_retention_days = Some(0);
        assert!(error(&settings).contains("minute_retention_days is 0"));
    }

    #[test]
    fn deletions_are_kept_for_at_least_a_day() {
        let mut settings = StoreSettings::default();
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(100);
        let month_before = OffsetDateTime::UNIX_EPOCH + Duration::days(70);
        assert_eq!(settings.unseen_deletions_before(now), Some(month_before));
        settings.unseen_deletion_days = u32::MAX;
        assert_eq!(settings.unseen_deletions_before(now), None);
        settings.unseen_deletion_days = 0;
        assert!(error(&settings).contains("unseen_deletion_days is 0"));
    }
}
