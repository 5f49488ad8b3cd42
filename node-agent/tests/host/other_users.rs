//! What the user of an app can do to the agent of root: nothing, whatever the agent starts as that
//! user, and however often.
//!
//! And what that user can do to another app: speak in its name.
//!
//! The agent, its attacker and programs are this test binary again: [`agent`], [`attacker`] and
//! [`speaker`] are their `main`.

use std::env;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use node_agent::host::{Hook, HookOrder, Launch, NotifySocket, Started, run_hook};
use node_agent::process::ProcessIdentity;
use node_agent::state::AppDir;
use rustix::process::{Pid, Resource, Rlimit, Signal};

use crate::rig::{self, PATIENCE, Rig, only_test, use_starter, within};

const AGENT_VARIABLE: &str = "TEST_AGENT_OF_ROOT";
const ATTACK_VARIABLE: &str = "TEST_ATTACK";
const SPEAKER_VARIABLE: &str = "TEST_SPEAKER";

/// `nobody`, by number: a user of the kernel is enough.
const USER: u32 = 65534;

/// Another user, whose app is spoken for.
const FIRST_USER: u32 = 65533;

/// Many times what each attack took when a thread of the agent became the user.
const ATTACK_TIME: Duration = Duration::from_secs(4);

/// What the agent must still be able to do once the attack is over.
const RUNS_AFTERWARDS: usize = 20;

/// Runs commands as the app's user for ever, as probes and hooks do; says so after each. Does
/// nothing as a test.
#[test]
fn agent() {
    if env::var_os(AGENT_VARIABLE).is_none() {
        return;
    }
    use_starter();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let order = HookOrder {
        hook: Hook { exec: vec!["true".into()], user: None, timeout: Duration::from_millis(300) },
        root: "/".into(),
        variables: [].into(),
        default_user: Some(USER.to_string()),
    };
    loop {
        // The user may well break their own commands.
        let result = runtime.block_on(run_hook(order.clone()));
        println!("{}", if result.is_ok() { "ran" } else { "broken" });
    }
}

/// Sends a signal to every thread of the agent, or takes its descriptors away, again and again.
/// Does nothing as a test.
#[test]
fn attacker() {
    let Ok(attack) = env::var(ATTACK_VARIABLE) else { return };
    let (kind, agent) = attack.split_once(' ').unwrap();
    let started = Instant::now();
    while started.elapsed() < ATTACK_TIME {
        let Ok(threads) = fs::read_dir(format!("/proc/{agent}/task")) else { return };
        for thread in threads.flatten() {
            let id = thread.file_name().to_str().unwrap().parse().unwrap();
            let thread = Pid::from_raw(id).unwrap();
            // Each is asked for as the id of a process, and the kernel asks whose that thread is.
            let result = match kind {
                "stop" => rustix::process::kill_process(thread, Signal::STOP),
                "kill" => rustix::process::kill_process(thread, Signal::KILL),
                "term" => rustix::process::kill_process(thread, Signal::TERM),
                "files" => {
                    let limit = Rlimit { current: Some(1), maximum: Some(1) };
                    rustix::process::prlimit(Some(thread), Resource::Nofile, limit).map(drop)
                }
                _ => panic!("{attack}"),
            };
            assert!(result.is_err(), "thread {id} of the agent took it");
        }
    }
}

struct Agent {
    child: Child,
    /// What it says, line by line.
    lines: Receiver<String>,
}

impl Agent {
    fn start() -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(only_test(module_path!(), "agent")).env(AGENT_VARIABLE, "1");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (said, lines) = sync_channel(1);
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().try_for_each(|line| said.send(line.unwrap())));
        Self { child, lines }
    }

    /// Waits until so many commands have run; fails if the agent can run no more.
    fn run(&self, mut count: usize) {
        while count > 0 {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => count -= usize::from(line == "ran"),
                Err(RecvTimeoutError::Disconnected) => panic!("the agent is gone"),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the agent hangs:\n{}", self.file("status"))
                }
            }
        }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Goal: an app's user who sends signals to the agent's threads, or limits them, while the agent
/// starts commands as that user, has no effect on the agent.
/// Method: a thread that has the user's ids for a moment would be hit; see [`attacker`].
fn withstands(attack: &str) {
    if !rustix::process::geteuid().is_root() {
        // Another agent starts nothing as anybody else: there is no user to be attacked by.
        return;
    }
    let agent = Agent::start();
    agent.run(1);
    let limits = agent.file("limits");
    let mut attacker = Command::new("/proc/self/exe");
    attacker.args(only_test(module_path!(), "attacker")).uid(USER).gid(USER);
    attacker.env(ATTACK_VARIABLE, format!("{attack} {}", agent.child.id()));
    let mut attacker = attacker.stdout(Stdio::null()).spawn().unwrap();
    // Reads meanwhile: an agent that waits for its reader starts nothing.
    while attacker.try_wait().unwrap().is_none() {
        agent.run(1);
    }
    assert!(attacker.wait().unwrap().success(), "the kernel let the app's user");
    assert_eq!(agent.file("limits"), limits, "the app's user set limits for the agent");
    agent.run(RUNS_AFTERWARDS);
}

#[test]
fn user_of_an_app_cannot_stop_the_agent() {
    withstands("stop");
}

#[test]
fn user_of_an_app_cannot_kill_the_agent() {
    withstands("kill");
}

#[test]
fn user_of_an_app_cannot_terminate_the_agent() {
    withstands("term");
}

#[test]
fn user_of_an_app_cannot_take_descriptors_from_the_agent() {
    withstands("files");
}

/// Joins a process group if it is to, says `READY=1`, tells its stdout how that went, and waits to
/// be killed. Does nothing as a test.
#[test]
fn speaker() {
    let Ok(order) = env::var(SPEAKER_VARIABLE) else { return };
    let (group, socket) = order.split_once(' ').unwrap();
    let group = Pid::from_raw(group.parse().unwrap());
    let joined = group.is_some_and(|group| rustix::process::setpgid(None, Some(group)).is_ok());
    let sent = UnixDatagram::unbound().unwrap().send_to(b"READY=1", socket).is_ok();
    println!("joined {joined} sent {sent}");
    loop {
        std::thread::park();
    }
}

/// Two programs of two users, and the socket on which the first is heard.
struct Neighbours {
    rig: Rig,
    /// Where every user may execute this test binary.
    program: String,
    first: Started,
}

/// As the agent starts programs, or as agents did that kept them in their own session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Session {
    Own,
    OfTheAgent,
}

impl Neighbours {
    /// The first program waits for a line in a pipe and then is a [`speaker`].
    fn start(session: Session) -> Self {
        let rig = Rig::new();
        fs::set_permissions(rig.path(), Permissions::from_mode(0o755)).unwrap();
        let program = rig.path().join("speaker");
        let own = env::current_exe().unwrap();
        fs::hard_link(&own, &program).or_else(|_| fs::copy(&own, &program).map(drop)).unwrap();
        let program = program.to_str().unwrap().to_owned();
        let pipe = rig.path().join("go");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, 0o600.into(), 0).unwrap();
        chown(&pipe, Some(FIRST_USER), Some(FIRST_USER)).unwrap();
        let wait = format!("read line < {}; exec \"$0\" \"$@\"", pipe.display());
        let speaker = only_test(module_path!(), "speaker");
        let exec = [vec!["sh".into(), "-c".into(), wait, program.clone()], speaker.into()].concat();
        let order = format!("0 {}", rig.path().join("notify").display());
        let first = start(&exec, &order, (FIRST_USER, session), Stdio::null());
        Self { rig, program, first }
    }

    /// The second program tries to speak for the first; what it says of that.
    fn intrude(&self, session: Session) -> (Started, String) {
        let exec = [vec![self.program.clone()], only_test(module_path!(), "speaker").into()];
        let order = format!("{} {}", self.first.child.id(), self.socket().display());
        let mut second = start(&exec.concat(), &order, (USER, session), Stdio::piped());
        let lines = BufReader::new(second.child.stdout.take().unwrap()).lines();
        let told = lines.map(Result::unwrap).find(|line| line.starts_with("joined"));
        (second, told.unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.rig.path().join("notify")
    }

    /// Lets the first program say that it is ready.
    fn go(&self) {
        fs::write(self.rig.path().join("go"), "go\n").unwrap();
    }
}

fn start(exec: &[String], order: &str, (user, session): (u32, Session), out: Stdio) -> Started {
    if session == Session::OfTheAgent {
        let mut command = Command::new(&exec[0]);
        command.args(&exec[1..]).env(SPEAKER_VARIABLE, order).uid(user).gid(user).stdout(out);
        let child = command.process_group(0).spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        return Started { child, identity };
    }
    let exec: Vec<_> = exec.iter().map(String::as_str).collect();
    let mut launch = Launch { user: Some(user.to_string()), ..rig::launch(&exec) };
    launch.environment.insert(SPEAKER_VARIABLE.into(), order.into());
    let app = AppDir::new("/nonexistent".into());
    let recipe = launch.recipe(rig::build(1), Path::new("/"), &app).unwrap();
    recipe.start([out, Stdio::inherit()], |_, _| ()).unwrap()
}

fn end(mut program: Started) {
    program.child.kill().unwrap();
    program.child.wait().unwrap();
}

/// Goal: nobody says READY=1 for a program of another user.
/// Method: a program of another user tries to join its process group and writes to its socket,
/// before it says itself that it is ready. Programs of earlier agents share a session, in which
/// joining cannot be kept from anybody.
#[tokio::test]
async fn program_of_another_user_cannot_speak_for_an_app() {
    if !rustix::process::geteuid().is_root() {
        // Only root has programs of several users.
        return;
    }
    for (session, told) in
        [(Session::Own, "joined false sent true"), (Session::OfTheAgent, "joined true sent true")]
    {
        let neighbours = Neighbours::start(session);
        let socket = NotifySocket::bind(&neighbours.socket(), None).unwrap();
        socket.listen_to(&neighbours.first.identity);
        let (second, said) = neighbours.intrude(session);
        assert_eq!(said, told, "{session:?}");
        neighbours.go();
        let message = within(socket.next()).await.unwrap();
        assert_eq!((message.pid, message.is_ready), (neighbours.first.child.id(), true));
        end(second);
        end(neighbours.first);
    }
}

#[tokio::test]
async fn socket_of_an_app_is_its_users_alone() {
    if !rustix::process::geteuid().is_root() {
        // Only root has programs of several users.
        return;
    }
    let neighbours = Neighbours::start(Session::Own);
    let socket = NotifySocket::bind(&neighbours.socket(), Some(FIRST_USER)).unwrap();
    socket.listen_to(&neighbours.first.identity);
    let (second, said) = neighbours.intrude(Session::Own);
    assert_eq!(said, "joined false sent false");
    neighbours.go();
    assert!(within(socket.next()).await.unwrap().is_ready);
    end(second);
    end(neighbours.first);
}
