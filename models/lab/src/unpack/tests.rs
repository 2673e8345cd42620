#![allow(clippy::unwrap_used)]

use half::f16;

use super::{file::BLOCK, *};
use crate::{testing::arguments, tokenizer, unigram::Piece};

const WIDTH: usize = 32;
const INNER: usize = 64;
const POSITIONS: usize = 6;
/// Rows of the word embeddings; the last two have no piece.
const ROWS: usize = 15;

fn pieces() -> Vec<Piece> {
    let texts = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "\u{2581}",
        "s",
        "o",
        "\u{2581}so",
        "so",
        "<",
        "/",
        ">",
        "<mask>",
    ];
    // The scores of the special tokens are those that they get in `Unigram::new`.
    let scores = [
        -90.0, -90.0, -90.0, -90.0, -3.0, -5.0, -6.5, -4.25, -7.0, -8.0, -8.5, -9.0, -90.0,
    ];
    let piece = |(text, score): (&str, f32)| Piece {
        text: text.to_owned(),
        score,
    };
    texts.into_iter().zip(scores).map(piece).collect()
}

/// Writes a file in this layout; each tensor has multiples of its own step.
#[derive(Default)]
struct Written {
    directory: Vec<u8>,
    data: Vec<u8>,
    tensors: u32,
}

impl Written {
    fn tensor(&mut self, name: &str, elements: usize, is_coded: bool) {
        let step = 0.25 * (1 + self.tensors % 3) as f32;
        let offset = self.data.len();
        if is_coded {
            for block in 0..elements / BLOCK {
                self.data.extend(f16::from_f32(step).to_le_bytes());
                let half = |at: usize| ((block + at) % 16) as u8;
                self.data
                    .extend((0..BLOCK / 2).map(|at| half(at) | half(at + BLOCK / 2) << 4));
            }
        } else {
            let value = |at: usize| step * (at % 16) as f32 - 8.0 * step;
            self.data.extend((0..elements).flat_map(|at| value(at).to_le_bytes()));
        }
        self.directory.extend((name.len() as u16).to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.directory.push(u8::from(is_coded));
        self.directory.extend((elements as u32).to_le_bytes());
        self.directory.extend((offset as u64).to_le_bytes());
        self.directory.extend(((self.data.len() - offset) as u64).to_le_bytes());
        self.tensors += 1;
    }

    /// `head` followed by the tensors, with their offsets from the start of the file.
    fn behind(mut self, head: Vec<u8>) -> Vec<u8> {
        let start = (head.len() + 4 + self.directory.len()) as u64;
        let mut at = 0;
        while at < self.directory.len() {
            let name = usize::from(u16::from_le_bytes([self.directory[at], self.directory[at + 1]]));
            let place = at + 2 + name + 5..at + 2 + name + 13;
            let offset = u64::from_le_bytes(self.directory[place.clone()].try_into().unwrap()) + start;
            self.directory[place.clone()].copy_from_slice(&offset.to_le_bytes());
            at = place.end + 8;
        }
        [head, self.tensors.to_le_bytes().to_vec(), self.directory, self.data].concat()
    }
}

fn tiny() -> Vec<u8> {
    let mut head = b"E5S1".to_vec();
    let mut words = |words: &[i32]| head.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    words(&[1, WIDTH as i32, 2, 4, INNER as i32, ROWS as i32, POSITIONS as i32, 2]);
    words(&[1e-12_f32.to_bits().cast_signed(), BLOCK as i32]);
    words(&[pieces().len() as i32, 0, 2, 1, 3]);
    let bytes: Vec<u8> = pieces().iter().flat_map(|piece| piece.text.bytes()).collect();
    head.extend((bytes.len() as u64).to_le_bytes());
    let mut end = 0_u32;
    head.extend(end.to_le_bytes());
    for piece in pieces() {
        end += piece.text.len() as u32;
        head.extend(end.to_le_bytes());
    }
    head.extend(pieces().iter().flat_map(|piece| piece.score.to_le_bytes()));
    head.extend(bytes);
    // One entry of the normalisation table: U+0001 becomes nothing.
    head.extend([1, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0]);

    let mut tensors = Written::default();
    tensors.tensor("emb.word", ROWS * WIDTH, true);
    tensors.tensor("emb.pos", POSITIONS * WIDTH, false);
    tensors.tensor("emb.type", 2 * WIDTH, false);
    tensors.tensor("emb.ln.w", WIDTH, false);
    tensors.tensor("emb.ln.b", WIDTH, false);
    for layer in 0..2 {
        for (name, outputs, inputs) in [
            ("q", WIDTH, WIDTH),
            ("k", WIDTH, WIDTH),
            ("v", WIDTH, WIDTH),
            ("ao", WIDTH, WIDTH),
            ("fi", INNER, WIDTH),
            ("fo", WIDTH, INNER),
        ] {
            tensors.tensor(&format!("l{layer}.{name}.w"), outputs * inputs, true);
            tensors.tensor(&format!("l{layer}.{name}.b"), outputs, false);
        }
        for name in ["aln.w", "aln.b", "oln.w", "oln.b"] {
            tensors.tensor(&format!("l{layer}.{name}"), WIDTH, false);
        }
    }
    tensors.behind(head)
}

fn assert_close(values: &[f32], expected: &[f32]) {
    assert_eq!(values.len(), expected.len());
    for (value, expected) in values.iter().zip(expected) {
        assert!((value - expected).abs() < 1e-6, "{value} {expected}");
    }
}

#[test]
fn weights_are_read_into_their_places() {
    let (encoder, vocabulary) = unpack(&tiny()).unwrap();
    let shape = &encoder.shape;
    assert_eq!(
        (shape.positions, shape.first_position, shape.vocabulary),
        (POSITIONS + 2, 2, 13)
    );
    assert_eq!(vocabulary.pieces(), pieces());
    // The first block of words: half bytes 0 to 15, twice, minus 8, times a quarter.
    let first: Vec<f32> = (0..BLOCK).map(|at| ((at % 16) as f32 - 8.0) * 0.25).collect();
    assert_close(&encoder.weights.words[..WIDTH], &first);
    let second: Vec<f32> = (0..BLOCK).map(|at| (((at + 1) % 16) as f32 - 8.0) * 0.25).collect();
    assert_close(&encoder.weights.words[WIDTH..2 * WIDTH], &second);

    // Positions have step 0.5, token types 0.75; the two unused rows are zero.
    let positions = &encoder.weights.dense[encoder.layout.positions.clone()];
    assert_close(&positions[..2 * WIDTH], &[0.0; 2 * WIDTH]);
    let third: Vec<f32> = (0..WIDTH).map(|at| ((at % 16) as f32 - 8.0) * (0.5 + 0.75)).collect();
    assert_close(&positions[2 * WIDTH..3 * WIDTH], &third);

    // The second matrix of the feed-forward part is transposed.
    let place = encoder.layout.layers[1].down.clone();
    let down = &encoder.weights.dense[place];
    let file = File::parse(&{ tiny() })
        .unwrap()
        .tensor("l1.fo.w", WIDTH * INNER)
        .unwrap();
    for (input, output) in [(0, 1), (5, 0), (63, 31)] {
        assert_close(&[down[input * WIDTH + output]], &[file[output * INNER + input]]);
    }
}

#[test]
fn the_folder_has_a_checkpoint_and_its_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("tiny.bin"), folder.path().join("out"));
    fs::write(&file, tiny()).unwrap();
    let words = [
        "--file".into(),
        file.into_os_string(),
        "--out".into(),
        out.clone().into_os_string(),
    ];
    run(arguments(words).unwrap()).unwrap();
    let read = Checkpoint::read(&out).unwrap();
    let (encoder, vocabulary) = unpack(&tiny()).unwrap();
    assert_eq!(read.encoder.weights.dense, encoder.weights.dense);
    assert_eq!(read.encoder.weights.words, encoder.weights.words);
    assert_eq!(read.family, Family::XlmRoberta);
    assert_eq!(Unigram::read(&out).unwrap(), vocabulary);
    // A joiner and several spaces separate words; a full-width letter is normalised; control characters are removed.
    let tokenizer = tokenizer::read(&out).unwrap();
    assert_eq!(tokenizer.encode("so\u{200d}so", 9).unwrap(), [0, 7, 7, 2]);
    assert_eq!(
        tokenizer.encode("  s\u{ff4f}so \u{1} z", 9).unwrap(),
        [0, 7, 8, 4, 3, 2]
    );
    // Text that looks like a special token is text.
    assert_eq!(tokenizer.pieces("</s>").unwrap(), [4, 9, 10, 5, 11]);
}

#[test]
fn damaged_files_are_refused_with_the_reason() {
    let whole = tiny();
    let message = |bytes: &[u8]| format!("{:#}", unpack(bytes).unwrap_err());
    for end in [0, 3, 30, 60, 120, 200, 400, whole.len() - 1] {
        let message = message(&whole[..end]);
        let expected = ["ends after", "reaches beyond"]
            .iter()
            .any(|what| message.contains(what));
        assert!(expected, "{end}: {message}");
    }
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        message(&bytes)
    };
    assert!(changed(0, b'X').contains("E5S1"));
    assert!(changed(4, 2).contains("version 2"));
    assert!(changed(8, 33).contains("are not valid"), "{}", changed(8, 33));
    assert!(changed(11, 0xff).contains("a size is -"), "{}", changed(11, 0xff));
    assert!(changed(12, 3).contains("tensor l2.q.w is absent"), "{}", changed(12, 3));
    assert!(changed(20, 48).contains("are not valid"));
    assert!(
        changed(20, 96).contains("l0.fi.w has 2048 elements"),
        "{}",
        changed(20, 96)
    );
    assert!(changed(24, 5).contains("13 pieces for 5"), "{}", changed(24, 5));
    assert!(changed(40, 64).contains("blocks of 64"));
}
