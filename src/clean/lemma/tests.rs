#![allow(clippy::unwrap_used)]

use super::*;

/// Words of our own and what NLTK 3.10.4 says of them, by `src/clean/wordnet/make.py pairs`.
const OF_NLTK: &str = include_str!("nltk.tsv");

fn lemma(word: &str) -> Cow<'_, str> {
    super::lemma(word).unwrap_or(Cow::Borrowed(word))
}

fn rows(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().map(|row| row.split_once('\t').unwrap())
}

/// Why a lemma is not that of NLTK.
fn kind(word: &str, lemma: &str, of_nltk: &str) -> Option<&'static str> {
    let preferred = |word: &str| PREFERRED.iter().any(|&(form, _)| form == word);
    match () {
        () if lemma == of_nltk => None,
        () if preferred(word) || preferred(of_nltk) => Some("preferred"),
        () if word.len() <= 2 || word.ends_with("ss") => Some("of two letters or on ss"),
        () if self::lemma(of_nltk) == lemma => Some("repeated"),
        () => Some("another"),
    }
}

#[test]
fn lemmas_are_those_of_the_guide() {
    for (word, expected) in [
        ("running", "run"),
        ("ran", "run"),
        ("runs", "run"),
        ("better", "good"),
        ("mice", "mouse"),
        ("feelings", "feel"),
        ("firemen", "fireman"),
        ("women", "woman"),
        ("boss", "boss"),
        ("selfies", "selfies"),
        ("2s", "2s"),
        ("cafés", "cafés"),
        ("", ""),
        ("s", "s"),
    ] {
        assert_eq!(lemma(word), expected, "{word}");
    }
}

#[test]
fn lemmas_are_nltk_s_but_for_three_kinds() {
    let differ: Vec<(&str, &str)> = rows(OF_NLTK)
        .filter_map(|(word, of_nltk)| Some((kind(word, &lemma(word), of_nltk)?, word)))
        .collect();
    let of = |wanted| -> Vec<&str> {
        let words = differ.iter().filter(|(kind, _)| *kind == wanted);
        words.map(|&(_, word)| word).collect()
    };
    assert_eq!(
        of("preferred"),
        [
            "felt", "better", "worse", "best", "worst", "saw", "fell", "feed", "ground"
        ]
    );
    assert_eq!(
        of("of two letters or on ss"),
        ["boss", "pass", "us", "as", "ass", "discuss"]
    );
    assert_eq!(of("repeated"), ["senses"]);
    assert_eq!(of("another"), [""; 0]);
}

/// A list of words and NLTK's lemmas, as `make.py words` and `make.py pairs` print them, in the file that
/// `MOODSTREAM_LEMMAS` names.
#[test]
#[ignore = "needs a list made from data that is not in the repository"]
fn frequent_words_have_nltk_s_lemmas() {
    let text = std::fs::read_to_string(std::env::var("MOODSTREAM_LEMMAS").unwrap()).unwrap();
    let mut kinds: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
    for (word, of_nltk) in rows(&text) {
        let lemma = lemma(word);
        if let Some(kind) = kind(word, &lemma, of_nltk) {
            kinds
                .entry(kind)
                .or_default()
                .push(format!("{word} {lemma} ({of_nltk})"));
        }
    }
    let (all, differ) = (text.lines().count(), kinds.values().map(Vec::len).sum::<usize>());
    println!("{differ} of {all} differ: {kinds:#?}");
    assert!(differ as f64 <= 0.03 * all as f64);
}

#[test]
fn the_tables_hold_what_the_lists_do() {
    for (list, table) in [
        (include_str!("../wordnet/nouns.txt"), NOUNS),
        (include_str!("../wordnet/verbs.txt"), VERBS),
    ] {
        assert!(list.lines().all(|word| table.contains(word)));
        assert!(!list.lines().any(|word| table.contains(&format!("{word}qx"))));
    }
}

#[test]
fn the_lemma_of_a_lemma_is_itself() {
    let lists = [
        include_str!("../wordnet/nouns.txt"),
        include_str!("../wordnet/verbs.txt"),
    ];
    let irregular = rows(include_str!("../wordnet/irregular.tsv")).map(|(word, _)| word);
    for word in lists.iter().flat_map(|list| list.lines()).chain(irregular) {
        for ending in ["", "s", "es", "ed", "ing", "ings"] {
            let form = format!("{word}{ending}");
            let once = lemma(&form);
            assert_eq!(lemma(&once), once, "{form}");
        }
    }
}
