//! Finds the ONNX file and computes the hash that identifies a model.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3Default;

use super::{ModelError, ModelOptions, Precision};

/// The names that Hugging Face's exporters (optimum, transformers.js) give to the file of each precision.
const fn names(precision: Precision) -> &'static [&'static str] {
    match precision {
        Precision::Auto => &[],
        Precision::Fp32 => &["model.onnx"],
        Precision::Fp16 => &["model_fp16.onnx"],
        Precision::Int8 => &["model_quantized.onnx", "model_int8.onnx", "model_uint8.onnx"],
    }
}

/// Infers the precision from the names that optimum and sentence-transformers use: `model_O4.onnx`,
/// `model_qint8_avx512_vnni.onnx`, `model_quint8_avx2.onnx`, `model_q4.onnx`. Returns `None` if the file can't run here.
fn precision_of(name: &str) -> Option<Precision> {
    let name = name.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    // 4-bit weights.
    if has(&["q4", "bnb4", "int4"]) {
        return None;
    }
    // Optimised for one processor architecture: its instructions, or the way its products saturate.
    if has(&["arm64"]) != cfg!(target_arch = "aarch64") && has(&["arm64", "avx"]) {
        return None;
    }
    Some(match () {
        () if has(&["int8", "quantized", "q8"]) => Precision::Int8,
        // Optimum's optimisation level 4 uses half precision.
        () if has(&["fp16", "float16", "f16", "_o4"]) => Precision::Fp16,
        () => Precision::Fp32,
    })
}

/// Returns the ONNX files in the folder and its `onnx/` subfolder, sorted by name.
fn onnx_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = [folder.to_owned(), folder.join("onnx")]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx") && path.is_file())
        .collect();
    files.sort();
    files
}

/// Returns the ONNX file to run and its precision.
pub(super) fn find_onnx(folder: &Path, options: &ModelOptions) -> Result<(PathBuf, Precision), ModelError> {
    let order: &[Precision] = match (options.precision, options.provider.is_gpu()) {
        (Precision::Auto, false) => &[Precision::Int8, Precision::Fp32, Precision::Fp16],
        (Precision::Auto, true) => &[Precision::Fp16, Precision::Fp32, Precision::Int8],
        (Precision::Fp32, _) => &[Precision::Fp32],
        (Precision::Fp16, _) => &[Precision::Fp16],
        (Precision::Int8, _) => &[Precision::Int8],
    };
    let files = onnx_files(folder);
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(file) = &options.file {
        let path = folder.join(file);
        if path.is_file() {
            let precision = match options.precision {
                Precision::Auto => precision_of(&name(&path)).unwrap_or(Precision::Int8),
                precision => precision,
            };
            return Ok((path, precision));
        }
    } else {
        for &precision in order {
            for name in names(precision) {
                for path in [folder.join(name), folder.join("onnx").join(name)] {
                    if path.is_file() {
                        return Ok((path, precision));
                    }
                }
            }
            // Among other names of that precision, the first in sorted order.
            let mut others = files.iter().filter(|path| precision_of(&name(path)) == Some(precision));
            if let Some(path) = others.next() {
                let passed_over: Vec<String> = others.map(|path| name(path)).collect();
                if !passed_over.is_empty() {
                    tracing::warn!(
                        chosen = name(path),
                        others = passed_over.join(", "),
                        "several ONNX files of the same precision: choose one with model.file"
                    );
                }
                return Ok((path.clone(), precision));
            }
        }
    }
    let weights = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
        .into_iter()
        .find(|weights| folder.join(weights).is_file());
    match weights {
        _ if !files.is_empty() => {}
        Some(weights) => {
            return Err(ModelError::NotExported {
                folder: folder.to_owned(),
                weights: weights.to_owned(),
            });
        }
        None => {
            return Err(ModelError::NothingToRun {
                folder: folder.to_owned(),
            });
        }
    }
    let found = files
        .iter()
        .map(|path| path.strip_prefix(folder).unwrap_or(path).display().to_string())
        .collect::<Vec<_>>();
    Err(ModelError::NoOnnx {
        folder: folder.to_owned(),
        precision: options.precision,
        provider: options.provider,
        found: match &options.file {
            Some(file) => format!("{} does not exist, only {}", file.display(), found.join(", ")),
            None => format!("found {}", found.join(", ")),
        },
    })
}

/// Reads a file, checking that it is not a Git LFS pointer.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    check_fetched(path)?;
    fs::read(path).map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Checks that a file is not a Git LFS pointer, which a clone without Git LFS has in place of each large file.
pub(super) fn check_fetched(path: &Path) -> Result<(), ModelError> {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
    let mut beginning = [0; POINTER.len()];
    let is_pointer = File::open(path)
        .and_then(|mut file| file.read_exact(&mut beginning))
        .is_ok()
        && beginning == POINTER;
    match is_pointer {
        true => Err(ModelError::LfsPointer { path: path.to_owned() }),
        false => Ok(()),
    }
}

/// A hash over everything that affects a model's predictions.
pub(super) struct FolderHash(Xxh3Default);

impl FolderHash {
    pub(super) fn new() -> Self {
        Self(Xxh3Default::new())
    }

    /// Adds one part, prefixed with its length so that adjacent parts can't be confused.
    pub(super) fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds the content of a file, without loading it into memory.
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

    /// Returns the first eight hex digits.
    pub(super) fn hex(&self) -> String {
        format!("{:08x}", self.0.digest128() >> 96)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("onnx")).unwrap();
        for name in names {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        folder
    }

    fn find(names: &[&str], options: &ModelOptions) -> Result<(String, Precision), String> {
        let folder = folder(names);
        find_onnx(folder.path(), options)
            .map(|(path, precision)| (path.file_name().unwrap().to_string_lossy().into_owned(), precision))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_found_by_the_names_that_exporters_give() {
        let auto = ModelOptions::default();
        for (name, precision) in [
            ("onnx/model.onnx", Precision::Fp32),
            ("onnx/model_O4.onnx", Precision::Fp16),
            ("model_O2.onnx", Precision::Fp32),
            ("emotions.onnx", Precision::Fp32),
            #[cfg(target_arch = "x86_64")]
            ("onnx/model_qint8_avx512_vnni.onnx", Precision::Int8),
            #[cfg(target_arch = "x86_64")]
            ("onnx/model_quint8_avx2.onnx", Precision::Int8),
        ] {
            assert_eq!(find(&[name], &auto).unwrap().1, precision, "{name}");
        }
        // A standard name takes precedence.
        let both = ["onnx/model_qint8_avx512.onnx", "onnx/model_quantized.onnx"];
        assert_eq!(find(&both, &auto).unwrap().0, "model_quantized.onnx");
        let named = ModelOptions {
            file: Some("onnx/model_q4.onnx".into()),
            ..auto.clone()
        };
        assert_eq!(
            find(&["model.onnx", "onnx/model_q4.onnx"], &named).unwrap().0,
            "model_q4.onnx"
        );
        let error = find(&["model.onnx"], &named).unwrap_err();
        assert!(
            error.contains("model_q4.onnx does not exist, only model.onnx"),
            "{error}"
        );
    }

    #[test]
    fn errors_name_the_files_that_were_found() {
        let int8 = ModelOptions {
            precision: Precision::Int8,
            ..ModelOptions::default()
        };
        let error = find(&["model.onnx", "onnx/model_q4.onnx"], &int8).unwrap_err();
        assert!(
            error.contains("model.onnx, onnx/model_q4.onnx") && error.contains("model.file"),
            "{error}"
        );
        let error = find(&["model.safetensors"], &ModelOptions::default()).unwrap_err();
        assert!(error.contains("moodstream-lab export --checkpoint"), "{error}");
        let error = find(&[], &int8).unwrap_err();
        assert!(
            error.contains("have no ONNX file: export") && !error.contains("precision"),
            "{error}"
        );
    }

    #[test]
    fn a_git_lfs_pointer_is_recognised() {
        let folder = folder(&[]);
        let path = folder.path().join("model.onnx");
        fs::write(
            &path,
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
        )
        .unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("git lfs pull"), "{error}");
    }
}
