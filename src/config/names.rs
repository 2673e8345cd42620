//! The names of all settings, derived from the types, and suggestions for misspelt ones.

use std::{cell::Cell, sync::LazyLock};

use serde::{
    Deserialize as _, Deserializer,
    de::{DeserializeSeed, Error as _, IntoDeserializer as _, MapAccess, Visitor, value::Error},
    forward_to_deserialize_any,
};

use super::Settings;

/// Deprecated section names, which still work, and their replacements.
pub(super) const RENAMED: &[(&str, &str)] = &[("topics", "subjects")];

/// All settings by their keys, such as `["kafka", "brokers"]`, in the order of the types.
pub(super) static NAMES: LazyLock<Vec<Vec<&'static str>>> = LazyLock::new(|| {
    let mut names = Vec::new();
    collect(&mut Vec::new(), &mut names);
    names
});

/// Adds the settings at and below a path.
fn collect(path: &mut Vec<&'static str>, names: &mut Vec<Vec<&'static str>>) {
    let fields = Cell::new(None);
    // Always fails: at the end of the path, or earlier if there is no such section.
    let _ = Settings::deserialize(FieldNames { path, fields: &fields });
    let Some(fields) = fields.get() else {
        names.push(path.clone());
        return;
    };
    for &field in fields {
        // Old names are among the fields, as the type takes them.
        if path.is_empty() && RENAMED.iter().any(|(old, _)| *old == field) {
            continue;
        }
        path.push(field);
        collect(path, names);
        path.pop();
    }
}

/// A deserializer that descends a path of sections and records the fields of the last one.
struct FieldNames<'p> {
    path: &'p [&'static str],
    fields: &'p Cell<Option<&'static [&'static str]>>,
}

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("a value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.path.is_empty() {
            self.fields.set(Some(fields));
            return Err(Error::custom("a section"));
        }
        visitor.visit_map(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A map with a single member: the section on the path.
impl<'de> MapAccess<'de> for FieldNames<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(key) = self.path.first() else {
            return Ok(None);
        };
        seed.deserialize((*key).into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let path = self.path.get(1..).unwrap_or_default();
        seed.deserialize(FieldNames {
            path,
            fields: self.fields,
        })
    }
}

/// Returns the setting that a name was probably meant for: one with that last key, or else the one with the smallest edit
/// distance, if that is small. Case and separators between words are ignored.
pub(super) fn meant(name: &str) -> Option<&'static [&'static str]> {
    let words = |text: &str| {
        text.to_ascii_lowercase()
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join("_")
    };
    let name = words(name);
    let names = || NAMES.iter().map(Vec::as_slice);
    if let Some(exact) = names().find(|keys| words(&keys.join("_")) == name) {
        return Some(exact);
    }
    if let Some(same_key) = names().find(|keys| keys.last().is_some_and(|key| *key == name)) {
        return Some(same_key);
    }
    let (letters, nearest) = names()
        .map(|keys| (strsim::damerau_levenshtein(&words(&keys.join("_")), &name), keys))
        .min_by_key(|(letters, _)| *letters)?;
    (letters <= name.len() / 3).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_the_types() {
        let dotted: Vec<String> = NAMES.iter().map(|keys| keys.join(".")).collect();
        for name in [
            "kafka.brokers",
            "kafka.properties",
            "posts.fields.created_at",
            "posts.time_zone",
            "subjects",
            "model.path",
            "classify.sessions",
            "database.url",
            "store.retention_days",
            "http.listen",
            "log.format",
            "shutdown.deadline_seconds",
        ] {
            assert!(dotted.iter().any(|known| known == name), "{name}: {dotted:?}");
        }
        assert!(dotted.len() > 60, "{dotted:?}");
        assert!(!dotted.iter().any(|name| name == "topics"), "an old name: {dotted:?}");
    }

    #[test]
    fn the_intended_setting_is_suggested() {
        for (name, meant_for) in [
            ("DATABASE_URL", Some("database.url")),
            ("KAFKA__GRUOP", Some("kafka.group")),
            ("KAFKA_TOPIC", Some("kafka.topics")),
            ("BROKERS", Some("kafka.brokers")),
            ("kafka.dead-letter-topic", Some("kafka.dead_letter_topic")),
            ("POSTS_FIELDS_TEXT", Some("posts.fields.text")),
            ("MODEL", None),
            ("FOO", None),
            ("", None),
        ] {
            assert_eq!(meant(name).map(|keys| keys.join(".")).as_deref(), meant_for, "{name}");
        }
    }
}
