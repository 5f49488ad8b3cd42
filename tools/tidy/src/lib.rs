//! Reads the workspace as text: which crates, folders and files there are, what they import, and
//! what documents say of them. The rules are in `tests/`.
//!
//! Text is enough for every rule kept here and needs no build. If it misreads something, the
//! failure names the file and the line. Nothing here writes, and nothing is asked of git: a tree
//! without it is held to the same rules.

use std::fs;
use std::path::{Path, PathBuf};

pub mod imports;

/// The folder that holds the workspace's Cargo.toml.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies two folders below the root")
}

/// A file of the workspace as text.
///
/// # Panics
///
/// If it cannot be read: every caller names a file that must be there.
pub fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `path` as documents name it: from the root, with slashes.
pub fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The folders of the workspace's crates, as its Cargo.toml lists them.
pub fn members() -> Vec<String> {
    let manifest = text(&root().join("Cargo.toml"));
    let list = manifest.lines().find_map(|line| line.strip_prefix("members = "));
    let list = list.expect("the workspace lists its members on one line");
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The keys of one table of a crate's Cargo.toml, in their order; none without the table.
pub fn keys(member: &str, table: &str) -> Vec<String> {
    let manifest = text(&root().join(member).join("Cargo.toml"));
    let heading = format!("[{table}]");
    let lines = manifest.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let key = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
    lines.map(key).filter(|key| !key.is_empty() && !key.starts_with('#')).collect()
}

/// Every file below `folder` whose name ends with `ending`, in order. Build output, hidden folders
/// and other checkouts are passed over; a folder that is not there has none.
pub fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                let is_ours = !name.starts_with('.') && name != "target";
                is_ours.then(|| folders.push(path));
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// All Rust sources of the workspace's crates, without their tests' and examples' folders.
pub fn sources() -> Vec<PathBuf> {
    members()
        .iter()
        .flat_map(|member| files_below(&root().join(member).join("src"), ".rs"))
        .collect()
}
