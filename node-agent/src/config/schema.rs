//! Which keys there are: a tree of tables, maps with names of the operator's choice, and values.
//!
//! Follows from the key table and owns names and nesting only. What a value may be is decided in
//! `values`, and which settings make sense together in `apps`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::keys::is_placeholder;
use super::table;

/// What may stand at one place of the configuration.
#[derive(Debug)]
pub(super) enum Node {
    /// A value.
    Value,
    /// A table with keys that are fixed.
    Table(BTreeMap<&'static str, Self>),
    /// A table whose keys the operator chooses.
    Map {
        /// One of them in complaints, such as `VARIABLE`.
        what: &'static str,
        /// What every one of its keys is.
        each: Box<Self>,
    },
}

use Node::{Map, Table, Value};

/// All keys of an agent.
pub(super) fn root() -> &'static Node {
    static ROOT: LazyLock<Node> = LazyLock::new(|| {
        let mut root = Table(BTreeMap::new());
        for path in table::paths() {
            root.add(&path);
        }
        root
    });
    &ROOT
}

/// A path that leads nowhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum PathError {
    /// A table has no such key.
    Unknown {
        /// The table: empty for the agent's own settings.
        within: String,
        /// The key, and what was asked for below it.
        key: String,
        /// A key that looks like it.
        suggestion: Option<&'static str>,
    },
    /// It ends at a table, or goes on below a value.
    Depth {
        /// What was expected, such as `apps.NAME.KEY`.
        expected: String,
    },
}

impl Node {
    /// Makes this, which nothing but its own keys knows yet, lead to the value at `path`.
    fn add(&mut self, path: &[&'static str]) {
        let Some((first, rest)) = path.split_first() else { return };
        if matches!(self, Value) {
            *self = if is_placeholder(first) {
                Map { what: first, each: Box::new(Value) }
            } else {
                Table(BTreeMap::new())
            };
        }
        match self {
            Table(keys) => keys.entry(first).or_insert(Value).add(rest),
            Map { each, .. } => each.add(rest),
            Value => {}
        }
    }

    /// Whether upper and lower case in the name of an environment variable is kept below this:
    /// where the operator names other variables.
    pub(super) fn keeps_case(&self) -> bool {
        matches!(self, Map { what: "VARIABLE", .. })
    }

    /// What a key of this table or map is.
    pub(super) fn child(&'static self, key: &str) -> Option<&'static Self> {
        match self {
            Value => None,
            Map { each, .. } => Some(each),
            Table(keys) => keys.get(key),
        }
    }

    /// The key that `given` was probably meant to be.
    pub(super) fn suggestion(&self, given: &str) -> Option<&'static str> {
        let Table(keys) = self else { return None };
        closest(given, keys.keys().copied())
    }
}

/// Every name of a key, those of inner tables too, for whoever has to mention them all.
#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    table::paths().flatten().filter(|name| *name != "apps" && !is_placeholder(name)).collect()
}

/// Checks that `parts` lead to a value.
pub(super) fn check_path(parts: &[&str]) -> Result<(), PathError> {
    let mut node = root();
    for (depth, part) in parts.iter().enumerate() {
        let Some(child) = node.child(part) else {
            if matches!(node, Value) && depth > 1 {
                return Err(PathError::Depth { expected: expected_below(&parts[..depth]) });
            }
            // Below a value of the agent, such as `goal.x`: there is no such key.
            let depth = if matches!(node, Value) { depth - 1 } else { depth };
            return Err(PathError::Unknown {
                within: parts[..depth].join("."),
                key: parts[depth..].join("."),
                suggestion: node.suggestion(&parts[depth..].join(".")),
            });
        };
        node = child;
    }
    if matches!(node, Value) {
        return Ok(());
    }
    Err(PathError::Depth { expected: expected_below(parts) })
}

/// How a key that starts with `parts` has to look.
fn expected_below(parts: &[&str]) -> String {
    let mut node = root();
    let mut expected = vec![];
    for part in parts {
        expected.push(if let Map { what, .. } = node { what } else { *part });
        node = node.child(part).unwrap_or(&Value);
    }
    while let Map { what, each, .. } = node {
        expected.push(what);
        node = each;
    }
    if matches!(node, Table(_)) {
        expected.push("KEY");
    }
    expected.join(".")
}

/// The key that `given` was probably meant to be: at most two letters away, and fewer than half.
fn closest(given: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let distances = known.map(|key| (edit_distance(given, key), key));
    let (distance, key) = distances.min()?;
    (distance <= 2 && distance * 2 < key.len()).then_some(key)
}

/// Letters to insert, remove, replace, or swap with their neighbour to make `a` into `b` (optimal
/// string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_are_recognised_and_others_are_not() {
        let cases = [
            ("exce", "apps.web", Some("exec")),
            ("grace-period", "apps.web", Some("grace_period")),
            ("keep_build", "apps.web", Some("keep_builds")),
            ("dead_line", "apps.web.health", Some("deadline")),
            ("before-switch", "apps.web.hooks", Some("before_switch")),
            ("seeder", "", Some("seeders")),
            ("gaol", "", Some("goal")),
            ("colour", "", None),
            ("x", "", None),
        ];
        for (given, table, expected) in cases {
            let parts = table.split('.').filter(|part| !part.is_empty());
            let node = parts.fold(root(), |node, part| node.child(part).unwrap());
            assert_eq!(node.suggestion(given), expected, "{given}");
        }
    }

    #[test]
    fn paths_lead_to_values_only() {
        for path in ["goal", "apps.web.exec", "apps.web.health.http", "apps.a.hooks.drain.user"] {
            check_path(&path.split('.').collect::<Vec<_>>()).expect(path);
        }
        let cases = [
            ("apps", "apps.NAME.KEY"),
            ("apps.web", "apps.NAME.KEY"),
            ("apps.web.exec.x", "apps.NAME.exec"),
            ("apps.web.health", "apps.NAME.health.KEY"),
            ("apps.web.hooks.drain", "apps.NAME.hooks.drain.KEY"),
            ("apps.web.environment", "apps.NAME.environment.VARIABLE"),
            ("apps.web.environment.A.b", "apps.NAME.environment.VARIABLE"),
            ("apps.web.sockets", "apps.NAME.sockets.SOCKET"),
        ];
        for (path, expected) in cases {
            let error = check_path(&path.split('.').collect::<Vec<_>>()).expect_err(path);
            assert_eq!(error, PathError::Depth { expected: expected.into() }, "{path}");
        }
        let cases = [
            ("goal.x", "", "goal.x"),
            ("apps.web.health.htp", "apps.web.health", "htp"),
            ("apps.web.hook.drain", "apps.web", "hook.drain"),
        ];
        for (path, expected_within, expected_key) in cases {
            let error = check_path(&path.split('.').collect::<Vec<_>>()).expect_err(path);
            let PathError::Unknown { within, key, .. } = error else { panic!("{path}: {error:?}") };
            assert_eq!((within.as_str(), key.as_str()), (expected_within, expected_key));
        }
    }
}
