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
const FLOORS: [(&str, &[&str]); 1] = [(
    "node-agent/src",
    &[
        "cli",
        "agent",
        "control",
        "app",
        "self_update",
        "config programs",
        "host",
        "brain",
        "state",
        "fleet report",
        "process backoff",
    ],
)];

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
    for (folder, list) in FLOORS {
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
