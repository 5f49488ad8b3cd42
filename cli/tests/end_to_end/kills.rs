//! `kill -9` at random moments of deploys, watched by somebody who does not ask the agent.
//!
//! Here for a few rounds; `benches/agent.py kills` runs the same for hundreds, with the executable
//! of the agent alone. `SHOAL_TEST_ROUNDS` and `SHOAL_TEST_SEED` choose how many and which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use p2p_core::{Prng, Seed};
use rustix::process::Signal;

use crate::rig::service_host::ServiceHost;
use crate::rig::{Published, note, processes_of, setting, version_at, wait_a_while, wait_for};

/// Rounds of each of the two tests among others.
const ROUNDS: u64 = 8;

/// A round's kill comes within this time of its deploy: about as long as a deploy takes.
const KILL_WITHIN_MS: u64 = 700;

/// One in so many rounds waits until the goal is reached; the others change it before.
const PATIENT_ROUND: u64 = 3;

/// One in so many rounds kills the program too, as the death of the machine would.
const DEADLY_ROUND: u64 = 5;

/// Between two looks of the witness.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Every so many looks the whole build is read.
const LOOKS_PER_VERIFICATION: u64 = 20;

/// Large enough that some kills hit the download.
const DATA_BYTES: usize = 3 << 20;

/// Goal: whenever the agent is killed, `current` is a complete and right build, no wrong build
/// runs, and the next agent reaches the goal without help.
/// Method: three builds take turns as the goal, two of which are kept, so that downloads happen
/// too. The agent is killed at random, sometimes the program with it. A witness looks all the time.
fn check_kills(settings: &str) {
    let rounds = setting("SHOAL_TEST_ROUNDS").unwrap_or(ROUNDS);
    let seed = setting("SHOAL_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    note(&format!("repeat with SHOAL_TEST_SEED={seed} SHOAL_TEST_ROUNDS={rounds}"));
    let mut prng = Prng::from_seed(Seed::from_u64(seed));
    let mut host = ServiceHost::new(settings);
    let builds: BTreeMap<&str, Published> =
        ["A", "B", "C"].map(|version| (version, host.publish(version, "", DATA_BYTES))).into();
    host.start_agent();
    host.deploy_and_wait(&builds["A"], "A");
    let witness = Witness::start(&host, &builds);

    let mut goal = "A";
    for round in 1..=rounds {
        let others: Vec<_> = builds.keys().copied().filter(|version| *version != goal).collect();
        goal = others[prng.index_below(others.len())];
        witness.allow(goal);
        host.rig.deploy(&builds[goal]);
        wait_a_while(Duration::from_millis(prng.below(KILL_WITHIN_MS)));
        host.agent().kill();
        if prng.below(DEADLY_ROUND) == 0 {
            for process in services(&host) {
                // Fails if it ended since.
                rustix::process::kill_process(process, Signal::KILL).unwrap_or_default();
            }
        }
        wait_a_while(Duration::from_millis(prng.below(KILL_WITHIN_MS / 4)));
        host.start_agent();
        if prng.below(PATIENT_ROUND) == 0 || round == rounds {
            host.wait_until_answering(&builds[goal], goal);
            wait_for("one program runs", || (services(&host).len() == 1).then_some(()));
            witness.allow_only(goal);
        }
        witness.check(&format!("round {round} of {rounds}, SHOAL_TEST_SEED={seed}"));
    }
    let seen = witness.end();
    note(&format!("{rounds} rounds: {seen}"));
    assert_eq!(host.agent().end_with(Signal::TERM).code(), Some(0), "{}", host.agent().log());
    assert_eq!(services(&host), [], "{}", host.agent().log());
}

#[test]
fn killed_agent_never_leaves_a_broken_or_wrong_build() {
    check_kills("keep_builds = 1\n[apps.web.health]\nmin_healthy_time = \"100ms\"");
}

/// As above with two programs at a time: the new one is started beside the old one.
#[test]
fn killed_agent_with_two_programs_never_leaves_a_wrong_one() {
    check_kills(
        "keep_builds = 1\nsockets = { http = \"127.0.0.1:PORT\" }\n\
         [apps.web.health]\nnotify = true\nmin_healthy_time = \"100ms\"",
    );
}

/// The processes of the service, whoever started them.
fn services(host: &ServiceHost) -> Vec<rustix::process::Pid> {
    processes_of(&host.rig.path("bin/demo-service"))
}

/// Somebody who looks at `current` and asks the service, all the time.
struct Witness {
    account: Arc<Mutex<Account>>,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// What the witness knows.
#[derive(Debug, Default)]
struct Account {
    /// The builds that may be current and run: the goal reached last, and those set since.
    allowed: BTreeSet<String>,
    looks: u64,
    verifications: u64,
    answers: u64,
    longest_silence: Duration,
    violations: Vec<String>,
}

impl Witness {
    fn start(host: &ServiceHost, builds: &BTreeMap<&str, Published>) -> Self {
        let (stop, stopped) = channel();
        let account = Arc::new(Mutex::new(Account::default()));
        let looks = Looks {
            current: host.app().join("current"),
            port: host.port,
            ids: builds.iter().map(|(name, build)| (build.id.clone(), (*name).into())).collect(),
            verified: String::new(),
            answered_at: Instant::now(),
            account: account.clone(),
        };
        let thread = std::thread::spawn(move || looks.run(&stopped));
        let witness = Self { account, stop, thread };
        witness.allow_only("A");
        witness
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap()
    }

    fn allow(&self, version: &str) {
        self.account().allowed.insert(version.to_owned());
    }

    fn allow_only(&self, version: &str) {
        self.account().allowed = [version.to_owned()].into();
    }

    /// Fails the test if anything was wrong so far.
    fn check(&self, when: &str) {
        let account = self.account();
        assert!(account.violations.is_empty(), "up to {when}: {:#?}", account.violations);
    }

    /// What was seen, in words.
    fn end(self) -> String {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
        let account = self.account.lock().unwrap();
        assert!(account.violations.is_empty(), "{:#?}", account.violations);
        let Account { looks, verifications, answers, longest_silence, .. } = &*account;
        format!(
            "current was right in {looks} looks, read whole {verifications} times; {answers} answers, \
             all of right builds, the longest time without one {} ms",
            longest_silence.as_millis()
        )
    }
}

/// The witness's eyes.
struct Looks {
    current: PathBuf,
    port: u16,
    /// Versions by build.
    ids: BTreeMap<String, String>,
    /// The build that was read whole last.
    verified: String,
    answered_at: Instant,
    account: Arc<Mutex<Account>>,
}

impl Looks {
    fn run(mut self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let before = self.account.lock().unwrap().allowed.clone();
            let looked = self.look_at_current();
            let answer = version_at(self.port);
            let mut account = self.account.lock().unwrap();
            account.looks += 1;
            let mut wrong = vec![];
            match looked {
                Ok(version) => wrong.extend(
                    account.check(&before, &version).map(|why| format!("current is {why}")),
                ),
                Err(reason) => wrong.push(reason),
            }
            if let Some(version) = answer {
                account.answers += 1;
                let silence = self.answered_at.elapsed();
                account.longest_silence = account.longest_silence.max(silence);
                self.answered_at = Instant::now();
                wrong.extend(
                    account.check(&before, &version).map(|why| format!("the program is {why}")),
                );
            }
            account.violations.extend(wrong);
        }
    }

    /// The version that `current` is, or what is wrong with it.
    fn look_at_current(&mut self) -> Result<String, String> {
        // Opened by one path, so that a switch in between cannot mislead.
        let version = fs::read_to_string(self.current.join(demo_service::VERSION_FILE))
            .map_err(|error| format!("current/VERSION cannot be read: {error}"))?;
        let looks = self.account.lock().unwrap().looks;
        let id = self.id()?;
        if id != self.verified || looks.is_multiple_of(LOOKS_PER_VERIFICATION) {
            self.verify(&id)?;
        }
        Ok(version.trim().to_owned())
    }

    /// The build that `current` names.
    fn id(&self) -> Result<String, String> {
        let target = fs::read_link(&self.current).map_err(|error| format!("current: {error}"))?;
        let id = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if self.ids.contains_key(&id) {
            Ok(id)
        } else {
            Err(format!("current names {}", target.display()))
        }
    }

    fn verify(&mut self, id: &str) -> Result<(), String> {
        let root = fs::canonicalize(&self.current).map_err(|error| format!("current: {error}"))?;
        let verified = p2p_net::verify(&root, None, None);
        if self.id()? != id {
            // Switched meanwhile, and what was read may be on its way out.
            return Ok(());
        }
        let actual = verified.map_err(|error| format!("current cannot be read whole: {error}"))?;
        if actual.actual.to_string() != id {
            return Err(format!("current should be {id}, its bytes are {}", actual.actual));
        }
        id.clone_into(&mut self.verified);
        self.account.lock().unwrap().verifications += 1;
        Ok(())
    }
}

impl Account {
    /// What is wrong with `version` if it may be neither now nor just before.
    fn check(&self, before: &BTreeSet<String>, version: &str) -> Option<String> {
        let is_allowed = before.contains(version) || self.allowed.contains(version);
        (!is_allowed).then(|| format!("{version}, allowed are {:?}", self.allowed))
    }
}
