//! One host that runs the demo's service, for tests of what an agent does with its program.
//!
//! Builds are small: the program is the executable under test under the service's name, outside of
//! the build, and takes version and behaviour from the build that it runs in.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use super::{
    Daemon, HostRow, Published, Rig, free_port, random_bytes, remove_settings, version_at, wait_for,
};

/// The host's name, and that of its folder in the rig's.
pub(crate) const HOST: &str = "host";

/// A host with its seeder, both alone in the world. Fields are dropped in order.
pub(crate) struct ServiceHost {
    agent: Option<Daemon>,
    _seeder: Daemon,
    /// Where the region's seeder is.
    pub(crate) seeder_address: String,
    /// Where the service listens.
    pub(crate) port: u16,
    pub(crate) rig: Rig,
}

impl ServiceHost {
    /// A host whose app has `settings` (lines of TOML; `PORT` in them is the service's port)
    /// besides the program. Its agent is not started yet.
    pub(crate) fn new(settings: &str) -> Self {
        let rig = Rig::new();
        let programs = rig.path("bin");
        fs::create_dir(&programs).unwrap();
        symlink(env!("CARGO_BIN_EXE_shoal"), programs.join("demo-service")).unwrap();
        // A store of its own, or the seeder would take the first build for a mistake.
        fs::create_dir(rig.path("store")).unwrap();
        let (seeder, seeder_address) = rig.seeder("store", &[]);
        let host = Self { agent: None, _seeder: seeder, seeder_address, port: free_port(), rig };
        host.configure(settings);
        host
    }

    /// Writes the settings that the next agent reads.
    pub(crate) fn configure(&self, settings: &str) {
        let port = self.port.to_string();
        let text = format!(
            "[apps.web]\nexec = [{:?}, \"--listen\", \"127.0.0.1:{port}\"]\n{}\n",
            self.rig.text("bin/demo-service"),
            settings.replace("PORT", &port)
        );
        fs::write(self.rig.path("agent.toml"), text).unwrap();
    }

    /// Publishes the service in the form that answers with `version` and misbehaves as `behaviour`
    /// says, with `data_bytes` of data of its own.
    pub(crate) fn publish(&self, version: &str, behaviour: &str, data_bytes: usize) -> Published {
        let root = self.rig.path("data").join(format!("service-{version}"));
        fs::create_dir(&root).unwrap();
        fs::write(root.join(demo_service::VERSION_FILE), format!("{version}\n")).unwrap();
        fs::write(root.join(demo_service::BEHAVIOUR_FILE), format!("{behaviour}\n")).unwrap();
        let seed = version.bytes().fold(0, |seed, byte| seed * 256 + u64::from(byte));
        fs::write(root.join("data"), random_bytes(seed, data_bytes)).unwrap();
        self.rig.publish("store", &root)
    }

    /// Starts an agent; the one before must have ended.
    pub(crate) fn start_agent(&mut self) {
        self.start_agent_within(&[]);
    }

    /// As [`Self::start_agent`], as the command that `wrapper` runs.
    pub(crate) fn start_agent_within(&mut self, wrapper: &[&str]) {
        // The old one first: two agents do not share a directory.
        self.agent = None;
        self.agent = Some(self.spawn_agent_within(wrapper));
    }

    /// Starts an agent that the test looks after itself; no other may run.
    pub(crate) fn spawn_agent(&self) -> Daemon {
        self.spawn_agent_within(&[])
    }

    fn spawn_agent_within(&self, wrapper: &[&str]) -> Daemon {
        let (goal, config) = (self.rig.goal(), self.rig.text("agent.toml"));
        let more = ["--seeder", &self.seeder_address, "--config", &config];
        let command = self.rig.agent_command(&goal, HOST, &more);
        let log = self.rig.path(&format!("{HOST}.log"));
        Daemon::start(HOST, within(wrapper, command), log)
    }

    /// The agent that was started last.
    pub(crate) fn agent(&mut self) -> &mut Daemon {
        self.agent.as_mut().expect("the test has started it")
    }

    /// Makes `build` the goal and waits until it runs and answers with `version`.
    pub(crate) fn deploy_and_wait(&self, build: &Published, version: &str) -> HostRow {
        self.rig.deploy(build);
        self.wait_until_answering(build, version)
    }

    /// Waits until the host runs `build` and the service answers with `version`.
    pub(crate) fn wait_until_answering(&self, build: &Published, version: &str) -> HostRow {
        let row = self.rig.wait_until_running(build, &[HOST]).remove(0);
        self.wait_for_version(version);
        row
    }

    /// Waits until the service answers with `version`.
    pub(crate) fn wait_for_version(&self, version: &str) {
        wait_for(&format!("version {version} answers"), || {
            (version_at(self.port).as_deref() == Some(version)).then_some(())
        });
    }

    /// The app's folder in the host's state.
    pub(crate) fn app(&self) -> PathBuf {
        self.rig.path(HOST).join("apps/web")
    }
}

/// `command` as the arguments of `wrapper`, whose process becomes that of the command.
fn within(wrapper: &[&str], command: Command) -> Command {
    let Some((program, arguments)) = wrapper.split_first() else { return command };
    let mut wrapped = Command::new(program);
    remove_settings(&mut wrapped);
    wrapped.args(arguments).arg(command.get_program()).args(command.get_args());
    wrapped
}
