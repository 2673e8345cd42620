//! A folder with inputs for the lab, and the lab run in it.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::support::{fixture, lab, posts};

/// A folder with a carried checkpoint and posts for it.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(bench.path("train.tsv"), posts(120, 1)).unwrap();
        fs::write(bench.path("valid.tsv"), posts(40, 2)).unwrap();
        let carry = lab()
            .arg("carry")
            .args(["--vocabulary", "300", "--source"])
            .arg(fixture("bert"))
            .arg("--text")
            .arg(bench.path("train.tsv"))
            .arg("--out")
            .arg(bench.path("base"))
            .output()
            .unwrap();
        assert!(carry.status.success(), "{}", String::from_utf8_lossy(&carry.stderr));
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// A copy of the carried checkpoint with one file changed.
    pub(crate) fn damaged(&self, name: &str, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
        self.damaged_copy(&self.path("base"), name, file, change);
    }

    pub(crate) fn damaged_copy(&self, from: &Path, name: &str, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
        fs::create_dir(self.path(name)).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let bytes = fs::read(entry.path()).unwrap();
            let bytes = if entry.file_name() == file {
                change(bytes)
            } else {
                bytes
            };
            fs::write(self.path(name).join(entry.file_name()), bytes).unwrap();
        }
    }

    /// The arguments in `words`; `@x` is the path of `x` in the folder.
    pub(crate) fn arguments(&self, words: &str) -> Vec<OsString> {
        let argument = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.path(name).into_os_string(),
            None => word.into(),
        };
        words.split(' ').map(argument).collect()
    }

    /// Runs a step that must fail, with the arguments `words`, and returns its message, which must be one line. No file may be
    /// left behind.
    pub(crate) fn refusal(&self, words: &str) -> String {
        let names = |folder: &Path| -> Vec<_> {
            let mut names: Vec<_> = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        let before = names(self.folder.path());
        let output = lab().args(self.arguments(words)).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "`{words}`: {said}");
        assert_eq!(said.lines().count(), 1, "`{words}`: {said}");
        assert!(said.starts_with("error: "), "`{words}`: {said}");
        assert_eq!(names(self.folder.path()), before, "`{words}` left something");
        said
    }
}

/// Changes a JSON file's value.
pub(crate) fn json(bytes: &[u8], change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let mut json = serde_json::from_slice(bytes).unwrap();
    change(&mut json);
    json.to_string().into_bytes()
}
