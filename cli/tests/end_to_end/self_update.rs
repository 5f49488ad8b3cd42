//! The agent as an app of its own: it becomes the agent of the build that is deployed, and of the
//! one before if the new one does not work, while the programs of other apps keep running.
//!
//! The watchdog of systemd is played by the test. `dist/try-units.py` does this with a real one.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use goal_state::HostPhase;
use rustix::process::{Pid, Signal};

use super::swaps::{Load, SETTINGS};
use crate::rig::service_host::{HOST, ServiceHost};
use crate::rig::{Daemon, HostRow, Published, agent_binary, note, parse, succeed, wait_for_status};

/// How long an agent that is never well is given. Good ones get more, however busy the machine.
const SHORT_DEADLINE: &str = "1s";
const LONG_DEADLINE: &str = "2m";

/// Requests per second. Every agent that starts takes sockets and program over under load.
const RATE: u32 = 200;

fn settings(deadline: &str) -> String {
    format!(
        "{SETTINGS}[apps.agent]\nis_agent = true\n[apps.agent.health]\nmin_healthy_time = \"300ms\"\n\
         deadline = \"{deadline}\"\ntries = 2\n"
    )
}

/// The agent as its unit runs it: with the same arguments again whenever it ends.
struct Unit<'a> {
    host: &'a ServiceHost,
    daemon: RefCell<Daemon>,
    starts: Cell<u32>,
}

impl<'a> Unit<'a> {
    fn start(host: &'a ServiceHost) -> Self {
        Self { host, daemon: RefCell::new(host.spawn_agent()), starts: Cell::new(1) }
    }

    fn process(&self) -> Pid {
        self.daemon.borrow().process()
    }

    /// What the service manager does meanwhile: kills an agent that does not say that it lives, and
    /// starts one that has ended.
    fn tend(&self) {
        let mut daemon = self.daemon.borrow_mut();
        let process = daemon.process().as_raw_nonzero();
        let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        if arguments.starts_with(b"sleep\0") {
            daemon.kill();
        }
        if !daemon.is_running() {
            *daemon = self.host.spawn_agent();
            self.starts.set(self.starts.get() + 1);
        }
    }

    /// Waits until `accept` is content with the row of `app`.
    fn wait_for_row(&self, what: &str, app: &str, accept: impl Fn(&HostRow) -> bool) -> HostRow {
        wait_for_status(what, &self.host.rig.goal(), |status| {
            self.tend();
            let row = status.hosts.iter().find(|row| row.row.app.as_str() == app);
            row.filter(|row| accept(row)).cloned()
        })
    }

    /// The file that the agent runs.
    fn program(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.process().as_raw_nonzero())).unwrap()
    }

    fn agent_in(&self, build: &Published) -> PathBuf {
        let builds = self.host.rig.path(HOST).join("apps/agent/builds");
        fs::canonicalize(builds.join(&build.id)).unwrap().join("shoal-agent")
    }

    /// Deploys an agent that works, and waits until it is the one that runs and is good.
    fn deploy_good(&self, build: &Published) {
        deploy(self.host, build);
        self.wait_for_row("the new agent is good", "agent", |row| {
            row.is_on_goal && row.row.phase == HostPhase::Running && is(row.row.current, build)
        });
        assert_eq!(self.program(), self.agent_in(build));
    }

    /// Deploys an agent that does not work, and waits until `good` runs again. Returns the reason
    /// that the host gives.
    fn deploy_bad(&self, build: &Published, good: &Published) -> String {
        deploy(self.host, build);
        let row = self.wait_for_row("the new agent is rolled back", "agent", |row| {
            row.row.phase == HostPhase::RolledBack && is(row.row.quarantined, build)
        });
        assert!(is(row.row.current, good), "{row:?}");
        assert_eq!(self.program(), self.agent_in(good));
        let reason = row.row.message.unwrap_or_default();
        note(&format!("{}: {reason}", &build.id[..8]));
        reason
    }
}

fn is(build: Option<p2p_core::BuildId>, published: &Published) -> bool {
    build.is_some_and(|build| build.to_string() == published.id)
}

fn deploy(host: &ServiceHost, build: &Published) {
    succeed(&["deploy", "agent", &build.id, "--goal", &host.rig.goal()]);
}

/// A build of agents that `make` puts into its folder.
fn publish(host: &ServiceHost, name: &str, make: impl FnOnce(&Path)) -> Published {
    let root = host.rig.path("data").join(name);
    fs::create_dir(&root).unwrap();
    make(&root);
    let (root, store) = (root.to_str().unwrap(), host.rig.text("store"));
    parse(&succeed(&["publish", root, "--app", "agent", "--store", &store, "--json"]))
}

/// A build whose agent is the real one.
fn publish_real(host: &ServiceHost, name: &str) -> Published {
    publish(host, name, |root| {
        fs::copy(agent_binary(), root.join("shoal-agent")).unwrap();
        fs::write(root.join("VERSION"), name).unwrap();
    })
}

/// A build whose agent is a script.
fn publish_script(host: &ServiceHost, name: &str, text: &str) -> Published {
    publish(host, name, |root| {
        let path = root.join("shoal-agent");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    })
}

/// Goal: agents are replaced by newer ones, and bad ones by those before, without anybody's help
/// and without anybody who uses the programs noticing.
/// Method: a service under load all the time, each request counted; its process must stay the same.
/// At the end a new build of the service, too, is switched to without a lost request.
#[test]
fn agent_replaces_itself_and_goes_back_from_bad_builds_under_load() {
    let host = ServiceHost::new(&settings(LONG_DEADLINE));
    let unit = Unit::start(&host);
    let web = host.publish("A", "", 100_000);
    host.rig.deploy(&web);
    let is_running = |row: &HostRow| row.is_on_goal && row.row.phase == HostPhase::Running;
    let before = unit.wait_for_row("the service runs", "web", is_running).row;
    host.wait_for_version("A");
    let load = Load::start(host.port, RATE);

    let process = unit.process();
    let [first, good] = ["1", "2"].map(|name| publish_real(&host, name));
    for build in [&first, &good] {
        unit.deploy_good(build);
        assert_eq!(
            (unit.process(), unit.starts.get()),
            (process, 1),
            "it was not replaced in place"
        );
    }

    let crash = publish_script(&host, "crash", "#!/bin/sh\nexit 3\n");
    let hang = publish_script(&host, "hang", "#!/bin/sh\nexec sleep 1000\n");
    for bad in [&crash, &hang] {
        let reason = unit.deploy_bad(bad, &good);
        assert!(reason.contains("ended or hung each time"), "{reason}");
    }
    assert_eq!(unit.starts.get(), 5, "each bad agent has two tries");
    let foreign = publish_script(&host, "foreign", "#!/not/on/this/machine\n");
    let reason = unit.deploy_bad(&foreign, &good);
    assert!(reason.contains("cannot be started: No such file"), "{reason}");
    let none = publish(&host, "none", |root| fs::write(root.join("README"), "").unwrap());
    let reason = unit.deploy_bad(&none, &good);
    assert!(reason.contains("no program shoal-agent"), "{reason}");
    assert_eq!(unit.starts.get(), 5, "what is no program needs no new start");

    // A real agent that looks for its goals where nobody answers.
    let agent = unit.agent_in(&good).display().to_string();
    let lost = "for word do shift; case $word in file://*) word=etcd://127.0.0.1:1 ;; esac; \
                set -- \"$@\" \"$word\"; done";
    let lost = publish_script(&host, "lost", &format!("#!/bin/sh\n{lost}\nexec {agent} \"$@\"\n"));
    host.configure(&settings(SHORT_DEADLINE));
    let reason = unit.deploy_bad(&lost, &good);
    assert!(reason.contains("not well within 1s"), "{reason}");
    host.configure(&settings(LONG_DEADLINE));

    let after = unit.wait_for_row("the service runs", "web", is_running).row;
    assert_eq!((after.pid, after.restarts), (before.pid, 0), "the program was restarted");
    let next = host.publish("B", "", 100_000);
    host.rig.deploy(&next);
    unit.wait_for_row("the next service runs", "web", |row| {
        is_running(row) && is(row.row.current, &next)
    });
    host.wait_for_version("B");
    let report = load.end();
    note(&serde_json::to_string_pretty(&report).unwrap());
    assert_eq!(report.failures(), 0, "{report:#?}");
    assert_eq!(report.answered, report.sent);
    let mut daemon = unit.daemon.into_inner();
    assert_eq!(daemon.end_with(Signal::TERM).code(), Some(0), "{}", daemon.log());
}
