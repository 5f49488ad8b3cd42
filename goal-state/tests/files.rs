//! Goal stores in directories: what is on disk, and what goes wrong there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use goal_state::{GoalStore, GoalStoreError, GoalUrl};
use p2p_core::BuildId;

use crate::rig::{app, build, next, next_error, next_goal, only_damage, row, to_all};

struct Directory {
    // Removed when dropped.
    _root: tempfile::TempDir,
    path: PathBuf,
}

impl Directory {
    /// A path below a temporary directory; nothing is there yet.
    fn missing() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep/goal store");
        Self { _root: root, path }
    }

    fn empty() -> Self {
        let directory = Self::missing();
        fs::create_dir_all(&directory.path).unwrap();
        directory
    }

    fn url(&self) -> GoalUrl {
        GoalUrl::File { directory: self.path.clone() }
    }

    fn store(&self) -> GoalStore {
        GoalStore::new(&self.url())
    }

    fn goal_file(&self) -> PathBuf {
        self.path.join("goals/web.json")
    }

    fn write_goal(&self, text: &str) {
        fs::create_dir_all(self.path.join("goals")).unwrap();
        fs::write(self.goal_file(), text).unwrap();
    }
}

/// All files below a directory, relative to it, sorted.
fn files_below(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                files.push(path.strip_prefix(directory).unwrap().display().to_string());
            }
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn documents_are_where_people_look_for_them() {
    let directory = Directory::missing();
    let store = directory.store();
    store.deploy(&app("web"), build("A"), to_all()).await.unwrap();
    store.put_status("h1", &[row("h1", "web", 1)]).await.unwrap();
    store.put_status("12D3KooW/0", &[row("h2", "web", 1)]).await.unwrap();
    let expected = [".lock", "goals/web.json", "status/12D3KooW/0.json", "status/h1.json"];
    assert_eq!(files_below(&directory.path), expected);

    let text = fs::read_to_string(directory.goal_file()).unwrap();
    let build_line = format!("\n  \"build\": \"{}\",\n", build("A"));
    assert!(
        text.contains("\n  \"app\": \"web\",\n  \"generation\": 1,") && text.contains(&build_line)
    );
    let text = fs::read_to_string(directory.path.join("status/h1.json")).unwrap();
    assert!(text.contains("\"phase\": \"no-goal\","), "{text}");
}

#[tokio::test]
async fn only_a_deploy_creates_the_directory() {
    let directory = Directory::missing();
    let store = directory.store();
    let web = app("web");
    let errors = [
        store.goal(&web).await.unwrap_err(),
        store.goals().await.unwrap_err(),
        store.statuses().await.unwrap_err(),
        store.rollback(&web, to_all(), None).await.unwrap_err(),
        store.put_status("h1", &[]).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, GoalStoreError::StoreMissing { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("deep/goal store does not exist; check the URL"), "{error}");
        assert!(error.ends_with(&format!("--goal {}", directory.url())), "{error}");
    }
    assert!(!directory.path.exists());

    let mut watch = store.watch(vec![web.clone()]);
    assert!(next_error(&mut watch).await.contains("does not exist"));
    let goal = store.deploy(&web, build("A"), to_all()).await.unwrap();
    // The deploy creates the directory before the goal, and the watch may look in between.
    let mut seen = next_goal(&mut watch).await;
    if seen.is_none() {
        seen = next_goal(&mut watch).await;
    }
    assert_eq!(seen, Some(goal));
}

#[tokio::test]
async fn damaged_goals_are_reported_and_never_overwritten() {
    let directory = Directory::missing();
    let store = directory.store();
    let (web, build) = (app("web"), build("A"));
    let head = format!("{{\n \"app\": \"web\",\n \"generation\": 3,\n \"build\": \"{build}\"");
    let whole = format!("{head},\n \"set_at_ms\": 1\n}}\n");
    let cases = [
        ("empty", String::new(), "it is empty"),
        ("truncated", head.clone(), "at line 4"),
        ("other app", whole.replace("web", "api"), "field `app` is api, expected web"),
        ("unknown field", whole.replace("\"set", "\"x\": 1, \"set"), "unknown field `x`"),
        ("bad build", whole.replace(&build.to_string(), "latest"), "found 6 characters at line 4"),
        ("generation 0", whole.replace('3', "0"), "expected 1 or more at line 3 column"),
        ("not text", "\u{0}\u{1}".repeat(9), "at line 1"),
        ("too large", " ".repeat(1 << 20), "more than 65536 bytes"),
    ];
    for (name, text, expected) in cases {
        directory.write_goal(&text);
        let errors = [
            store.goal(&web).await.unwrap_err(),
            only_damage(store.goals().await.unwrap()),
            store.deploy(&web, build, to_all()).await.unwrap_err(),
            store.rollback(&web, to_all(), None).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, GoalStoreError::Malformed { .. }), "{name}: {error:?}");
            let error = error.to_string();
            assert!(error.contains("goals/web.json is not a valid document"), "{name}: {error}");
            assert!(error.contains(expected), "{name}: {error}");
            assert!(!error.contains('\n'), "{name}: {error}");
        }
        assert_eq!(fs::read_to_string(directory.goal_file()).unwrap(), text, "{name}");
    }
    directory.write_goal("");
    let error = store.deploy(&web, build, to_all()).await.unwrap_err().to_string();
    assert!(error.contains("repair the file, or remove it and deploy again"), "{error}");

    directory.write_goal(&whole);
    assert_eq!(store.deploy(&web, build, to_all()).await.unwrap().generation, 4);
    fs::remove_file(directory.goal_file()).unwrap();
    assert_eq!(store.deploy(&web, build, to_all()).await.unwrap().generation, 1);
}

#[tokio::test]
async fn strange_names_among_the_goals_are_reported_or_left_alone() {
    let directory = Directory::missing();
    let store = directory.store();
    store.deploy(&app("web"), build("A"), to_all()).await.unwrap();
    for harmless in [".web.json.swp", "web.json~", "README", ".web.json.tmp"] {
        fs::write(directory.path.join("goals").join(harmless), "x").unwrap();
    }
    assert_eq!(store.goals().await.unwrap().goals.len(), 1);
    fs::write(directory.path.join("goals/Web App.json"), "{}").unwrap();
    let listed = store.goals().await.unwrap();
    assert_eq!(listed.goals.len(), 1, "it hides no other");
    let error = only_damage(listed).to_string();
    assert!(error.contains("Web App.json is not a valid document"), "{error}");
    assert!(error.contains("rename the file or move it away"), "{error}");
}

#[tokio::test]
async fn damaged_status_documents_hide_nobody_else() {
    let directory = Directory::empty();
    let store = directory.store();
    store.put_status("h1", &[row("h1", "web", 1)]).await.unwrap();
    let status = directory.path.join("status");
    fs::write(status.join("h2.json"), "").unwrap();
    fs::write(status.join("h3.json"), "{\"rows\":[{\"host\":\"h3\"").unwrap();
    fs::write(status.join(".h4.json.tmp"), "x").unwrap();
    fs::create_dir(status.join("h5.json")).unwrap();
    fs::write(status.join("notes.txt"), "x").unwrap();
    let [found] = &store.statuses().await.unwrap()[..] else { panic!("one row") };
    assert_eq!((found.host.as_str(), found.updated_at_ms), ("h1", 1));
    assert!(found.received_at_ms > 0, "the time of its file");
    store.put_status("h2", &[row("h2", "web", 1)]).await.unwrap();
    assert_eq!(store.statuses().await.unwrap().len(), 2);
}

#[tokio::test]
async fn files_where_directories_should_be_are_named() {
    let directory = Directory::empty();
    let file = directory.path.join("file");
    fs::write(&file, "x").unwrap();
    let web = app("web");
    for path in [file.clone(), file.join("below")] {
        let store = GoalStore::new(&GoalUrl::File { directory: path });
        let errors = [
            store.goal(&web).await.unwrap_err(),
            store.goals().await.unwrap_err(),
            store.deploy(&web, build("A"), to_all()).await.unwrap_err(),
            store.put_status("h1", &[]).await.unwrap_err(),
        ];
        for error in errors {
            let is_expected = matches!(error, GoalStoreError::NotADirectory { .. });
            assert!(is_expected && error.to_string().contains("/file"), "{error:?}");
        }
    }
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[tokio::test]
async fn what_the_operating_system_says_is_kept() {
    let directory = Directory::empty();
    let goals = directory.path.join("goals");
    std::os::unix::fs::symlink(&goals, &goals).unwrap();
    let errors = [
        directory.store().goal(&app("web")).await.unwrap_err(),
        directory.store().deploy(&app("web"), build("A"), to_all()).await.unwrap_err(),
    ];
    for error in errors {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(source.as_ref().is_some_and(|text| text.contains("symbolic links")), "{error:?}");
        assert!(error.to_string().contains("goal store/goals"), "{error}");
    }
}

#[tokio::test]
async fn watch_follows_damage_repair_and_removal() {
    let directory = Directory::missing();
    let store = directory.store();
    let web = app("web");
    let goal = store.deploy(&web, build("A"), to_all()).await.unwrap();
    let whole = fs::read_to_string(directory.goal_file()).unwrap();
    let mut watch = store.watch(vec![web]);
    assert_eq!(next_goal(&mut watch).await, Some(goal.clone()));

    directory.write_goal(&whole.replace("web", "wob"));
    let error = next_error(&mut watch).await;
    assert!(error.contains("goals/web.json") && error.contains("expected web"), "{error}");
    directory.write_goal(&whole);
    assert_eq!(next_goal(&mut watch).await, Some(goal));
    fs::remove_file(directory.goal_file()).unwrap();
    assert_eq!(next_goal(&mut watch).await, None);
    // Lower than before: passed on as it is.
    assert_eq!(store.deploy(&app("web"), build("B"), to_all()).await.unwrap().generation, 1);
    assert_eq!(next_goal(&mut watch).await.map(|goal| goal.build), Some(build("B")));
    fs::rename(&directory.path, directory.path.with_file_name("moved")).unwrap();
    let update = next(&mut watch).await;
    assert!(
        update.goal.as_ref().is_err_and(|error| error.to_string().contains("does not exist")),
        "{update:?}"
    );
}

/// Goal: what this user may not read or write is said, with the path.
/// Method: gives up root in one thread if need be; tokio's threads for files inherit from it.
#[test]
fn missing_permission_is_named() {
    let directory = Directory::missing();
    let (goals, status) = (directory.path.join("goals"), directory.path.join("status"));
    for closed in [&goals, &status] {
        fs::create_dir_all(closed).unwrap();
        fs::set_permissions(closed, fs::Permissions::from_mode(0o0)).unwrap();
    }
    for above in directory.path.ancestors().take(3) {
        fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let store = directory.store();
    let check = async move {
        let errors = [
            ("read", store.goal(&app("web")).await.unwrap_err()),
            ("read", store.goals().await.unwrap_err()),
            ("read", store.statuses().await.unwrap_err()),
            ("write", store.put_status("h1", &[]).await.unwrap_err()),
        ];
        for (action, error) in errors {
            assert!(matches!(error, GoalStoreError::NoPermission { .. }), "{error:?}");
            let expected = format!("no permission to {action} ");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    };
    let as_nobody = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
        }
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(check);
    });
    let outcome = as_nobody.join();
    for closed in [&goals, &status] {
        fs::set_permissions(closed, fs::Permissions::from_mode(0o755)).unwrap();
    }
    outcome.unwrap();
}

const NO_ROOM_STORE: &str = "SHOAL_TEST_NO_ROOM_STORE";

/// Goal: a deploy that cannot write its document leaves the old one and nothing else.
/// Method: this test runs itself in a process whose limit on file sizes lets no byte through.
#[tokio::test]
async fn deploy_without_room_changes_nothing() {
    if let Some(path) = std::env::var_os(NO_ROOM_STORE) {
        let store = GoalStore::new(&GoalUrl::File { directory: path.into() });
        let error = store.deploy(&app("web"), build("B"), to_all()).await.unwrap_err();
        assert!(matches!(error, GoalStoreError::NoRoom { .. }), "{error:?}");
        let error = store.put_status("h1", &[]).await.unwrap_err().to_string();
        assert!(error.contains("no room to write") && error.contains("h1.json"), "{error}");
        return;
    }
    let directory = Directory::missing();
    let store = directory.store();
    let goal = store.deploy(&app("web"), build("A"), to_all()).await.unwrap();
    store.put_status("h1", &[row("h1", "web", 1)]).await.unwrap();
    let files = files_below(&directory.path);

    let name = "files::deploy_without_room_changes_nothing";
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(NO_ROOM_STORE, &directory.path)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout).into_owned()
        + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
    assert_eq!(store.goal(&app("web")).await.unwrap(), Some(goal));
    let [found] = &store.statuses().await.unwrap()[..] else { panic!("one row") };
    assert_eq!((found.host.as_str(), found.updated_at_ms), ("h1", 1));
    assert!(found.received_at_ms > 0, "the time of its file");
    assert_eq!(files_below(&directory.path), files);
}

/// Goal: a reader never sees a part of a document.
/// Method: reads as fast as possible while documents of different lengths replace each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_beside_writers_sees_whole_documents() {
    let directory = Directory::missing();
    let store = directory.store();
    store.deploy(&app("web"), build("0"), to_all()).await.unwrap();
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for number in 1..60 {
            let name = build(&number.to_string());
            writer.deploy(&app("web"), name, to_all()).await.unwrap();
            let rows: Vec<_> =
                (0..number % 7).map(|host| row(&host.to_string(), "web", 1)).collect();
            writer.put_status("h", &rows).await.unwrap();
        }
    });
    let mut newest = 0;
    while !writing.is_finished() {
        let generation = store.goal(&app("web")).await.unwrap().unwrap().generation;
        assert!(generation >= newest, "{generation} after {newest}");
        newest = generation;
        store.statuses().await.unwrap();
    }
    writing.await.unwrap();
    let last: Option<BuildId> = store.goal(&app("web")).await.unwrap().map(|goal| goal.build);
    assert_eq!(last, Some(build("59")));
}
