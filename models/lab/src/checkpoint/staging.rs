//! Files and folders that appear under their names only when they are complete.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Writes a file beside its place and renames it there, so that a kill leaves no half of it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
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
    /// When `target` holds something, or the folder can't be made.
    pub fn new(target: &Path) -> Result<Self> {
        if fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} exists already: name another folder, or remove it", target.display());
        }
        let mut partial = target.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
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
    }
}
