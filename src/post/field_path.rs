//! Where a topic of one's own keeps the fields of a post: `[posts.fields]`.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// The path of each field within a record's JSON. What is absent has the names that the plain format knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldPaths {
    /// The post's identity: a string or a whole number.
    pub id: Option<FieldPath>,
    /// The text.
    pub text: Option<FieldPath>,
    /// When it was published, in any notation that the service reads.
    pub created_at: Option<FieldPath>,
    /// The author's identity: a string or a whole number.
    pub author: Option<FieldPath>,
    /// The language, as a BCP 47 tag.
    pub lang: Option<FieldPath>,
    /// The hashtags: a list of strings, or of objects with the word under `text`, `tag` or `name`; or one string with
    /// the words between spaces or commas.
    pub hashtags: Option<FieldPath>,
    /// Where the post was published: `twitter`, `bluesky` or `mastodon`; anything else is `plain`.
    pub source: Option<FieldPath>,
    /// For a repost: the original's identity.
    pub repost_of: Option<FieldPath>,
    /// The text of a quoted post.
    pub quoted_text: Option<FieldPath>,
    /// What is set where the record says that the post was deleted: a flag, or the time of it.
    pub deleted: Option<FieldPath>,
}

impl FieldPaths {
    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The member of an object.
    Name(String),
    /// The element of a list, from 0.
    Index(usize),
}

/// The path to one value: names between dots, `[n]` for an element of a list, `['a.b']` for a name with other characters.
/// A `$` in front, as in JSONPath ([RFC 9535], of which this is the part that names a single value), may be left out.
///
/// [RFC 9535]: https://www.rfc-editor.org/rfc/rfc9535
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FieldPath(Vec<Step>);

/// A path that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is no path to a field: {fault}; write `name`, `user.name`, `tags[0]` or `['a.b']`")]
pub struct FieldPathError {
    path: String,
    fault: &'static str,
}

impl FieldPath {
    /// The value at the path; none where the record has no such field.
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
                bracketed(rest).ok_or(fault("what stands in brackets is neither a number nor a quoted name"))?
            };
            steps.push(step);
            rest = after;
        }
        if steps.is_empty() {
            return Err(fault("it names nothing"));
        }
        Ok(Self(steps))
    }
}

/// The name in front of the next dot or bracket, and what follows it.
fn name(text: &str) -> (Option<Step>, &str) {
    let end = text.find(['.', '[']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    ((!name.is_empty()).then(|| Step::Name(name.to_owned())), rest)
}

/// `[3]`, `['name']` or `["name"]`, and what follows it.
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
    fn a_path_leads_to_one_value() {
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
    fn what_is_no_path_is_refused_with_the_reason() {
        for (path, fault) in [
            ("", "a name is empty"),
            ("$", "names nothing"),
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
