//! External data: the files referenced by an ONNX graph whose weights are too large for the ONNX file itself.
//!
//! Walks the protobuf of `onnx.proto` (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>) by field number, without
//! reading any weights.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// The messages of `onnx.proto` that can lead to a tensor.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Function,
    Tensor,
    Entry,
}

impl Message {
    /// Returns the type of the message in a field.
    const fn field(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Tensor, 13) => Self::Entry,
            _ => return None,
        })
    }
}

/// The maximum nesting depth that is followed.
const MAX_DEPTH: usize = 32;

/// Returns the existing files that the graph references. Their names are relative to the ONNX file.
///
/// # Errors
/// Returns an error if the file can't be read. A file that is not ONNX has no references; loading it reports the fault.
pub(super) fn external_data(onnx: &Path) -> io::Result<Vec<PathBuf>> {
    let file = File::open(onnx)?;
    let length = file.metadata()?.len();
    let mut walk = Walk {
        reader: BufReader::new(file),
        locations: BTreeSet::new(),
    };
    match walk.message(Message::Model, length, 0) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            return Err(error);
        }
        _ => {}
    }
    let folder = onnx.parent().unwrap_or(Path::new(""));
    let paths = walk.locations.into_iter().map(|location| folder.join(location));
    Ok(paths.filter(|path| path.is_file()).collect())
}

struct Walk {
    reader: BufReader<File>,
    locations: BTreeSet<String>,
}

impl Walk {
    /// Reads a message's fields up to `end`, an offset in the file.
    fn message(&mut self, message: Message, end: u64, depth: usize) -> io::Result<()> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.reader.stream_position()? < end {
            let tag = self.varint()?;
            match tag & 7 {
                0 => drop(self.varint()?),
                1 => self.skip(8)?,
                2 => {
                    let length = self.varint()?;
                    let start = self.reader.stream_position()?;
                    let inner = start
                        .checked_add(length)
                        .filter(|&inner| inner <= end)
                        .ok_or_else(damaged)?;
                    match (message, tag >> 3, message.field(tag >> 3)) {
                        (_, _, Some(field)) if depth < MAX_DEPTH => self.message(field, inner, depth + 1)?,
                        (Message::Entry, 1, _) if length < 4_096 => key = self.string(length)?,
                        (Message::Entry, 2, _) if length < 4_096 => value = self.string(length)?,
                        _ => {}
                    }
                    let here = self.reader.stream_position()?;
                    self.skip(inner.checked_sub(here).ok_or_else(damaged)?)?;
                }
                5 => self.skip(4)?,
                _ => return Err(damaged()),
            }
        }
        if key == "location" {
            self.locations.insert(value);
        }
        Ok(())
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    fn string(&mut self, length: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        (&mut self.reader).take(length).read_to_end(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| damaged())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if self.reader.buffer().len() as u64 >= bytes {
            // A seek within the buffer, so at most a few kilobytes.
            #[allow(clippy::cast_possible_truncation)]
            self.reader.consume(bytes as usize);
            return Ok(());
        }
        let bytes = i64::try_from(bytes).map_err(|_| damaged())?;
        self.reader
            .seek_relative(bytes)
            .or_else(|_| self.reader.seek(SeekFrom::Current(bytes)).map(drop))
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an ONNX file")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut length = content.len();
        let mut bytes = vec![number << 3 | 2];
        while length > 0x7f {
            bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        bytes.push(u8::try_from(length).unwrap());
        bytes.extend_from_slice(content);
        bytes
    }

    fn tensor(location: &str) -> Vec<u8> {
        let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
        let offset = [field(1, b"offset"), field(2, b"0")].concat();
        // Dimensions, embedded weights, and the external data entries.
        [
            vec![0x08, 0x03],
            field(9, &[7; 300]),
            field(13, &offset),
            field(13, &entry),
        ]
        .concat()
    }

    #[test]
    fn every_file_that_a_graph_names_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["weights.bin", "branch.bin", "unused.bin"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let branch = field(6, &field(5, &tensor("branch.bin")));
        let node = field(1, &field(5, &branch));
        let graph = [node, field(5, &tensor("weights.bin")), field(5, &tensor("absent.bin"))].concat();
        let onnx = folder.path().join("model.onnx");
        std::fs::write(&onnx, [vec![0x08, 0x09], field(7, &graph)].concat()).unwrap();
        let found: Vec<_> = ["branch.bin", "weights.bin"]
            .map(|name| folder.path().join(name))
            .into();
        assert_eq!(external_data(&onnx).unwrap(), found);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let folder = tempfile::tempdir().unwrap();
            let onnx = folder.path().join("model.onnx");
            std::fs::write(&onnx, [field(7, &field(5, &bytes)), bytes].concat()).unwrap();
            prop_assert!(external_data(&onnx).unwrap().is_empty());
        }
    }
}
