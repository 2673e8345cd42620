//! Lenient JSON types: a field of the wrong type becomes a value to examine instead of failing the whole record.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{FieldError, Id, Reason, Reject};

/// Deserializes `json` as `T`.
///
/// # Errors
///
/// Returns [`Reason::NotJson`] for a syntax error, [`Reason::TooDeep`] beyond the parser's nesting limit, and
/// [`Reason::BadField`] if a field does not fit.
pub(super) fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Reject> {
    serde_json::from_str(json).map_err(|error| {
        let message = error.to_string();
        let reason = match error.classify() {
            _ if message.starts_with("recursion limit") => Reason::TooDeep,
            serde_json::error::Category::Data => Reason::BadField,
            _ => Reason::NotJson,
        };
        Reject::new(reason, message)
    })
}

/// Whether the input is a sequence of several JSON values.
pub(super) fn has_several_values(json: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(json).into_iter::<IgnoredAny>();
    matches!(values.next(), Some(Ok(_))) && matches!(values.next(), Some(Ok(_)))
}

/// Returns the nesting depth of objects and arrays if it is more than `limit`. For malformed JSON the result is unspecified.
pub(super) fn depth_beyond(limit: usize, json: &str) -> Option<usize> {
    // Counting is faster than following the nesting, and most records have fewer brackets than the limit allows levels.
    let brackets = json.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if brackets <= limit {
        return None;
    }
    let depth = depth(json);
    (depth > limit).then_some(depth)
}

fn depth(json: &str) -> usize {
    let bytes = json.as_bytes();
    let (mut deepest, mut open, mut at) = (0_usize, 0_usize, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b'}' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// A value that is expected to be a string or a number.
#[derive(Debug, Default)]
pub(super) enum Scalar<'a> {
    /// Absent or `null`.
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Integer(i128),
    Float(f64),
    Bool(bool),
    List,
    Object,
}

impl Scalar<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "nothing",
            Self::Text(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Float(number) if number.fract() == 0.0 => "a number that is too large",
            Self::Float(_) => "a fraction",
            Self::Bool(_) => "a boolean",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Whether a flag is set: anything except `false`, 0, null, a list, an object, and the usual words for false.
    pub(super) fn is_set(&self) -> bool {
        const UNSET: [&str; 6] = ["", "0", "f", "false", "n", "no"];
        match self {
            Self::Absent | Self::List | Self::Object => false,
            Self::Bool(flag) => *flag,
            Self::Integer(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !UNSET.contains(&text.trim().to_ascii_lowercase().as_str()),
        }
    }

    /// Converts a scalar of MongoDB's Extended JSON, an object with a single member such as `{"$oid": "..."}`. Returns
    /// `None` for an unknown key.
    ///
    /// <https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/>
    fn from_extended_json(key: &str, value: Self) -> Option<Self> {
        const NANOSECONDS: i128 = 1_000_000;
        match (key, value) {
            // Always milliseconds. As text, the number's magnitude is not used to guess the unit.
            ("$date", Self::Integer(milliseconds)) => {
                let nanoseconds = milliseconds.checked_mul(NANOSECONDS)?;
                let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?;
                Some(Self::Text(Cow::Owned(time.format(&Rfc3339).ok()?)))
            }
            ("$numberLong" | "$numberInt", Self::Text(digits)) => match digits.parse() {
                Ok(number) => Some(Self::Integer(number)),
                Err(_) => Some(Self::Text(digits)),
            },
            (
                "$date" | "$oid" | "$uuid" | "$numberLong" | "$numberInt" | "$numberDouble" | "$numberDecimal"
                | "$symbol",
                value,
            ) => Some(value),
            _ => None,
        }
    }

    /// Returns the string, if the value is one.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the reject of a `field` that has this value instead of the expected type.
    pub(super) fn type_error(&self, field: &str, expected: &str) -> Reject {
        Reject::new(
            Reason::BadField,
            format!("`{field}` is {}, not {expected}", self.kind()),
        )
    }

    /// Returns the string, or `None` if the value is absent.
    pub(super) fn text(&self, field: &str) -> Result<Option<&str>, Reject> {
        match self {
            Self::Absent => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            other => Err(other.type_error(field, "a string")),
        }
    }

    /// Returns the value as an id: a string or an integer. An empty string counts as absent.
    pub(super) fn id(&self, field: &str) -> Result<Option<Id>, Reject> {
        match self {
            Self::Absent => Ok(None),
            Self::Integer(number) => id(number.to_string(), field),
            // Data frames and JavaScript write integers as `5.0`. Above 2⁵³ a double is no longer exact.
            Self::Float(number) if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 => {
                id(format!("{number:.0}"), field)
            }
            Self::Text(text) => id(text.trim(), field),
            other => Err(other.type_error(field, "a string or an integer")),
        }
    }
}

/// Creates an id. An empty string counts as absent.
pub(super) fn id(text: impl Into<String>, field: &str) -> Result<Option<Id>, Reject> {
    match Id::new(text) {
        Ok(id) => Ok(Some(id)),
        Err(FieldError::Empty) => Ok(None),
        Err(error) => Err(Reject::new(Reason::BadField, format!("`{field}`: {error}"))),
    }
}

/// Returns the id from its string form, or else from its number form. JavaScript tools may have rounded a number
/// above 2⁵³, but not the string.
pub(super) fn id_of(string: &Scalar<'_>, number: &Scalar<'_>, field: &str) -> Result<Option<Id>, Reject> {
    match string.id(field)? {
        Some(id) => Ok(Some(id)),
        None => number.id(field),
    }
}

impl<'a> From<&'a serde_json::Value> for Scalar<'a> {
    fn from(value: &'a serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Absent,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(number) => match (number.as_i128(), number.as_f64()) {
                (Some(integer), _) => Self::Integer(integer),
                (None, Some(float)) => Self::Float(float),
                (None, None) => Self::Absent,
            },
            Value::String(text) => Self::Text(Cow::Borrowed(text)),
            Value::Array(_) => Self::List,
            Value::Object(object) => {
                let mut members = object.iter();
                match (members.next(), members.next()) {
                    (Some((key, value)), None) if key.starts_with('$') => {
                        Self::from_extended_json(key, Self::from(value)).unwrap_or(Self::Object)
                    }
                    _ => Self::Object,
                }
            }
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float(number))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(flag))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Absent)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut found = Scalar::Object;
        if let Some(key) = object.next_key::<Cow<'_, str>>()? {
            match key.starts_with('$') {
                true => found = Scalar::from_extended_json(&key, object.next_value()?).unwrap_or(Scalar::Object),
                false => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            found = Scalar::Object;
        }
        Ok(found)
    }
}

/// An object, or `None` for a value of any other type: some producers write `[]` or `""` for a missing object.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) Option<T>);

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Object<T> {
    pub(super) fn as_ref(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

/// A list, or `None` for a value of any other type.
#[derive(Debug)]
pub(super) struct List<T>(pub(super) Option<Vec<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> List<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

/// Implements the visitor methods that map values of other types to `None`.
macro_rules! ignore_other_types {
    ($wrapper:ident) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value")
        }

        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($wrapper(None))
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($wrapper(None))
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($wrapper(None))
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($wrapper(None))
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($wrapper(None))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($wrapper(None))
        }
    };
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    ignore_other_types!(Object);

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Object(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(object)).map(|value| Object(Some(value)))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    ignore_other_types!(List);

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(List(Some(elements)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(List(None))
    }
}
