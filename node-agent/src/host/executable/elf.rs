//! The little of an ELF file that says whether a machine can execute it: for which processor it is
//! built, and which loader it asks for.
//!
//! Reads only; a header that lies about itself leads to "not a program", never to a panic.

use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::{Obstacle, Surroundings};

pub(super) const MAGIC: &[u8] = b"\x7fELF";

const HEADER_BYTES: usize = 64;
const LOADER_BYTES_MAX: u64 = 4096;
const PROGRAM_HEADERS_MAX: u16 = 1024;

const CLASS_64: u8 = 2;
const BIG_ENDIAN: u8 = 2;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const SEGMENT_LOADER: u64 = 3;

/// Machines by their number, with the name that Rust has for them, and those of them that also
/// execute the second's programs.
const MACHINES: [(u16, &str, &[&str]); 9] = [
    (3, "x86", &["x86_64"]),
    (20, "powerpc", &["powerpc64"]),
    (21, "powerpc64", &[]),
    (22, "s390x", &[]),
    (40, "arm", &["aarch64"]),
    (62, "x86_64", &[]),
    (183, "aarch64", &[]),
    (243, "riscv64", &[]),
    (258, "loongarch64", &[]),
];

/// A program.
#[derive(Debug)]
pub(super) struct Elf {
    machine: u16,
    /// `None` for a program that needs none.
    loader: Option<PathBuf>,
}

impl Elf {
    /// Fails if it is not a whole program.
    pub(super) fn read(file: &mut (impl Read + Seek)) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        // A header of 32 bits is shorter, but no program is that short.
        file.read_exact(&mut header)?;
        let fields = Fields { is_big: header[5] == BIG_ENDIAN, is_64: header[4] == CLASS_64 };
        if !matches!(fields.u16(&header, 16)?, TYPE_EXECUTABLE | TYPE_SHARED) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let machine = fields.u16(&header, 18)?;
        let loader = fields.loader(&header, file)?;
        Ok(Self { machine, loader })
    }

    pub(super) fn runs_here(&self, around: Surroundings<'_>) -> Result<(), Obstacle> {
        let known = MACHINES.iter().find(|(number, ..)| *number == self.machine);
        // A machine that this table does not have cannot be told from this one by its number.
        let is_judged = MACHINES.iter().any(|(_, name, _)| *name == ARCH);
        let is_ours = known.is_some_and(|(_, name, hosts)| *name == ARCH || hosts.contains(&ARCH));
        if is_judged && !is_ours {
            let number = || format!("machine {} of ELF", self.machine);
            let built_for = known.map_or_else(number, |(_, name, _)| (*name).into());
            return Err(Obstacle::OtherMachine { built_for });
        }
        match &self.loader {
            Some(loader) if !around.locate(loader).exists() => {
                Err(Obstacle::NoLoader { loader: loader.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// How numbers are laid out in one file.
#[derive(Clone, Copy)]
struct Fields {
    is_big: bool,
    is_64: bool,
}

impl Fields {
    fn number(self, bytes: &[u8], offset: usize, length: usize) -> io::Result<u64> {
        let field = bytes.get(offset..offset + length).ok_or(io::ErrorKind::UnexpectedEof)?;
        let add = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
        let number =
            if self.is_big { field.iter().fold(0, add) } else { field.iter().rev().fold(0, add) };
        Ok(number)
    }

    fn u16(self, bytes: &[u8], offset: usize) -> io::Result<u16> {
        self.number(bytes, offset, 2)?.try_into().map_err(io::Error::other)
    }

    /// An address or offset, which is wider in files of 64 bits.
    fn word(self, bytes: &[u8], offset_64: usize, offset_32: usize) -> io::Result<u64> {
        let (offset, length) = if self.is_64 { (offset_64, 8) } else { (offset_32, 4) };
        self.number(bytes, offset, length)
    }

    /// The loader that a program asks for.
    fn loader(self, header: &[u8], file: &mut (impl Read + Seek)) -> io::Result<Option<PathBuf>> {
        let table = self.word(header, 32, 28)?;
        let (size, count) = if self.is_64 { (54, 56) } else { (42, 44) };
        let (size, count) = (self.u16(header, size)?, self.u16(header, count)?);
        for index in 0..count.min(PROGRAM_HEADERS_MAX) {
            let offset = table.saturating_add(u64::from(index) * u64::from(size));
            let entry = read_at(file, offset, size.into())?;
            if self.number(&entry, 0, 4)? != SEGMENT_LOADER {
                continue;
            }
            let (offset, length) = (self.word(&entry, 8, 4)?, self.word(&entry, 32, 16)?);
            let path = read_at(file, offset, length.min(LOADER_BYTES_MAX))?;
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            return Ok(Some(PathBuf::from(OsStr::from_bytes(path))));
        }
        Ok(None)
    }
}

/// `length` bytes, which has to be little.
fn read_at(file: &mut (impl Read + Seek), offset: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![];
    let read = file.take(length).read_to_end(&mut bytes)?;
    if u64::try_from(read).ok() == Some(length) {
        return Ok(bytes);
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
