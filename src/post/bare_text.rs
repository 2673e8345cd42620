//! Bare text: a record that is nothing but what somebody wrote.
//!
//! Where the format is found for each record, a record is taken for text only if it can't be anything else. Structured
//! data that the service does not know must not become a post with an emotion.

use std::sync::LazyLock;

use regex::Regex;

/// What a record looks like that is no text: words for the detail of a reject. None if it is text.
///
/// `record` has no white space around it.
#[must_use]
pub fn looks_structured(record: &str) -> Option<&'static str> {
    // A stray control character is a slip; formats of files have many, and most a zero.
    let control = |c: &char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r');
    if record.contains('\0') || record.starts_with("PAR1") || record.chars().filter(control).count() > 2 {
        return Some("binary data");
    }
    if is_markup(record) {
        return Some("XML or HTML");
    }
    // One alone, or with the rows under it.
    if record.lines().next().is_some_and(is_header) {
        return Some("the header of a CSV file");
    }
    if is_key_value_lines(record) {
        return Some("YAML");
    }
    LOOKS
        .iter()
        .find(|(pattern, _)| pattern.is_match(record))
        .map(|(_, what)| *what)
}

/// Patterns and what they show, the most certain first.
static LOOKS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    // One field of a line of CSV, in quotes or without.
    let quoted = r#""(?:[^"]|"")*""#;
    let uuid = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
    let looks = [
        // Literals of JSON, JavaScript and Python, and numbers.
        (
            r"null|true|false|undefined|None|True|False|NaN|[+-]?Infinity|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
                .to_owned(),
            "a single value of JSON",
        ),
        // Brackets alone; a member of an object, whole or its beginning, which is a line of pretty-printed JSON.
        (r"[\[\]{}]+,?".to_owned(), "a fragment of JSON"),
        (
            r#""(?:[^"\\]|\\.)*"\s*:\s*(?:[\[{].*|(?:"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null)\s*,?)"#
                .to_owned(),
            "a fragment of JSON",
        ),
        (r#"[bB](?:'.*'|".*")"#.to_owned(), "Python's notation of bytes"),
        (
            r"/\*.*\*/\s*[\[{].*|//[^\n]*\n\s*[\[{].*|window\.YTD\..*".to_owned(),
            "JavaScript",
        ),
        (r"(?:eyJ|W3si)[A-Za-z0-9+/_.-]{12,}={0,2}".to_owned(), "JSON in base64"),
        (
            r"(?:(?:event|id|retry|):[^\n]*\n)+data:.*|(?:event:[^\n]*\n)*data: ?[\[{].*|: ?thump".to_owned(),
            "a server-sent event",
        ),
        // All fields in quotes, or a number and at least two fields more, one of them in quotes.
        (format!("{quoted}(?:[,;\t|]{quoted})+"), "a line of CSV"),
        (
            format!(
                "(?:\\d+|\\d{{4}}-\\d\\d-\\d\\d[^,;\t|\\n]*)(?:[,;\t|](?:{quoted}|[^\",;\t|\n]*))*[,;\t|]{quoted}(?:[,;\t|](?:{quoted}|[^\",;\t|\n]*))*"
            ),
            "a line of CSV",
        ),
        (r"\d+(?:\t[^\t\n]*)+".to_owned(), "a line of tab-separated values"),
        // Without quotes: an id, then a date, a small number for a label, or a word with no space before it. People write a
        // space after a comma, and digits after one within a number.
        (
            r"\d+([,;|])\d{4}-\d\d-\d\d[^\n]*[,;|][^\n]+".to_owned(),
            "a line of CSV",
        ),
        // Not so where words have no spaces between them.
        (
            r"\d+[,;|](?:-?\d[,;|])?[\p{L}@#--\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Hangul}][^\n]*".to_owned(),
            "a line of CSV",
        ),
        (format!(r"{uuid}(?:[,;\t|][^\n]+)?"), "an id, or a line of CSV"),
        // A text in quotes, and a label with no space before it.
        (
            format!(r#"{quoted}(?:[,;\t|](?:{quoted}|[^\s",;\t|]+))+"#),
            "a line of CSV",
        ),
        (
            r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z| ?[+-]\d\d:?\d\d)?)?".to_owned(),
            "a single time",
        ),
        (r"[\w.\[\]-]+=[^&\s]*(?:&[\w.\[\]-]+=[^&\s]*)+".to_owned(), "form data"),
        // Syslog's priority, a web server's time in brackets, logfmt.
        (r"<\d{1,3}>(?:\d )?[A-Z0-9][^\n]*".to_owned(), "a line of a log"),
        (
            r#"\S+ \S+ \S+ \[\d\d/[A-Z][a-z]{2}/\d{4}:[^\n]*"#.to_owned(),
            "a line of a log",
        ),
        (
            r#"(?:[a-z][\w.-]*=(?:"[^"\n]*"|[^\s"]+)\s+)+[a-z][\w.-]*=(?:"[^"\n]*"|[^\s"]+)"#.to_owned(),
            "a line of a log",
        ),
        // The beginning of JSON in a string that is damaged: whole, it would have been read.
        (
            r#""[\[{]\s*(?:\\"|'|\{\s*\\").*"#.to_owned(),
            "damaged JSON in a string",
        ),
    ];
    looks
        .into_iter()
        .filter_map(|(pattern, what)| Some((Regex::new(&format!(r"\A(?s:{pattern})\z")).ok()?, what)))
        .collect()
});

/// Whether what does not parse was meant to be JSON: `[OC] my cat` and `{sigh}` are texts, `{"id":` and `{id: 1}` are not.
pub(super) fn is_like_json(record: &str) -> bool {
    static LIKE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"\A(?:\{\s*(?:["'}\n]|[\w$]+\s*:)|\[\s*(?:["{\[\]\n]|\d+\s*,)|[\[{]\z)"#).ok());
    LIKE.as_ref().is_some_and(|like| like.is_match(record))
}

/// Whether it is a document or an element with attributes or elements in it. `<sarcasm>great day</sarcasm>` is a text.
fn is_markup(record: &str) -> bool {
    let Some(rest) = record.strip_prefix('<') else {
        return false;
    };
    const DOCUMENTS: [&str; 5] = ["html", "rss", "feed", "svg", "head"];
    let name_end = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '_')))
        .unwrap_or(rest.len());
    if rest.starts_with("?xml")
        || DOCUMENTS.iter().any(|name| rest[..name_end].eq_ignore_ascii_case(name))
        || rest
            .get(..8)
            .is_some_and(|start| start.eq_ignore_ascii_case("!doctype"))
    {
        return true;
    }
    let (name, rest) = rest.split_at(name_end);
    let Some((attributes, inner)) = rest.split_once('>') else {
        return false;
    };
    let Some(inner) = inner.strip_suffix(&format!("</{name}>")) else {
        return false;
    };
    !name.is_empty() && (attributes.contains('=') || inner.contains("</"))
}

/// Names of columns and keys that data of posts has.
const NAMES: [&str; 38] = [
    "id",
    "tweet_id",
    "post_id",
    "text",
    "tweet",
    "content",
    "message",
    "body",
    "comment",
    "title",
    "created_at",
    "createdat",
    "date",
    "time",
    "timestamp",
    "datetime",
    "label",
    "labels",
    "emotion",
    "sentiment",
    "target",
    "class",
    "category",
    "score",
    "user",
    "user_id",
    "username",
    "author",
    "author_id",
    "screen_name",
    "lang",
    "language",
    "source",
    "hashtags",
    "location",
    "flag",
    "retweets",
    "likes",
];

/// Whether every line is a key and its value, two keys at least such as posts have.
fn is_key_value_lines(record: &str) -> bool {
    let mut known = 0;
    for line in record.lines().filter(|line| !line.trim().is_empty() && *line != "---") {
        let Some((key, value)) = line.split_once(':') else {
            return false;
        };
        if !(value.is_empty() || value.starts_with(' ')) {
            return false;
        }
        known += usize::from(NAMES.contains(&key));
    }
    known > 1
}

/// Whether it is a line of names, two of them at least such as files of posts have.
fn is_header(record: &str) -> bool {
    [',', ';', '\t', '|'].into_iter().any(|separator| {
        let fields: Vec<String> = record
            .split(separator)
            .map(|field| field.trim().trim_matches('"').to_ascii_lowercase())
            .collect();
        let is_name = |field: &String| {
            (1..=40).contains(&field.len())
                && field
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ' | '.'))
        };
        fields.len() > 1
            && fields.iter().all(is_name)
            && fields.iter().filter(|field| NAMES.contains(&field.as_str())).count() > 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(LOOKS.len(), 20);
    }

    #[test]
    fn what_looks_structured_is_no_text() {
        for (record, what) in [
            ("null", "a single value"),
            ("true", "a single value"),
            ("12345", "a single value"),
            ("-1.5e3", "a single value"),
            ("NaN", "a single value"),
            ("undefined", "a single value"),
            ("}", "a fragment"),
            ("],", "a fragment"),
            (r#""lang": "en","#, "a fragment"),
            (r#""user": {"#, "a fragment"),
            (r#""n": 12"#, "a fragment"),
            (r#"b'{"id": 1, "text": "so happy"}'"#, "Python"),
            (r#"b"so happy""#, "Python"),
            ("// exported\n{\"id\":1}", "JavaScript"),
            ("window.YTD.tweets.part0 = [", "JavaScript"),
            ("eyJpZCI6ICJhMSIsICJ0ZXh0IjogImEifQ==", "base64"),
            ("data: {\"text\":", "server-sent"),
            ("event: update\ndata: 1\n\ndata: 2", "server-sent"),
            ("id: 7\nretry: 100\ndata: so happy", "server-sent"),
            (": thump", "server-sent"),
            ("<?xml version=\"1.0\"?><a/>", "XML"),
            ("<item><title>so happy</title></item>", "XML"),
            ("<p class=\"a\">so happy</p>", "XML"),
            (
                r#""0","1467810369","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","someone","so sad, today""#,
                "a line of CSV",
            ),
            (r#"1467810369,2009-04-06,"so sad, today",4"#, "a line of CSV"),
            (r#"17;"so happy""#, "a line of CSV"),
            ("1467810369\tsomeone\tso sad today", "tab-separated"),
            ("id,text,label", "the header"),
            ("PAR1\u{15}\u{4}", "binary"),
            ("Obj\u{1}\u{4}\u{14}avro", "binary"),
            ("so\u{7}\u{8}\u{1b}happy", "binary"),
            ("Text,Emotion", "the header"),
            ("tweet_id;tweet", "the header"),
            ("id\ttext", "the header"),
            ("2026-11-27,\"so happy\",joy", "a line of CSV"),
            ("7\tso happy", "tab-separated"),
            ("1,so happy", "a line of CSV"),
            ("1,so happy, all day", "a line of CSV"),
            ("123e4567-e89b-12d3-a456-426614174000,so happy", "a line of CSV"),
            ("123e4567-e89b-12d3-a456-426614174000", "an id"),
            ("\"so happy\",joy", "a line of CSV"),
            ("2026-11-27T07:00:00Z", "a single time"),
            ("id=1&text=so+happy&lang=en", "form data"),
            ("<34>1 2026-11-27T07:00:00Z host app - so happy", "a line of a log"),
            (
                "127.0.0.1 - - [27/Nov/2026:07:00:00 +0000] \"GET / HTTP/1.1\" 200 2",
                "a line of a log",
            ),
            ("ts=2026-11-27T07:00:00Z level=info msg=\"so happy\"", "a line of a log"),
            ("id: 1\ntext: so happy", "YAML"),
            ("---\nid: 1\ntext: so happy\ntags:", "YAML"),
            ("W3siaWQiOiJhMSJ9XQ==", "base64"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "base64"),
            ("17;@ann so happy", "a line of CSV"),
            ("1467810369,0,so sad", "a line of CSV"),
            ("123,2024-01-01,user,so happy", "a line of CSV"),
            ("123,2024-01-01 07:00:00,so happy", "a line of CSV"),
            ("id,text\n1,so happy\n2,so sad", "the header"),
            ("<html>\n<head>", "XML or HTML"),
            (r#""{\"id\":1,\"text\":\"so hap"#, "damaged JSON"),
        ] {
            assert!(
                looks_structured(record).is_some_and(|found| found.contains(what)),
                "{record}: {:?}",
                looks_structured(record)
            );
        }
    }

    #[test]
    fn what_people_write_is_text() {
        for text in [
            "so happy today",
            "\"To be\", he said",
            "he said \"so happy\": me too",
            "\"quote\": somebody",
            "I <3 you",
            "10, 9, 8 ... liftoff",
            "3 \"big\" cats",
            "100% true",
            "x",
            "null and void",
            "b'day party",
            "note: so happy",
            "data: so happy",
            "event: so happy\nto be there",
            "text, lies and \"truth\"",
            "Dear id, text me",
            "(╯°□°)╯︵ ┻━┻",
            "line one\nline two\twith a tab",
            "🙂",
            ":)",
            "今日はとても楽しい",
            "a -> b",
            "<3",
            "<wave> so happy",
            "<sarcasm>great day</sarcasm>",
            "<i>sad</i> and <b>happy</b>",
            "text,me when you get home",
            "1, so happy",
            "10,000 people",
            "2,5 Millionen Menschen",
            "3,2,1 go",
            "1,2,3,4 I declare a war",
            "2024-01-01, so happy",
            "1st,2nd and 3rd",
            "<3,so happy",
            "27,彼岸花",
            "mood: so happy\ntime: late",
            "\"so happy\", joy",
            "love=life & peace=joy",
            "a=b",
            "date: tomorrow",
            "4;2",
            "id,please",
            "tweet,retweet",
            "a bell \u{7}",
        ] {
            assert_eq!(looks_structured(text), None, "{text}");
        }
    }
}
