//! The paths of a post's fields in records with a custom layout: `[posts.fields]`.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// The path of each field within a record's JSON. An unmapped field is read from the plain format's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldPaths {
    /// The post's id: a string or an integer.
    pub id: Option<FieldPath>,
    /// The text.
    pub text: Option<FieldPath>,
    /// The time of publication, in any notation that the service reads.
    pub created_at: Option<FieldPath>,
    /// The author's id: a string or an integer.
    pub author: Option<FieldPath>,
    /// The language, as a BCP 47 tag.
    pub lang: Option<FieldPath>,
    /// The hashtags: a list of strings, a list of objects with the word under `text`, `tag` or `name`, or one string of
    /// words separated by spaces or commas.
    pub hashtags: Option<FieldPath>,
    /// The platform: `twitter`, `bluesky` or `mastodon`; anything else is `plain`.
    pub source: Option<FieldPath>,
    /// For a repost, the original's id.
    pub repost_of: Option<FieldPath>,
    /// The text of a quoted post.
    pub quoted_text: Option<FieldPath>,
    /// A flag or a time that is set if the post was deleted.
    pub deleted: Option<FieldPath>,
}

impl FieldPaths {
    /// Whether no field is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A member of an object.
    Name(String),
    /// A zero-based index into a list.
    Index(usize),
}

/// The path to a value: names separated by dots, `[n]` for a list element, `['a.b']` for a name with other characters.
/// It is the subset of JSONPath ([RFC 9535]) that addresses a single value. The leading `$` is optional.
///
/// [RFC 9535]: https://www.rfc-editor.org/rfc/rfc9535
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FieldPath(Vec<Step>);

/// A path that can't be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is not a field path: {fault}; write `name`, `user.name`, `tags[0]` or `['a.b']`")]
pub struct FieldPathError {
    path: String,
    fault: &'static str,
}

impl FieldPath {
    /// Returns the value at the path, or `None` if the record has no such field.
    #[must_use]
    pub fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(value, |value, step| match step {
            Step::Name(name) => value.get(name),
            Step::Index(index) => value.get(index),
        })
    }
}

impl TryFrom<String> for FieldPath {
    type Error = FieldPathError;

    fn try_from(path: String) -> Result<Self, FieldPathError> {
        let fault = |fault| FieldPathError {
            path: path.clone(),
            fault,
        };
        let mut rest = path.trim();
        let mut steps = Vec::new();
        if let Some(relative) = rest.strip_prefix('$') {
            rest = relative;
        } else if !rest.starts_with('[') {
            let (name, after) = name(rest);
            steps.push(name.ok_or(fault("a name is empty"))?);
            rest = after;
        }
        while !rest.is_empty() {
            let (step, after) = if let Some(named) = rest.strip_prefix('.') {
                let (name, after) = name(named);
                (name.ok_or(fault("a name is empty"))?, after)
            } else {
                bracketed(rest).ok_or(fault("brackets must hold a number or a quoted name"))?
            };
            steps.push(step);
            rest = after;
        }
        if steps.is_empty() {
            return Err(fault("it names no field"));
        }
        Ok(Self(steps))
    }
}

/// Splits off the name before the next dot or bracket.
fn name(text: &str) -> (Option<Step>, &str) {
    let end = text.find(['.', '[']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    ((!name.is_empty()).then(|| Step::Name(name.to_owned())), rest)
}

/// Splits off `[3]`, `['name']` or `["name"]`.
fn bracketed(text: &str) -> Option<(Step, &str)> {
    let inner = text.strip_prefix('[')?;
    for quote in ['\'', '"'] {
        if let Some(quoted) = inner.strip_prefix(quote) {
            let (name, rest) = quoted.split_once(quote)?;
            return Some((Step::Name(name.to_owned()), rest.strip_prefix(']')?));
        }
    }
    let (number, rest) = inner.split_once(']')?;
    Some((Step::Index(number.parse().ok()?), rest))
}

impl fmt::Debug for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        self.0.iter().try_for_each(|step| match step {
            Step::Name(name) => write!(f, "[{name:?}]"),
            Step::Index(index) => write!(f, "[{index}]"),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_selects_one_value() {
        let record = json!({"a": {"b": [1, {"c d": 2}], "e.f": 3}, "$": 4, "": 5});
        for (path, value) in [
            ("a.b[0]", Some(1)),
            ("$.a.b[1]['c d']", Some(2)),
            ("a.b[1].c d", Some(2)),
            ("$['a'][\"e.f\"]", Some(3)),
            ("['$']", Some(4)),
            ("['']", Some(5)),
            ("a.x", None),
            ("a.b[9]", None),
            ("a[0]", None),
        ] {
            let found = FieldPath::try_from(path.to_owned()).unwrap();
            assert_eq!(found.find(&record), value.map(Value::from).as_ref(), "{path}");
        }
    }

    #[test]
    fn invalid_paths_are_refused_with_the_reason() {
        for (path, fault) in [
            ("", "a name is empty"),
            ("$", "names no field"),
            ("a..b", "a name is empty"),
            ("a.", "a name is empty"),
            ("a[", "brackets"),
            ("a[x]", "brackets"),
            ("a['b]", "brackets"),
            ("a[0]b", "brackets"),
            ("$a", "brackets"),
        ] {
            let error = FieldPath::try_from(path.to_owned()).unwrap_err().to_string();
            assert!(error.contains(fault) && error.contains("write"), "{path}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_name_can_be_quoted(name in "[^']{0,20}") {
            let path = FieldPath::try_from(format!("$['{name}']")).unwrap();
            let mut record = serde_json::Map::new();
            record.insert(name, json!(7));
            let record = Value::Object(record);
            prop_assert_eq!(path.find(&record), Some(&json!(7)));
        }
    }
}
