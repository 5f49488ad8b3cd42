//! The structure of the workspace, as far as a test can hold it: crate edges, lints, file sizes, and
//! documents that name files which exist.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file. A state machine that outgrows it has state or choices to move out.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn members() -> Vec<PathBuf> {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.join("Cargo.toml").is_file()).collect()
}

fn sources_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names in one table of a Cargo.toml.
fn names_in(manifest: &str, table: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != format!("[{table}]")).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let name = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
    lines.map(name).filter(|name| !name.is_empty() && !name.starts_with('#')).collect()
}

#[test]
fn every_member_takes_the_lints_of_the_workspace() {
    assert!(members().len() >= 7);
    for member in members() {
        let manifest = fs::read_to_string(member.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", member.display());
    }
}

/// Goal: the crate boundary keeps the core pure, and nothing depends on what it must not see.
#[test]
fn crates_depend_on_what_the_architecture_draws() {
    let depends = |member: &str| {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        names_in(&manifest, "dependencies")
    };
    assert_eq!(depends("p2p-core"), ["blake3", "postcard", "serde", "thiserror"]);
    let ours = ["p2p-net", "goal-state", "node-agent", "seeder", "demo-service", "cli"];
    let allowed: [(&str, &[&str]); 6] = [
        ("simnet", &[]),
        ("p2p-net", &[]),
        ("goal-state", &[]),
        ("node-agent", &["p2p-net", "goal-state"]),
        ("seeder", &["p2p-net", "goal-state"]),
        ("demo-service", &[]),
    ];
    for (member, allowed) in allowed {
        for dependency in depends(member) {
            let is_ours = ours.contains(&dependency.as_str());
            assert!(!is_ours || allowed.contains(&dependency.as_str()), "{member}: {dependency}");
        }
    }
}

#[test]
fn source_files_stay_readable_in_one_sitting() {
    let mut sources = Vec::new();
    for member in members() {
        sources_below(&member.join("src"), &mut sources);
    }
    assert!(sources.len() > 50, "only {} sources found", sources.len());
    for source in sources {
        let lines = fs::read_to_string(&source).unwrap().lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", source.display());
    }
}

#[test]
fn documents_name_files_that_exist() {
    let documents = [
        "ARCHITECTURE.md",
        "README.md",
        "docs/protocol.md",
        "docs/simulator.md",
        "benches/README.md",
        "simnet/README.md",
    ];
    for document in documents {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        let is_path = |text: &&str| {
            let ends = [".rs", ".toml", ".md", ".sh"].iter().any(|end| text.ends_with(end));
            ends && text.contains('/') && !text.contains([' ', '<', '*'])
        };
        for path in quoted.filter(is_path) {
            assert!(root().join(path).exists(), "{document} names {path}");
        }
    }
}
