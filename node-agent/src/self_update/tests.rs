//! The decision for every state that a crash or a switch leaves, and what is written for it.

use serde_json::json;

use super::*;
use crate::config::{FlagSetting, Inputs};
use crate::state::app_dir::{AppDir, FailedBuild, Journal, JournalPhase};

fn build(seed: u8) -> BuildId {
    BuildId::of_manifest(&[seed])
}

fn journal(phase: &str, to: u8, good: &[u8], tries_left: u32, failed: Option<u8>) -> StubJournal {
    let good: Vec<String> = good.iter().map(|seed| build(*seed).to_string()).collect();
    let failed = failed.map(|seed| json!({ "build": build(seed).to_string() }));
    let journal = json!({
        "phase": phase, "to": build(to).to_string(), "good": good, "tries_left": tries_left,
        "failed": failed, "generation": 4, "of a later version": [1],
    });
    StubJournal::of_fields(journal.as_object().unwrap().clone()).unwrap()
}

fn facts(current: u8, journal: StubJournal, runnable: &[u8]) -> Facts {
    Facts {
        is_started_by_stub: false,
        current: Some(build(current)),
        journal: Some(journal),
        runnable: runnable.iter().map(|seed| build(*seed)).collect(),
    }
}

#[test]
fn every_state_has_its_step() {
    let exec = |seed| Step::Exec { build: build(seed) };
    let attempt = |seed, tries_left| Step::Try { build: build(seed), tries_left };
    let back = |failed, to| Step::RollBack { failed: build(failed), build: build(to) };
    let cases = [
        ("good", facts(2, journal("good", 2, &[2, 1], 0, None), &[1, 2]), exec(2)),
        (
            "good without an agent in it",
            facts(2, journal("good", 2, &[2], 0, None), &[]),
            Step::Stay,
        ),
        ("new", facts(2, journal("switching", 2, &[1], 3, None), &[1, 2]), attempt(2, 2)),
        ("last try", facts(2, journal("switching", 2, &[1], 1, None), &[1, 2]), attempt(2, 0)),
        ("no try left", facts(2, journal("switching", 2, &[1], 0, None), &[1, 2]), back(2, 1)),
        ("no agent in it", facts(2, journal("switching", 2, &[1], 3, None), &[1]), back(2, 1)),
        ("newest lost", facts(3, journal("switching", 3, &[2, 1], 0, None), &[1, 3]), back(3, 1)),
        (
            "never back to itself",
            facts(2, journal("switching", 2, &[2, 1], 0, None), &[1, 2]),
            back(2, 1),
        ),
        (
            "nothing before",
            facts(2, journal("switching", 2, &[], 0, Some(1)), &[2]),
            Step::GiveUp { failed: build(2) },
        ),
        ("given up", facts(2, journal("switching", 2, &[], 0, Some(2)), &[2]), Step::Stay),
        ("before the link", facts(1, journal("switching", 2, &[1], 3, None), &[1, 2]), exec(1)),
        (
            "rollback before the link",
            facts(2, journal("rolling-back", 1, &[1], 0, Some(2)), &[1, 2]),
            Step::Repoint { build: build(1) },
        ),
        ("rolled back", facts(1, journal("rolling-back", 1, &[1], 0, Some(2)), &[1, 2]), exec(1)),
        ("phase of a later version", facts(2, journal("x", 2, &[], 0, None), &[2]), exec(2)),
    ];
    for (name, facts, expected) in cases {
        assert_eq!(decide(&facts), expected, "{name}");
        let started = Facts { is_started_by_stub: true, ..facts.clone() };
        assert_eq!(decide(&started), Step::Stay, "{name}, started by a stub");
        let nothing = Facts { current: None, ..facts };
        assert_eq!(decide(&nothing), Step::Stay, "{name}, without current");
    }
    let bare = Facts { journal: None, ..facts(2, journal("good", 2, &[], 0, None), &[2]) };
    assert_eq!(decide(&bare), exec(2));
}

#[test]
fn what_a_stub_writes_the_agent_reads() {
    let folder = tempfile::tempdir().unwrap();
    let app = AppDir::new(folder.path().into());
    let before = Journal {
        generation: 7,
        from: Some(build(1)),
        to: build(2),
        phase: JournalPhase::Switching,
        good: vec![build(1)],
        elapsed_ms: None,
        tries_left: 2,
        failed: Some(FailedBuild {
            build: build(3),
            since: 5,
            reason: "it crashed".into(),
            output: "no disk".into(),
            at_ms: 4,
            pinned: false,
        }),
        failed_before: vec![],
    };
    app.write_journal(&before).unwrap();
    let mut stub = StubJournal::load(folder.path()).unwrap();
    assert!(stub.is_switching());
    stub.set_tries_left(1);
    stub.write(folder.path()).unwrap();
    assert_eq!(app.journal().unwrap().unwrap(), Journal { tries_left: 1, ..before.clone() });
    stub.set_failed(build(2), None, "it hung", 5);
    stub.set_rolling_back(build(1));
    stub.write(folder.path()).unwrap();
    let after = app.journal().unwrap().unwrap();
    let failed = after.failed.clone().unwrap();
    let expected = FailedBuild {
        build: build(2),
        since: 7,
        reason: "it hung".into(),
        output: String::new(),
        at_ms: 5,
        pinned: false,
    };
    assert_eq!(failed, expected);
    assert_eq!(after, before.rolling_back(build(1), Some(failed)));
}

#[test]
fn fields_of_a_later_version_survive() {
    let folder = tempfile::tempdir().unwrap();
    let mut stub = journal("switching", 2, &[1], 3, None);
    stub.set_tries_left(2);
    stub.write(folder.path()).unwrap();
    let again = StubJournal::load(folder.path()).unwrap();
    assert_eq!((again.tries_left, &again), (2, &stub));
    let text = fs::read_to_string(folder.path().join("journal")).unwrap();
    assert!(text.contains("of a later version"), "{text}");
}

#[test]
fn app_is_found_in_a_configuration_of_a_later_version() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(
        &file,
        "state = \"/s\"\nfuture = 1\n[apps.me]\nis_agent = true\nfuture = 2\n[apps.web]\n",
    )
    .unwrap();
    let mut inputs = Inputs { file: Some(file), ..Inputs::default() };
    let found = |inputs: &Inputs| {
        find_agent_app(inputs, None).map(|app| (app.state.display().to_string(), app.name))
    };
    assert_eq!(found(&inputs), Some(("/s".into(), "me".into())));
    inputs.environment = vec![("SHOAL_STATE".into(), "/v".into())];
    assert_eq!(found(&inputs), Some(("/v".into(), "me".into())));
    let flag = |key: &str, value: &str| FlagSetting {
        flag: "--set".into(),
        key: key.into(),
        value: Some(value.into()),
    };
    inputs.flags = vec![flag("state", "/f"), flag("apps.other.is_agent", "true")];
    assert_eq!(found(&inputs), Some(("/f".into(), "me".into())));
    inputs.file = None;
    assert_eq!(found(&inputs), Some(("/f".into(), "other".into())));
    inputs.flags = vec![flag("apps.\"../x\".is_agent", "true")];
    assert_eq!(found(&inputs), None);
}

#[test]
fn goal_that_is_followed_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let goals = json!({ "me": { "build": build(2).to_string(), "generation": 9 } });
    fs::write(folder.path().join("goal.json"), goals.to_string()).unwrap();
    let generation = |app| find::generation_of(folder.path(), app);
    assert_eq!((generation("me"), generation("other")), (Some(9), None));
}
