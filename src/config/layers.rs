//! The three layers as raw values, merged.

use std::path::Path;

use toml::{Table, Value};

use super::{Settings, SettingsError};

/// The prefix of the environment's settings.
pub const PREFIX: &str = "MOODSTREAM_";

/// Settings whose values are lists: in the environment and in flags they are comma-separated.
const LISTS: &[&[&str]] = &[&["kafka", "topics"], &["posts", "languages"]];

/// Settings that are text whatever they look like (a group named `7`, a password of digits).
const TEXTS: &[&[&str]] = &[
    &["kafka", "brokers"],
    &["kafka", "group"],
    &["kafka", "dead_letter_topic"],
    &["database", "url"],
    &["model", "path"],
    &["model", "profile"],
    &["log", "level"],
    &["http", "listen"],
    &["classify", "onnxruntime"],
];

/// Reads settings from a file, the environment and flags, and checks them.
///
/// `environment` is usually [`std::env::vars`]; only names with [`PREFIX`] and a double underscore count.
/// `flags` are pairs of a dotted key (`kafka.brokers`) and a value.
///
/// # Errors
/// What is wrong and in which layer: the file and line, the variable, or the key.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(&str, String)],
) -> Result<Settings, SettingsError> {
    let settings = merge(file, environment, flags)?;
    settings.check()?;
    Ok(settings)
}

/// Like [`load`], without the checks that only the running service needs (`classify` and `migrate` need but a part).
///
/// # Errors
/// As [`load`].
pub fn merge(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(&str, String)],
) -> Result<Settings, SettingsError> {
    let mut table = match file {
        Some(path) => read_file(path)?,
        None => Table::new(),
    };
    let mut variables: Vec<_> = environment
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && name.contains("__"))
        .collect();
    variables.sort();
    for (name, value) in &variables {
        let path = variable_path(name);
        let keys: Vec<&str> = path.iter().map(String::as_str).collect();
        set(&mut table, &keys, value).map_err(|why| SettingsError(format!("environment variable {name}: {why}")))?;
    }
    for (key, value) in flags {
        let keys: Vec<&str> = key.split('.').collect();
        set(&mut table, &keys, value).map_err(|why| SettingsError(format!("flag for {key}: {why}")))?;
    }
    // Deserialising from text again would lose which layer was at fault; the key path in toml's message is enough.
    Settings::deserialize_from(table).map_err(|error| {
        let origin = file.map_or_else(
            || "settings".to_owned(),
            |path| format!("settings ({} and environment)", path.display()),
        );
        SettingsError(format!("{origin}: {}", one_line(&error.to_string())))
    })
}

impl Settings {
    fn deserialize_from(table: Table) -> Result<Self, toml::de::Error> {
        use serde::Deserialize as _;
        Self::deserialize(Value::Table(table))
    }
}

fn read_file(path: &Path) -> Result<Table, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SettingsError(format!("settings file {}: {error}", path.display())))?;
    // Typed once here so that a fault is reported with its line, which the merged table no longer knows.
    toml::from_str::<Settings>(&text).map_err(|error| {
        SettingsError(format!(
            "settings file {}: {}",
            path.display(),
            one_line(&error.to_string())
        ))
    })?;
    text.parse::<Table>().map_err(|error| {
        SettingsError(format!(
            "settings file {}: {}",
            path.display(),
            one_line(&error.to_string())
        ))
    })
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && *line != "|" && !line.chars().all(|c| "|^ ".contains(c)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// `MOODSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD` -> `kafka`, `properties`, `sasl.password`.
fn variable_path(name: &str) -> Vec<String> {
    let mut path: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
    if let [section, table, property @ ..] = path.as_slice()
        && section == "kafka"
        && table == "properties"
        && !property.is_empty()
    {
        let property = property.join(".").replace('_', ".");
        path = vec![section.clone(), table.clone(), property];
    }
    path
}

fn set(table: &mut Table, keys: &[&str], value: &str) -> Result<(), String> {
    let (last, parents) = keys.split_last().ok_or("no key")?;
    if keys.iter().any(|key| key.is_empty()) {
        return Err("an empty part in the name: write SECTION__KEY".to_owned());
    }
    let mut at = table;
    for key in parents {
        at = at
            .entry((*key).to_owned())
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("{key} is not a section"))?;
    }
    at.insert((*last).to_owned(), typed(keys, value));
    Ok(())
}

fn typed(keys: &[&str], value: &str) -> Value {
    if LISTS.contains(&keys) {
        let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        return Value::Array(items.map(|item| Value::String(item.to_owned())).collect());
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn later_layers_win() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(
            file,
            "[kafka]\nbrokers = \"a:1\"\ngroup = \"file\"\n[model]\npath = \"m\""
        )
        .unwrap();
        let vars = environment(&[
            ("MOODSTREAM_KAFKA__BROKERS", "b:2"),
            ("MOODSTREAM_KAFKA__TOPICS", "x, y"),
        ]);
        let settings = load(Some(file.path()), vars, &[("kafka.brokers", "c:3".to_owned())]).unwrap();
        assert_eq!(settings.kafka.brokers, "c:3");
        assert_eq!(settings.kafka.group, "file");
        assert_eq!(settings.kafka.topics, ["x", "y"]);
    }

    #[test]
    fn unknown_keys_are_named() {
        let error = merge(None, environment(&[("MOODSTREAM_KAFKA__BROKER", "b:2")]), &[]).unwrap_err();
        assert!(error.0.contains("broker"), "{error}");
        assert!(!error.0.contains('\n'), "{error}");
    }

    #[test]
    fn empty_languages_are_all() {
        let settings = merge(None, environment(&[("MOODSTREAM_POSTS__LANGUAGES", "")]), &[]).unwrap();
        assert!(settings.posts.languages.is_empty());
    }

    #[test]
    fn properties_come_with_dots() {
        let vars = environment(&[("MOODSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD", "123")]);
        let settings = merge(None, vars, &[]).unwrap();
        assert_eq!(settings.kafka.properties.0["sasl.password"].to_string(), "123");
        assert!(!format!("{settings:?}").contains("123"));
    }

    #[test]
    fn variables_of_other_tools_are_left_alone() {
        merge(
            None,
            environment(&[("MOODSTREAM_RUNTIME", "/x"), ("OTHER__KEY", "1")]),
            &[],
        )
        .unwrap();
    }

    proptest! {
        #[test]
        fn any_environment_is_read_or_refused(name in "[A-Z_]{0,30}", value in ".{0,40}") {
            let _ = load(None, vec![(format!("{PREFIX}{name}"), value)], &[]);
        }

        #[test]
        fn any_file_is_read_or_refused(text in ".{0,200}") {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let _ = load(Some(file.path()), Vec::new(), &[]);
        }
    }
}
