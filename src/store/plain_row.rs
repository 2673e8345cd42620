//! Distinguishes a record whose row the database refuses from a database that refuses every row, because somebody added a
//! column, a constraint or a trigger that this program doesn't know about.

use std::sync::Arc;

use sqlx::Connection as _;
use time::OffsetDateTime;

use super::{
    Store,
    dedup::DedupPlan,
    error::{FlushError, StoreError, StoreErrorKind},
    flush::{DeletionRow, Flush, OffsetRange, PostRow},
    retention::RetentionCutoff,
};
use crate::{
    model::Prediction,
    post::{Deletion, EventTime, FieldError, Id, Language, Origin, Post, Source, Text, TimeSource},
};

/// A valid score: a multiple of 2^-20.
const SCORE: f64 = 0.5;

impl Store {
    /// Whether the database accepts a plain post in place of the records of this flush, of which it refused a row. If the
    /// flush has deletions, also whether that post can be deleted again. Everything is rolled back.
    ///
    /// # Errors
    /// The database failed in another way than by refusing a row.
    pub async fn takes_plain_rows(&self, refused: &Flush) -> Result<bool, FlushError> {
        let trial = Trial::in_place_of(refused)?;
        self.ensure_days(&trial.insert.days()?).await?;
        let tried = self
            .with("trying a plain row", async |connection| {
                let mut tx = connection
                    .begin()
                    .await
                    .map_err(StoreError::when("starting to try a plain row"))?;
                for flush in [Some(&trial.insert), trial.delete.as_ref()].into_iter().flatten() {
                    self.write(&mut tx, flush, DedupPlan::new(flush, RetentionCutoff::default())?)
                        .await?;
                }
                tx.rollback()
                    .await
                    .map_err(StoreError::when("rolling a plain row back"))?;
                Ok::<_, FlushError>(())
            })
            .await
            .unwrap_or_else(|error| Err(error.into()));
        match tried {
            Ok(()) => Ok(true),
            Err(FlushError::Store(error)) if error.kind == StoreErrorKind::Row => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The flushes to try, one after the other.
struct Trial {
    insert: Flush,
    delete: Option<Flush>,
}

impl Trial {
    fn in_place_of(refused: &Flush) -> Result<Self, FlushError> {
        let invalid = |error: FieldError| FlushError::Invalid(error.to_string());
        let origins = refused.posts.iter().map(|row| &row.origin);
        let origins = origins.chain(refused.deletions.iter().map(|row| &row.origin));
        let at = |range: &OffsetRange| {
            let mut origins = origins.clone();
            origins
                .find(|origin| origin.topic == range.topic && origin.partition == range.partition)
                .cloned()
        };
        let (range, origin) = refused
            .ranges
            .iter()
            .find_map(|range| Some((range, at(range)?)))
            .ok_or_else(|| FlushError::Invalid("no row was refused".to_owned()))?;
        // In the same partition of the table, because a partition may have its own constraints.
        let created_at = match refused.posts.first() {
            Some(row) => row.post.created_at,
            None => EventTime::new(OffsetDateTime::now_utc()).map_err(invalid)?,
        };
        let range = OffsetRange {
            filtered: 0,
            late: 0,
            rejected: 0,
            ..range.clone()
        };
        let mut insert = Flush::new(Arc::clone(&refused.group), Arc::clone(&refused.model));
        let id = Id::new(format!("moodstream-plain-row-{}", insert.id())).map_err(invalid)?;
        insert.posts.push(PostRow {
            post: Arc::new(Post {
                source: Source::Plain,
                id: id.clone(),
                created_at,
                time_source: TimeSource::Post,
                author_id: Some(id.clone()),
                lang: Language::of_tag("en"),
                lang_identified: false,
                text: Text::new("a plain post").map_err(invalid)?,
                repost_of: None,
                quoted_text: None,
                hashtags: Vec::new(),
            }),
            prediction: Prediction {
                emotion: insert.model.labels.first().cloned().unwrap_or_default(),
                score: SCORE,
                scores: vec![SCORE; insert.model.labels.len()].into(),
            },
            subjects: Vec::new(),
            origin: origin.clone(),
            timestamp: None,
        });
        let next = range.next;
        insert.ranges.push(range.clone());
        let delete = (!refused.deletions.is_empty()).then(|| {
            let mut delete = Flush::new(Arc::clone(&refused.group), Arc::clone(&refused.model));
            delete.ranges.push(OffsetRange {
                expected: next,
                next: next + 1,
                ..range
            });
            delete.deletions.push(DeletionRow {
                deletion: Deletion {
                    source: Source::Plain,
                    post_id: id,
                },
                origin: Origin { offset: next, ..origin },
            });
            delete
        });
        Ok(Self { insert, delete })
    }
}
