//! Files that are there completely or not at all.
//!
//! What is written goes to a file of another name beside the target and takes its place at the end.
//! Invariant: a regular file with the target's name is complete. A target that is no regular file,
//! a pipe or a terminal, is written to as it is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

/// Ends the name of what is not complete yet.
const PART_SUFFIX: &str = ".part";

/// A file that is being written. Removed when dropped before [`OutputFile::publish`].
#[derive(Debug)]
pub struct OutputFile {
    target: PathBuf,
    /// `None` once it is published, and if the target itself is written to.
    part: Option<PathBuf>,
}

impl OutputFile {
    /// Opens a file to write what `target` will be.
    ///
    /// # Errors
    ///
    /// If `target` is a directory or cannot be created.
    pub fn create(target: PathBuf) -> io::Result<(Self, File)> {
        let in_place = fs::metadata(&target).is_ok_and(|found| !found.is_file());
        if in_place {
            let file = File::options().write(true).open(&target)?;
            return Ok((Self { target, part: None }, file));
        }
        let mut name = OsString::from(&target);
        name.push(PART_SUFFIX);
        let part = PathBuf::from(name);
        let file = File::create(&part)?;
        Ok((Self { target, part: Some(part) }, file))
    }

    /// Gives the file its name, once everything was written.
    ///
    /// # Errors
    ///
    /// If it cannot be renamed; it is removed then.
    pub fn publish(mut self) -> io::Result<()> {
        if let Some(part) = &self.part {
            fs::rename(part, &self.target)?;
        }
        self.part = None;
        Ok(())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(part) = self.part.take() {
            // If that fails, a file is left whose name says that it is not complete.
            drop(fs::remove_file(part));
        }
    }
}
