//! The values of settings in the environment and in flags, which are text.

use toml::{Table, Value};

use super::error::ValueError;

/// Settings that are lists, which are comma-separated in the environment and in flags.
const LISTS: &[&[&str]] = &[&["kafka", "topics"], &["posts", "languages"]];

/// Settings that are always text, even if they look like another type (a group named `7`, a numeric password).
const TEXTS: &[&[&str]] = &[
    &["kafka", "brokers"],
    &["kafka", "group"],
    &["kafka", "dead_letter_topic"],
    &["database", "url"],
    &["store", "service_role"],
    &["store", "read_role"],
    &["model", "path"],
    &["model", "file"],
    &["model", "profile"],
    &["log", "level"],
    &["posts", "time_zone"],
    &["http", "listen"],
    &["classify", "onnxruntime"],
];

/// Sets a setting, given its keys and its value as text.
pub(super) fn set(table: &mut Table, keys: &[&str], value: &str) -> Result<(), ValueError> {
    let (last, parents) = keys.split_last().ok_or(ValueError::EmptyPart)?;
    if keys.iter().any(|key| key.is_empty()) {
        return Err(ValueError::EmptyPart);
    }
    let mut at = table;
    for key in parents {
        at = at
            .entry((*key).to_owned())
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| ValueError::NoSection((*key).to_owned()))?;
    }
    at.insert((*last).to_owned(), typed(keys, value)?);
    Ok(())
}

fn typed(keys: &[&str], value: &str) -> Result<Value, ValueError> {
    if LISTS.contains(&keys) {
        return list(value);
    }
    Ok(single(keys, value))
}

/// Parses a list as written in the environment and in flags, `a, b`, or as in the file, `["a", "b"]`.
fn list(value: &str) -> Result<Value, ValueError> {
    let value = value.trim();
    if value.starts_with('[') {
        let parsed = format!("list = {value}").parse::<Table>().ok();
        return match parsed.and_then(|mut table| table.remove("list")) {
            Some(Value::Array(items)) if items.iter().all(Value::is_str) => Ok(Value::Array(items)),
            _ => Err(ValueError::List),
        };
    }
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
}

fn single(keys: &[&str], value: &str) -> Value {
    if TEXTS.contains(&keys) || keys.first() == Some(&"kafka") && keys.get(1) == Some(&"properties") {
        return Value::String(value.to_owned());
    }
    if let Ok(number) = value.parse::<i64>() {
        return Value::Integer(number);
    }
    if let Ok(flag) = value.parse::<bool>() {
        return Value::Boolean(flag);
    }
    if let Ok(number) = value.parse::<f64>()
        && number.is_finite()
    {
        return Value::Float(number);
    }
    Value::String(value.to_owned())
}
