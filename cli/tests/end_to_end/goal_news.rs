//! Hosts that do not talk to the goal store: their seeders tell them the goals. What happens when
//! etcd, a seeder or both are away, wiped or restarted, and what strangers may ask.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use goal_state::testing::EtcdServer;
use goal_state::{GOALS_TOPIC, GoalNews, GoalQuestion, GoalVersion, ToldGoal};
use p2p_net::{Ask, AskError, Identity, Node, NodeConfig, Refusal, SeederAddress};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::rig::{
    Daemon, Published, Rig, free_port, names, note, run, shoal, start_seeder, succeed, wait_for,
    wait_until_running,
};

/// How soon every host has to hear of a deploy while all is well, on a machine that runs other
/// tests, too.
const NEWS_MAX: Duration = Duration::from_secs(5);

/// A region over a real etcd whose hosts are given no goal store.
struct Region {
    hosts: Vec<(String, Daemon)>,
    /// Bytes of the hosts' logs that were there before what is waited for.
    read: Vec<usize>,
    seeder: Option<Daemon>,
    goal: String,
    listen: String,
    addresses: Vec<String>,
    etcd: EtcdServer,
    runtime: Runtime,
    /// Last, for it has the logs.
    rig: Rig,
}

impl Region {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let etcd = runtime.block_on(EtcdServer::start());
        let goal = etcd.url("shoal").to_string();
        let rig = Rig::new();
        let listen = format!("127.0.0.1:{}", free_port());
        let (seeder, address) = start_seeder(&rig, &listen, &["--goal", &goal]);
        let addresses = vec![address];
        Self {
            runtime,
            etcd,
            rig,
            goal,
            listen,
            addresses,
            hosts: vec![],
            read: vec![],
            seeder: Some(seeder),
        }
    }

    /// Starts the agent of a host for the app `web`, without any goal store.
    fn host(&mut self, name: &str) {
        let state = self.rig.text(name);
        let base = ["agent", "--host", name, "--state", &state, "--listen", "127.0.0.1:0"];
        let mut command = shoal(&[&base[..], &["--app", "web"]].concat());
        for address in &self.addresses {
            command.args(["--seeder", address]);
        }
        let agent = Daemon::start(name, command, self.rig.path(&format!("{name}.log")));
        self.hosts.push((name.to_owned(), agent));
    }

    fn deploy(&self, build: &Published) {
        succeed(&["deploy", "web", &build.id, "--goal", &self.goal]);
    }

    /// The generation that a host has accepted; zero for none.
    fn generation(&self, host: &str) -> u64 {
        let goals = fs::read(self.rig.path(host).join("goal.json")).unwrap_or_default();
        let goals: serde_json::Value = serde_json::from_slice(&goals).unwrap_or_default();
        goals["web"]["generation"].as_u64().unwrap_or_default()
    }

    /// Waits until all hosts have accepted `generation`; returns how long that took.
    fn wait_for_generation(&mut self, generation: u64) -> Duration {
        let started = Instant::now();
        wait_for(&format!("all hosts follow generation {generation}"), || {
            for (_, agent) in &mut self.hosts {
                agent.check_running();
            }
            let follow = |(host, _): &(String, Daemon)| self.generation(host) == generation;
            self.hosts.iter().all(follow).then(|| started.elapsed())
        })
    }

    fn wait_until_running(&self, build: &Published) {
        let names: Vec<&str> = self.hosts.iter().map(|(name, _)| name.as_str()).collect();
        wait_until_running(&self.goal, build, &names);
    }

    /// From here on what was logged before does not count.
    fn forget_logs(&mut self) {
        self.read = self.hosts.iter().map(|(_, agent)| agent.log().len()).collect();
    }

    /// Waits until every host has logged this.
    fn wait_for_log(&mut self, part: &str) {
        for (number, (name, agent)) in self.hosts.iter_mut().enumerate() {
            let read = self.read.get(number).copied().unwrap_or_default();
            wait_for(&format!("{name} logs {part:?}"), || {
                agent.check_running();
                agent.log()[read..].contains(part).then_some(())
            });
        }
    }

    fn stop_seeder(&mut self, signal: Signal) {
        self.seeder.take().unwrap().end_with(signal);
    }

    fn start_seeder(&mut self) {
        let (seeder, _) = start_seeder(&self.rig, &self.listen, &["--goal", &self.goal]);
        self.seeder = Some(seeder);
    }

    /// What `shoal-agent doctor` says of the goals of `app`.
    fn doctor(&self, app: &str) -> String {
        let state = self.rig.text("doctor");
        let base = ["agent", "doctor", "--host", "d", "--state", &state, "--app", app];
        let output = run(&[&base[..], &["--seeder", &self.addresses[0]]].concat());
        let said = String::from_utf8(output.stdout).unwrap();
        let found = said.lines().skip_while(|line| !line.contains(" goal "));
        found.take(2).collect::<Vec<_>>().join("\n")
    }

    /// A node that asks for goals as an agent does.
    fn listener(&self) -> Listener<'_> {
        Listener::of(&self.runtime, &self.addresses[0])
    }

    fn etcd_port(&self) -> u16 {
        self.etcd.endpoint().rsplit_once(':').unwrap().1.parse().unwrap()
    }
}

/// A node of the test's own among the hosts.
struct Listener<'a> {
    runtime: &'a Runtime,
    node: Node,
    seeder: SeederAddress,
}

impl<'a> Listener<'a> {
    fn of(runtime: &'a Runtime, seeder: &str) -> Self {
        let seeder: SeederAddress = seeder.parse().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let config =
            NodeConfig { seeders: vec![seeder], ..NodeConfig::host(Identity::generate(), listen) };
        let node = runtime.block_on(Node::start(config)).unwrap();
        Self { runtime, node, seeder }
    }

    fn ask(&self, topic: &str, body: Vec<u8>) -> Result<GoalNews, AskError> {
        let answer = self.runtime.block_on(async {
            let asked = self.node.ask_for_news(self.seeder.node, topic, body);
            tokio::time::timeout(Duration::from_mins(1), asked).await.expect("an answer comes")
        });
        answer.map(|body| GoalNews::from_json(&body).unwrap())
    }

    /// What the seeder tells of an app next.
    fn hear(&self, app: &str, version: GoalVersion) -> ToldGoal {
        let apps = [(app.parse().unwrap(), version)].into();
        match self.ask(GOALS_TOPIC, GoalQuestion { apps }.to_json()).unwrap() {
            GoalNews::Goals(mut told) => told.pop().expect("something is told"),
            GoalNews::Refused(reason) => panic!("{reason}"),
        }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.runtime.block_on(self.node.shutdown());
    }
}

/// How many TCP connections a process has open to a port of this machine.
fn connections(process: rustix::process::Pid, port: u16) -> usize {
    let folder = format!("/proc/{}/fd", process.as_raw_nonzero());
    let target = |name: &String| fs::read_link(Path::new(&folder).join(name)).ok();
    let own: BTreeSet<String> = names(Path::new(&folder))
        .iter()
        .filter_map(target)
        .filter_map(|target| {
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
            Some(inode)
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let is_open = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let remote = fields[2].rsplit_once(':').map(|(_, port)| port.to_owned());
        let is_established = fields[3] == "01";
        is_established && remote == Some(format!("{port:04X}")) && own.contains(fields[9])
    };
    table.lines().skip(1).filter(is_open).count()
}

/// Goal: hosts that are given nothing but their seeder follow every deploy within a moment, etcd
/// sees one client and no host, and what is stored arrives byte by byte however it is written.
#[test]
fn hosts_follow_goals_without_a_goal_store() {
    let mut region = Region::start();
    for name in ["h1", "h2", "h3"] {
        region.host(name);
    }
    let first = region.rig.publish_data("store", 1, 1 << 16);
    region.deploy(&first);
    region.wait_for_generation(1);
    region.wait_until_running(&first);
    let second = region.rig.publish_data("store", 2, 1 << 16);
    region.deploy(&second);
    let took = region.wait_for_generation(2);
    note(&format!("a deploy reached 3 hosts within {took:?}"));
    assert!(took < NEWS_MAX, "{took:?}");
    region.wait_until_running(&second);

    let port = region.etcd_port();
    assert_eq!(connections(region.seeder.as_ref().unwrap().process(), port), 1);
    for (name, agent) in &region.hosts {
        assert_eq!(connections(agent.process(), port), 0, "{name} talks to etcd");
    }

    let said = region.doctor("web");
    assert!(said.starts_with("ok ") && said.contains("tells the goals of web"), "{said}");
    let said = region.doctor("nope");
    assert!(said.starts_with("warning ") && said.contains("there is no goal of nope"), "{said}");

    let stored = region.runtime.block_on(region.etcd.get("shoal/goals/web")).unwrap();
    let stored = String::from_utf8(stored).unwrap();
    let mut fields: serde_json::Map<_, _> = serde_json::from_str(&stored).unwrap();
    fields["generation"] = 3.into();
    let parts = fields.iter().rev().map(|(key, value)| format!("\r\n\t{key:?}   : {value}"));
    let odd = format!("  {{{}\n\n}} \n", parts.collect::<Vec<_>>().join(" ,"));
    let listener = region.listener();
    let known = listener.hear("web", GoalVersion::default());
    assert_eq!(known.goal.as_deref(), Some(&*stored), "what the operator's command wrote");
    region.runtime.block_on(region.etcd.put("shoal/goals/web", odd.as_bytes()));
    let told = listener.hear("web", known.version);
    assert_eq!(told.goal.as_deref(), Some(&*odd), "what a person wrote by hand");
    drop(listener);
    region.wait_for_generation(3);
}

/// Goal: without etcd everything runs on and says why nothing new is heard, and a new host gets the
/// last goal; when etcd is back, restarted or wiped, hosts hear what it says, and none goes back.
#[test]
fn etcd_may_be_away_and_may_lose_everything() {
    let mut region = Region::start();
    region.host("h1");
    let first = region.rig.publish_data("store", 1, 1 << 16);
    region.deploy(&first);
    region.wait_for_generation(1);
    region.wait_until_running(&first);

    region.etcd.stop();
    region
        .wait_for_log("cannot read the goal: the seeder cannot read the goal store: cannot reach");
    region.host("h2");
    region.wait_for_generation(1);
    region
        .wait_for_log("cannot read the goal: the seeder cannot read the goal store: cannot reach");
    let (runtime, etcd) = (&region.runtime, &mut region.etcd);
    runtime.block_on(etcd.restart());
    region.wait_for_log("no longer so: cannot read the goal");
    region.wait_until_running(&first);

    region.forget_logs();
    region.etcd.pause();
    region.wait_for_log("the seeder cannot read the goal store: cannot reach");
    region.etcd.resume();
    let second = region.rig.publish_data("store", 2, 1 << 16);
    region.deploy(&second);
    region.wait_for_generation(2);
    region.wait_until_running(&second);

    let (runtime, etcd) = (&region.runtime, &mut region.etcd);
    runtime.block_on(etcd.lose_data(None));
    region
        .wait_for_log("the goal store has no goal for web any more, still following generation 2");
    let third = region.rig.publish_data("store", 3, 1 << 16);
    region.deploy(&third);
    region.wait_for_log("already accepted generation 2 and never goes back");
    for (host, _) in &region.hosts {
        region.rig.check_current(host, &second);
    }
    region.deploy(&third);
    region.deploy(&third);
    region.wait_for_generation(3);
    region.wait_until_running(&third);
}

/// Goal: a seeder that is killed and started again is found again, and its hosts hear what happened
/// meanwhile. One that is frozen is told from one that has no news, and of two the other one does.
#[test]
fn seeders_may_be_restarted_or_freeze() {
    let mut region = Region::start();
    let state = region.rig.text("seeder-2");
    let (store, ready) = (region.rig.text("store"), region.rig.path("seeder-2.out"));
    let mut command = shoal(&["seeder", "--listen", "127.0.0.1:0", "--store", &store]);
    command.args(["--state", &state, "--goal", &region.goal, "--seeder", &region.addresses[0]]);
    command.stdout(File::create(&ready).unwrap());
    let second_seeder = Daemon::start("seeder-2", command, region.rig.path("seeder-2.log"));
    let address = wait_for("the second seeder is ready", || {
        fs::read_to_string(&ready).unwrap().strip_suffix('\n').map(str::to_owned)
    });
    // One host with the first seeder only, and enough with both that some begin with each.
    region.host("alone");
    region.addresses.push(address);
    for number in 1..=6 {
        region.host(&format!("h{number}"));
    }
    let builds = [1, 2, 3].map(|seed| region.rig.publish_data("store", seed, 1 << 16));
    region.deploy(&builds[0]);
    region.wait_for_generation(1);
    region.wait_until_running(&builds[0]);

    let frozen = region.seeder.as_ref().unwrap().process();
    rustix::process::kill_process(frozen, Signal::STOP).unwrap();
    region.deploy(&builds[1]);
    let alone = region.hosts.remove(0);
    let took = region.wait_for_generation(2);
    note(&format!("with a frozen seeder the other one told all within {took:?}"));
    assert!(took < Duration::from_secs(30), "{took:?}");
    region.hosts.insert(0, alone);
    region.hosts[0].1.wait_for_log("cannot read the goal: the seeder tells no goals: ");
    assert_eq!(region.generation("alone"), 1);
    rustix::process::kill_process(frozen, Signal::CONT).unwrap();
    region.wait_for_generation(2);
    region.wait_until_running(&builds[1]);

    region.forget_logs();
    region.stop_seeder(Signal::KILL);
    drop(second_seeder);
    region.deploy(&builds[2]);
    region.wait_for_log("cannot read the goal: ");
    for (host, _) in &region.hosts {
        region.rig.check_current(host, &builds[1]);
    }
    region.start_seeder();
    // Tokens may come from the seeder that is gone.
    region.wait_for_generation(3);
}

/// Goal: no question of a stranger, and no goal that somebody damaged, does more than get an answer
/// that says what is wrong; hosts of other apps hear nothing of it.
#[test]
fn strangers_and_damage_reach_nobody_else() {
    let mut region = Region::start();
    region.host("h1");
    let first = region.rig.publish_data("store", 1, 1 << 16);
    region.deploy(&first);
    region.wait_for_generation(1);
    region.wait_until_running(&first);

    let listener = region.listener();
    let none = listener.hear("no-such-app", GoalVersion::default());
    assert_eq!((none.goal, none.trouble), (None, None));
    let web = listener.hear("web", GoalVersion::default());
    for garbage in [b"".to_vec(), b"{}".to_vec(), b"\xff".repeat(60_000), b"[".repeat(60_000)] {
        match listener.ask(GOALS_TOPIC, garbage).unwrap() {
            GoalNews::Refused(reason) => {
                assert!(reason.contains("does not understand"), "{reason}");
            }
            told @ GoalNews::Goals(_) => panic!("{told:?}"),
        }
    }
    let unknown = listener.ask("tea/1", vec![]).unwrap_err();
    assert_eq!(unknown, AskError::Refused { refusal: Refusal::Unanswered });
    let too_long = listener.ask(GOALS_TOPIC, vec![b' '; Ask::ANSWER_BYTES_MAX]).unwrap_err();
    assert!(matches!(too_long, AskError::TooLong { .. }), "{too_long:?}");

    // Larger than a goal may be, half of one, and a key that no app has.
    let large = [web.goal.unwrap().as_bytes(), &b" ".repeat(64 << 10)].concat();
    for (app, value, expected) in
        [("api", &large[..], "the limit is 65536"), ("db", b"{\"app\":", "EOF")]
    {
        region.runtime.block_on(region.etcd.put(&format!("shoal/goals/{app}"), value));
        let told = wait_for("the damage is told", || {
            let told = listener.hear(app, GoalVersion::default());
            told.trouble.is_some().then_some(told)
        });
        let trouble = told.trouble.unwrap();
        assert!(trouble.contains(expected) && trouble.contains("etcdctl del"), "{trouble}");
        assert_eq!(told.goal, None);
    }
    region.runtime.block_on(region.etcd.put("shoal/goals/No App", b"x"));
    drop(listener);
    let second = region.rig.publish_data("store", 2, 1 << 16);
    region.deploy(&second);
    region.wait_for_generation(2);
    // The status complains of the damage, too.
    let current = region.rig.path("h1/apps/web/current");
    wait_for("the host runs it", || {
        fs::canonicalize(&current).unwrap().ends_with(&second.id).then_some(())
    });
    assert!(
        !region.hosts[0].1.log().contains("cannot read the goal"),
        "{}",
        region.hosts[0].1.log()
    );

    // A seeder that was started without a goal store says so.
    region.stop_seeder(Signal::TERM);
    let (seeder, _) = start_seeder(&region.rig, &region.listen, &[]);
    region.seeder = Some(seeder);
    region.wait_for_log("this seeder knows no goals: it was started without --goal");
    let said = region.doctor("web");
    assert!(said.starts_with("PROBLEM ") && said.contains("this seeder knows no goals"), "{said}");
}

/// Resident memory of a process in KiB.
fn memory(process: rustix::process::Pid) -> usize {
    let text = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Goal: hundreds of hosts that wait for news cost a seeder little memory, and hear of a deploy
/// together within a moment.
#[test]
fn many_hosts_wait_at_little_cost_and_hear_together() {
    const HOSTS: usize = 300;
    /// Nearly all of it is for the connection.
    const HOST_KIB_MAX: usize = 64;
    let region = Region::start();
    let build = region.rig.publish_data("store", 1, 1 << 16);
    region.deploy(&build);
    let process = region.seeder.as_ref().unwrap().process();
    let listeners: Vec<_> = (0..HOSTS).map(|_| region.listener()).collect();
    let first = listeners[0].hear("web", GoalVersion::default());
    let before = memory(process);
    let mut hearing = Vec::new();
    for listener in &listeners {
        let known = listener.hear("web", GoalVersion::default());
        assert_eq!(known, first);
        let (node, seeder) = (listener.node.clone(), listener.seeder.node);
        let apps = [("web".parse().unwrap(), known.version)].into();
        let question = GoalQuestion { apps }.to_json();
        hearing.push(region.runtime.spawn(async move {
            let answer = node.ask_for_news(seeder, GOALS_TOPIC, question).await;
            (GoalNews::from_json(&answer.unwrap()).unwrap(), Instant::now())
        }));
    }
    let after = memory(process);
    note(&format!("{HOSTS} hosts that wait take {} KiB each", (after - before) / HOSTS));
    let second = region.rig.publish_data("store", 2, 1 << 16);
    region.deploy(&second);
    let deployed_at = Instant::now();
    let heard = region.runtime.block_on(async {
        let mut last = deployed_at;
        for hearing in hearing {
            let (news, at) = hearing.await.unwrap();
            assert!(matches!(&news, GoalNews::Goals(told) if told.len() == 1), "{news:?}");
            last = last.max(at);
        }
        last - deployed_at
    });
    note(&format!("the last of them heard {heard:?} after the command"));
    assert!(heard < NEWS_MAX, "{heard:?}");
    assert!((after - before) / HOSTS < HOST_KIB_MAX, "{before} and {after} KiB");
}
