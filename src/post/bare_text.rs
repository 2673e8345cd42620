//! Bare text: a record that consists only of a post's text.
//!
//! When the format is detected automatically, a record is read as text only if it can't be anything else. Structured data
//! in an unknown format must not become a post with an emotion.

use std::sync::LazyLock;

use regex::Regex;

/// Describes the structured format that a record looks like, for the detail of a reject. Returns `None` if it is text.
///
/// `record` must have no surrounding whitespace.
#[must_use]
pub fn looks_structured(record: &str) -> Option<&'static str> {
    // One or two control characters may be accidental. Binary formats have many, and usually a zero byte.
    let control = |c: &char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r');
    if record.contains('\0') || record.starts_with("PAR1") || record.chars().filter(control).count() > 2 {
        return Some("binary data");
    }
    if is_markup(record) {
        return Some("XML or HTML");
    }
    // With or without rows below it.
    if record.lines().next().is_some_and(is_header) {
        return Some("the header of a CSV file");
    }
    if is_key_value_lines(record) {
        return Some("YAML");
    }
    PATTERNS
        .iter()
        .find(|(pattern, _)| pattern.is_match(record))
        .map(|(_, what)| *what)
}

/// Patterns of structured data with their descriptions, the most specific first.
static PATTERNS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    // A quoted CSV field.
    let quoted = r#""(?:[^"]|"")*""#;
    let uuid = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
    let looks = [
        // Literals of JSON, JavaScript and Python, and numbers.
        (
            r"null|true|false|undefined|None|True|False|NaN|[+-]?Infinity|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
                .to_owned(),
            "a single JSON value",
        ),
        // Only brackets, or a complete or unfinished object member: lines of pretty-printed JSON.
        (r"[\[\]{}]+,?".to_owned(), "a fragment of JSON"),
        (
            r#""(?:[^"\\]|\\.)*"\s*:\s*(?:[\[{].*|(?:"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null)\s*,?)"#
                .to_owned(),
            "a fragment of JSON",
        ),
        (r#"[bB](?:'.*'|".*")"#.to_owned(), "a Python bytes literal"),
        (
            r"/\*.*\*/\s*[\[{].*|//[^\n]*\n\s*[\[{].*|window\.YTD\..*".to_owned(),
            "JavaScript",
        ),
        (
            r"(?:eyJ|W3si)[A-Za-z0-9+/_.-]{12,}={0,2}".to_owned(),
            "base64-encoded JSON",
        ),
        (
            r"(?:(?:event|id|retry|):[^\n]*\n)+data:.*|(?:event:[^\n]*\n)*data: ?[\[{].*|: ?thump".to_owned(),
            "a server-sent event",
        ),
        // All fields quoted, or a number and at least two more fields, one of them quoted.
        (format!("{quoted}(?:[,;\t|]{quoted})+"), "a line of CSV"),
        (
            format!(
                "(?:\\d+|\\d{{4}}-\\d\\d-\\d\\d[^,;\t|\\n]*)(?:[,;\t|](?:{quoted}|[^\",;\t|\n]*))*[,;\t|]{quoted}(?:[,;\t|](?:{quoted}|[^\",;\t|\n]*))*"
            ),
            "a line of CSV",
        ),
        (r"\d+(?:\t[^\t\n]*)+".to_owned(), "a line of tab-separated values"),
        // Unquoted: an id followed by a date, a single-digit label, or a word without a space before it. People write a
        // space after a comma, except between digits of a number.
        (
            r"\d+([,;|])\d{4}-\d\d-\d\d[^\n]*[,;|][^\n]+".to_owned(),
            "a line of CSV",
        ),
        // Scripts without spaces between words are excluded.
        (
            r"\d+[,;|](?:-?\d[,;|])?[\p{L}@#--\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Hangul}][^\n]*".to_owned(),
            "a line of CSV",
        ),
        (format!(r"{uuid}(?:[,;\t|][^\n]+)?"), "an id, or a line of CSV"),
        // A quoted text and a label without a space before it.
        (
            format!(r#"{quoted}(?:[,;\t|](?:{quoted}|[^\s",;\t|]+))+"#),
            "a line of CSV",
        ),
        (
            r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z| ?[+-]\d\d:?\d\d)?)?".to_owned(),
            "a single timestamp",
        ),
        (r"[\w.\[\]-]+=[^&\s]*(?:&[\w.\[\]-]+=[^&\s]*)+".to_owned(), "form data"),
        // Syslog priority, bracketed web server timestamp, logfmt.
        (r"<\d{1,3}>(?:\d )?[A-Z0-9][^\n]*".to_owned(), "a log line"),
        (
            r#"\S+ \S+ \S+ \[\d\d/[A-Z][a-z]{2}/\d{4}:[^\n]*"#.to_owned(),
            "a log line",
        ),
        (
            r#"(?:[a-z][\w.-]*=(?:"[^"\n]*"|[^\s"]+)\s+)+[a-z][\w.-]*=(?:"[^"\n]*"|[^\s"]+)"#.to_owned(),
            "a log line",
        ),
        // The start of JSON in a string. It must be damaged, because valid JSON was handled earlier.
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

/// Whether a record that does not parse was meant to be JSON: `{"id":` and `{id: 1}` were, `[OC] my cat` and `{sigh}` were
/// not.
pub(super) fn is_like_json(record: &str) -> bool {
    static LIKE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"\A(?:\{\s*(?:["'}\n]|[\w$]+\s*:)|\[\s*(?:["{\[\]\n]|\d+\s*,)|[\[{]\z)"#).ok());
    LIKE.as_ref().is_some_and(|like| like.is_match(record))
}

/// Whether it is a markup document, or an element with attributes or child elements. `<sarcasm>great day</sarcasm>` is text.
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

/// Column and key names that are common in post data.
const COLUMN_NAMES: [&str; 38] = [
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

/// Whether every line is a key with its value and at least two of the keys are common in post data.
fn is_key_value_lines(record: &str) -> bool {
    let mut known = 0;
    for line in record.lines().filter(|line| !line.trim().is_empty() && *line != "---") {
        let Some((key, value)) = line.split_once(':') else {
            return false;
        };
        if !(value.is_empty() || value.starts_with(' ')) {
            return false;
        }
        known += usize::from(COLUMN_NAMES.contains(&key));
    }
    known > 1
}

/// Whether it is a line of column names, at least two of them common in post data.
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
            && fields
                .iter()
                .filter(|field| COLUMN_NAMES.contains(&field.as_str()))
                .count()
                > 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(PATTERNS.len(), 20);
    }

    #[test]
    fn structured_data_is_not_text() {
        for (record, what) in [
            ("null", "a single JSON value"),
            ("true", "a single JSON value"),
            ("12345", "a single JSON value"),
            ("-1.5e3", "a single JSON value"),
            ("NaN", "a single JSON value"),
            ("undefined", "a single JSON value"),
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
            ("2026-11-27T07:00:00Z", "a single timestamp"),
            ("id=1&text=so+happy&lang=en", "form data"),
            ("<34>1 2026-11-27T07:00:00Z host app - so happy", "a log line"),
            (
                "127.0.0.1 - - [27/Nov/2026:07:00:00 +0000] \"GET / HTTP/1.1\" 200 2",
                "a log line",
            ),
            ("ts=2026-11-27T07:00:00Z level=info msg=\"so happy\"", "a log line"),
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
    fn ordinary_text_is_not_structured_data() {
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
