//! Deploys that do not go to all hosts at once: tokens and waves, with the real executables.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;

use crate::rig::{
    Daemon, Published, Rig, free_port, note, run, start_seeder, succeed, wait_for, wait_for_status,
};

const HOSTS: usize = 20;

/// Hosts of the group that may be down or switching at once.
const MAX_UNAVAILABLE: usize = 2;

/// A program that writes down when it is up and when it goes down, into the file that its argument
/// names. Lines of one write are never mixed, so that the file is one account of all hosts. It does
/// not come up while there is a file `hold` beside.
const PROGRAM: &str = "#!/bin/sh
trap 'echo \"down $SHOAL_HOST\" >> \"$1\"; exit 0' TERM
sleep 0.1
while [ -e \"${1%/*}/hold\" ]; do sleep 0.05; done
echo \"up $SHOAL_HOST $SHOAL_BUILD\" >> \"$1\"
while :; do sleep 0.2; done
";

/// The hook before a switch does the same.
const HOOK: &str = "#!/bin/sh
echo \"begin $SHOAL_HOST\" >> \"$1\"
";

/// Asks the account whether the build is up, by the last entry of this host. Agents run it in
/// `.../HOST/apps/web/builds/BUILD`.
const PROBE: &str = "#!/bin/sh
host=${PWD%/apps/*}
host=${host##*/}
[ \"$(grep \" $host\" \"$1\" | tail -n 1)\" = \"up $host ${PWD##*/}\" ]
";

/// Hosts and their seeder, which has a fixed address so that it can be restarted.
struct Fleet {
    agents: Vec<Daemon>,
    seeder: Daemon,
    listen: String,
    rig: Rig,
}

impl Fleet {
    /// `count` hosts, numbered from one, with labels as `labels` says.
    fn start(count: usize, labels: impl Fn(usize) -> &'static [&'static str]) -> Self {
        let rig = Rig::new();
        fs::create_dir(rig.path("store")).unwrap();
        for (name, text) in [("hook", HOOK), ("probe", PROBE)] {
            fs::write(rig.path(name), text).unwrap();
            fs::set_permissions(rig.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        File::create(rig.path("events")).unwrap();
        let (hook, probe, events) = (rig.text("hook"), rig.text("probe"), rig.text("events"));
        let settings = format!(
            "group = \"z1\"\n[apps.web]\nexec = [\"./run\", {events:?}]\ngrace_period = \"20s\"\n\
             [apps.web.health]\ncommand = [{probe:?}, {events:?}]\ninterval = \"100ms\"\n\
             timeout = \"20s\"\nmin_healthy_time = \"200ms\"\ndeadline = \"3m\"\n\
             [apps.web.hooks]\nbefore_switch = {{ exec = [{hook:?}, {events:?}] }}\n"
        );
        let listen = format!("127.0.0.1:{}", free_port());
        let (seeder, address) = start_seeder(&rig, &listen, &[]);
        let agents = (1..=count).map(|number| {
            let host = format!("host-{number:02}");
            let config = rig.text(&format!("{host}.toml"));
            fs::write(&config, format!("labels = {:?}\n{settings}", labels(number))).unwrap();
            rig.agent(&host, &address, &["--config", &config])
        });
        Self { agents: agents.collect(), seeder, listen, rig }
    }

    fn publish(&self, version: u32) -> Published {
        let root = self.rig.path("data").join(format!("program-{version}"));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("run"), format!("{PROGRAM}# {version}\n")).unwrap();
        fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        self.rig.publish("store", &root)
    }

    /// Waits until `count` hosts have `build` up.
    fn wait_until_up(&mut self, build: &Published, count: usize) {
        let suffix = format!(" {}", build.id);
        wait_for(&format!("{count} hosts have build {} up", build.id), || {
            self.agents.iter_mut().for_each(Daemon::check_running);
            let text = fs::read_to_string(self.rig.path("events")).unwrap();
            let up = text.lines().filter(|line| line.starts_with("up") && line.ends_with(&suffix));
            (up.collect::<BTreeSet<_>>().len() >= count).then_some(())
        });
    }

    fn account(&self) -> String {
        fs::read_to_string(self.rig.path("events")).unwrap()
    }

    /// Starts a seeder at the address and with the state of the one that was killed.
    fn restart_seeder(&mut self) {
        (self.seeder, _) = start_seeder(&self.rig, &self.listen, &[]);
    }

    /// Waits until as many hosts as `is_enough` wants say that they wait because of `reason`.
    fn wait_for_reason(&self, reason: &str, is_enough: impl Fn(usize) -> bool) {
        wait_for_status(&format!("hosts wait: {reason}"), &self.rig.goal(), |status| {
            let messages = status.hosts.iter().filter_map(|row| row.row.message.as_deref());
            let count = messages.filter(|message| message.contains(reason)).count();
            is_enough(count).then_some(())
        });
    }
}

/// Most hosts that were down or switching at once, and those that are at the end, by the account of
/// programs and hooks. A host is from its hook to its program being up again.
fn unavailable(account: &str) -> (usize, usize) {
    let mut unavailable = BTreeSet::new();
    let mut most = 0;
    for line in account.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next()) {
            (Some("begin" | "down"), Some(host)) => {
                unavailable.insert(host);
            }
            (Some("up"), Some(host)) => {
                unavailable.remove(host);
            }
            _ => panic!("{line:?}"),
        }
        most = most.max(unavailable.len());
    }
    (most, unavailable.len())
}

/// Goal: never more than `max_unavailable` hosts of a group are down or switching, also when the
/// seeder that grants is killed in the middle and started again; and all hosts finish.
/// Method: programs and hooks of all hosts write one account, in which nobody has to look at the
/// right moment. The first build may start everywhere at once: nothing runs yet that could be down.
/// Two hosts are kept from coming up while the seeder is killed, and until it has been asked again.
#[test]
fn twenty_hosts_switch_two_at_a_time_while_the_seeder_is_killed() {
    let mut fleet = Fleet::start(HOSTS, |_| &[]);
    let (first, second) = (fleet.publish(1), fleet.publish(2));
    fleet.rig.deploy(&first);
    fleet.wait_until_up(&first, HOSTS);
    let before = fleet.account().len();

    let goal = fleet.rig.goal();
    succeed(&["deploy", "web", &second.id, "--goal", &goal, "--max-unavailable", "2"]);
    fleet.wait_until_up(&second, HOSTS / 4);
    let hold = fleet.rig.path("hold");
    File::create(&hold).unwrap();
    wait_for("as many hosts as may are down", || {
        let (_, now) = unavailable(&fleet.account()[before..]);
        (now == MAX_UNAVAILABLE).then_some(())
    });
    fleet.seeder.kill();
    let out = "2 of 2 tokens of group z1 are out";
    fleet.wait_for_reason(out, |count| count == 0);
    fleet.wait_for_reason("no token of group z1 without the seeder", |count| count > 0);
    fleet.restart_seeder();
    fleet.wait_for_reason(out, |count| count > 0);
    fs::remove_file(&hold).unwrap();
    fleet.wait_until_up(&second, HOSTS / 2);
    fleet.wait_until_up(&second, HOSTS);

    let account = fleet.account();
    let account = &account[before..];
    let (most, left) = unavailable(account);
    note(&format!("at most {most} of {HOSTS} hosts were unavailable at once"));
    assert!(most <= MAX_UNAVAILABLE && left == 0, "{account}");
    assert_eq!(account.lines().filter(|line| line.starts_with("down")).count(), HOSTS);
    let args = ["rollout", "web", "--goal", &goal, "--wait", "--timeout", "90s", "--json"];
    let said: serde_json::Value = serde_json::from_str(&succeed(&args)).unwrap();
    assert_eq!(said["rollout"]["on_goal"].as_array().unwrap().len(), HOSTS, "{said}");
}

/// Goal: canaries go first, the rest when the rollout is widened; a restart is for all of them;
/// `--wait` does not wait for those who are not in.
#[test]
fn canary_goes_first_and_the_rest_when_it_is_widened() {
    let mut fleet = Fleet::start(3, |number| if number == 1 { &["canary"] } else { &[] });
    let goal = fleet.rig.goal();
    let (first, second) = (fleet.publish(1), fleet.publish(2));
    let wait = ["--goal", &goal, "--wait", "--timeout", "90s", "--json"];
    let said = |arguments: &[&str]| -> serde_json::Value {
        let arguments = [arguments, &wait[..]].concat();
        serde_json::from_str(&succeed(&arguments)).unwrap()
    };
    fleet.rig.deploy(&first);
    fleet.wait_until_up(&first, 3);

    let report = said(&["deploy", "web", &second.id, "--canary", "canary"]);
    assert_eq!(report["rollout"]["end"], "complete", "{report}");
    assert_eq!(report["rollout"]["on_goal"], serde_json::json!(["host-01"]), "{report}");
    let waiting = serde_json::json!([
        { "host": "host-02", "waits_for": "wave" },
        { "host": "host-03", "waits_for": "wave" },
    ]);
    assert_eq!(report["rollout"]["waiting"], waiting, "{report}");
    let shown = succeed(&["rollout", "web", "--goal", &goal]);
    assert!(
        shown.contains("1 of 3 hosts in, 1 of 3 hosts run it")
            && shown.contains("2 waiting (wave)"),
        "{shown}"
    );
    let shown = succeed(&["status", "--goal", &goal]);
    assert!(shown.contains("waiting (wave)") && shown.contains("only canaries are in"), "{shown}");

    let ups = fleet.account().lines().filter(|line| line.starts_with("up")).count();
    assert_eq!(ups, 4);
    said(&["restart", "web"]);
    wait_for("every host restarted what it runs", || {
        let account = fleet.account();
        let ups = account.lines().filter(|line| line.starts_with("up")).skip(ups);
        let ups: BTreeSet<_> = ups.map(str::to_owned).collect();
        let expected = [("01", &second), ("02", &first), ("03", &first)];
        let expected = expected.map(|(host, build)| format!("up host-{host} {}", build.id));
        (ups == expected.into()).then_some(())
    });

    let report = said(&["rollout", "web", "--percent", "100"]);
    assert_eq!(report["rollout"]["on_goal"].as_array().unwrap().len(), 3, "{report}");
    assert_eq!(fleet.account().lines().filter(|line| line.ends_with(&second.id)).count(), 4);

    // The limit holds for restarts, and `--wait` waits for the last of them.
    said(&["rollout", "web", "--max-unavailable", "1"]);
    let before = fleet.account().len();
    let report = said(&["restart", "web"]);
    assert_eq!(report["rollout"]["end"], "complete", "{report}");
    let account = fleet.account();
    let account = &account[before..];
    assert_eq!(account.lines().filter(|line| line.starts_with("down")).count(), 3, "{account}");
    assert_eq!(unavailable(account), (1, 0), "{account}");
    let said = run(&["rollout", "other", "--goal", &goal]);
    assert_eq!(said.status.code(), Some(1));
}
