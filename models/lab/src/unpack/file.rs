//! The layout of an E5S1 file, all of it little-endian:
//!
//! - the magic `E5S1`, u32 version; i32 width, layers, heads, inner width, rows of the word embeddings, positions, token
//!   types; f32 epsilon of the layer norms; i32 block size;
//! - i32 pieces, then i32 ids of `<s>`, `</s>`, `<pad>`, `<unk>`; u64 bytes of all pieces, u32 offset of each and of the
//!   end, f32 score of each, the bytes;
//! - i32 entries of the normalisation table, u32 number of bytes, the bytes, which are not read here;
//! - i32 tensors, for each u16 length of its name, the name, u8 kind (0: f32, 1: blocks of 4 bits), u32 elements, u64 offset
//!   from the file's start, u64 bytes.
//!
//! A block of 4 bits, llama.cpp's `Q4_0`, is an f16 scale and 16 bytes: byte `j` holds weight `j` in its low half and weight
//! `j + 16` in its high one, and a weight is its half byte minus 8, times the scale.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use half::f16;

use crate::unigram::Piece;

/// Weights in a block.
pub(super) const BLOCK: usize = 32;
/// Bytes of a block: the scale, and half a byte per weight.
pub(super) const BLOCK_BYTES: usize = 2 + BLOCK / 2;

/// The sizes of the encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) inner: usize,
    /// Rows of the word embeddings.
    pub(super) rows: usize,
    pub(super) positions: usize,
    pub(super) types: usize,
    pub(super) epsilon: f32,
}

/// A file with its directory.
pub(super) struct File<'a> {
    bytes: &'a [u8],
    pub(super) header: Header,
    /// The ids of `<s>`, `<pad>`, `</s>` and `<unk>`.
    pub(super) special: [usize; 4],
    pub(super) pieces: Vec<Piece>,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    kind: u8,
    elements: usize,
    offset: usize,
    length: usize,
}

impl<'a> File<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut at = Cursor { bytes, at: 0 };
        ensure!(
            at.take(4)? == b"E5S1",
            "not a file of 4-bit weights: it does not start with E5S1"
        );
        let version = at.u32()?;
        ensure!(version == 1, "layout version {version}: only 1 is supported");
        let [width, layers, heads, inner, rows, positions, types] = at.sizes()?;
        let epsilon = f32::from_bits(at.u32()?);
        let [block] = at.sizes()?;
        ensure!(block == BLOCK, "blocks of {block} weights: only {BLOCK} is supported");
        let numbers = [width, layers, heads, inner, rows, positions, types];
        ensure!(
            numbers.iter().all(|number| (1..=1 << 24).contains(number))
                && width.is_multiple_of(heads)
                && width.is_multiple_of(BLOCK)
                && inner.is_multiple_of(BLOCK)
                && epsilon.is_finite()
                && epsilon > 0.0,
            "the sizes in its header are not valid"
        );

        let [count, bos, eos, pad, unknown] = at.sizes()?;
        let pieces = at.pieces(count)?;
        let _entries = at.u32()?;
        let length = at.u32()? as usize;
        at.take(length)?;
        let [count] = at.sizes()?;
        let mut tensors = BTreeMap::new();
        for _ in 0..count {
            let length = usize::from(u16::from_le_bytes(at.array()?));
            let name = String::from_utf8_lossy(at.take(length)?).into_owned();
            let [kind] = at.array()?;
            let tensor = Tensor {
                kind,
                elements: at.u32()? as usize,
                offset: at.long()?,
                length: at.long()?,
            };
            tensors.insert(name, tensor);
        }
        Ok(Self {
            bytes,
            header: Header {
                width,
                layers,
                heads,
                inner,
                rows,
                positions,
                types,
                epsilon,
            },
            special: [bos, pad, eos, unknown],
            pieces,
            tensors,
        })
    }

    /// The values of a tensor, which must have this many elements.
    pub(super) fn tensor(&self, name: &str, elements: usize) -> Result<Vec<f32>> {
        let tensor = self
            .tensors
            .get(name)
            .with_context(|| format!("tensor {name} is absent"))?;
        ensure!(
            tensor.elements == elements,
            "tensor {name} has {} elements: the sizes in the header need {elements}",
            tensor.elements
        );
        let end = tensor.offset.checked_add(tensor.length);
        let bytes = end.and_then(|end| self.bytes.get(tensor.offset..end));
        let bytes = bytes.with_context(|| format!("tensor {name} reaches beyond the end of the file"))?;
        let expected = match tensor.kind {
            0 => elements * 4,
            1 => elements.div_ceil(BLOCK) * BLOCK_BYTES,
            kind => bail!("tensor {name} is of kind {kind}: only 0 (f32) and 1 (4 bits) are supported"),
        };
        ensure!(
            bytes.len() == expected,
            "tensor {name} has {} bytes for {elements} elements",
            bytes.len()
        );
        let mut values: Vec<f32> = match tensor.kind {
            0 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .copied()
                .map(f32::from_le_bytes)
                .collect(),
            _ => bytes.as_chunks::<BLOCK_BYTES>().0.iter().flat_map(block).collect(),
        };
        values.truncate(elements);
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "tensor {name} has a value that is not finite"
        );
        Ok(values)
    }
}

/// The weights of a block.
fn block(block: &[u8; BLOCK_BYTES]) -> [f32; BLOCK] {
    let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
    let value = |half: u8| (f32::from(half) - 8.0) * scale;
    std::array::from_fn(|at| match at.checked_sub(BLOCK / 2) {
        None => value(block[2 + at] & 0x0f),
        Some(at) => value(block[2 + at] >> 4),
    })
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.with_context(|| format!("it ends after {} bytes", self.bytes.len()))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn long(&mut self) -> Result<usize> {
        Ok(usize::try_from(u64::from_le_bytes(self.array()?))?)
    }

    /// Sizes, which are stored as signed numbers.
    fn sizes<const N: usize>(&mut self) -> Result<[usize; N]> {
        let mut sizes = [0; N];
        for size in &mut sizes {
            let number = i32::from_le_bytes(self.array()?);
            *size = usize::try_from(number)
                .ok()
                .with_context(|| format!("a size is {number}"))?;
        }
        Ok(sizes)
    }

    fn pieces(&mut self, count: usize) -> Result<Vec<Piece>> {
        let length = self.long()?;
        let words = |bytes: &[u8]| -> Vec<[u8; 4]> { bytes.as_chunks::<4>().0.to_vec() };
        let offsets: Vec<usize> = words(self.take((count + 1).saturating_mul(4))?)
            .into_iter()
            .map(|bytes| u32::from_le_bytes(bytes) as usize)
            .collect();
        let scores = words(self.take(count.saturating_mul(4))?);
        let bytes = self.take(length)?;
        let pieces = offsets.windows(2).zip(scores).enumerate();
        pieces
            .map(|(id, (ends, score))| {
                let text = bytes.get(ends[0]..ends[1]).and_then(|text| str::from_utf8(text).ok());
                Ok(Piece {
                    text: text.with_context(|| format!("piece {id} is not UTF-8"))?.to_owned(),
                    score: f32::from_le_bytes(score),
                })
            })
            .collect()
    }
}
