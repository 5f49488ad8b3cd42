//! The inventory: hosts that are down stay in it whatever else restarts or is lost, two under one
//! name are seen, and what is forgotten is gone until it reports.

use goal_state::HostPhase;
use goal_state::testing::EtcdServer;
use rustix::process::Signal;

use crate::rig::{
    Daemon, HostRow, Rig, Status, fail, free_port, parse, shoal, start_seeder, succeed, wait_for,
    wait_for_status, wait_until_running,
};

/// A region over a real etcd, with a seeder at a fixed address.
struct Region {
    runtime: tokio::runtime::Runtime,
    etcd: EtcdServer,
    rig: Rig,
    goal: String,
    listen: String,
    address: String,
    seeder: Daemon,
}

impl Region {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let etcd = runtime.block_on(EtcdServer::start());
        let goal = etcd.url("shoal").to_string();
        let rig = Rig::new();
        let listen = format!("127.0.0.1:{}", free_port());
        let (seeder, address) = start_seeder(&rig, &listen, &["--goal", &goal]);
        Self { runtime, etcd, rig, goal, listen, address, seeder }
    }

    fn host(&self, name: &str) -> Daemon {
        self.rig.agent_of(&self.goal, name, &["--seeder", &self.address])
    }

    fn stop_seeder(&mut self, signal: Signal) {
        self.seeder.end_with(signal);
    }

    fn start_seeder(&mut self) {
        (self.seeder, _) = start_seeder(&self.rig, &self.listen, &["--goal", &self.goal]);
    }

    fn status(&self) -> Status {
        parse(&succeed(&["status", "--goal", &self.goal, "--json"]))
    }

    /// Host and time at which it was last heard, of every row.
    fn heard(&self) -> Vec<(String, u64)> {
        let rows = self.status().hosts.into_iter();
        rows.map(|row| (row.row.host.clone(), row.row.heard_at_ms())).collect()
    }

    fn wait_for_hosts(&self, names: &[&str]) {
        wait_for_status("the hosts are in the inventory", &self.goal, |status| {
            let found: Vec<_> = status.hosts.iter().map(|row| row.row.host.as_str()).collect();
            (found == names).then_some(())
        });
    }
}

/// Goal: a host that is down is known for as long as nobody forgets it: over a restart of the
/// seeder, a lost state directory, and an etcd that was wiped. Then it is forgotten, and back when
/// it reports.
#[test]
fn hosts_that_are_down_are_known_until_they_are_forgotten() {
    let mut region = Region::start();
    let build = region.rig.publish_data("store", 1, 1 << 16);
    let names = ["h1", "h2", "h3"];
    let mut hosts = names.map(|name| region.host(name));
    succeed(&["deploy", "web", &build.id, "--goal", &region.goal]);
    wait_until_running(&region.goal, &build, &names);
    // One says goodbye, one does not.
    assert_eq!(hosts[1].end_with(Signal::TERM).code(), Some(0));
    hosts[2].kill();
    wait_for_status("its goodbye arrived", &region.goal, |status| {
        let said = |row: &&HostRow| row.row.phase == HostPhase::Stopped;
        status.hosts.iter().find(said).map(|_| ())
    });
    region.stop_seeder(Signal::TERM);
    let before = region.heard();

    region.start_seeder();
    wait_for("the host that is up reports again", || {
        let after = region.heard();
        assert_eq!(after.len(), 3, "{after:?}");
        (after[0].1 > before[0].1).then(|| assert_eq!(after[1..], before[1..]))
    });

    // The goal store lost everything: the seeder has it still.
    region.stop_seeder(Signal::KILL);
    region.etcd.stop();
    region.etcd = region.runtime.block_on(EtcdServer::start());
    region.goal = region.etcd.url("shoal").to_string();
    region.start_seeder();
    wait_for("the inventory is written again", || (region.heard().len() == 3).then_some(()));
    region.wait_for_hosts(&names);
    assert_eq!(region.heard()[1..], before[1..]);

    let forget = |host| ["forget", host, "--goal", &region.goal];
    fail(&forget("h11"), &["no host h11", "did you mean h1"]);
    let text = succeed(&forget("h2"));
    assert!(text.contains("h2: forgotten with 1 row"), "{text}");
    region.wait_for_hosts(&["h1", "h3"]);
    let _back = region.host("h2");
    wait_for("the host that was forgotten reports again", || {
        region.heard().iter().any(|(host, _)| host == "h2").then_some(())
    });
}

/// Goal: two machines under one name are seen: two rows, a warning in the seeder's log and at both
/// hosts, and a deploy that waits for both.
#[test]
fn hosts_with_one_name_are_seen_and_told() {
    let mut region = Region::start();
    let mut agents = ["one", "two"].map(|state| {
        let state = region.rig.text(state);
        let more = ["--seeder", &region.address, "--state", &state, "--app", "web"];
        let base = ["agent", "--host", "web-1", "--listen", "127.0.0.1:0", "--goal", &region.goal];
        Daemon::start("web-1", shoal(&[&base[..], &more].concat()), format!("{state}.log").into())
    });
    let rows = wait_for_status("both are there", &region.goal, |status| {
        (status.hosts.len() == 2).then(|| status.hosts.clone())
    });
    assert!(rows.iter().all(|row| row.row.host == "web-1"), "{rows:?}");
    assert_ne!(rows[0].row.node, rows[1].row.node);
    let line = region.seeder.wait_for_log("two nodes report as host web-1");
    for row in &rows {
        assert!(line.contains(row.row.node.as_deref().unwrap()), "{line}");
    }
    for agent in &mut agents {
        agent.wait_for_log("two nodes report as host web-1: this one, ");
    }
    wait_for_status("the table says so", &region.goal, |status| {
        let said = status.hosts.iter().filter_map(|row| row.row.message.as_ref());
        (said.filter(|said| said.contains("give each host its own name")).count() == 2)
            .then_some(())
    });
}
