//! Finding the ONNX file, and the hash that tells models apart.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3Default;

use super::{ModelError, ModelOptions, Precision};

/// The names that Hugging Face's exporters (optimum, transformers.js) give to the files of each precision.
const fn names(precision: Precision) -> &'static [&'static str] {
    match precision {
        Precision::Auto => &[],
        Precision::Fp32 => &["model.onnx"],
        Precision::Fp16 => &["model_fp16.onnx"],
        Precision::Int8 => &["model_quantized.onnx", "model_int8.onnx", "model_uint8.onnx"],
    }
}

/// The file to run and its precision.
pub(super) fn find_onnx(folder: &Path, options: &ModelOptions) -> Result<(PathBuf, Precision), ModelError> {
    let order: &[Precision] = match (options.precision, options.provider.is_gpu()) {
        (Precision::Auto, false) => &[Precision::Int8, Precision::Fp32, Precision::Fp16],
        (Precision::Auto, true) => &[Precision::Fp16, Precision::Fp32, Precision::Int8],
        (Precision::Fp32, _) => &[Precision::Fp32],
        (Precision::Fp16, _) => &[Precision::Fp16],
        (Precision::Int8, _) => &[Precision::Int8],
    };
    for &precision in order {
        for name in names(precision) {
            for path in [folder.join(name), folder.join("onnx").join(name)] {
                if path.is_file() {
                    return Ok((path, precision));
                }
            }
        }
    }
    let looked_for: Vec<&str> = order.iter().flat_map(|&precision| names(precision)).copied().collect();
    Err(ModelError::NoOnnx {
        folder: folder.to_owned(),
        precision: options.precision,
        provider: options.provider,
        looked_for: looked_for.join(", "),
    })
}

/// Weights too large for the ONNX file itself, where exporters put them.
pub(super) fn external_data(onnx: &Path) -> Vec<PathBuf> {
    ["_data", ".data"]
        .iter()
        .map(|suffix| {
            let mut name = onnx.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        })
        .filter(|path| path.is_file())
        .collect()
}

/// A hash over everything that changes a model's answers.
pub(super) struct Fingerprint(Xxh3Default);

impl Fingerprint {
    pub(super) fn new() -> Self {
        Self(Xxh3Default::new())
    }

    /// Takes in one part; its length goes first, so that parts can't run into each other.
    pub(super) fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Takes in a file without holding it in memory.
    pub(super) fn file(&mut self, path: &Path) -> Result<(), ModelError> {
        self.try_file(path).map_err(|source| ModelError::Read {
            path: path.to_owned(),
            source,
        })
    }

    fn try_file(&mut self, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        self.0.update(&file.metadata()?.len().to_le_bytes());
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            self.0.update(&buffer[..read]);
        }
    }

    /// The first eight hex digits.
    pub(super) fn hex(&self) -> String {
        format!("{:08x}", self.0.digest128() >> 96)
    }
}
