//! Atomic writing: files and folders appear under their names only when they are complete.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A file or folder that can't be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// An error of the system.
    #[error("can't {doing} {}", path.display())]
    System {
        /// The failed operation: `write`, `make` and so on.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A folder to be made exists and is not empty.
    #[error("{} exists already: name another folder, or remove it", .0.display())]
    Exists(PathBuf),
    /// A path without a last part, such as `..`.
    #[error("{}: not the name of a folder that can be made", .0.display())]
    NoName(PathBuf),
}

impl FileError {
    pub(crate) fn when(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// Writes a file under a temporary name beside it and renames it, so that a kill leaves no incomplete file.
///
/// # Errors
///
/// When it can't be written. Nothing is left behind then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let partial = path.with_added_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|source| {
            // If the incomplete file can't be removed either, the first error is the one to report.
            let _ = fs::remove_file(&partial);
            FileError::when("write", path)(source)
        })
}

/// A folder that appears under its name only when it is complete.
#[derive(Debug)]
pub struct Staging {
    partial: PathBuf,
    target: PathBuf,
}

impl Staging {
    /// Makes the folder beside `target`, which must not exist or be empty.
    ///
    /// # Errors
    ///
    /// When `target` holds something or names no folder, or the folder can't be made.
    pub fn new(target: &Path) -> Result<Self, FileError> {
        if fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(FileError::Exists(target.to_owned()));
        }
        Self::beside(target)
    }

    /// As [`Self::new`], but `target` may have content; the caller moves the files into it.
    pub(crate) fn beside(target: &Path) -> Result<Self, FileError> {
        if target.file_name().is_none() {
            return Err(FileError::NoName(target.to_owned()));
        }
        // `with_added_extension` changes the last component even if the path ends in a slash.
        let partial = target.with_added_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(FileError::when("remove", &partial))?;
        }
        fs::create_dir_all(&partial).map_err(FileError::when("make", &partial))?;
        Ok(Self {
            partial,
            target: target.to_owned(),
        })
    }

    /// The folder to write to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Renames the folder to `target`.
    ///
    /// # Errors
    ///
    /// When it can't be renamed.
    pub fn finish(self) -> Result<(), FileError> {
        if self.target.exists() {
            fs::remove_dir(&self.target).map_err(FileError::when("replace", &self.target))?;
        }
        fs::rename(&self.partial, &self.target).map_err(FileError::when("make", &self.target))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `finish` it no longer exists; else it is incomplete.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_staged_folder_appears_complete_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        drop(Staging::new(&target).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let staging = Staging::new(&target).unwrap();
        fs::write(staging.path().join("a"), "a").unwrap();
        staging.finish().unwrap();
        assert!(target.join("a").exists());
        assert!(Staging::new(&target).is_err(), "an existing folder is kept");
        assert!(Staging::new(&folder.path().join("..")).is_err(), "it has no name");
    }
}
