//! Detects how records are laid out in an input, and refuses unsupported formats.

use std::io;

use crate::post::looks_structured;

/// How records are laid out in an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One record per line.
    Lines,
    /// A sequence of JSON values, each on any number of lines, or the elements of a JSON array.
    Json,
    /// Server-sent events: blocks separated by empty lines.
    Blocks,
}

pub(super) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Detects the layout of an input from its beginning.
pub(super) fn layout(beginning: &[u8]) -> io::Result<Layout> {
    if let Some(what) = other_format(beginning) {
        let remedy = match what.contains(": ") {
            true => "",
            false => ": provide one JSON object per line, in UTF-8",
        };
        return Err(invalid(format!("it is {what}{remedy}")));
    }
    let beginning = beginning
        .strip_prefix(BYTE_ORDER_MARK)
        .unwrap_or(beginning)
        .trim_ascii_start();
    let end = beginning.iter().position(|&byte| byte == b'\n');
    let line = beginning[..end.unwrap_or(beginning.len())].trim_ascii();
    let after_bracket = || beginning[1..].trim_ascii_start().first();
    match line.first() {
        Some(b'[') if matches!(after_bracket(), Some(b'{' | b']' | b'[' | b'"')) => return Ok(Layout::Json),
        Some(b'{') if end.is_some() && ends_within(line) => return Ok(Layout::Json),
        Some(b'{' | b'[') | None => return Ok(Layout::Lines),
        Some(_) => {}
    }
    let mut lines = beginning
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.starts_with(b":"));
    let field = |line: Option<&[u8]>, name: &[u8]| line.is_some_and(|line| line.starts_with(name));
    let first = lines.next();
    if field(first, b"data: {") || field(first, b"data:{") || field(first, b"event:") && field(lines.next(), b"data:") {
        return Ok(Layout::Blocks);
    }
    match looks_structured(&String::from_utf8_lossy(line)) {
        None => Ok(Layout::Lines),
        Some(what) => Err(invalid(format!(
            "its first line is {what}: provide one JSON object per line; with posts.format = \"text\" every line is read as text"
        ))),
    }
}

/// Returns the unsupported file format that `beginning` belongs to, if any.
fn other_format(beginning: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 20] = [
        (b"PAR1", "a Parquet file"),
        (b"Obj\x01", "an Avro file"),
        (b"ORC", "an ORC file"),
        (b"ARROW1", "an Arrow file"),
        (b"SEQ\x06", "a Hadoop sequence file"),
        (b"\x89HDF", "an HDF5 file"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"PK\x03\x04", "a zip archive or a spreadsheet: unpack or export it"),
        (b"\xd0\xcf\x11\xe0", "an old spreadsheet or document"),
        (b"%PDF", "a PDF document"),
        (
            b"BZh",
            "compressed with bzip2: pipe it through `bzcat FILE | moodstream feed -`",
        ),
        (
            b"\xfd7zXZ\0",
            "compressed with xz: pipe it through `xzcat FILE | moodstream feed -`",
        ),
        (
            b"\x04\x22\x4d\x18",
            "compressed with LZ4: pipe it through `lz4 -dc FILE | moodstream feed -`",
        ),
        (b"\xff\x06\0\0sNaPpY", "compressed with Snappy: unpack it first"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
        (b"Rar!", "a RAR archive: unpack it first"),
        (
            b"\xff\xfe",
            "UTF-16 text: pipe it through `iconv -f UTF-16 -t UTF-8 FILE | moodstream feed -`",
        ),
        (
            b"\xfe\xff",
            "UTF-16 text: pipe it through `iconv -f UTF-16 -t UTF-8 FILE | moodstream feed -`",
        ),
        (b"\x80\x04\x95", "a Python pickle"),
        (
            b"{\0",
            "UTF-16 text: pipe it through `iconv -f UTF-16LE -t UTF-8 FILE | moodstream feed -`",
        ),
    ];
    // A tar archive has its signature at byte 257.
    if beginning.get(257..262) == Some(b"ustar") {
        return Some("a tar archive: unpack it first");
    }
    MAGIC
        .iter()
        .find(|(magic, _)| beginning.starts_with(magic))
        .map(|(_, what)| *what)
}

/// Whether a line ends within a JSON value, which then continues on the next line.
fn ends_within(line: &[u8]) -> bool {
    line.ends_with(b"{") || line.ends_with(b"[") || {
        let read = serde_json::from_slice::<serde::de::IgnoredAny>(line);
        line.ends_with(b",") && read.is_err_and(|error| error.is_eof())
    }
}
