#![allow(clippy::unwrap_used)]

use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn read_one(name: &str, files: &[(&str, &str)]) -> Result<Vec<(String, Vec<String>, u64)>, String> {
    let folder = folder(files);
    let examples =
        read(&folder.path().join(name), Format::Auto).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    Ok(examples
        .into_iter()
        .map(|example| (example.text, example.labels, example.origin.row))
        .collect())
}

fn row(text: &str, labels: &[&str], row: u64) -> (String, Vec<String>, u64) {
    (
        text.to_owned(),
        labels.iter().map(|&label| label.to_owned()).collect(),
        row,
    )
}

#[test]
fn each_format_is_detected_and_read() {
    let tsv = read_one("a.tsv", &[("a.tsv", "I am\tjoy\n\n\"x\tfear, anger,fear\r\n")]);
    assert_eq!(
        tsv.unwrap(),
        [row("I am", &["joy"], 1), row("\"x", &["fear", "anger"], 3)]
    );
    let csv = read_one("a.csv", &[("a.csv", "text,labels\n\"a, b\nc\",\"joy,love\"\nd,fear\n")]);
    assert_eq!(
        csv.unwrap(),
        [row("a, b c", &["joy", "love"], 2), row("d", &["fear"], 4)]
    );
    let jsonl = read_one(
        "a.jsonl",
        &[(
            "a.jsonl",
            "{\"text\":\"a\",\"label\":\"joy\"}\n{\"text\":\"b\",\"labels\":[\"x\",\"y\"],\"id\":1}",
        )],
    );
    assert_eq!(jsonl.unwrap(), [row("a", &["joy"], 1), row("b", &["x", "y"], 2)]);
    let crowdflower = read_one(
        "t.csv",
        &[(
            "t.csv",
            "tweet_id,sentiment,author,content\n1,love,me,&lt;3 \"you\" itï¿½s\n",
        )],
    );
    assert_eq!(crowdflower.unwrap(), [row("<3 \"you\" it's", &["love"], 2)]);
    let goemotions = read_one(
        "t.tsv",
        &[
            ("t.tsv", "\"He said \"\"no\"\"\"\t0,1\tabc\nPlain\t1\td\n"),
            ("labels.txt", "anger\njoy\n"),
        ],
    );
    assert_eq!(
        goemotions.unwrap(),
        [row("He said \"no\"", &["anger", "joy"], 1), row("Plain", &["joy"], 2)]
    );
    let files = [
        ("v_text.txt", "@user hm \nyes\n"),
        ("v_labels.txt", "1\n0\n"),
        ("mapping.txt", "0\tanger\n1\tjoy\n"),
    ];
    assert_eq!(
        read_one("v_text.txt", &files).unwrap(),
        [row("@user hm", &["joy"], 1), row("yes", &["anger"], 2)]
    );
    let carer = read_one("c.txt", &[("c.txt", "i feel; so;sadness\n")]);
    assert_eq!(carer.unwrap(), [row("i feel; so", &["sadness"], 1)]);
    let ec = read_one(
        "e.txt",
        &[("e.txt", "ID\tTweet\tanger\tjoy\n2017\tHi \"you\t1\t1\n2018\tHm\t0\t0\n")],
    );
    assert_eq!(
        ec.unwrap(),
        [row("Hi \"you", &["anger", "joy"], 2), row("Hm", &["neutral"], 3)]
    );
    let four = read_one("s.tsv", &[("s.tsv", "12\tpositive\ty\\u2019all\t\n")]);
    assert_eq!(four.unwrap(), [row("y’all", &["positive"], 1)]);
    let nrc = read_one("n.txt", &[("n.txt", "12:\tSo :: much \t:: joy\n")]);
    assert_eq!(nrc.unwrap(), [row("So :: much", &["joy"], 1)]);
}

#[test]
fn errors_name_file_and_row() {
    for (name, files, file, detail) in [
        ("a.tsv", &[("a.tsv", "x\tjoy\nno label\n")][..], "a.tsv:2", "1 columns"),
        ("a.tsv", &[("a.tsv", "x\tjoy,\n")], "a.tsv:1", "a label is empty"),
        ("a.csv", &[("a.csv", "x,joy\ny,joy,z\n")], "a.csv:2", "3 columns"),
        ("a.jsonl", &[("a.jsonl", "{\"text\":\"a\"}\n")], "a.jsonl:1", "label"),
        (
            "t.tsv",
            &[("t.tsv", "x\t0\ta\ny\t7\tb\n"), ("labels.txt", "anger\n")],
            "t.tsv:2",
            "label numbers `7`",
        ),
        (
            "t.tsv",
            &[("t.tsv", "x\t0\ta\n")],
            "labels.txt can't be read",
            "No such file",
        ),
        (
            "v_text.txt",
            &[
                ("v_text.txt", "a\nb\n"),
                ("v_labels.txt", "0\n"),
                ("mapping.txt", "0\tx\n"),
            ],
            "v_text.txt",
            "2 texts",
        ),
        (
            "e.txt",
            &[("e.txt", "ID\tTweet\tanger\n1\tx\t2\n")],
            "e.txt:2",
            "0 or 1",
        ),
        ("x.txt", &[("x.txt", "words alone\n")], "x.txt:1", "unknown format"),
        ("x.tsv", &[("x.tsv", "\t\n")], "x.tsv", ""),
    ] {
        let error = read_one(name, files).unwrap_err();
        assert!(
            error.contains(&format!("/{file}: ")) && error.contains(detail),
            "{error}"
        );
    }
    let folder = folder(&[]);
    let path = folder.path().join("latin.tsv");
    fs::write(&path, b"ok\tjoy\ncaf\xe9\tjoy\n").unwrap();
    assert!(
        read(&path, Format::Auto)
            .unwrap_err()
            .to_string()
            .contains("latin.tsv:2: not UTF-8")
    );
}

#[test]
fn written_files_can_be_read_also_compressed() {
    let folder = folder(&[]);
    let path = folder.path().join("a.tsv");
    let origin = Origin {
        file: path.as_path().into(),
        row: 1,
    };
    let example = |text: &str, labels: &[&str]| Example {
        text: text.to_owned(),
        labels: labels.iter().map(|&l| l.to_owned()).collect(),
        unknown: Vec::new(),
        language: None,
        origin: origin.clone(),
    };
    let examples = [example("\"quoted\" & 😂", &["joy", "love"]), example("x", &["fear"])];
    write_tsv(&path, &examples).unwrap();
    let strip = |examples: Vec<Example>| examples.into_iter().map(|e| (e.text, e.labels)).collect::<Vec<_>>();
    assert_eq!(strip(read(&path, Format::Tsv).unwrap()), strip(examples.to_vec()));
    let packed = folder.path().join("a.tsv.zst");
    fs::write(
        &packed,
        zstd::encode_all(fs::read(&path).unwrap().as_slice(), 1).unwrap(),
    )
    .unwrap();
    assert_eq!(strip(read(&packed, Format::Auto).unwrap()), strip(examples.to_vec()));
    assert!(write_tsv(&path, &[example("a\tb", &["joy"])]).is_err());
    assert!(write_tsv(&path, &[example("a", &["joy,love"])]).is_err());
    // A failed write does not change the file and leaves no other file.
    assert_eq!(read(&path, Format::Tsv).unwrap().len(), 2);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn the_published_sets_are_read_completely() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    if !root.is_dir() {
        println!("skipped: {} is not there", root.display());
        return;
    }
    for (file, format, rows) in [
        ("crowdflower/text_emotion.csv", Format::Crowdflower, 40_000),
        ("goemotions/train.tsv", Format::Goemotions, 43_410),
        ("goemotions/dev.tsv", Format::Goemotions, 5_426),
        ("goemotions/test.tsv", Format::Goemotions, 5_427),
        ("tweeteval/emotion/train_text.txt", Format::Tweeteval, 3_257),
        ("tweeteval/emotion/val_text.txt", Format::Tweeteval, 374),
        ("carer/train.txt", Format::Carer, 16_000),
        ("carer/val.txt", Format::Carer, 2_000),
        ("semeval2018-ec/E-c-En-train.txt", Format::SemevalEc, 6_838),
        ("semeval2018-ec/E-c-En-dev.txt", Format::SemevalEc, 886),
        ("semeval2017-4a/twitter-2013dev-A.tsv", Format::Semeval4a, 1_654),
        ("nrc-tec/Jan9-2012-tweets-clean.txt", Format::NrcTec, 21_051),
    ] {
        let path = root.join(file);
        let content = read_text(&path).unwrap();
        assert_eq!(detect(&path, &content).unwrap(), format, "{file}");
        let examples = read(&path, Format::Auto).unwrap();
        assert_eq!(examples.len(), rows, "{file}");
        for example in &examples {
            assert!(
                !example.text.contains("&amp;") && !example.text.contains("ï¿½") && !example.text.contains("\\u2019")
            );
            assert!(!example.labels.is_empty(), "{}", example.origin);
        }
    }
}

fn read_as(name: &str, content: &str, format: Format) -> Vec<Example> {
    let folder = folder(&[(name, content)]);
    read(&folder.path().join(name), format).unwrap()
}

#[test]
fn brighter_distinguishes_absent_from_unknown_emotions() {
    let all = read_as(
        "ron.csv",
        "id,text,anger,disgust,fear,joy,sadness,surprise\na,\"so, well\",1,0,0,0,0,1\nb,none,0,0,0,0,0,0\n\
         c,blank,0,,0,0,0,0\nd,sad,0,,0,0,1,0\n",
        Format::Auto,
    );
    assert_eq!(all[0].labels, ["anger", "surprise"]);
    assert_eq!(all[0].text, "so, well");
    assert_eq!(all[1].labels, ["neutral"]);
    // Disgust is unknown, so it is also unknown whether the text is neutral.
    assert!(all[2].labels.is_empty());
    assert_eq!(all[2].unknown, ["disgust", "neutral"]);
    assert_eq!(
        (&*all[3].labels, &*all[3].unknown),
        (&["sadness".to_owned()][..], &["disgust".to_owned()][..])
    );
    let fewer = read_as("eng.csv", "id,text,joy,fear\na,x,1,0\n", Format::Auto);
    assert_eq!(fewer[0].labels, ["joy"]);
    assert_eq!(fewer[0].unknown, ["anger", "disgust", "sadness", "surprise"]);
    for (content, detail) in [
        ("id,text,glee\na,x,1\n", "a.csv:1: the column `glee`"),
        ("id,text,joy\na,x,2\n", "a.csv:2: `2` for joy"),
        ("id,text,joy\na,x\n", "a.csv:2: 2 columns"),
    ] {
        let error = read_one("a.csv", &[("a.csv", content)]).unwrap_err();
        assert!(error.contains(detail), "{error}");
    }
}

#[test]
fn broken_lines_of_xed_are_skipped() {
    let read = read_as(
        "fr-projections.tsv",
        "C'est toi?\t4, 7\n\"broken\nVa.\t8\nnot\tnumbers\nx\t10\n",
        Format::Xed,
    );
    let rows: Vec<_> = read.into_iter().map(|example| (example.text, example.labels)).collect();
    let labels = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        rows,
        [
            ("C'est toi?".to_owned(), labels(&["fear", "surprise"])),
            ("Va.".to_owned(), labels(&["trust"]))
        ]
    );
    let neutral = read_as("neu_fi.txt", "9\tNiin.\n", Format::Xed);
    assert_eq!(
        (neutral[0].text.as_str(), &*neutral[0].labels),
        ("Niin.", &labels(&["neutral"])[..])
    );
}

#[test]
fn unknown_labels_and_languages_are_written_and_read() {
    let content = "so\tjoy,?fear\tpt-BR\nwell\t?fear,?neutral\tde\nhm\tneutral\n";
    let examples = read_as("a.tsv", content, Format::Auto);
    assert_eq!(examples[0].unknown, ["fear"]);
    assert_eq!(examples[0].language.as_deref(), Some("pt-BR"));
    assert!(examples[1].labels.is_empty() && examples[2].language.is_none());
    let folder = folder(&[]);
    let path = folder.path().join("b.tsv");
    write_tsv(&path, &examples).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
    for bad in [
        "x\tjoy,?joy\n",
        "x\t?\n",
        "x\tjoy\ten\tmore\n",
        "7\tx\tanger\n",
        "x\tjoy\t\n",
    ] {
        let error = read_one("a.tsv", &[("a.tsv", &format!("ok\tjoy\n{bad}"))]).unwrap_err();
        assert!(error.contains("a.tsv:2"), "{error}");
    }
}
