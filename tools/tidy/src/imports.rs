//! Which modules of its own crate a source file uses: `crate::` and `super::` paths in code.
//!
//! Comments do not count, nor does `#[cfg(test)] mod tests`: a test may look anywhere. Paths that a
//! macro makes up are not seen; there are none.

use std::path::Path;

/// The path of the module in `file`, below the crate's `src`: `["store", "etcd"]` for
/// `src/store/etcd.rs`; empty for `lib.rs` and `main.rs`.
pub fn module_of(src: &Path, file: &Path) -> Vec<String> {
    let below = file.strip_prefix(src).expect("the file lies below src").with_extension("");
    let parts = below.iter().map(|part| part.to_string_lossy().into_owned());
    let parts: Vec<String> = parts.collect();
    if parts == ["lib"] || parts == ["main"] { Vec::new() } else { parts }
}

/// What the code of a module uses of its crate, each as a path from the crate's root with the line
/// on which it stands. `module` is the module's own path, from which `super::` counts.
pub fn used(text: &str, module: &[String]) -> Vec<(usize, Vec<String>)> {
    let code = without_tests_and_comments(text);
    let mut found = Vec::new();
    for (anchor, base) in anchors(&code, module) {
        let line = code[..anchor].matches('\n').count() + 1;
        let mut paths = Vec::new();
        expand(&code[anchor..], &base, &mut paths);
        found.extend(paths.into_iter().map(|path| (line, path)));
    }
    found
}

/// Blank lines stand for what is left out, so that the numbers of lines stay right.
fn without_tests_and_comments(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim() == "mod tests {" {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        kept.push_str(code);
        kept.push('\n');
    }
    kept
}

/// Where paths into the crate begin, behind their `crate::` or `super::`s, and what those stand
/// for.
fn anchors(code: &str, module: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if !follows_a_name(code, at) {
            found.push((at + "crate::".len(), Vec::new()));
        }
    }
    for (at, _) in code.match_indices("super::") {
        let is_first = !follows_a_name(code, at) && !code[..at].ends_with("super::");
        if is_first {
            let rest = &code[at..];
            let count = rest.split("::").take_while(|part| *part == "super").count();
            let base = module[..module.len().saturating_sub(count)].to_vec();
            found.push((at + count * "super::".len(), base));
        }
    }
    found
}

fn follows_a_name(code: &str, at: usize) -> bool {
    let before = code[..at].chars().next_back();
    before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':')
}

/// Reads the rest of a path, `a::b` or `a::{b, c::d}`, into whole paths behind `base`.
fn expand(rest: &str, base: &[String], paths: &mut Vec<Vec<String>>) {
    if let Some(group) = rest.strip_prefix('{') {
        for item in items(group) {
            expand(item, base, paths);
        }
        return;
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, behind) = rest.split_at(end);
    if name.is_empty() || name == "self" {
        paths.push(base.to_vec());
        return;
    }
    let path: Vec<String> = base.iter().cloned().chain([name.to_owned()]).collect();
    match behind.strip_prefix("::") {
        Some(behind) if behind.starts_with(|c: char| c.is_alphabetic() || c == '{' || c == '_') => {
            expand(behind, &path, paths);
        }
        _ => paths.push(path),
    }
}

/// The items of a group up to its closing brace, split at commas outside inner groups.
fn items(group: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let (mut depth, mut begin) = (0_usize, 0_usize);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                items.push(group[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
        if c == '}' && depth == 0 && begin == at + 1 {
            break;
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str, module: &[&str]) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|&part| part.to_owned()).collect();
        used(text, &module)
            .into_iter()
            .map(|(line, path)| format!("{line} {}", path.join("::")))
            .collect()
    }

    #[test]
    fn paths_are_found_wherever_they_stand_in_code() {
        let cases: [(&str, &[&str]); 8] = [
            ("use crate::a::b;", &["1 a::b"]),
            ("\nuse crate::a::{self, b::C, d};", &["2 a", "2 a::b::C", "2 a::d"]),
            ("use crate::{a, b::{C,\n D}};\nuse std::x;", &["1 a", "1 b::C", "1 b::D"]),
            ("fn f() -> crate::a::B { crate::c::d() }", &["1 a::B", "1 c::d"]),
            ("// use crate::a;\nlet x = 1; // crate::b", &[]),
            ("use super::super::c;\nuse super::{d, e::F};", &["1 c", "2 x::d", "2 x::e::F"]),
            ("use other::crate::a; mycrate::b;", &[]),
            ("use crate::a;\n#[cfg(test)]\nmod tests {\n    use crate::b;\n}", &["1 a"]),
        ];
        for (text, expected) in cases {
            assert_eq!(paths(text, &["x", "y"]), expected, "{text}");
        }
    }
}
