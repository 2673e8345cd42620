//! The emotion groups and languages of the model's manifest, stored for use in SQL.

use std::collections::BTreeSet;

use super::{Store, columns::sql_text, error::StoreError};
use crate::{model::ModelInfo, post::Language};

impl Store {
    /// Replaces the stored emotion groups of the model by those of its manifest.
    ///
    /// # Errors
    /// The database fails.
    pub async fn replace_emotion_groups(&self, model: &ModelInfo) -> Result<(), StoreError> {
        // Sorted, so that services that start at the same time don't deadlock.
        let pairs: BTreeSet<(&str, &str)> = model
            .groups
            .iter()
            .flat_map(|(group, emotions)| emotions.iter().map(move |emotion| (&**emotion, &**group)))
            .collect();
        let (emotions, groups): (Vec<_>, Vec<_>) = pairs
            .into_iter()
            .map(|(emotion, group)| (sql_text(emotion), sql_text(group)))
            .unzip();
        let query = sqlx::query(
            "WITH wanted AS (SELECT * FROM unnest($2::text[], $3::text[]) AS w (emotion, group_name)),
                  gone AS (DELETE FROM emotion_group g WHERE g.model_id = $1
                             AND (g.emotion, g.group_name) NOT IN (SELECT emotion, group_name FROM wanted))
             INSERT INTO emotion_group (model_id, emotion, group_name)
             SELECT $1, emotion, group_name FROM wanted ORDER BY 2, 3 ON CONFLICT DO NOTHING",
        )
        .bind(sql_text(&model.id))
        .bind(emotions)
        .bind(groups);
        self.run("writing emotion_group", async |connection| {
            query.execute(connection).await.map(drop)
        })
        .await
    }

    /// Replaces the stored languages of the model by those of its manifest.
    ///
    /// # Errors
    /// The database fails.
    pub async fn replace_model_languages(&self, model: &ModelInfo) -> Result<(), StoreError> {
        let (languages, figures): (Vec<_>, Vec<_>) = model.languages.iter().unzip();
        let languages: Vec<&str> = languages.into_iter().map(Language::as_str).collect();
        let query = sqlx::query(
            "WITH wanted AS (SELECT * FROM unnest($2::text[], $3::float8[]) AS w (lang, macro_f1)),
                  gone AS (DELETE FROM model_language l WHERE l.model_id = $1
                             AND l.lang NOT IN (SELECT lang FROM wanted))
             INSERT INTO model_language AS l (model_id, lang, macro_f1)
             SELECT $1, lang, macro_f1 FROM wanted ORDER BY 2
             ON CONFLICT (model_id, lang) DO UPDATE SET macro_f1 = EXCLUDED.macro_f1
             WHERE l.macro_f1 <> EXCLUDED.macro_f1",
        )
        .bind(sql_text(&model.id))
        .bind(languages)
        .bind(figures);
        self.run("writing model_language", async |connection| {
            query.execute(connection).await.map(drop)
        })
        .await
    }
}
