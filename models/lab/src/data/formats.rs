//! A parser for each format. The texts are not repaired here.

use std::{path::Path, sync::Arc};

use super::{DataError, Example, Format, Origin, UNKNOWN, is_language, read_text};

/// The parsed rows of a file.
struct Rows {
    file: Arc<Path>,
    examples: Vec<Example>,
}

impl Rows {
    fn push(&mut self, row: u64, text: &str, labels: Vec<String>) {
        self.push_with_unknown(row, text, labels, Vec::new());
    }

    /// Adds a row with unknown labels.
    fn push_with_unknown(&mut self, row: u64, text: &str, labels: Vec<String>, unknown: Vec<String>) {
        let origin = Origin {
            file: Arc::clone(&self.file),
            row,
        };
        self.examples.push(Example {
            text: text.to_owned(),
            labels,
            unknown,
            language: None,
            origin,
        });
    }

    fn error(&self, row: u64, detail: impl Into<String>) -> DataError {
        DataError::Row {
            origin: Origin {
                file: Arc::clone(&self.file),
                row,
            },
            detail: detail.into(),
        }
    }

    fn labels(&self, row: u64, field: &str) -> Result<Vec<String>, DataError> {
        self.checked(row, field.split(','))
    }

    /// Trims, checks and de-duplicates labels, so that `prepare` can write them.
    fn checked<'l>(&self, row: u64, given: impl Iterator<Item = &'l str>) -> Result<Vec<String>, DataError> {
        let mut labels: Vec<String> = Vec::new();
        for label in given.map(str::trim) {
            if label.is_empty() {
                return Err(self.error(row, "a label is empty"));
            }
            if label.contains([',', '\t', '\n', '\r']) {
                let detail = format!("the label `{}` has commas, tabs or line ends", label.escape_debug());
                return Err(self.error(row, detail));
            }
            if !labels.iter().any(|known| known == label) {
                labels.push(label.to_owned());
            }
        }
        Ok(labels)
    }
}

/// Reads `content`. `format` is not [`Format::Auto`].
pub(super) fn parse(path: &Path, content: &str, format: Format) -> Result<Vec<Example>, DataError> {
    let mut rows = Rows {
        file: path.into(),
        examples: Vec::new(),
    };
    match format {
        Format::Auto | Format::Tsv => tsv(&mut rows, content)?,
        Format::Csv => csv(&mut rows, content)?,
        Format::Jsonl => jsonl(&mut rows, content)?,
        Format::Crowdflower => crowdflower(&mut rows, content)?,
        Format::Goemotions => goemotions(&mut rows, path, content)?,
        Format::Tweeteval => tweeteval(&mut rows, path, content)?,
        Format::Carer => carer(&mut rows, content)?,
        Format::SemevalEc => semeval_ec(&mut rows, content)?,
        Format::Semeval4a => semeval_4a(&mut rows, content)?,
        Format::NrcTec => nrc_tec(&mut rows, content)?,
        Format::Brighter => brighter(&mut rows, content)?,
        Format::Xed => xed(&mut rows, content),
    }
    Ok(rows.examples)
}

/// The lines that are not empty, numbered from 1.
fn lines(content: &str) -> impl Iterator<Item = (u64, &str)> {
    (1..).zip(content.lines()).filter(|(_, line)| !line.trim().is_empty())
}

fn tsv(rows: &mut Rows, content: &str) -> Result<(), DataError> {
    for (row, line) in lines(content) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (text, given, language) = match fields[..] {
            [text, labels] => (text, labels, None),
            [text, labels, language] if is_language(language) => (text, labels, Some(language)),
            _ => {
                let expected = "expected `text<TAB>label[,label][<TAB>language]`";
                return Err(rows.error(row, format!("{} columns: {expected}", fields.len())));
            }
        };
        let given = rows.labels(row, given)?;
        let (unknown, labels): (Vec<String>, Vec<String>) =
            given.into_iter().partition(|label| label.starts_with(UNKNOWN));
        let unknown: Vec<String> = unknown
            .iter()
            .map(|label| label[UNKNOWN.len_utf8()..].trim().to_owned())
            .collect();
        if unknown.iter().any(|label| label.is_empty() || labels.contains(label)) {
            return Err(rows.error(row, "a label is both given and unknown, or has no name"));
        }
        rows.push_with_unknown(row, text, labels, unknown);
        if let (Some(example), Some(language)) = (rows.examples.last_mut(), language) {
            example.language = Some(language.into());
        }
    }
    Ok(())
}

fn records(content: &str, delimiter: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(content.as_bytes())
}

/// Calls `each` with every record and its line.
fn each_record(
    rows: &mut Rows,
    content: &str,
    delimiter: u8,
    mut each: impl FnMut(&mut Rows, u64, &[&str]) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for (number, record) in (1..).zip(records(content, delimiter).records()) {
        let record = record.map_err(|error| rows.error(number, error.to_string()))?;
        let row = record.position().map_or(number, csv::Position::line);
        let fields: Vec<&str> = record.iter().collect();
        each(rows, row, &fields)?;
    }
    Ok(())
}

fn csv(rows: &mut Rows, content: &str) -> Result<(), DataError> {
    each_record(rows, content, b',', |rows, row, fields| {
        let [text, label] = *fields else {
            return Err(rows.error(row, format!("{} columns: expected `text,label`", fields.len())));
        };
        let header = row == 1 && text.eq_ignore_ascii_case("text") && label.to_ascii_lowercase().starts_with("label");
        if !header {
            let labels = rows.labels(row, label)?;
            rows.push(row, text, labels);
        }
        Ok(())
    })
}

#[derive(serde::Deserialize)]
struct Line {
    text: String,
    #[serde(alias = "labels")]
    label: OneOrMore,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

fn jsonl(rows: &mut Rows, content: &str) -> Result<(), DataError> {
    for (row, line) in lines(content) {
        let line: Line = serde_json::from_str(line)
            .map_err(|error| rows.error(row, format!("expected {{\"text\": ..., \"label\": ...}}: {error}")))?;
        let given = match &line.label {
            OneOrMore::One(label) => std::slice::from_ref(label),
            OneOrMore::More(labels) => labels,
        };
        let mut labels = rows.checked(row, given.iter().map(String::as_str))?;
        labels.sort();
        rows.push(row, &line.text, labels);
    }
    Ok(())
}

fn crowdflower(rows: &mut Rows, content: &str) -> Result<(), DataError> {
    each_record(rows, content, b',', |rows, row, fields| match *fields {
        ["tweet_id", "sentiment", "author", "content"] if row == 1 => Ok(()),
        [_, label, _, text] => {
            let labels = rows.labels(row, label)?;
            rows.push(row, text, labels);
            Ok(())
        }
        _ => Err(rows.error(
            row,
            format!("{} columns: expected tweet_id,sentiment,author,content", fields.len()),
        )),
    })
}

fn goemotions(rows: &mut Rows, path: &Path, content: &str) -> Result<(), DataError> {
    let names_file = path.with_file_name("labels.txt");
    let names_text = read_text(&names_file)?;
    let names: Vec<&str> = names_text
        .lines()
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    each_record(rows, content, b'\t', |rows, row, fields| {
        let [text, numbers, _] = *fields else {
            return Err(rows.error(
                row,
                format!("{} columns: expected text, label numbers, comment id", fields.len()),
            ));
        };
        let labels = numbers
            .split(',')
            .map(|number| named(number, &names))
            .collect::<Option<_>>();
        let labels = labels.ok_or_else(|| {
            let detail = format!(
                "label numbers `{numbers}`: expected 0 to {}, as in labels.txt",
                names.len().max(1) - 1
            );
            rows.error(row, detail)
        })?;
        rows.push(row, text, labels);
        Ok(())
    })
}

fn named(number: &str, names: &[&str]) -> Option<String> {
    names
        .get(number.trim().parse::<usize>().ok()?)
        .map(|&name| name.to_owned())
}

fn tweeteval(rows: &mut Rows, path: &Path, content: &str) -> Result<(), DataError> {
    let invalid = |detail: String| DataError::Invalid {
        file: path.to_owned(),
        detail,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name
        .strip_suffix("_text.txt")
        .ok_or_else(|| invalid("TweetEval's texts are in NAME_text.txt, with NAME_labels.txt beside it".to_owned()))?;
    let labels = read_text(&path.with_file_name(format!("{stem}_labels.txt")))?;
    let mapping = read_text(&path.with_file_name("mapping.txt"))?;
    let names: Vec<&str> = mapping
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(_, name)| name.trim())
        .collect();
    let labels: Vec<&str> = labels.lines().filter(|line| !line.trim().is_empty()).collect();
    // A text may be empty, so empty lines count.
    let texts: Vec<&str> = content.lines().collect();
    if texts.len() != labels.len() {
        return Err(invalid(format!(
            "{} texts, but {stem}_labels.txt has {} labels",
            texts.len(),
            labels.len()
        )));
    }
    for ((row, text), number) in (1..).zip(texts).zip(labels) {
        let label = named(number, &names)
            .ok_or_else(|| rows.error(row, format!("its label `{number}` is not in mapping.txt")))?;
        rows.push(row, text, vec![label]);
    }
    Ok(())
}

fn carer(rows: &mut Rows, content: &str) -> Result<(), DataError> {
    for (row, line) in lines(content) {
        let (text, label) = line
            .rsplit_once(';')
            .ok_or_else(|| rows.error(row, "no `;`: expected `text;label`"))?;
        let labels = rows.labels(row, label)?;
        rows.push(row, text, labels);
    }
    Ok(())
}

fn semeval_ec(rows: &mut Rows, content: &str) -> Result<(), DataError> {
    let mut names: Vec<&str> = Vec::new();
    for (row, line) in lines(content) {
        let fields: Vec<&str> = line.split('\t').collect();
        if names.is_empty() {
            let ["ID", "Tweet", labels @ ..] = fields.as_slice() else {
                return Err(rows.error(row, "expected the header ID, Tweet and a column for each label"));
            };
            names = labels.to_vec();
            continue;
        }
        let [_, text, flags @ ..] = fields.as_slice() else {
            return Err(rows.error(row, format!("{} columns: expected {}", fields.len(), names.len() + 2)));
        };
        if flags.len() != names.len() || !flags.iter().all(|flag| matches!(*flag, "0" | "1")) {
            return Err(rows.error(
                row,
                format!("expected {} columns of 0 or 1 after the text", names.len()),
            ));
        }
        let mut labels: Vec<String> = names
            .iter()
            .zip(flags)
            .filter(|(_, flag)| **flag == "1")
            .map(|(&name, _)| name.to_owned())
            .collect();
        if labels.is_empty() {
            labels.push("neutral".to_owned());
        }
        rows.push(row, text, labels);
    }
    Ok(())
}

fn semeval_4a(rows: &mut Rows, content: &str) -> Result<(), DataError> {
    for (row, line) in lines(content) {
        // Some years end their lines with a tab.
        let fields: Vec<&str> = line.trim_end_matches('\t').split('\t').collect();
        let [_, label, text] = fields[..] else {
            return Err(rows.error(row, format!("{} columns: expected id, label, text", fields.len())));
        };
        let labels = rows.labels(row, label)?;
        rows.push(row, text, labels);
    }
    Ok(())
}

fn nrc_tec(rows: &mut Rows, content: &str) -> Result<(), DataError> {
    for (row, line) in lines(content) {
        let parts = line.split_once('\t').and_then(|(_, rest)| rest.rsplit_once(":: "));
        let (text, label) = parts.ok_or_else(|| rows.error(row, "expected `id:<TAB>text<TAB>:: label`"))?;
        let labels = rows.labels(row, label)?;
        rows.push(row, text, labels);
    }
    Ok(())
}

/// The emotions of BRIGHTER; some languages lack some of them.
const BRIGHTER: [&str; 6] = ["anger", "disgust", "fear", "joy", "sadness", "surprise"];

fn brighter(rows: &mut Rows, content: &str) -> Result<(), DataError> {
    let mut columns: Vec<String> = Vec::new();
    each_record(rows, content, b',', |rows, row, fields| {
        if columns.is_empty() {
            let ["id", "text", emotions @ ..] = fields else {
                return Err(rows.error(row, "expected the header id,text and a column for each emotion"));
            };
            if let Some(other) = emotions.iter().find(|emotion| !BRIGHTER.contains(emotion)) {
                return Err(rows.error(
                    row,
                    format!("the column `{other}` is not one of {}", BRIGHTER.join(", ")),
                ));
            }
            columns = fields.iter().map(|&name| name.to_owned()).collect();
            return Ok(());
        }
        if fields.len() != columns.len() {
            return Err(rows.error(row, format!("{} columns: expected {}", fields.len(), columns.len())));
        }
        let (mut labels, mut unknown) = (Vec::new(), Vec::new());
        for emotion in BRIGHTER {
            let column = columns.iter().position(|name| name == emotion);
            match column.map_or("", |column| fields[column].trim()) {
                "1" | "1.0" => labels.push(emotion.to_owned()),
                "0" | "0.0" => {}
                "" => unknown.push(emotion.to_owned()),
                other => return Err(rows.error(row, format!("`{other}` for {emotion}: expected 0, 1 or nothing"))),
            }
        }
        match (labels.is_empty(), unknown.is_empty()) {
            (true, true) => labels.push("neutral".to_owned()),
            (true, false) => unknown.push("neutral".to_owned()),
            (false, _) => {}
        }
        rows.push_with_unknown(row, fields[1], labels, unknown);
        Ok(())
    })
}

/// The labels of XED's numbers, from 1; 9 occurs in its neutral files.
const XED: [&str; 9] = [
    "anger",
    "anticipation",
    "disgust",
    "fear",
    "joy",
    "sadness",
    "surprise",
    "trust",
    "neutral",
];

fn xed(rows: &mut Rows, content: &str) {
    for (row, line) in lines(content) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (text, numbers) = match fields[..] {
            ["9", text] => (text, "9"),
            [text, numbers] => (text, numbers),
            _ => continue,
        };
        let named = |number: &str| XED.get(number.trim().parse::<usize>().ok()?.checked_sub(1)?).copied();
        let Some(labels) = numbers.split(',').map(named).collect::<Option<Vec<&str>>>() else {
            continue;
        };
        let mut labels: Vec<String> = labels.into_iter().map(str::to_owned).collect();
        labels.sort();
        labels.dedup();
        rows.push(row, text, labels);
    }
}
