//! Files and folders that appear under their names only when they are complete.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

/// Writes a file beside its place and renames it there, so that a kill leaves no half of it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_added_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("can't write {}", path.display()))
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
    pub fn new(target: &Path) -> Result<Self> {
        if fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} exists already: name another folder, or remove it", target.display());
        }
        Self::beside(target)
    }

    /// The same where `target` may hold something, for files that are to be moved into it.
    pub(crate) fn beside(target: &Path) -> Result<Self> {
        ensure!(
            target.file_name().is_some(),
            "{}: this names no folder that can be made",
            target.display()
        );
        // Unlike text put after the path, an extension is the name's even where a slash follows that.
        let partial = target.with_added_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("can't remove {}", partial.display()))?;
        }
        fs::create_dir_all(&partial).with_context(|| format!("can't make {}", partial.display()))?;
        Ok(Self {
            partial,
            target: target.to_owned(),
        })
    }

    /// Where to write.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Moves the folder to its name.
    ///
    /// # Errors
    ///
    /// When it can't be renamed.
    pub fn finish(self) -> Result<()> {
        if self.target.exists() {
            fs::remove_dir(&self.target).with_context(|| format!("can't replace {}", self.target.display()))?;
        }
        fs::rename(&self.partial, &self.target).with_context(|| format!("can't make {}", self.target.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone already after `finish`; else what was half written.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_staged_folder_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        drop(Staging::new(&target).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let staging = Staging::new(&target).unwrap();
        fs::write(staging.path().join("a"), "a").unwrap();
        staging.finish().unwrap();
        assert!(target.join("a").exists());
        assert!(Staging::new(&target).is_err(), "what is there is kept");
        assert!(Staging::new(&folder.path().join("..")).is_err(), "it has no name");
    }
}
