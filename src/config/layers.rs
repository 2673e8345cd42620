//! The three layers as raw values, merged.

use std::path::Path;

use toml::{Table, Value};

use super::{Settings, SettingsError, one_line};

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
    let Some(path) = file else {
        return merge_text(None, environment, flags);
    };
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| SettingsError(format!("settings file {name}: {error}")))?;
    merge_text(Some((&name, &text)), environment, flags)
}

/// As [`merge`], with the file's name and text at hand.
///
/// # Errors
/// As [`load`].
pub fn merge_text(
    file: Option<(&str, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(&str, String)],
) -> Result<Settings, SettingsError> {
    let mut table = match file {
        Some((name, text)) => read_text(name, text)?,
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
        set(&mut table, &keys, value)
            .map_err(|why| SettingsError(format!("environment variable {}: {why}", name.escape_debug())))?;
    }
    for (key, value) in flags {
        let keys: Vec<&str> = key.split('.').collect();
        set(&mut table, &keys, value).map_err(|why| SettingsError(format!("flag for {key}: {why}")))?;
    }
    // Deserialising from text again would lose which layer was at fault; the key path in toml's message is enough.
    Settings::deserialize_from(table).map_err(|error| {
        let origin = file.map_or_else(
            || "settings".to_owned(),
            |(name, _)| format!("settings ({name} and environment)"),
        );
        SettingsError(format!("{origin}: {}", describe(error, "")))
    })
}

impl Settings {
    fn deserialize_from(table: Table) -> Result<Self, toml::de::Error> {
        use serde::Deserialize as _;
        Self::deserialize(Value::Table(table))
    }
}

fn read_text(name: &str, text: &str) -> Result<Table, SettingsError> {
    let fault = |error| SettingsError(format!("settings file {name}{}", describe(error, text)));
    // Typed once here so that a fault is reported with its line, which the merged table no longer knows.
    toml::from_str::<Settings>(text).map_err(fault)?;
    text.parse::<Table>().map_err(fault)
}

/// The fault and its place, without the line itself and the value at fault: a password may stand there.
fn describe(mut error: toml::de::Error, text: &str) -> String {
    let place = error.span().and_then(|span| text.get(..span.start)).map(|before| {
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!(", line {line}, column {column}: ")
    });
    // Without its input it shows the key instead of the line.
    error.set_input(None);
    let fault = without_value(&one_line(&error.to_string()));
    match place {
        Some(place) => place + &fault,
        None if text.is_empty() => fault,
        None => format!(": {fault}"),
    }
}

/// `invalid type: string "hunter2", expected u32` without what stands in the quotes.
fn without_value(fault: &str) -> String {
    const STARTS: [&str; 2] = ["invalid type: string ", "invalid value: string "];
    let Some(start) = STARTS.into_iter().find(|start| fault.starts_with(start)) else {
        return fault.to_owned();
    };
    match fault.rfind(", expected ") {
        Some(end) => format!("{}(not shown){}", start, &fault[end..]),
        None => format!("{start}(not shown)"),
    }
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
    fn a_fault_is_told_with_its_place_and_without_the_line() {
        for (text, words) in [
            ("[database]\nurl = \"postgres://me:hunter2@db\n", "line 2, column"),
            ("[kafka.properties]\n\"sasl.password\" = hunter2\n", "line 2, column"),
            ("database = \"postgres://me:hunter2@db\"\n", "line 1, column 12"),
            (
                "[kafka]\nproperties = \"sasl.password=hunter2, expected x\"\n",
                "line 2, column 14",
            ),
            ("[database]\nmax_connections = \"hunter2\"\n", "expected u32"),
            ("[kafka.properties]\n\"sasl.password\" = [\"hunter2\"]\n", "line 2"),
        ] {
            let error = merge_text(Some(("s.toml", text)), Vec::new(), &[]).unwrap_err().0;
            assert!(
                error.contains(words) && error.starts_with("settings file s.toml"),
                "{error}"
            );
            assert!(!error.contains("hunter2") && !error.contains('\n'), "{error}");
        }
        let vars = environment(&[("MOODSTREAM_DATABASE__MAX_CONNECTIONS", "hunter2")]);
        let error = merge(None, vars, &[]).unwrap_err().0;
        assert!(
            error.contains("max_connections") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn a_fault_is_one_line_whatever_is_in_the_names() {
        let odd = environment(&[("MOODSTREAM___A\nB", "1"), ("MOODSTREAM_A__B\nC", "1")]);
        for variable in odd {
            let error = merge(None, vec![variable], &[]).unwrap_err().0;
            assert!(!error.contains('\n'), "{error}");
        }
        let mut settings = merge(None, Vec::new(), &[]).unwrap();
        settings.kafka.topics = vec!["^(posts".to_owned()];
        let error = settings.check().unwrap_err().0;
        assert!(error.contains("^(posts") && !error.contains('\n'), "{error}");
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
            let _ = merge_text(Some(("s.toml", &text)), Vec::new(), &[]).and_then(|settings| settings.check());
        }
    }
}
