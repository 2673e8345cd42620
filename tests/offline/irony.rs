//! Checks the posts used to evaluate irony and negation.

use std::{collections::BTreeSet, fs, path::Path};

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
            let known = ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"];
            assert!(known.contains(&emotion), "{row}");
            assert!(texts.insert(text.to_lowercase()), "{text} is a duplicate");
        }
    }
    assert_eq!(texts.len(), 60);
}
