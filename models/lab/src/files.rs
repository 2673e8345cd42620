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
    /// An output that would replace a folder, a device or a pipe.
    #[error("{} exists and is not a regular file: name another file", .0.display())]
    NotAFile(PathBuf),
    /// An output that would replace an input or another output.
    #[error("{} is also {other}: name another file", path.display())]
    Taken {
        /// The output.
        path: PathBuf,
        /// What else it is: `an input` or `another output`.
        other: &'static str,
    },
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

/// Writes a file under a temporary name beside it and renames it, so that a kill leaves no incomplete file. A symbolic link is
/// followed.
///
/// # Errors
///
/// When it can't be written, or there is something else than a regular file. Nothing is left behind then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let target = regular(path)?;
    let partial = target.with_added_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, &target))
        .map_err(|source| {
            // If the incomplete file can't be removed either, the first error is the one to report.
            let _ = fs::remove_file(&partial);
            FileError::when("write", path)(source)
        })
}

/// The path behind symbolic links, where there is a regular file or nothing.
fn regular(path: &Path) -> Result<PathBuf, FileError> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match fs::metadata(&target) {
        Ok(data) if !data.is_file() => Err(FileError::NotAFile(path.to_owned())),
        _ => Ok(target),
    }
}

/// Checks before a step's work that its outputs can be written, and that none of them would replace an input, a file of an input
/// folder, or another output.
///
/// # Errors
///
/// For the first output that can't be written.
pub fn check_outputs(outputs: &[PathBuf], inputs: &[PathBuf]) -> Result<(), FileError> {
    let inputs: Vec<PathBuf> = inputs.iter().filter_map(|input| input.canonicalize().ok()).collect();
    let mut before: Vec<PathBuf> = Vec::new();
    for output in outputs {
        let taken = |other| FileError::Taken {
            path: output.clone(),
            other,
        };
        let target = regular(output)?;
        let replaces = |input: &PathBuf| target.starts_with(input) && (input.is_file() || target.exists());
        if inputs.iter().any(replaces) {
            return Err(taken("an input"));
        }
        let partial = target.with_added_extension("partial");
        match fs::File::create_new(&partial) {
            Ok(_) => fs::remove_file(&partial),
            // Left behind by a process that was killed; `write` replaces it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(FileError::when("write", output))?;
        // The folder exists, since the file could be made in it.
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize();
        let folder = folder.map_err(FileError::when("write", output))?;
        let place = folder.join(target.file_name().unwrap_or_default());
        if before.contains(&place) {
            return Err(taken("another output"));
        }
        before.push(place);
    }
    Ok(())
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
    fn an_output_that_would_replace_something_is_refused_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("posts.tsv"), "x").unwrap();
        std::os::unix::fs::symlink(path("posts.tsv"), path("link")).unwrap();
        let check = |outputs: &[&str]| {
            let outputs: Vec<PathBuf> = outputs.iter().map(|name| path(name)).collect();
            check_outputs(&outputs, &[path("posts.tsv"), path("model")])
                .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
        };
        check(&["out.json", "out.html"]).unwrap();
        fs::create_dir(path("model")).unwrap();
        fs::write(path("model/config.json"), "{}").unwrap();
        for (outputs, reason) in [
            (&["posts.tsv"][..], "is also an input"),
            (&["model/config.json"], "is also an input"),
            (&["link"], "is also an input"),
            (&["a", "./a"], "is also another output"),
            (&["absent/a"], "can't write"),
            (&["."], "is not a regular file"),
        ] {
            let error = check(outputs).unwrap_err();
            assert!(error.contains(reason), "{outputs:?}: {error}");
        }
        check(&["model/figures.json"]).unwrap();
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            3,
            "nothing is left behind"
        );
    }

    #[test]
    fn a_link_is_followed_and_a_device_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (link, file) = (folder.path().join("link"), folder.path().join("file"));
        fs::write(&file, "before").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"after").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"after");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(matches!(
            write(Path::new("/dev/null"), b"x"),
            Err(FileError::NotAFile(_))
        ));
    }

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
