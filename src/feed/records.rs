//! Reads the records of a file or of standard input, decompressing it: lines, or the records in an input with another
//! layout.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::layout::{BYTE_ORDER_MARK, Layout, invalid, layout};

/// Where records are read from. zstd and gzip are detected by their first bytes, regardless of the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedInput {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl fmt::Display for FeedInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

/// The maximum length of a record, which bounds memory. Kafka's own limits are far below.
const MAX_RECORD_BYTES: u64 = 512 << 20;

/// Counts the bytes read from the input before decompression.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The records of an input.
pub(super) struct Records {
    reader: Box<dyn BufRead>,
    layout: Layout,
    record: Vec<u8>,
    /// Whether the next value is an element of an array.
    in_list: bool,
    position: Arc<AtomicU64>,
    length: Option<u64>,
}

impl Records {
    /// Opens the input, and detects the layout of its records from its beginning. With `any_text`, every line is a
    /// record.
    ///
    /// # Errors
    /// Returns I/O errors, or [`io::ErrorKind::InvalidData`] with the reason if the beginning is in an unsupported format. A
    /// damaged archive is detected only when it is read.
    pub(super) fn open(input: &FeedInput, any_text: bool) -> io::Result<Self> {
        let (inner, length): (Box<dyn Read>, _) = match input {
            FeedInput::File(path) => {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                (Box::new(file), metadata.is_file().then_some(metadata.len()))
            }
            FeedInput::Stdin => (Box::new(io::stdin()), None),
        };
        let position = Arc::new(AtomicU64::new(0));
        let counted = Counted {
            inner,
            count: Arc::clone(&position),
        };
        let mut reader = unpack(BufReader::with_capacity(128 << 10, counted))?;
        let layout = match any_text {
            true => Layout::Lines,
            false => layout(reader.fill_buf()?)?,
        };
        // The service strips a byte order mark from a line; a JSON value must not include it.
        if layout != Layout::Lines && reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
        }
        Ok(Self {
            reader,
            layout,
            record: Vec::new(),
            in_list: false,
            position,
            length,
        })
    }

    /// Returns the next record: a line without its line ending, which may be empty; a JSON value; or a block.
    ///
    /// # Errors
    /// Returns an error if the input can't be read or decompressed, a record exceeds 512 MiB, or the input ends within a
    /// JSON value.
    #[allow(clippy::should_implement_trait)] // returns its buffer, which an iterator can't
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.record.clear();
        let found = match self.layout {
            Layout::Lines => self.line()?,
            Layout::Json => self.value()?,
            Layout::Blocks => self.block()?,
        };
        let record = self.record.strip_suffix(b"\n").unwrap_or(&self.record);
        Ok(found.then(|| record.strip_suffix(b"\r").unwrap_or(record)))
    }

    /// Reads a line including its line ending. Returns whether there was one.
    fn line(&mut self) -> io::Result<bool> {
        let room = MAX_RECORD_BYTES.saturating_sub(self.record.len() as u64);
        let read = (&mut self.reader).take(room).read_until(b'\n', &mut self.record)?;
        self.check_length()?;
        Ok(read > 0)
    }

    fn check_length(&self) -> io::Result<()> {
        if self.record.len() as u64 >= MAX_RECORD_BYTES {
            return Err(invalid("a record is longer than 512 MiB"));
        }
        Ok(())
    }

    /// Reads lines up to an empty one.
    fn block(&mut self) -> io::Result<bool> {
        loop {
            let before = self.record.len();
            let more = self.line()?;
            let is_empty = self.record[before..].trim_ascii().is_empty();
            if is_empty {
                self.record.truncate(before);
            }
            match (more, before) {
                (false, before) => return Ok(before > 0),
                // Skip empty lines before a block.
                (true, 0) if is_empty => {}
                (true, _) if is_empty => return Ok(true),
                (true, _) => {}
            }
        }
    }

    /// Reads the next object, array, string or word. The syntax is not validated here, but when the record is parsed.
    fn value(&mut self) -> io::Result<bool> {
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return match depth > 0 || in_string {
                    true => Err(invalid("it ends within a JSON value")),
                    false => Ok(!self.record.is_empty()),
                };
            }
            let mut ended = false;
            let mut used = 0;
            for &byte in buffer {
                let between = depth == 0 && !in_string;
                // Skip separators between values and the brackets of the enclosing array.
                if between && (byte.is_ascii_whitespace() || byte == b',' || byte == b']' && self.in_list) {
                    ended = !self.record.is_empty();
                    if ended {
                        break;
                    }
                    used += 1;
                    self.in_list &= byte != b']';
                    continue;
                }
                if between && byte == b'[' && !self.in_list && self.record.is_empty() {
                    used += 1;
                    self.in_list = true;
                    continue;
                }
                used += 1;
                self.record.push(byte);
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_string => escaped = true,
                    b'"' => in_string = !in_string,
                    b'{' | b'[' if !in_string => depth += 1,
                    b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
                    _ => {}
                }
                ended = depth == 0 && !in_string && matches!(byte, b'}' | b']' | b'"');
                if ended {
                    break;
                }
            }
            self.reader.consume(used);
            self.check_length()?;
            if ended {
                return Ok(true);
            }
        }
    }

    /// Returns the number of bytes read from the input, before decompression.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Returns the length of the input in bytes, if known.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }
}

fn unpack(mut packed: impl BufRead + 'static) -> io::Result<Box<dyn BufRead>> {
    let magic = packed.fill_buf()?;
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::Decoder::with_buffer(packed)?;
        return Ok(Box::new(BufReader::with_capacity(1 << 20, decoder)));
    }
    if magic.starts_with(&[0x1f, 0x8b]) {
        // Concatenated gzip members are one file, as `cat a.gz b.gz` produces it.
        return Ok(Box::new(BufReader::with_capacity(
            1 << 20,
            flate2::bufread::MultiGzDecoder::new(packed),
        )));
    }
    Ok(Box::new(packed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(bytes)?;
        let mut records = Records::open(&FeedInput::File(file.path().into()), false)?;
        let mut all = Vec::new();
        while let Some(record) = records.next()? {
            all.push(record.to_vec());
        }
        Ok(all)
    }

    fn texts(bytes: impl AsRef<[u8]>) -> Vec<String> {
        let records = read(bytes.as_ref()).unwrap();
        records
            .into_iter()
            .map(|record| String::from_utf8(record).unwrap())
            .collect()
    }

    const TEXT: &[u8] = b"one\r\n\ntwo\xff\nthree\rx\nlast";

    fn expected() -> Vec<Vec<u8>> {
        [&b"one"[..], b"", b"two\xff", b"three\rx", b"last"]
            .map(<[u8]>::to_vec)
            .to_vec()
    }

    #[test]
    fn plain_zstd_and_gzip_give_the_same_lines() {
        assert_eq!(read(TEXT).unwrap(), expected());
        assert_eq!(read(&zstd::encode_all(TEXT, 3).unwrap()).unwrap(), expected());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(TEXT).unwrap();
        assert_eq!(read(&gzip.finish().unwrap()).unwrap(), expected());
    }

    #[test]
    fn concatenated_members_and_frames_are_one_file() {
        let halves = TEXT.split_at(7);
        let zstd = [
            zstd::encode_all(halves.0, 3).unwrap(),
            zstd::encode_all(halves.1, 3).unwrap(),
        ]
        .concat();
        assert_eq!(read(&zstd).unwrap(), expected());
        let gzip = |part: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(part).unwrap();
            gzip.finish().unwrap()
        };
        assert_eq!(read(&[gzip(halves.0), gzip(halves.1)].concat()).unwrap(), expected());
    }

    #[test]
    fn an_empty_file_has_no_lines_and_a_damaged_one_is_an_error() {
        assert!(read(b"").unwrap().is_empty());
        let packed = zstd::encode_all(TEXT, 3).unwrap();
        assert!(read(&packed[..packed.len() - 3]).is_err());
    }

    #[test]
    fn pretty_printed_values_are_separate_records() {
        let one = serde_json::json!({"id": 1, "text": "a } ] \" { [ \\", "tags": [{"x": []}], "none": null});
        let two = serde_json::json!({"id": 2, "lang": "en"});
        let compact = [one.to_string(), two.to_string()];
        let pretty = |value: &serde_json::Value| serde_json::to_string_pretty(value).unwrap();
        let list = serde_json::json!([one, two]);
        for text in [
            pretty(&list),
            list.to_string(),
            format!("\u{feff}{}\r\n", pretty(&list)),
            format!("{}\n{}\n", pretty(&one), pretty(&two)),
            format!("{}{}", pretty(&one), pretty(&two)),
            format!("[{}]\n[{}]\n", compact[0], compact[1]),
        ] {
            let records: Vec<String> = texts(&text)
                .iter()
                .map(|record| serde_json::from_str::<serde_json::Value>(record).unwrap().to_string())
                .collect();
            assert_eq!(records, compact, "{text}");
        }
        assert!(texts("[]").is_empty());
        assert_eq!(
            texts("[\n \"so happy\",\n \"so sad\"\n]\n"),
            ["\"so happy\"", "\"so sad\""]
        );
        assert_eq!(texts("[{\"a\":1}, 5, \"x\",[1]]"), ["{\"a\":1}", "5", "\"x\"", "[1]"]);
        assert!(read(b"[\n{\"id\": 1,\n").is_err());
    }

    #[test]
    fn lines_of_json_stay_lines() {
        for text in [
            "{\"id\":1}\n{\"id\":\n{\"id\":3}",
            "{\"id\":1",
            "{broken\n{\"id\":2}",
            "[news] at ten\nso happy",
        ] {
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(texts(text), lines);
        }
    }

    #[test]
    fn server_sent_events_are_separate_records() {
        assert_eq!(
            texts(":thump\nevent: update\ndata: {}\n\n\nevent: delete\r\ndata: 7\r\n\r\n"),
            [":thump\nevent: update\ndata: {}", "event: delete\r\ndata: 7"]
        );
        assert_eq!(
            texts("data: {\"id\":1}\n\ndata: {\"id\":2}"),
            ["data: {\"id\":1}", "data: {\"id\":2}"]
        );
    }

    #[test]
    fn other_formats_are_named() {
        for (bytes, what) in [
            (&b"PAR1\x15\x04"[..], "Parquet"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"id,text,label\n1,so happy,joy\n", "CSV"),
            (b"\"0\",\"1467810369\",\"so sad\"\n", "CSV"),
            (b"<?xml version=\"1.0\"?>\n<a/>", "XML"),
            (b"<!DOCTYPE html>\n<html>", "HTML"),
            (b"<html>\n<body>", "HTML"),
            (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "PDF"),
            (b"BZh91AY&SY", "bzcat"),
            (b"\xfd7zXZ\0\0", "xzcat"),
            (b"Obj\x01\x04\x14avro.codec", "Avro"),
            (b"{\0\"\0i\0d\0", "UTF-16"),
            (b"\x93NUMPY\x01\0v\0\0\0", "binary data"),
            (b"1,so happy\n2,so sad\n", "CSV"),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            let remedy = ["JSON", "feed -", "unpack"].iter().any(|remedy| error.contains(remedy));
            assert!(
                error.contains(what) && remedy && error.matches(": ").count() <= 2,
                "{error}"
            );
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"id,text\n").unwrap();
        assert!(Records::open(&FeedInput::File(file.path().into()), true).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn the_elements_of_a_json_array_are_preserved(words in proptest::collection::vec(".{0,12}", 0..5)) {
            let values: Vec<serde_json::Value> = words.iter().map(|word| serde_json::json!({word: [word, {"x": word}]})).collect();
            let list = serde_json::to_string_pretty(&values).unwrap();
            let read: Vec<serde_json::Value> =
                texts(list).iter().map(|record| serde_json::from_str(record).unwrap()).collect();
            proptest::prop_assert_eq!(read, values);
        }
    }
}
