//! Builds that start and builds that do not, and what a hook may still bring.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use super::*;

/// The folder of an app, with a build whose program is good.
struct Rig {
    folder: tempfile::TempDir,
    launch: Launch,
    hooks: Hooks,
    probe: Option<Probe>,
    is_prepared: bool,
}

impl Rig {
    fn new(exec: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("new")).unwrap();
        fs::create_dir(folder.path().join("old")).unwrap();
        symlink("old", folder.path().join("current")).unwrap();
        let launch = Launch {
            app: "web".into(),
            host: "h1".into(),
            exec: exec.iter().copied().map(String::from).collect(),
            unit: None,
            environment: BTreeMap::new(),
            working_directory: None,
            grace_period: Duration::from_secs(1),
            user: None,
            sockets: BTreeMap::new(),
        };
        Self { folder, launch, hooks: Hooks::default(), probe: None, is_prepared: true }
    }

    /// With an executable file in the new build.
    fn with(self, name: &str, content: &str) -> Self {
        let path = self.folder.path().join("new").join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    /// "fine", or who is to blame and for what.
    fn said(&self) -> String {
        let checked = Preflight {
            app: &AppDir::new(self.folder.path().into()),
            launch: Some(&self.launch),
            hooks: &self.hooks,
            is_prepared: self.is_prepared,
            probe: self.probe.as_ref(),
            build: BuildId::of_manifest(b"x"),
            root: &self.folder.path().join("new"),
        }
        .check();
        match checked {
            Ok(()) => "fine".into(),
            Err(fault) if fault.is_of_build => format!("build: {fault}"),
            Err(fault) => format!("host: {fault}"),
        }
    }
}

fn hook(exec: &str) -> Hook {
    Hook { exec: vec![exec.into()], user: None, timeout: Duration::from_secs(1) }
}

#[test]
fn program_is_the_builds_or_the_hosts() {
    let script = "#!/bin/sh\n";
    for exec in [&["./run", "-x"][..], &["run/../run"], &["sh", "run"], &["/bin/sh", "-c", "./run"]]
    {
        let rig = Rig::new(exec).with("run", script);
        let expected = if exec[0] == "run/../run" { "host: " } else { "fine" };
        assert!(rig.said().starts_with(expected), "{exec:?}: {}", rig.said());
    }
    assert_eq!(Rig::new(&["./run"]).said(), "build: run cannot start: the build has no such file");
    let absolute = Rig::new(&["/nonexistent/run"]).said();
    assert!(absolute.starts_with("host: /nonexistent/run cannot start: there is no"), "{absolute}");
    let name = Rig::new(&["nosuch-program"]).said();
    assert!(name.starts_with("host: nosuch-program cannot start: it is not in PATH"), "{name}");
    let mut stranger = Rig::new(&["./run"]).with("run", script);
    stranger.launch.user = Some("nobody-has-this-name".into());
    assert!(stranger.said().starts_with("host: "), "{}", stranger.said());
}

#[test]
fn interpreter_of_the_build_is_found_from_where_the_program_starts() {
    let rig = Rig::new(&["./run"]).with("run", "#!tool -x\n").with("tool", "#!/bin/sh\n");
    assert_eq!(rig.said(), "fine");
    let mut elsewhere = rig;
    fs::create_dir(elsewhere.folder.path().join("new/data")).unwrap();
    elsewhere.launch.working_directory = Some("data".into());
    assert!(elsewhere.said().starts_with("build: run cannot start: its first line asks for"));
}

/// Goal: what leads through `current` is looked for in the new build, not in the old one.
#[test]
fn current_leads_to_the_new_build() {
    let mut rig = Rig::new(&["./run"]).with("tool", "#!/bin/sh\n");
    let tool = rig.path("current/tool");
    rig = rig.with("run", &format!("#!{tool}\n"));
    assert_eq!(rig.said(), "fine", "an interpreter");
    rig.launch.exec = vec![tool.clone()];
    assert_eq!(rig.said(), "fine", "the program itself");
    rig.launch.exec = vec!["./link".into()];
    symlink(&tool, rig.folder.path().join("new/link")).unwrap();
    assert_eq!(rig.said(), "fine", "a link");
    rig.launch.exec = vec!["tool".into()];
    rig.launch.environment = [("PATH".into(), rig.path("current"))].into();
    assert_eq!(rig.said(), "fine", "a name in PATH");
    rig.launch.exec = vec![rig.path("current/missing")];
    assert!(rig.said().starts_with("build: "), "{}", rig.said());
}

/// Goal: a build is not refused for what a hook of the switch brings, but for what none can.
#[test]
fn what_a_hook_may_bring_is_not_missed_before_it_has_run() {
    let mut rig = Rig::new(&["/nonexistent/run"]).with("hook", "#!/bin/sh\n");
    rig.hooks.before_switch = Some(hook("./hook"));
    rig.is_prepared = false;
    assert_eq!(rig.said(), "fine", "before it");
    rig.launch.user = Some("nobody-has-this-name".into());
    assert_eq!(rig.said(), "fine", "the user");
    rig.launch.user = None;
    rig.is_prepared = true;
    assert!(rig.said().starts_with("host: /nonexistent/run"), "{}", rig.said());
    rig.hooks.after_switch = Some(hook("./hook"));
    assert_eq!(rig.said(), "fine", "the other is still to come");
    rig.is_prepared = false;
    rig = rig.with("run", "#!/bin/sh\r\n");
    rig.launch.exec = vec!["./run".into()];
    assert!(rig.said().contains("carriage return"), "no hook changes a build: {}", rig.said());
}

#[test]
fn commands_of_the_build_are_looked_at_too() {
    let mut rig = Rig::new(&["./run"]).with("run", "#!/bin/sh\n");
    rig.is_prepared = false;
    rig.hooks.before_switch = Some(hook("./hook"));
    let said =
        "build: hook, the command for before_switch, cannot start: the build has no such file";
    assert_eq!(rig.said(), said);
    rig.is_prepared = true;
    assert_eq!(rig.said(), "fine");
    rig.hooks.after_switch = Some(hook("./hook"));
    assert_eq!(rig.said(), said.replace("before_switch", "after_switch"));
    rig.hooks.after_switch = Some(hook("nosuch-program-of-the-host"));
    assert_eq!(rig.said(), "fine", "the host's own business");
    rig.hooks = Hooks::default();
    rig.probe = Some(Probe::Command { exec: vec!["./ask".into()] });
    assert_eq!(
        rig.said(),
        said.replace("hook, the", "ask, the").replace("before_switch", "health")
    );
}

#[test]
fn unit_of_systemd_is_not_looked_into() {
    let mut rig = Rig::new(&[]);
    rig.launch.unit = Some("web.service".into());
    assert_eq!(rig.said(), "fine");
}
