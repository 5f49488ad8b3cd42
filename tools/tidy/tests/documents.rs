//! Documents: whatever path they name exists, and what a person reads in a terminal fits one.

use std::path::Path;

use tidy::{files_below, name, root, text};

/// Widest line of README.md, which people read in a terminal before they have anything else.
const README_COLUMNS_MAX: usize = 100;

/// The paths that a document names: in backticks, and as the target of a link.
fn paths(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let quoted = quoted.filter_map(|quoted| quoted.split_whitespace().next());
    let is_path = |word: &&str| {
        let begins = !word.starts_with("target/")
            && word.split('/').next().is_some_and(|first| root().join(first).is_dir());
        let ends = [".rs", ".toml", ".md", ".sh", ".py", ".service"];
        let ends = ends.iter().any(|end| word.ends_with(end));
        word.contains('/')
            && (begins || ends)
            && !word.starts_with(['/', '.', '<', '-'])
            && !word.contains(['<', '*', '='])
    };
    let linked = text.split("](").skip(1).filter_map(|behind| behind.split([')', '#']).next());
    let linked = linked.filter(|target| !target.is_empty() && !target.contains("://"));
    quoted
        .filter(is_path)
        .chain(linked)
        .map(|path| path.trim_end_matches(['.', ',', ':']).to_owned())
        .collect()
}

fn documents() -> Vec<std::path::PathBuf> {
    files_below(root(), ".md")
}

#[test]
fn documents_name_files_that_exist() {
    assert!(documents().len() >= 8, "only {} documents found", documents().len());
    for document in documents() {
        let beside = document.parent().unwrap_or(Path::new(""));
        for path in paths(&text(&document)) {
            let exists = root().join(&path).exists() || beside.join(&path).exists();
            assert!(exists, "{} names {path}", name(&document));
        }
    }
}

#[test]
fn readme_fits_a_terminal() {
    for (number, line) in text(&root().join("README.md")).lines().enumerate() {
        let columns = line.chars().count();
        assert!(columns <= README_COLUMNS_MAX, "README.md:{}: {columns} columns", number + 1);
    }
}

#[test]
fn paths_are_found_in_prose_commands_and_links() {
    let text = "See `simnet/digests --renew` and `p2p-core/src/gone.rs`, [a](docs/x.md#y), `a/b`, \
                `text/plain`, `<state>/lock.toml`, [b](https://x.y).";
    assert_eq!(paths(text), ["simnet/digests", "p2p-core/src/gone.rs", "docs/x.md"]);
}
