//! Sizes: how long a file is, how wide a comment, how full a folder.

use std::collections::BTreeMap;

use tidy::{files_below, members, name, root, sources, text};

/// Longest source file. A state machine that outgrows it has state or choices to move out.
const LINES_MAX: usize = 800;

/// Most sources in one folder. A reader finds a file among so many at a glance; a folder that needs
/// more has rooms that nobody has named yet.
const FILES_MAX: usize = 20;

/// Widest line of a comment, as rustfmt holds code to.
const COLUMNS_MAX: usize = 100;

#[test]
fn source_files_stay_readable_in_one_sitting() {
    let sources = sources();
    assert!(sources.len() > 50, "only {} sources found", sources.len());
    for source in sources {
        let lines = text(&source).lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", name(&source));
    }
}

#[test]
fn folders_stay_readable_at_a_glance() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for member in members() {
        for file in files_below(&root().join(member), ".rs") {
            *counts.entry(name(file.parent().unwrap())).or_default() += 1;
        }
    }
    counts.retain(|_, count| *count > FILES_MAX);
    assert!(counts.is_empty(), "too many sources in a folder, make rooms: {counts:?}");
}

#[test]
fn every_source_says_at_its_top_what_it_owns() {
    for source in sources() {
        assert!(text(&source).starts_with("//!"), "{} begins without //!", name(&source));
    }
}

#[test]
fn comments_fit_the_width_of_code() {
    let mut wide = Vec::new();
    for member in members() {
        for file in files_below(&root().join(member), ".rs") {
            for (number, line) in text(&file).lines().enumerate() {
                let is_comment = line.trim_start().starts_with("//");
                // A link cannot be broken.
                let is_wide = line.chars().count() > COLUMNS_MAX && !line.contains("://");
                if is_comment && is_wide {
                    wide.push(format!("{}:{}", name(&file), number + 1));
                }
            }
        }
    }
    assert!(wide.is_empty(), "wider than {COLUMNS_MAX} columns:\n{}", wide.join("\n"));
}
