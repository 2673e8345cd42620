//! Checks that `deploy/moodstream.example.toml` matches the code.

use std::{collections::BTreeSet, io::Write as _, path::Path};

use moodstream::config::{Settings, layers};
use regex::Regex;

fn example() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/moodstream.example.toml")).unwrap()
}

fn load(text: &str) -> Settings {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    layers::load(Some(file.path()), [], &[]).unwrap()
}

/// Returns the example with every commented-out setting enabled: `#key = value`, but not `# words`.
fn with_every_setting() -> String {
    Regex::new(r#"(?m)^#([a-z_"\[])"#)
        .unwrap()
        .replace_all(&example(), "$1")
        .into_owned()
}

#[test]
fn the_example_sets_only_the_topics_and_the_model() {
    let mut expected = Settings::default();
    expected.kafka.topics = vec!["posts".to_owned()];
    expected.model.path = "models/emotion-xlm-roberta-12x384-multilingual".into();
    assert_eq!(format!("{:#?}", load(&example())), format!("{expected:#?}"));
}

#[test]
fn the_defaults_in_the_example_match_the_code() {
    let (named, default) = (load(&with_every_setting()), Settings::default());
    let mut posts = named.posts.clone();
    assert!(posts.fields.text.is_some() && posts.fields.quoted_text.is_some());
    posts.fields = default.posts.fields.clone();
    assert_eq!(format!("{posts:#?}"), format!("{:#?}", default.posts));
    assert_eq!(format!("{:#?}", named.window), format!("{:#?}", default.window));
    assert_eq!(format!("{:#?}", named.database), format!("{:#?}", default.database));
    assert_eq!(
        format!("{:#?}", named.dead_letter),
        format!("{:#?}", default.dead_letter)
    );
    assert_eq!(format!("{:#?}", named.http), format!("{:#?}", default.http));
    assert_eq!(format!("{:#?}", named.log), format!("{:#?}", default.log));
    assert_eq!(format!("{:#?}", named.shutdown), format!("{:#?}", default.shutdown));

    // Where the comment shows an example instead of the default, the rest must still match.
    let mut store = named.store.clone();
    store.retention_days = default.store.retention_days;
    (store.service_role, store.read_role) = (None, None);
    store.minute_retention_days = default.store.minute_retention_days;
    store.hour_retention_days = default.store.hour_retention_days;
    store.day_retention_days = default.store.day_retention_days;
    assert_eq!(format!("{store:#?}"), format!("{:#?}", default.store));
    let mut kafka = named.kafka.clone();
    assert_eq!(
        kafka.dead_letter_topic.as_deref(),
        Some(default_dead_letters(&kafka.topics).as_str())
    );
    kafka.topics.clear();
    kafka.dead_letter_topic = None;
    kafka.properties = default.kafka.properties.clone();
    assert_eq!(format!("{kafka:#?}"), format!("{:#?}", default.kafka));
    let mut classify = named.classify.clone();
    classify.onnxruntime = None;
    classify.session_config.clear();
    assert_eq!(format!("{classify:#?}"), format!("{:#?}", default.classify));
}

fn default_dead_letters(topics: &[String]) -> String {
    format!("{}.dead-letter", topics[0])
}

#[test]
fn the_example_contains_every_setting() {
    let text = with_every_setting();
    let shown = format!("{:#?}", load(&text));
    let field = Regex::new(r"(?m)^ {4,8}([a-z_]+): ").unwrap();
    let fields: BTreeSet<&str> = field
        .captures_iter(&shown)
        .map(|found| found.extract::<1>().1[0])
        .collect();
    assert!(fields.len() > 40, "found too few fields: {fields:?}");
    let missing: Vec<&str> = fields
        .into_iter()
        // Found while reading the file; not a setting.
        .filter(|field| *field != "deprecations")
        .filter(|field| {
            !Regex::new(&format!(r"(?m)^(?:{field} = |\[+(?:\w+\.)?{field}\]+$)"))
                .unwrap()
                .is_match(&text)
        })
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}
