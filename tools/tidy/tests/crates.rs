//! Edges between crates: who may depend on whom, and that all take the workspace's lints.

use tidy::{keys, members, root, text};

/// Each crate with all crates of this workspace that it may depend on, from the ground up. The
/// table in ARCHITECTURE.md says why.
const EDGES: [(&str, &[&str]); 14] = [
    ("p2p-core", &[]),
    ("disk", &[]),
    ("command-line", &["disk"]),
    ("demo-service", &["command-line"]),
    ("simnet", &["p2p-core"]),
    ("p2p-net", &["p2p-core", "disk"]),
    ("goal-state", &["p2p-core", "disk"]),
    ("blob-store", &["p2p-core", "disk"]),
    ("node-agent", &["p2p-core", "p2p-net", "goal-state", "command-line", "disk"]),
    ("seeder", &["p2p-core", "p2p-net", "goal-state", "command-line", "disk"]),
    (
        "cli",
        &[
            "p2p-core",
            "p2p-net",
            "goal-state",
            "blob-store",
            "command-line",
            "disk",
            "node-agent",
            "seeder",
            "demo-service",
        ],
    ),
    ("benches", &["p2p-core", "p2p-net"]),
    ("benches/load", &[]),
    ("tools/tidy", &[]),
];

#[test]
fn every_member_takes_the_lints_of_the_workspace() {
    for member in members() {
        let manifest = text(&root().join(&member).join("Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member}");
    }
}

/// Goal: the crate boundary keeps the core pure, and nothing depends on what it must not see.
#[test]
fn crates_depend_on_what_the_architecture_draws() {
    let ours = [EDGES.map(|(member, _)| member).as_slice(), &["load-generator", "tidy"]].concat();
    for member in members() {
        let edge = EDGES.iter().find(|(name, _)| *name == member);
        let (_, allowed) = edge.unwrap_or_else(|| panic!("{member} has no row in EDGES"));
        for dependency in keys(&member, "dependencies") {
            let is_ours = ours.contains(&dependency.as_str());
            let is_allowed = allowed.contains(&dependency.as_str());
            assert!(!is_ours || is_allowed, "{member} must not depend on {dependency}");
        }
    }
}

#[test]
fn the_core_stays_pure() {
    assert_eq!(keys("p2p-core", "dependencies"), ["blake3", "postcard", "serde", "thiserror"]);
}
