#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use time::OffsetDateTime;

use super::*;
use crate::post::{Hashtag, Source, Text, TimeSource};

fn post(text: &str) -> Post {
    Post {
        source: Source::Plain,
        id: "1".try_into().unwrap(),
        created_at: OffsetDateTime::UNIX_EPOCH.try_into().unwrap(),
        time_source: TimeSource::Post,
        author_id: None,
        lang: Language::of_tag("en"),
        lang_identified: false,
        text: text.try_into().unwrap(),
        repost_of: None,
        quoted_text: None,
        hashtags: Vec::new(),
    }
}

fn subject(name: &str, keywords: &[&str]) -> SubjectSettings {
    SubjectSettings {
        name: name.to_owned(),
        keywords: keywords.iter().map(|&k| k.to_owned()).collect(),
        ..SubjectSettings::default()
    }
}

fn matches(keyword: &str, text: &str) -> bool {
    !SubjectSet::new(&[subject("t", &[keyword])])
        .unwrap()
        .matches(&post(text))
        .is_empty()
}

#[test]
fn languages_go_by_primary_subtag() {
    let languages = LanguageFilter::new(["en", "pt-BR", "IN"]).unwrap();
    for lang in ["en", "EN-gb", "pt", "pt_PT", "id", "in"] {
        assert!(languages.allows(Language::of_tag(lang)), "{lang}");
    }
    for lang in ["und", "", "e", "english", "fr"] {
        assert!(!languages.allows(Language::of_tag(lang)), "{lang}");
    }
    assert!(LanguageFilter::default().allows(Language::UNDETERMINED));
    assert!(LanguageFilter::new(["und"]).unwrap().allows(Language::UNDETERMINED));
    for unregistered in ["e n", "", "english", "qzxwvk"] {
        assert_eq!(
            LanguageFilter::new([unregistered]).unwrap_err(),
            FilterError::Language(unregistered.to_owned())
        );
    }
}

#[test]
fn keywords_are_whole_words_in_any_script() {
    for (keyword, text) in [
        ("cat", "A CAT!"),
        ("cat", "#cat"),
        ("cat", "cat"),
        ("climate change", "Climate\n change is"),
        ("don't", "I don’t know"),
        ("c++", "I like C++."),
        ("Köln", "ko\u{308}ln"),
        ("東京", "私は東京に行く"),
        ("서울", "서울에서"),
        ("iphone", "新しいiPhoneが"),
        ("😂", "lol😂😂"),
        ("straße", "STRAßE"),
        ("мир", "Мир!"),
    ] {
        assert!(matches(keyword, text), "{keyword} in {text}");
    }
    for (keyword, text) in [
        ("cat", "concatenate"),
        ("cat", "cats"),
        ("cat", "cat_food"),
        ("мир", "миру"),
        ("a.c", "abc"),
    ] {
        assert!(!matches(keyword, text), "{keyword} in {text}");
    }
}

#[test]
fn subjects_are_found_by_text_quote_hashtag_and_regex_sorted_once() {
    let subjects = SubjectSet::new(&[
        SubjectSettings {
            hashtags: vec!["#Rust".to_owned(), "ferris".to_owned()],
            ..subject("rust", &["cargo", "rustc"])
        },
        SubjectSettings {
            regex: Some(r"\bv\d+\.\d+".to_owned()),
            ..subject("release", &[])
        },
        subject("cats", &["cat"]),
    ])
    .unwrap();
    let mut post = post("Cargo and rustc v1.95, cargo!");
    assert_eq!(subjects.matches(&post), ["release".into(), "rust".into()]);
    post.quoted_text = Text::new("my cat").ok();
    post.text = Text::new("x").unwrap();
    post.hashtags = vec![Hashtag::new("rust").unwrap(), Hashtag::new("ferris").unwrap()];
    assert_eq!(subjects.matches(&post), ["cats".into(), "rust".into()]);
}

#[test]
fn a_regex_may_ask_for_case() {
    let set = SubjectSet::new(&[SubjectSettings {
        regex: Some("(?-i)US".to_owned()),
        ..subject("us", &[])
    }])
    .unwrap();
    assert_eq!(set.matches(&post("the US")).len(), 1);
    assert!(set.matches(&post("us")).is_empty());
}

#[test]
fn settings_are_checked_and_errors_name_the_subject() {
    let error = |subjects: &[SubjectSettings]| SubjectSet::new(subjects).unwrap_err().to_string();
    assert!(error(&[subject("a", &["x"]), subject("", &["x"])]).starts_with("subject 2 has an empty name"));
    assert!(error(&[subject("a", &["x"]), subject("a", &["y"])]).contains("`a` is defined twice"));
    assert!(error(&[subject("a", &[])]).contains("`a` has no keywords"));
    assert!(error(&[subject("a", &["x", " "])]).contains("`a`: a keyword or hashtag is empty"));
    assert!(error(&[subject(" a", &["x"])]).contains("` a`"));
    assert!(error(&[subject(&"a".repeat(65), &["x"])]).contains("at most 64"));
    let bad = SubjectSettings {
        regex: Some("(".to_owned()),
        ..subject("a", &[])
    };
    assert_eq!(error(&[bad]), "subject `a`: bad regex: unclosed group");
    let huge = SubjectSettings {
        regex: Some(r"\w{1000}{1000}{10}".to_owned()),
        ..subject("a", &[])
    };
    assert!(error(&[huge]).starts_with("subject `a`: "), "size");
    let hashtag = SubjectSettings {
        hashtags: vec!["#".to_owned()],
        ..subject("a", &[])
    };
    assert!(error(&[hashtag]).contains("is empty"));
    assert!(toml::from_str::<SubjectSettings>("name = 'a'\nkeyword = ['x']").is_err());
}

#[test]
fn only_tracked_drops_the_rest() {
    let subjects = SubjectSet::new(&[subject("cats", &["cat"])]).unwrap();
    let english = LanguageFilter::new(["en"]).unwrap();
    let all = PostFilter::new(english.clone(), subjects.clone(), false).unwrap();
    let tracked = PostFilter::new(english.clone(), subjects, true).unwrap();
    assert_eq!(all.admit(&post("dog")), Some(Vec::new()));
    assert_eq!(tracked.admit(&post("dog")), None);
    assert_eq!(tracked.admit(&post("cat")), Some(vec!["cats".into()]));
    assert_eq!(
        all.admit(&Post {
            lang: Language::of_tag("fr"),
            ..post("cat")
        }),
        None
    );
    assert_eq!(
        PostFilter::new(english, SubjectSet::default(), true).unwrap_err(),
        FilterError::NothingTracked
    );
}

proptest! {
    #[test]
    fn a_keyword_between_spaces_is_found(
        keyword in "[\\p{L}\\p{N}\\p{P}\\p{S}]{1,8}", before in "[a-z]{0,4}", after in "[a-z]{0,4}",
    ) {
        let text = format!("{before} {keyword} {after}");
        prop_assert!(matches(&keyword, &text));
    }

    #[test]
    fn a_word_within_a_latin_word_is_not(keyword in "[a-z]{1,5}", before in "[A-Z]{1,4}") {
        prop_assume!(!before.to_lowercase().contains(&keyword));
        let text = format!("{before}{keyword}");
        prop_assert!(!matches(&keyword, &text));
    }

    #[test]
    fn names_come_sorted_without_repeats(text in "[abc ]{0,12}", quoted in "[abc ]{0,12}") {
        let set = SubjectSet::new(&[subject("z", &["a", "b"]), subject("y", &["b"]), subject("x", &["c", "a"])]).unwrap();
        let found = set.matches(&Post { quoted_text: Text::new(quoted).ok(), ..post(&format!("{text}.")) });
        prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn building_never_panics(name in any::<String>(), keyword in any::<String>(), regex in any::<String>()) {
        if let Ok(set) = SubjectSet::new(&[SubjectSettings { regex: Some(regex), ..subject(&name, &[&keyword]) }]) {
            let _ = set.matches(&post(&format!("{keyword}.")));
        }
    }
}
