//! Rooms: the modules right below a crate's `src` (a file `x.rs` with its folder `x/` is one), and
//! those within the larger rooms. Each list is in order from the top; a room imports only from
//! rooms below it. ARCHITECTURE.md says what each room is for.
//!
//! A new room gets a line here. An import upwards means that a definition lies in the wrong room.

use std::collections::BTreeMap;

use tidy::imports::{module_of, used};
use tidy::{files_below, members, name, root, text};

/// For each folder with rooms: its floors from the top, each with the rooms on it. Rooms of one
/// floor do not know each other.
///
/// Left out: `hub/` and `store/` of p2p-net. In both, children add methods to one type of another
/// child (`Member`, `Tree`), which is the language's way to cut a type along its concerns.
const FLOORS: &[(&str, &[&str])] = &[
    (
        "p2p-core/src",
        &[
            "swarm",
            "action event tracker",
            "config pick wire",
            "chunk_set contact manifest rate",
            "digest fault layout node_id prng time units",
        ],
    ),
    (
        "p2p-core/src/swarm",
        &[
            "manifest_search",
            "answers locality neighbourhood timers",
            "asking manifest_serving offers own_disk serving",
            "ledger membership params peers requests trackers uploads view",
            "hearsay",
        ],
    ),
    (
        "p2p-net/src",
        &[
            "node",
            "hub",
            "error",
            "ask measure progress",
            "compare control data publish",
            "address store tls",
            "budget disk_priority identity",
        ],
    ),
    (
        "p2p-net/src/data",
        &[
            "worker",
            "linking",
            "receiving",
            "event",
            "link measure",
            "quic sending tcp",
            "transport",
            "buffers dscp first frame limiter",
        ],
    ),
    ("p2p-net/src/publish", &["verify", "pipeline", "cut walk"]),
    ("goal-state/src", &["store", "documents"]),
    (
        "goal-state/src/documents",
        &[
            "explain tally",
            "goal",
            "history",
            "fit inventory",
            "goal_news rollout status token",
            "trouble",
            "notes",
            "fields limit text app_name",
        ],
    ),
    (
        "goal-state/src/store",
        &["etcd files watch", "all_goals", "board change", "error", "damage_log pacing url"],
    ),
    (
        "node-agent/src",
        &[
            "cli",
            "agent",
            "control",
            "app",
            "self_update",
            "config programs",
            "brain host",
            "fleet report state",
            "backoff process",
        ],
    ),
    (
        "node-agent/src/host",
        &[
            "real",
            "notify preflight",
            "probe",
            "hook launch unit_program",
            "start",
            "executable mark runs_from sockets unit user watch_files",
        ],
    ),
    (
        "node-agent/src/programs",
        &["supervisor", "instance", "health_watch output_watch", "flood hook_runner output"],
    ),
    (
        "seeder/src",
        &[
            "cli",
            "daemon",
            "goal_teller judging relay token_server",
            "judge",
            "catalog goal_relay inventory_disk limits_file status_relay tokens",
        ],
    ),
    (
        "cli/src",
        &[
            "app",
            "demo",
            "explain forget main_store status",
            "bench fetch publish rollout",
            "output runtime",
        ],
    ),
    ("cli/src/rollout", &["deploy", "history view wait", "report", "commands end", "args order"]),
    ("command-line/src", &["usage", "complaint log signals state_lock"]),
    ("demo-service/src", &["http", "service", "behaviour"]),
    ("disk/src", &["replace", "calls", "file", "simulated watch", "record", "operation"]),
    (
        "simnet/src",
        &[
            "plot sweep thirty_minutes",
            "report",
            "fleet",
            "checker",
            "node scenario trace",
            "network queue",
            "bound buckets faults flags load output_file slab",
        ],
    ),
    (
        "simnet/src/thirty_minutes",
        &[
            "command",
            "load",
            "summary",
            "region",
            "plan",
            "waves",
            "digest phases ranges ranks workers",
        ],
    ),
    ("blob-store/src", &["publish repair", "gc read", "builds", "plan store", "files format"]),
    ("blob-store/src/publish", &["sending", "tally work"]),
    ("blob-store/src/format", &["build", "index", "codec pack", "segment", "bytes error keys"]),
    ("benches/src", &["quic tcp", "files"]),
];

/// A crate of so few files needs no picture.
const FEW_FILES: usize = 4;

/// The floor of each room of one folder, the lowest first.
fn floors_of(list: &[&str]) -> BTreeMap<String, usize> {
    let floors = list.iter().rev().enumerate();
    floors
        .flat_map(|(floor, rooms)| rooms.split(' ').map(move |room| (room.to_owned(), floor)))
        .collect()
}

/// Every import of one folder's sources that leads from a room to another of the same folder.
fn imports(folder: &str) -> Vec<(String, String, String)> {
    let folder_path = root().join(folder);
    let crate_name = members().into_iter().find(|member| folder.starts_with(&format!("{member}/")));
    let src = root().join(crate_name.expect("the folder lies in a crate")).join("src");
    let inside = module_of(&src, &folder_path);
    let mut found = Vec::new();
    for file in files_below(&folder_path, ".rs") {
        let module = module_of(&src, &file);
        let is_test = module.last().is_some_and(|last| last == "tests" || last == "testing");
        let Some(room) = module.get(inside.len()).filter(|_| !is_test) else { continue };
        for (line, path) in used(&text(&file), &module) {
            if let Some(rest) = path.strip_prefix(inside.as_slice())
                && let Some(target) = rest.first()
            {
                let place = format!("{}:{line}", name(&file));
                found.push((room.clone(), target.clone(), place));
            }
        }
    }
    found
}

#[test]
fn imports_between_rooms_run_downwards() {
    let mut wrong = Vec::new();
    for &(folder, list) in FLOORS {
        let floors = floors_of(list);
        for (room, target, place) in imports(folder) {
            let Some(from) = floors.get(&room) else {
                wrong.push(format!("{place}: room {room} of {folder} has no floor"));
                continue;
            };
            // What is no room is an item of the folder's own face.
            let Some(to) = floors.get(&target) else { continue };
            if room != target && from <= to {
                wrong.push(format!("{place}: {room} imports {target}, which is not below it"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_crate_with_rooms_has_its_floors() {
    for member in members() {
        let src = format!("{member}/src");
        let is_listed = FLOORS.iter().any(|(folder, _)| *folder == src);
        let files = files_below(&root().join(&src), ".rs");
        assert!(is_listed || files.len() <= FEW_FILES, "{src} has no row in FLOORS");
    }
}
