//! Checks the posts used to evaluate irony and negation, and the project's own training posts.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

const EMOTIONS: [&str; 7] = ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"];

/// The texts of the fixtures in twenty languages and of those on irony and negation.
pub(crate) fn evaluated_texts() -> Vec<String> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folders = ["irony", "languages"].map(|folder| fs::read_dir(fixtures.join(folder)).unwrap());
    let mut files: Vec<PathBuf> = folders.into_iter().flatten().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "tsv"));
    files.sort();
    let rows = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect::<String>();
    let texts: Vec<String> = rows
        .lines()
        .map(|row| row.split('\t').next().unwrap().to_owned())
        .collect();
    assert_eq!(texts.len(), 480);
    texts
}

#[test]
fn there_are_sixty_distinct_posts_with_known_emotions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/irony");
    let mut texts = BTreeSet::new();
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "tsv")) {
        let rows = fs::read_to_string(&file).unwrap();
        assert_eq!(rows.lines().count(), 12, "{}", file.display());
        for row in rows.lines() {
            let (text, emotion) = row.split_once('\t').unwrap();
            assert!(EMOTIONS.contains(&emotion), "{row}");
            assert!(texts.insert(text.to_lowercase()), "{text} is a duplicate");
        }
    }
    assert_eq!(texts.len(), 60);
}

fn training_posts() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/recipes/posts.tsv")).unwrap()
}

/// The languages of the training posts (BCP 47).
const LANGUAGES: [&str; 28] = [
    "ar", "bg", "cs", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nl", "pl",
    "pt-BR", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh",
];

/// The four-character sequences of a text's letters and digits.
fn sequences(text: &str) -> HashSet<String> {
    let letters: Vec<char> = text
        .to_lowercase()
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .collect();
    letters
        .windows(4.min(letters.len().max(1)))
        .map(|four| four.iter().collect())
        .collect()
}

#[test]
fn training_posts_have_known_labels_and_no_duplicates() {
    let mut texts = BTreeSet::new();
    let rows = training_posts();
    for row in rows.lines() {
        let fields: Vec<&str> = row.split('\t').collect();
        let [text, labels, language] = fields[..] else {
            panic!("{row}: three fields");
        };
        let labels: Vec<&str> = labels.split(',').collect();
        assert!(labels.iter().all(|label| EMOTIONS.contains(label)), "{row}");
        assert!(labels == ["neutral"] || !labels.contains(&"neutral"), "{row}");
        assert!(LANGUAGES.contains(&language), "{row}");
        assert!(texts.insert(text.to_lowercase()), "{text} is a duplicate");
    }
    assert_eq!(texts.len(), 7_438, "the count in models/lab/README.md");
}

#[test]
fn no_training_post_shares_half_of_its_sequences_with_an_evaluated_one() {
    let evaluated: Vec<(String, HashSet<String>)> = evaluated_texts()
        .into_iter()
        .map(|text| (text.clone(), sequences(&text)))
        .collect();
    let mut containing: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, (_, sequences)) in evaluated.iter().enumerate() {
        for sequence in sequences {
            containing.entry(sequence).or_default().push(index);
        }
    }
    for row in training_posts().lines() {
        let own = sequences(row.split('\t').next().unwrap());
        let mut shared: HashMap<usize, usize> = HashMap::new();
        for other in own
            .iter()
            .filter_map(|sequence| containing.get(sequence.as_str()))
            .flatten()
        {
            *shared.entry(*other).or_default() += 1;
        }
        for (other, both) in shared {
            let (text, sequences) = &evaluated[other];
            assert!(2 * both < own.len() + sequences.len() - both, "{row} resembles {text}");
        }
    }
}
