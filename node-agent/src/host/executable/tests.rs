//! Files of every kind that a build may have by mistake.

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// What is said of an executable file with this content.
    fn judge(&self, content: &[u8]) -> String {
        let path = self.file("file", content);
        let search = Some(OsStr::new("/usr/bin:/bin"));
        let around = Surroundings { directory: self.0.path(), search, link: None };
        match Executable::inspect(&path).and_then(|file| file.runs_here(around)) {
            Ok(()) => "fine".into(),
            Err(obstacle) => obstacle.to_string(),
        }
    }
}

/// This very test, as the bytes of a program that runs here.
fn own_program() -> Vec<u8> {
    fs::read("/bin/sh").unwrap()
}

#[test]
fn scripts_are_judged_by_their_first_line() {
    let folder = Folder::new();
    let cases = [
        ("#!/bin/sh\n", "fine"),
        ("#! /bin/sh -e\nexit\n", "fine"),
        ("#!/bin/sh", "fine"),
        ("#!/usr/bin/env sh\n", "fine"),
        ("#!/usr/bin/env -S sh -e\n", "fine"),
        ("#!/usr/bin/env -i\n", "fine"),
        ("#!\t/bin/sh\t-e\n", "fine"),
        ("#!/usr/bin/env -Ssh -e\n", "fine"),
        ("#!/usr/bin/env -S A=b nosuch\n", "fine"),
        ("#!/usr/bin/env -S \"nosuch\" -e\n", "fine"),
        ("#!/usr/bin/env -S ${TOOL}\n", "fine"),
        // perl bears with it after an argument, and env when it splits the line.
        ("#!/bin/sh -e\r\n", "fine"),
        ("#!/usr/bin/env -S sh -e\r\n", "fine"),
        // The C library gives it to a shell.
        ("echo hello\n", "fine"),
        (
            "#!/usr/bin/env -S nosuch -u\n",
            "its first line asks for the interpreter `nosuch`, which is not in PATH \
             (/usr/bin:/bin)",
        ),
        (
            "#!/usr/bin/nosuch\n",
            "its first line asks for the interpreter `/usr/bin/nosuch`, which is not on this host",
        ),
        (
            "#!/usr/bin/env nosuch\n",
            "its first line asks for the interpreter `nosuch`, which is not in PATH \
             (/usr/bin:/bin)",
        ),
        (
            "#!/usr/bin/env sh -e\n",
            "its first line asks for the interpreter `sh -e`, which is not in PATH (/usr/bin:/bin)",
        ),
        (
            "#!/etc/passwd\n",
            "its first line asks for the interpreter `/etc/passwd`, which is not executable",
        ),
        ("#!/tmp\n", "its first line asks for the interpreter `/tmp`, which is not a file"),
        ("#!\n", "its first line is `#!` without an interpreter"),
    ];
    for (content, expected) in cases {
        assert_eq!(folder.judge(content.as_bytes()), expected, "{content:?}");
    }
    for content in ["#!/bin/sh\r\necho\r\n", "#!/usr/bin/env sh\r\n"] {
        assert!(folder.judge(content.as_bytes()).contains("carriage return (CRLF)"), "{content:?}");
    }
    for content in ["", "PK\u{3}\u{4}\0\0"] {
        assert!(folder.judge(content.as_bytes()).starts_with("it is neither a program"));
    }
}

#[test]
fn programs_are_judged_by_machine_and_loader() {
    let folder = Folder::new();
    let program = own_program();
    assert_eq!(folder.judge(&program), "fine");
    // The machine's number, as a file of this very byte order has it.
    let mut other = program.clone();
    other[18..20].copy_from_slice(if program[5] == 1 { &[22, 0] } else { &[0, 62] });
    assert!(folder.judge(&other).starts_with("it is built for "), "{}", folder.judge(&other));
    let mut object = program.clone();
    object[16..18].copy_from_slice(if program[5] == 1 { &[1, 0] } else { &[0, 1] });
    assert_eq!(folder.judge(&object), "it is an ELF file, but not a program");
    for length in [5, 63, 64, 100] {
        assert_eq!(folder.judge(&program[..length]), "it is an ELF file, but not a program");
    }
    let mut musl = program.clone();
    let at = musl.windows(5).position(|bytes| bytes == b"/ld-l").expect("it is linked");
    musl[at..at + 5].copy_from_slice(b"/LD-M");
    let said = folder.judge(&musl);
    assert!(said.starts_with("it needs the loader /lib") && said.contains("/LD-M"), "{said}");
    // A loader of the build, by a path from where the program starts.
    let path = musl[..at].iter().rposition(|byte| *byte == 0).unwrap() + 1;
    musl[path..path + 5].copy_from_slice(b"file\0");
    assert_eq!(folder.judge(&musl), "fine");
    musl[path..path + 5].copy_from_slice(b"fil/\0");
    assert!(folder.judge(&musl).starts_with("it needs the loader fil/"));
}

/// A program without a loader and one of 32 bits, as far as they are looked into.
#[test]
fn programs_need_no_loader_and_may_be_of_32_bits() {
    let folder = Folder::new();
    let mut fixed = own_program();
    let table = usize::try_from(u64::from_le_bytes(fixed[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (usize::from(fixed[54]), usize::from(fixed[56]));
    for entry in (0..count).map(|index| table + index * size) {
        if fixed[entry] == 3 {
            fixed[entry] = 4;
        }
    }
    assert_eq!(folder.judge(&fixed), "fine");
    // The header of a program of 32 bits without segments.
    let small = |machine: u8| {
        let mut small = [0; 64];
        small[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
        (small[16], small[18]) = (2, machine);
        small
    };
    let smaller = match ARCH {
        "x86_64" => 3,
        "aarch64" => 40,
        _ => return,
    };
    assert_eq!(folder.judge(&small(smaller)), "fine");
    let said = folder.judge(&small(8));
    assert_eq!(said, format!("it is built for machine 8 of ELF, and this host is {ARCH}"));
}

#[test]
fn what_is_no_executable_file_is_named() {
    let folder = Folder::new();
    let path = folder.file("data", b"#!/bin/sh\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let said = |path: &Path| Executable::inspect(path).unwrap_err();
    assert_eq!(said(&path), Obstacle::NoExecuteBit);
    assert_eq!(said(folder.0.path()), Obstacle::NotAFile { path: folder.0.path().into() });
    let gone = folder.0.path().join("gone");
    assert_eq!(said(&gone), Obstacle::Missing { path: gone.clone() });
    let link = folder.0.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    assert_eq!(said(&link), Obstacle::DeadLink { target: "nowhere".into() });
    let below = path.join("below");
    assert_eq!(said(&below), Obstacle::Missing { path: below.clone() });
}

#[test]
fn names_are_looked_up_where_the_program_would() {
    let folder = Folder::new();
    let path = folder.file("tool", b"#!/bin/sh\n");
    let search = folder.0.path().as_os_str();
    let around = Surroundings { directory: Path::new("/"), search: Some(search), link: None };
    assert_eq!(find(Path::new("tool"), around), Ok(path));
    let around = Surroundings { search: None, ..around };
    let said = find(Path::new("tool"), around).unwrap_err().to_string();
    assert!(said.ends_with("which is not in PATH (/bin:/usr/bin)"), "{said}");
    let long = OsStr::new("/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin");
    let around = Surroundings { search: Some(long), ..around };
    let said = find(Path::new("tool"), around).unwrap_err().to_string();
    assert!(said.ends_with("PATH (/root/.cargo/bin:/usr/local/sbin and 3 more)"), "{said}");
    let far = format!("/{}:/bin", "far".repeat(40));
    let around = Surroundings { search: Some(OsStr::new(&far)), ..around };
    let said = find(Path::new("tool"), around).unwrap_err().to_string();
    assert!(said.ends_with("farfar and 1 more)"), "{said}");
}

#[test]
fn circle_of_scripts_ends() {
    let folder = Folder::new();
    let path = folder.0.path().join("file");
    let said = folder.judge(format!("#!{}\n", path.display()).as_bytes());
    assert!(said.contains("is a script of a script of a script"), "{said}");
}
