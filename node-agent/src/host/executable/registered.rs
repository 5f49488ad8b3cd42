//! Formats that the host's administrator told the kernel how to run (`binfmt_misc`): programs of
//! other machines under an emulator, archives of Java.
//!
//! Errs towards "yes": what is registered is the kernel's business.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// How much of a file the kernel compares.
const HEAD_BYTES: u64 = 256;

/// Whether the kernel was told how to run a file like this one.
pub(super) fn handles(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(REGISTERED) else { return false };
    let mut head = vec![];
    let read = File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    let entries = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        name != "status" && name != "register"
    });
    read.is_ok()
        && entries
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .any(|text| is_like(&text, path, &head))
}

/// Whether the entry `text` is about a file at `path` that begins with `head`.
fn is_like(text: &str, path: &Path, head: &[u8]) -> bool {
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if !text.starts_with("enabled") {
        return false;
    }
    if let Some(extension) = field("extension ") {
        return path.extension().is_some_and(|has| *has == *extension.trim_start_matches('.'));
    }
    let Some(magic) = field("magic ").and_then(bytes) else { return false };
    let offset = field("offset ").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mask = field("mask ").and_then(bytes).unwrap_or_else(|| vec![0xff; magic.len()]);
    let Some(part) = head.get(offset..).and_then(|rest| rest.get(..magic.len())) else {
        return false;
    };
    part.iter().zip(&mask).zip(&magic).all(|((byte, mask), magic)| byte & mask == magic & mask)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    Some(digits?.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_is_about_files_that_begin_as_it_says() {
        let entry = "enabled\ninterpreter /usr/bin/qemu-arm\nflags: OCF\noffset 1\nmagic 454c46\n\
                     mask fffffe\n";
        let path = Path::new("/b/run");
        assert!(is_like(entry, path, b"\x7fELF"));
        assert!(is_like(entry, path, b"\x7fELG"));
        assert!(!is_like(entry, path, b"\x7fELA"));
        assert!(!is_like(entry, path, b"\x7fEL"));
        assert!(!is_like(&entry.replace("enabled", "disabled"), path, b"\x7fELF"));
        let jar = "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n";
        assert!(is_like(jar, Path::new("/b/run.jar"), b""));
        assert!(!is_like(jar, path, b""));
    }
}
