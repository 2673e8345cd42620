//! Merges the layers of settings as raw values.

use std::path::Path;

use toml::{Table, Value};

pub use super::variables::PREFIX;
use super::{
    Settings,
    error::{SettingsError, one_line},
    names,
    values::set,
    variables::{is_other, path},
};

/// Reads settings from a file, the environment and flags, and checks them.
///
/// `environment` is usually [`std::env::vars`]. Names with [`PREFIX`] that are not settings are refused, except those of
/// this project's tools and those that Kubernetes creates for a service called `moodstream`.
/// `flags` are pairs of a dotted key (`kafka.brokers`) and a value.
///
/// # Errors
/// Returns an error that says what is wrong and in which layer: the file and line, the variable, or the key.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(&str, String)],
) -> Result<Settings, SettingsError> {
    let settings = merge(file, environment, flags)?;
    settings.check()?;
    Ok(settings)
}

/// Like [`load`], but without the checks of settings that only the running service needs (`classify` and `migrate` need
/// only a part).
///
/// # Errors
/// Like [`load`].
pub fn merge(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(&str, String)],
) -> Result<Settings, SettingsError> {
    let Some(path) = file else {
        return merge_text(None, environment, flags);
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
        file: name.clone(),
        source,
    })?;
    merge_text(Some((&name, &text)), environment, flags)
}

/// Like [`merge`], with the file's name and content given.
///
/// # Errors
/// Like [`load`].
pub fn merge_text(
    file: Option<(&str, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(&str, String)],
) -> Result<Settings, SettingsError> {
    let mut table = match file {
        Some((name, text)) => read_text(name, text)?,
        None => Table::new(),
    };
    let deprecations = deprecations(&table);
    let mut variables: Vec<_> = environment
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && !is_other(name))
        .collect();
    variables.sort();
    for (name, value) in &variables {
        let fault = |fault| SettingsError::Variable {
            name: name.clone(),
            fault,
        };
        let keys = path(name).map_err(fault)?;
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        set(&mut table, &keys, value).map_err(fault)?;
    }
    for (key, value) in flags {
        let keys: Vec<&str> = key.split('.').collect();
        set(&mut table, &keys, value).map_err(|fault| SettingsError::Flag {
            key: (*key).to_owned(),
            fault,
        })?;
    }
    // Deserializing from text again would lose the layer at fault. The key path in the error message is sufficient.
    let settings = Settings::deserialize_from(table).map_err(|error| {
        let place = match file {
            None => "environment and flags".to_owned(),
            Some((name, _)) => format!("{name}, environment and flags"),
        };
        let fault = describe(error);
        SettingsError::Parse { place, fault }
    })?;
    Ok(Settings {
        deprecations,
        ..settings
    })
}

/// The old names of settings that the file uses, a sentence each.
fn deprecations(file: &Table) -> Vec<String> {
    names::RENAMED
        .iter()
        .filter(|(old, _)| file.contains_key(*old))
        .map(|(old, new)| {
            format!("[[{old}]] in the settings file is now called [[{new}]]; a later version will refuse the old name")
        })
        .collect()
}

impl Settings {
    fn deserialize_from(table: Table) -> Result<Self, toml::de::Error> {
        use serde::Deserialize as _;
        Self::deserialize(Value::Table(table))
    }
}

fn read_text(name: &str, text: &str) -> Result<Table, SettingsError> {
    let fault = |error: toml::de::Error| {
        let place = match error.span().and_then(|span| text.get(..span.start)) {
            Some(before) => {
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
                format!("settings file {name}, line {line}, column {column}")
            }
            None => format!("settings file {name}"),
        };
        let fault = describe(error);
        SettingsError::Parse { place, fault }
    };
    let table: Table = text.parse().map_err(fault)?;
    if let Some((old, new)) = names::RENAMED
        .iter()
        .find(|(old, new)| table.contains_key(*old) && table.contains_key(*new))
    {
        return Err(SettingsError::Renamed {
            file: name.to_owned(),
            old,
            new,
        });
    }
    // Deserialized here only to report errors with their line, which the merged table does not have.
    toml::from_str::<Settings>(text).map_err(fault)?;
    Ok(table)
}

/// Describes an error without the line's content and the invalid value, which may be a password.
fn describe(mut error: toml::de::Error) -> String {
    // Without its input, the error shows the key instead of the line.
    error.set_input(None);
    let fault = without_value(&one_line(&error));
    fault.replace("expected a sequence", "expected a list such as [\"a\", \"b\"]")
}

/// Removes the quoted value from a message such as `invalid type: string "hunter2", expected u32`.
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
        let error = merge_text(Some(("s.toml", "[kafka]\nbroker = \"b:2\"")), Vec::new(), &[])
            .unwrap_err()
            .to_string();
        assert!(error.to_string().contains("broker"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn an_error_has_its_position_but_not_the_content_of_the_line() {
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
            let error = merge_text(Some(("s.toml", text)), Vec::new(), &[])
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(words) && error.starts_with("settings file s.toml"),
                "{error}"
            );
            assert!(!error.contains("hunter2") && !error.contains('\n'), "{error}");
        }
        let vars = environment(&[("MOODSTREAM_DATABASE__MAX_CONNECTIONS", "hunter2")]);
        let error = merge(None, vars, &[]).unwrap_err().to_string();
        assert!(
            error.contains("max_connections") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn an_error_is_one_line_for_any_content() {
        let odd = environment(&[("MOODSTREAM___A\nB", "1"), ("MOODSTREAM_A__B\nC", "1")]);
        for variable in odd {
            let error = merge(None, vec![variable], &[]).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
        let mut settings = merge(None, Vec::new(), &[]).unwrap();
        settings.kafka.topics = vec!["^(posts".to_owned()];
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains("^(posts") && !error.contains('\n'), "{error}");
        settings.kafka.topics = vec!["posts".to_owned()];
        settings.model.path = "m".into();
        settings.posts.languages = vec!["en\nxx".to_owned()];
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains("en xx") && !error.contains('\n'), "{error}");
    }

    /// Tracked subjects were once called topics, as those of Kafka are.
    #[test]
    fn the_old_name_of_subjects_works_and_is_told() {
        let subject = |section: &str, name: &str| format!("[[{section}]]\nname = \"{name}\"\nkeywords = [\"x\"]\n");
        let read = |text: &str| merge_text(Some(("s.toml", text)), Vec::new(), &[]);
        let old = read(&subject("topics", "a")).unwrap();
        let new = read(&subject("subjects", "a")).unwrap();
        assert_eq!(old.subjects, new.subjects);
        assert_eq!(new.subjects[0].name, "a");
        assert!(old.deprecations[0].contains("now called [[subjects]]"), "{old:?}");
        assert_eq!(new.deprecations, [""; 0]);
        let both = read(&(subject("topics", "a") + &subject("subjects", "b")))
            .unwrap_err()
            .to_string();
        assert!(
            both.contains("both [[subjects]] and [[topics]]") && both.contains("s.toml"),
            "{both}"
        );
        let fault = read("[[topics]]\nname = 1\n").unwrap_err().to_string();
        assert!(fault.contains("line 2"), "{fault}");
    }

    #[test]
    fn empty_languages_keep_all() {
        let settings = merge(None, environment(&[("MOODSTREAM_POSTS__LANGUAGES", "")]), &[]).unwrap();
        assert!(settings.posts.languages.is_empty());
    }

    #[test]
    fn properties_are_written_with_dots() {
        let vars = environment(&[("MOODSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD", "123")]);
        let settings = merge(None, vars, &[]).unwrap();
        assert_eq!(settings.kafka.properties.0["sasl.password"].to_string(), "123");
        assert!(!format!("{settings:?}").contains("123"));
    }

    #[test]
    fn variables_of_other_tools_are_ignored() {
        for name in [
            "MOODSTREAM_RUNTIME",
            "MOODSTREAM_CONFIG",
            "MOODSTREAM_TEST_URL",
            "MOODSTREAM_POSTGRES_HOST",
            "MOODSTREAM_OWNER_PASSWORD",
            "OTHER__KEY",
            // Variables that Kubernetes creates for services.
            "MOODSTREAM_SERVICE_HOST",
            "MOODSTREAM_SERVICE_PORT_METRICS",
            "MOODSTREAM_PORT",
            "MOODSTREAM_PORT_9464_TCP_ADDR",
            "MOODSTREAM_POSTGRESQL_SERVICE_PORT",
            "MOODSTREAM_KAFKA_PORT_9092_TCP",
        ] {
            merge(None, environment(&[(name, "1")]), &[]).unwrap();
        }
    }

    #[test]
    fn for_an_unknown_variable_the_closest_setting_is_suggested() {
        for (name, words) in [
            ("MOODSTREAM_DATABASE_URL", "did you mean MOODSTREAM_DATABASE__URL?"),
            ("MOODSTREAM_KAFKA_BROKERS", "did you mean MOODSTREAM_KAFKA__BROKERS?"),
            ("MOODSTREAM_KAFKA__GRUOP", "did you mean MOODSTREAM_KAFKA__GROUP?"),
            ("MOODSTREAM_BROKERS", "did you mean MOODSTREAM_KAFKA__BROKERS?"),
            ("MOODSTREAM_FOO", "sections are kafka, posts"),
            ("MOODSTREAM_SUBJECTS", "settings file alone"),
            ("MOODSTREAM_TOPICS", "did you mean MOODSTREAM_KAFKA__TOPICS?"),
            ("MOODSTREAM_KAFKA__", "no such setting"),
        ] {
            let error = merge(None, environment(&[(name, "hunter2")]), &[])
                .unwrap_err()
                .to_string();
            assert!(error.contains(words) && error.contains(name), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_list_may_be_in_brackets() {
        for (value, topics) in [
            ("a, b", vec!["a", "b"]),
            ("[\"a\", 'b']", vec!["a", "b"]),
            ("^posts-[0-9]+", vec!["^posts-[0-9]+"]),
        ] {
            let settings = merge(None, environment(&[("MOODSTREAM_KAFKA__TOPICS", value)]), &[]).unwrap();
            assert_eq!(settings.kafka.topics, topics, "{value}");
        }
        let error = merge(None, environment(&[("MOODSTREAM_KAFKA__TOPICS", "[a,b]")]), &[]).unwrap_err();
        assert!(error.to_string().contains("without brackets: a,b"), "{error}");
        let error = merge_text(Some(("s.toml", "[kafka]\ntopics = \"posts\"\n")), Vec::new(), &[]).unwrap_err();
        assert!(
            error.to_string().contains("expected a list such as") && error.to_string().contains("line 2"),
            "{error}"
        );
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
