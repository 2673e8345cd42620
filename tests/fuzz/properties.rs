//! Properties that hold for any bytes. The fuzz targets search for counterexamples, and `tests/offline/bad_input.rs` checks
//! them on seeds and random mutations in every test run.
//!
//! A property takes raw bytes and panics if it is violated. This also detects panics, endless loops and unbounded memory in the
//! code under test.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use moodstream::{
    clean::Profile,
    config::{Settings, SettingsError, layers},
    filter::{LanguageFilter, SubjectSet},
    model::{ModelFolder, ModelOptions, Tokenizer},
    post::{self, Envelope, Format, Hashtag, Id, Language, Limits, ParseOptions, Parsed, Reject, Text},
    store::DatabaseUrl,
};
use time::macros::datetime;

/// The wire formats, selected by the first byte of an input to [`parse`].
pub const FORMATS: [Format; 8] = [
    Format::Auto,
    Format::TwitterV1,
    Format::TwitterV2,
    Format::ActivityStreams,
    Format::Jetstream,
    Format::Mastodon,
    Format::Plain,
    Format::Text,
];

/// Planted in place of a secret; it must not appear in any output.
const SECRET: &str = "hunter2hunter2";

/// Returns the project's folder, wherever this is compiled.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|folder| folder.join("migrations").is_dir());
    root.unwrap_or(here).to_owned()
}

/// A record. The first byte selects the format, the record's timestamp (none, valid or out of range), and small limits.
pub fn parse(data: &[u8]) {
    let Some((choice, record)) = data.split_first() else {
        return;
    };
    let format = FORMATS[usize::from(choice % 8)];
    let sane = choice & 16 == 0;
    let time = if sane {
        datetime!(2026-03-01 12:00 UTC)
    } else {
        datetime!(9999-12-31 23:59:59 UTC)
    };
    let envelope = Envelope {
        timestamp: (choice & 8 != 0).then_some(time),
        fallback_id: "posts/0/0@0".try_into().ok(),
    };
    let limits = match choice & 64 {
        0 => Limits::default(),
        _ => Limits {
            max_bytes: 512,
            max_text_chars: 40,
            max_depth: 6,
            max_hashtags: 3,
        },
    };
    let options = ParseOptions {
        format,
        limits,
        ..ParseOptions::default()
    };
    let outcome = post::parse(record, &envelope, &options);
    assert_eq!(outcome, post::parse(record, &envelope, &options));
    check_outcome(&outcome, &limits);
    let _ = post::key(record, &options);
}

fn check_outcome(outcome: &Result<Parsed, Reject>, limits: &Limits) {
    match outcome {
        Ok(Parsed::Post(post)) => {
            let ids = [Some(&post.id), post.author_id.as_ref(), post.repost_of.as_ref()];
            for id in ids.into_iter().flatten() {
                assert!(!id.is_empty() && id.len() <= Id::MAX_BYTES, "{post:?}");
            }
            let texts = [Some(&post.text), post.quoted_text.as_ref()].into_iter().flatten();
            let strings = texts.map(Text::as_str).chain(post.hashtags.iter().map(Hashtag::as_str));
            for string in strings.chain(ids.into_iter().flatten().map(Id::as_str)) {
                assert!(!string.contains('\0') && !string.is_empty(), "{post:?}");
            }
            assert_eq!(Language::registered(post.lang.as_str()), Some(post.lang), "{post:?}");
            for text in [Some(&post.text), post.quoted_text.as_ref()].into_iter().flatten() {
                assert!(text.chars().count() <= limits.max_text_chars, "{post:?}");
            }
            assert!(post.hashtags.len() <= limits.max_hashtags, "{post:?}");
            assert!((1970..=2200).contains(&post.created_at.get().year()), "{post:?}");
            for profile in Profile::ALL {
                let cleaned = profile.clean(&post.text);
                assert!(cleaned.len() <= most_bytes(profile, &post.text), "{post:?}");
            }
        }
        Ok(Parsed::Deletion(deletion)) => {
            let id = &deletion.post_id;
            assert!(
                !id.contains('\0') && !id.is_empty() && id.len() <= Id::MAX_BYTES,
                "{deletion:?}"
            );
        }
        Err(reject) => {
            assert!(!reject.detail.is_empty() && reject.detail.chars().count() <= Reject::MAX_DETAIL_CHARS);
            assert!(!reject.detail.contains(char::is_control), "{reject}");
        }
    }
}

/// Returns the maximum length of a cleaned text: names of emoji are longer than the emoji.
fn most_bytes(profile: Profile, text: &str) -> usize {
    match profile {
        Profile::TwitterRoberta => 3 * text.len() + 8,
        Profile::Classical => 20 * text.len() + 8,
    }
}

/// A text, cleaned with every profile.
pub fn clean(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for profile in Profile::ALL {
        let once = profile.clean(&text);
        assert_eq!(profile.clean(&once), once, "{profile} is not idempotent");
        assert!(!once.contains(char::is_control), "{once:?}");
        assert!(!once.contains("  ") && once.trim() == once, "{once:?}");
        assert!(!once.contains(|c: char| c.is_whitespace() && c != ' '), "{once:?}");
        assert!(
            once.len() <= most_bytes(profile, &text),
            "{} bytes from {}",
            once.len(),
            text.len()
        );
    }
}

/// A text, tokenised by each kind of tokenizer that a model folder may contain.
pub fn tokenise(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for (name, tokenizer, vocabulary) in &*TOKENIZERS {
        // A failure is allowed in general (the text becomes a dead letter), but none of these tokenizers has a reason to fail.
        let ids = match tokenizer.encode(&text) {
            Ok(ids) => ids,
            Err(error) => panic!("{name}: {error}"),
        };
        assert!(ids.len() <= tokenizer.max_tokens(), "{name}: {} tokens", ids.len());
        assert!(ids.len() >= 2, "{name}: the special tokens are missing");
        assert!(ids.iter().all(|id| id < vocabulary), "{name}: {ids:?}");
        assert_eq!(tokenizer.encode(&text).ok().as_ref(), Some(&ids), "{name}");
    }
}

/// Byte-level BPE as in the shipped model, and small WordPiece and Unigram tokenizers, each with its vocabulary size.
static TOKENIZERS: LazyLock<Vec<(&str, Tokenizer, u32)>> = LazyLock::new(|| {
    let shipped = root().join("models/emotion-roberta-6x384");
    let open = |folder: &Path| match ModelFolder::open(folder, &ModelOptions::default()) {
        Ok(folder) => folder.tokenizer().clone(),
        Err(error) => panic!("{error}"),
    };
    let rows = std::fs::read_to_string(shipped.join("config.json")).unwrap_or_default();
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap_or_default();
    let rows = rows["vocab_size"].as_u64().and_then(|rows| u32::try_from(rows).ok());
    let mut all = vec![("bpe", open(&shipped), rows.unwrap_or(u32::MAX))];
    for (name, tokenizer, rows) in [("wordpiece", wordpiece(), 64), ("unigram", unigram(), 64)] {
        let folder = std::env::temp_dir().join(format!("moodstream-{name}-{}", std::process::id()));
        let config = serde_json::json!({
            "id2label": {"0": "no", "1": "yes"}, "problem_type": "single_label_classification",
            "vocab_size": rows, "max_position_embeddings": 130, "pad_token_id": 0,
        });
        let made = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join("config.json"), config.to_string()))
            .and_then(|()| std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()))
            .and_then(|()| std::fs::write(folder.join("model.onnx"), "never run"));
        assert!(made.is_ok(), "{made:?}");
        all.push((name, open(&folder), rows));
        let _ = std::fs::remove_dir_all(folder);
    }
    all
});

fn special(tokens: &[&str]) -> Vec<serde_json::Value> {
    let token = |(id, content): (usize, &&str)| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    tokens.iter().enumerate().map(token).collect()
}

fn frame(first: (&str, u32), last: (&str, u32)) -> serde_json::Value {
    let piece = |token: &str| serde_json::json!({"SpecialToken": {"id": token, "type_id": 0}});
    let named = |(token, id): (&str, u32)| serde_json::json!({"id": token, "ids": [id], "tokens": [token]});
    let text = |id: &str| serde_json::json!({"Sequence": {"id": id, "type_id": 0}});
    serde_json::json!({
        "type": "TemplateProcessing",
        "single": [piece(first.0), text("A"), piece(last.0)],
        "pair": [piece(first.0), text("A"), piece(last.0), text("B"), piece(last.0)],
        "special_tokens": {first.0: named(first), last.0: named(last)},
    })
}

fn wordpiece() -> serde_json::Value {
    let mut vocabulary = serde_json::Map::new();
    let tokens = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "happy", "sad", "##ness", "user", "http", "@", "!", "ほ",
    ];
    let letters = ('a'..='z')
        .map(String::from)
        .chain(('a'..='z').map(|c| format!("##{c}")));
    for (id, token) in tokens.into_iter().map(String::from).chain(letters).enumerate() {
        vocabulary.insert(token, id.into());
    }
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special(&tokens[..4]),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": frame(("[CLS]", 2), ("[SEP]", 3)),
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary},
    })
}

fn unigram() -> serde_json::Value {
    let words = ["▁", "▁happy", "▁sad", "ness", "@user", "http", "!", "é", "ほ", "👍"];
    let pieces = words.into_iter().map(String::from).chain(('a'..='z').map(String::from));
    let vocabulary: Vec<_> = ["<s>", "<pad>", "</s>", "<unk>"]
        .iter()
        .map(|token| serde_json::json!([token, 0.0]))
        .chain(pieces.map(|piece| serde_json::json!([piece, -1.0 - piece.len() as f64 / 8.0])))
        .collect();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special(&["<s>", "<pad>", "</s>", "<unk>"]),
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "post_processor": frame(("<s>", 0), ("</s>", 2)),
        "decoder": null,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": false},
    })
}

/// Settings: the content of a file, then environment variables as `NAME=value` without their prefix, all
/// separated by NUL.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let variables: Vec<(String, String)> = parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| (format!("{}{name}", layers::PREFIX), value.to_owned()))
        .collect();
    let merged = layers::merge_text(Some(("s.toml", file)), variables.clone(), &[]);
    if let Ok(settings) = &merged {
        use_settings(settings);
    }
    // Names of variables are converted to lower case.
    if !text.to_lowercase().contains(SECRET) {
        no_secret_comes_out(file, variables, merged);
    }
}

/// Uses the settings as the service does before it accesses any resource.
fn use_settings(settings: &Settings) {
    if let Err(error) = settings.check() {
        one_line(&error);
    }
    let _ = LanguageFilter::new(&settings.posts.languages);
    if let Err(error) = SubjectSet::new(&settings.subjects) {
        let error = error.to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}

fn one_line(error: &SettingsError) {
    let error = error.to_string();
    assert!(!error.is_empty() && !error.contains('\n'), "{error}");
}

fn no_secret_comes_out(file: &str, mut variables: Vec<(String, String)>, merged: Result<Settings, SettingsError>) {
    if let Err(error) = merged {
        one_line(&error);
    }
    let url = format!("postgres://me:{SECRET}@db:5432/moods");
    for (name, value) in [("KAFKA__PROPERTIES__SASL_PASSWORD", SECRET), ("DATABASE__URL", &url)] {
        variables.push((format!("{}{name}", layers::PREFIX), value.to_owned()));
    }
    let shown = match layers::merge_text(Some(("s.toml", file)), variables, &[]) {
        Ok(settings) => format!("{settings:?} {:?}", settings.check()),
        Err(error) => error.to_string(),
    };
    assert!(!shown.contains(SECRET), "the settings or the error show a secret");
    // Characters with a special meaning in URLs, unescaped.
    let (before, after) = file.split_at(file.floor_char_boundary(file.len() / 2));
    for url in [
        format!("postgres://me:{before}{SECRET}{after}@db:5432/moods"),
        format!("postgres://db/moods?password={before}{SECRET}{after}"),
    ] {
        let shown = DatabaseUrl::from(url);
        let shown = format!("{shown} {shown:?}");
        assert!(
            !shown.contains(SECRET),
            "the URL shows its password: {}",
            shown.chars().take(200).collect::<String>()
        );
    }
}
