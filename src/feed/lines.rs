//! Lines of a file or of standard input, unpacked on the way.

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

/// Where lines come from. zstd and gzip are known by their first bytes, whatever the name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

/// The longest line that is read: a bound on memory. Kafka's own limits lie far below.
const LONGEST: u64 = 512 << 20;

/// Counts the bytes read beneath the unpacking.
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

/// The lines of a source, without their ends.
pub(super) struct Lines {
    reader: Box<dyn BufRead>,
    line: Vec<u8>,
    position: Arc<AtomicU64>,
    length: Option<u64>,
}

impl Lines {
    /// Opens the source.
    ///
    /// # Errors
    /// As the system says; a damaged archive shows when it is read.
    pub(super) fn open(source: &Source) -> io::Result<Self> {
        let (inner, length): (Box<dyn Read>, _) = match source {
            Source::File(path) => {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                (Box::new(file), metadata.is_file().then_some(metadata.len()))
            }
            Source::Stdin => (Box::new(io::stdin()), None),
        };
        let position = Arc::new(AtomicU64::new(0));
        let counted = Counted {
            inner,
            count: Arc::clone(&position),
        };
        Ok(Self {
            reader: unpack(BufReader::with_capacity(128 << 10, counted))?,
            line: Vec::new(),
            position,
            length,
        })
    }

    /// The next line, without `\n` or `\r\n`.
    ///
    /// # Errors
    /// If the source can't be read or unpacked, or a line is longer than 512 MiB.
    #[allow(clippy::should_implement_trait)] // lends its buffer, as an iterator can't
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        if (&mut self.reader).take(LONGEST).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        if self.line.len() as u64 >= LONGEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line is longer than 512 MiB",
            ));
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// Bytes read of the source as it lies.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// The source's length, where it is known.
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
        // Several members one after another are one file, as `cat a.gz b.gz` makes it.
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
        let mut lines = Lines::open(&Source::File(file.path().into()))?;
        let mut all = Vec::new();
        while let Some(line) = lines.next()? {
            all.push(line.to_vec());
        }
        Ok(all)
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
    fn members_and_frames_one_after_another_are_one_file() {
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
}
