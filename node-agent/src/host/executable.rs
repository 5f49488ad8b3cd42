//! Whether a file can be executed, and if not, why, in words for whoever built it.
//!
//! The kernel says "No such file or directory" of a script whose interpreter is missing, and of a
//! program whose loader is. [`Executable::inspect`] looks at the file alone,
//! [`Executable::runs_here`] at this machine. Invariant: what cannot be judged (no permission to
//! read, a format that somebody registered with the kernel, text that a shell may make sense of)
//! counts as fine; only the kernel's own answer is final.

use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

mod elf;
mod registered;

use elf::Elf;

/// How much of a script's first line the kernel reads.
const FIRST_LINE_BYTES_MAX: u64 = 256;

/// How many interpreters that are scripts themselves the kernel follows.
const INTERPRETERS_MAX: usize = 4;

/// Where programs are looked up without a `PATH`.
const PATH_DEFAULT: &str = "/bin:/usr/bin";

/// Most bytes of a search path in a sentence, but for its first folder.
const SEARCH_BYTES_SHOWN: usize = 40;

/// A file that the kernel would try to execute.
#[derive(Debug)]
pub struct Executable {
    path: PathBuf,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Elf(Elf),
    /// What the first line asks for: the interpreter and the rest of the line.
    Script {
        interpreter: PathBuf,
        argument: String,
    },
    /// Text without a first line that names its interpreter: the kernel does not execute it, and
    /// the C library gives it to a shell.
    BareText,
    /// It cannot be looked into, or the kernel was told what to do with it.
    Unknown,
}

/// Where a file would be executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    /// The folder in which it would start.
    pub directory: &'a Path,
    /// The `PATH` that it would have; `None`: it has none.
    pub search: Option<&'a OsStr>,
    /// A link that will lead elsewhere by then: its path, and where it will lead.
    pub link: Option<(&'a Path, &'a Path)>,
}

impl Surroundings<'_> {
    /// Where `path` will lead, or leads.
    fn locate(&self, path: &Path) -> PathBuf {
        let path = self.directory.join(path);
        let link = self.link.and_then(|(link, to)| Some(to.join(path.strip_prefix(link).ok()?)));
        link.unwrap_or(path)
    }

    /// Looks at the file at `path`.
    pub(crate) fn inspect(&self, path: &Path) -> Result<Executable, Obstacle> {
        match Executable::inspect(&self.locate(path)) {
            Err(Obstacle::DeadLink { target })
                if self.link.is_some_and(|(link, _)| target.starts_with(link)) =>
            {
                Executable::inspect(&self.locate(&target))
            }
            looked => looked,
        }
    }
}

/// Why a file cannot be executed. `Display` goes on from "it cannot start: ".
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// There is no such file.
    #[error("there is no file {}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It is a link that leads nowhere.
    #[error("it is a link to {}, which is not there", target.display())]
    DeadLink {
        /// Where the link leads.
        target: PathBuf,
    },
    /// It is a folder or something else that is no file.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// What it is about.
        path: PathBuf,
    },
    /// Nobody may execute it.
    #[error("it is not executable; chmod +x before publish")]
    NoExecuteBit,
    /// It was written on Windows.
    #[error(
        "its first line ends with a carriage return (CRLF), which becomes part of the \
         interpreter's name; publish it with Unix line ends (dos2unix)"
    )]
    CarriageReturn,
    /// The first line names no interpreter.
    #[error("its first line is `#!` without an interpreter")]
    NoInterpreter,
    /// It is neither a program nor a script.
    #[error(
        "it is neither a program (ELF) nor a script whose first line names its interpreter, such \
         as #!/bin/sh"
    )]
    UnknownFormat,
    /// It was built for other machines.
    #[error("it is built for {built_for}, and this host is {ARCH}")]
    OtherMachine {
        /// The machine's name.
        built_for: String,
    },
    /// It is an object file or a core.
    #[error("it is an ELF file, but not a program")]
    NoProgram,
    /// Its loader is missing: it was linked against another C library.
    #[error(
        "it needs the loader {}, which this host does not have; is it linked against another C \
         library (musl, glibc)?",
        loader.display()
    )]
    NoLoader {
        /// The loader's path.
        loader: PathBuf,
    },
    /// The script's interpreter is missing or cannot be executed.
    #[error("its first line asks for the interpreter `{}`, which {why}", name.display())]
    Interpreter {
        /// As the first line has it.
        name: PathBuf,
        /// What is wrong with it: "is not on this host".
        why: String,
    },
}

impl Executable {
    /// Looks at the file at `path`: whether it is one, may be executed, and has a known format.
    ///
    /// # Errors
    ///
    /// What keeps it from being executed anywhere.
    pub fn inspect(path: &Path) -> Result<Self, Obstacle> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => match missing(path, &error) {
                Some(obstacle) => return Err(obstacle),
                None => return Ok(Self { path: path.into(), format: Format::Unknown }),
            },
        };
        check_kind(path, &metadata)?;
        let format = Self::read_format(path)?;
        Ok(Self { path: path.into(), format })
    }

    /// Whether it is text that only a shell could make sense of, as its first line names no
    /// interpreter.
    pub fn is_bare_text(&self) -> bool {
        matches!(self.format, Format::BareText)
    }

    /// Whether this machine can execute it there.
    ///
    /// # Errors
    ///
    /// What is in the way.
    pub(crate) fn runs_here(&self, around: Surroundings<'_>) -> Result<(), Obstacle> {
        self.runs_as_interpreter(around, INTERPRETERS_MAX)
    }

    fn runs_as_interpreter(&self, around: Surroundings<'_>, depth: usize) -> Result<(), Obstacle> {
        match &self.format {
            Format::Unknown | Format::BareText => Ok(()),
            // Registered are also the machines that this one can emulate.
            Format::Elf(_) if registered::handles(&self.path) => Ok(()),
            Format::Elf(elf) => elf.runs_here(around),
            Format::Script { interpreter, argument } => {
                let fault = |why: String| Obstacle::Interpreter { name: interpreter.clone(), why };
                let file = around.inspect(interpreter).map_err(|obstacle| fault(why(&obstacle)))?;
                let Some(depth) = depth.checked_sub(1) else {
                    return Err(fault("is a script of a script of a script".into()));
                };
                file.runs_as_interpreter(around, depth)
                    .map_err(|obstacle| fault(why(&obstacle)))?;
                match name_for_env(interpreter, argument) {
                    Some(name) => find(name, around).map(drop),
                    None => Ok(()),
                }
            }
        }
    }

    fn read_format(path: &Path) -> Result<Format, Obstacle> {
        let mut first = vec![];
        let file = File::open(path);
        let read = file.and_then(|mut file| {
            (&mut file).take(FIRST_LINE_BYTES_MAX).read_to_end(&mut first)?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        });
        let Ok(mut file) = read else { return Ok(Format::Unknown) };
        if let Some(line) = first.strip_prefix(b"#!") {
            return script(line);
        }
        if first.starts_with(elf::MAGIC) {
            return Elf::read(&mut file).map(Format::Elf).map_err(|_what| Obstacle::NoProgram);
        }
        if registered::handles(path) {
            return Ok(Format::Unknown);
        }
        // As shells tell it apart.
        if !first.is_empty() && !first.contains(&0) {
            return Ok(Format::BareText);
        }
        Err(Obstacle::UnknownFormat)
    }
}

/// The file that `name` means where it would be executed: a path, or a name that is looked up.
///
/// # Errors
///
/// If there is none that may be executed.
pub(crate) fn find(name: &Path, around: Surroundings<'_>) -> Result<PathBuf, Obstacle> {
    if name.as_os_str().as_bytes().contains(&b'/') {
        return match around.inspect(name) {
            Ok(file) => Ok(file.path),
            Err(obstacle) => Err(Obstacle::Interpreter { name: name.into(), why: why(&obstacle) }),
        };
    }
    let search = around.search.unwrap_or_else(|| OsStr::new(PATH_DEFAULT));
    let folders = std::env::split_paths(search);
    let found = folders.map(|folder| around.locate(&folder.join(name))).find(|path| {
        let metadata = fs::metadata(path);
        metadata.is_ok_and(|metadata| check_kind(path, &metadata).is_ok())
    });
    found.ok_or_else(|| Obstacle::Interpreter {
        name: name.into(),
        why: format!("is not in PATH ({})", shortened(search)),
    })
}

/// The first folders of `search`, and how many more there are: the sentence has to fit in a row.
fn shortened(search: &OsStr) -> String {
    let folders: Vec<_> =
        std::env::split_paths(search).map(|folder| folder.display().to_string()).collect();
    let mut length = 0;
    let shown = folders.iter().enumerate().take_while(|(index, folder)| {
        length += folder.len() + 1;
        *index == 0 || length <= SEARCH_BYTES_SHOWN
    });
    let shown = shown.count();
    let text = folders[..shown].join(":");
    match folders.len() - shown {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Why there is nothing at `path`; `None` if that cannot be seen from here.
fn missing(path: &Path, error: &io::Error) -> Option<Obstacle> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            let link = fs::read_link(path).ok();
            Some(link.map_or_else(
                || Obstacle::Missing { path: path.into() },
                |target| Obstacle::DeadLink { target },
            ))
        }
        _ => None,
    }
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), Obstacle> {
    if !metadata.is_file() {
        return Err(Obstacle::NotAFile { path: path.into() });
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(Obstacle::NoExecuteBit);
    }
    Ok(())
}

/// Takes the first line apart as the kernel does: the interpreter, and all the rest as one word.
fn script(line: &[u8]) -> Result<Format, Obstacle> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_of_windows = line.ends_with(b"\r");
    let line = line.trim_ascii();
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(end);
    if interpreter.is_empty() {
        return Err(Obstacle::NoInterpreter);
    }
    let interpreter = Path::new(OsStr::from_bytes(interpreter));
    let argument = String::from_utf8_lossy(argument.trim_ascii()).into_owned();
    let is_env = interpreter.file_name().is_some_and(|name| name == "env");
    // At the end of arguments some bear with it, such as perl, and env when it splits the line.
    if is_of_windows && (argument.is_empty() || (is_env && !argument.starts_with('-'))) {
        return Err(Obstacle::CarriageReturn);
    }
    Ok(Format::Script { interpreter: interpreter.into(), argument })
}

/// The program that `env` would look up; `None` for another interpreter, or if that is not plain.
fn name_for_env<'a>(interpreter: &Path, argument: &'a str) -> Option<&'a Path> {
    if interpreter.file_name()? != "env" {
        return None;
    }
    let is_split = argument.starts_with("-S");
    let words = argument.strip_prefix("-S").unwrap_or(argument);
    // Without -S all of the rest is one word, spaces and all.
    let name = if is_split { words.split_ascii_whitespace().next()? } else { words };
    // Options, variables, and what env unquotes or fills in.
    let is_plain = !name.is_empty()
        && !name.starts_with('-')
        && !name.contains(['=', '\'', '"', '\\', '$', '#']);
    is_plain.then(|| Path::new(name))
}

/// What is wrong with an interpreter, as the end of "..., which ".
fn why(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::Missing { .. } => "is not on this host".into(),
        Obstacle::NoExecuteBit => "is not executable".into(),
        Obstacle::NotAFile { .. } => "is not a file".into(),
        other => format!("cannot run: {other}"),
    }
}

#[cfg(test)]
mod tests;
