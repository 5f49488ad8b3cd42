//! The key table: one row for each setting of the agent and of an app.
//!
//! A row says what the key is called, when a new value takes effect, how the value gets into its
//! field and out of it, and what it is for. All else follows: names and suggestions (`schema`),
//! reading (`keys`), `--check-config` (`show`), what SIGHUP takes over (`agent::reload`), and
//! `docs/configuration.md`. A new key has a row here, a field in `config.rs`, whoever uses that,
//! and its explanation in `example.toml`; the test of the document prints how to renew that.
//!
//! Rows stand in the order in which they are read and shown, those of one TOML table together.

use super::access::{self, Access, entries, field, hook_part, optional, probe};
use super::keys::{Effect, Key, Missing};
use super::values::{
    AFTER_GOOD, BOOLEAN, BUFFER_BUDGET, BUILD, COUNT, DIRECTORY, DISK_PRIORITY, DSCP, DURATION,
    DURATION_ABOVE_ZERO, EXEC, FILES, GOAL, GROUP, HOST, LABELS, LISTEN, ON_CHANGE, OUTPUT_RATE,
    RATE, SEEDERS, SIZE, SOCKET_PATH, SWAP, TEXT, TRANSPORT, TRIES, UNIT, USER,
};
use super::{AppConfig, Config, values};
use crate::host::probe::Probe;

/// [`HOOK_TIMEOUT_DEFAULT`](crate::host::hook::HOOK_TIMEOUT_DEFAULT) as a person would write it.
pub(super) const HOOK_TIMEOUT_TEXT: &str = "1m";

/// All keys of the agent but its apps.
pub(super) const AGENT: &[&[Key<Config>]] = &[&[
    agent("host", Effect::Restart, field!(host: HOST), "Name of this host.")
        .default("the machine's name"),
    agent("state", Effect::Restart, field!(state: DIRECTORY), "Everything the agent stores."),
    agent(
        "goal",
        Effect::Restart,
        field!(goal: GOAL),
        "Where this host hears which build each app should run: of its seeders, or from the goal store itself, file:///DIRECTORY or etcd://HOST:PORT/PREFIX.",
    )
    .in_bootstrap(),
    agent(
        "seeders",
        Effect::Restart,
        field!(seeders: SEEDERS),
        "Seeders of the region, as shoal-seeder prints them.",
    )
    .required(Missing {
        what: "no seeder is given",
        key: "seeders = [\"MULTIADDR\"]",
        flag: "--seeder MULTIADDR",
        variable: "SHOAL_SEEDERS",
    })
    .in_bootstrap(),
    agent(
        "listen",
        Effect::Restart,
        field!(listen: LISTEN),
        "Address of the control plane; port 0 takes any free one.",
    ),
    agent(
        "zone",
        Effect::Restart,
        field!(zone: TEXT),
        "Where this host is, so that chunks come from nearby first.",
    )
    .in_bootstrap(),
    agent("rack", Effect::Restart, field!(rack: TEXT), "The rack within the zone.").in_bootstrap(),
    agent("labels", Effect::Restart, field!(labels: LABELS), "Marks that rollouts refer to.")
        .in_bootstrap(),
    agent(
        "group",
        Effect::Restart,
        field!(group: GROUP),
        "Hosts of one group share the limit of how many may be down at once.",
    )
    .default("the zone")
    // Empty only if nothing is known of where the host is; nobody can give that.
    .shown_if(|config| !config.group.is_empty())
    .in_bootstrap(),
    agent(
        "control",
        Effect::Restart,
        optional!(control: SOCKET_PATH),
        "Unix socket of shoal-agent status, pause, resume, restart and explain.",
    )
    .default("control.sock in the state directory"),
    agent(
        "metrics",
        Effect::Restart,
        optional!(metrics: LISTEN),
        "Where /metrics and /healthz are served; nowhere without it.",
    ),
    agent(
        "upload_limit",
        Effect::Now,
        optional!(upload_limit: RATE),
        "Most chunk bytes sent per second, over all apps.",
    )
    .default("no limit"),
    agent(
        "download_limit",
        Effect::Now,
        optional!(download_limit: RATE),
        "Most chunk bytes received per second, over all apps.",
    )
    .default("no limit"),
    agent(
        "dscp",
        Effect::Restart,
        field!(dscp: DSCP),
        "How chunk traffic asks to be treated by routers; background traffic may wait for all other.",
    ),
    agent(
        "disk_priority",
        Effect::Restart,
        field!(disk_priority: DISK_PRIORITY),
        "How downloading and serving treat the disk; low comes behind all other programs.",
    ),
    agent(
        "transport",
        Effect::Restart,
        field!(transport: TRANSPORT),
        "How chunks travel; auto takes what suits the way to each peer.",
    ),
    agent(
        "buffer_budget",
        Effect::Restart,
        field!(buffer_budget: BUFFER_BUDGET),
        "Memory for chunks under way, in both directions together.",
    ),
]];

/// What is said if there is no app.
pub(super) const NO_APP: Missing = Missing {
    what: "no app is given",
    key: "[apps.NAME]",
    flag: "--app NAME",
    variable: "SHOAL_APPS__NAME__EXEC",
};

/// The keys of a hook.
macro_rules! hook {
    ($hook:ident, $about:literal) => {
        &[
            app(
                concat!("hooks.", stringify!($hook), ".exec"),
                Effect::Now,
                hook_part!($hook: EXEC, read_hook_exec, show_hook_exec),
                $about,
            )
            .private(),
            app(
                concat!("hooks.", stringify!($hook), ".user"),
                Effect::Now,
                hook_part!($hook: USER, read_hook_user, show_hook_user),
                "The user that the command runs as.",
            )
            .default("that of the app"),
            app(
                concat!("hooks.", stringify!($hook), ".timeout"),
                Effect::Now,
                hook_part!($hook: DURATION_ABOVE_ZERO, read_hook_timeout, show_hook_timeout),
                "Time after which the command is stopped, then killed.",
            )
            .default(HOOK_TIMEOUT_TEXT),
        ]
    };
}

/// All keys of an app, one slice for each TOML table.
pub(super) const APP: &[&[Key<AppConfig>]] = &[
    PROGRAM,
    HEALTH,
    hook!(
        before_switch,
        "In the new build, before `current` points to it; a failure fails the build."
    ),
    hook!(after_switch, "In the new build, before its program starts; a failure fails the build."),
    hook!(after_rollback, "In the build that was gone back to; a failure is only reported."),
    hook!(
        drain,
        "Takes the host out of a load balancer before its program stops; a failure is only reported."
    ),
    hook!(undrain, "Puts the host back once its program is ready; a failure is only reported."),
    WATCH,
    &[app(
        "sockets.SOCKET",
        Effect::Restart,
        entries!(sockets: "`IP:PORT`, `udp:IP:PORT` or `unix:/PATH`", values::app_socket, access::socket_value),
        "Sockets that the agent holds, so that no connection is refused while programs change.",
    )],
    &[app(
        "environment.VARIABLE",
        Effect::Restart,
        entries!(environment: "text", values::variable, access::variable_value),
        "Variables for the program, besides those of the agent.",
    )
    .private()],
];

const PROGRAM: &[Key<AppConfig>] = &[
    app(
        "exec",
        Effect::Restart,
        optional!(exec: EXEC),
        "The program: started in the build, in the foreground. Without it, builds are only switched.",
    )
    .private(),
    app(
        "systemd",
        Effect::Restart,
        optional!(systemd: UNIT),
        "The unit that is restarted for a new build, instead of a program.",
    ),
    app(
        "is_agent",
        Effect::Restart,
        field!(is_agent: BOOLEAN),
        "Whether the app is the agent itself.",
    ),
    app("user", Effect::Restart, optional!(user: USER), "User of the program and its hooks.")
        .default("that of the agent"),
    app(
        "swap",
        Effect::Restart,
        field!(swap: SWAP),
        "Whether the old program runs on until the new one is good, or stops first.",
    )
    .default("overlap if there are sockets, else stop"),
    app(
        "hold",
        Effect::Now,
        field!(hold: BOOLEAN),
        "Whether this host downloads new builds and does not switch to them.",
    ),
    app(
        "pin",
        Effect::Now,
        optional!(pin: BUILD),
        "The build that runs here whatever the goal says.",
    ),
    app(
        "working_directory",
        Effect::Restart,
        optional!(working_directory: DIRECTORY),
        "Where the program starts; relative paths are inside the build.",
    )
    .default("the root of the build"),
    app(
        "grace_period",
        Effect::Now,
        field!(grace_period: DURATION),
        "Time between SIGTERM and SIGKILL.",
    ),
    app(
        "keep_builds",
        Effect::Now,
        field!(keep_builds: COUNT),
        "Builds kept on disk, the current one included. The one before it is always kept.",
    ),
    app(
        "keep_bytes",
        Effect::Now,
        optional!(keep_bytes: SIZE),
        "Most bytes of kept builds. Those to go back to and forward to are kept in any case.",
    )
    .default("no limit"),
    app(
        "upload_limit",
        Effect::Now,
        optional!(upload_limit: RATE),
        "Most chunk bytes of this app sent per second, within the limit of the agent.",
    )
    .default("no limit"),
    app(
        "download_limit",
        Effect::Now,
        optional!(download_limit: RATE),
        "Most chunk bytes of this app received per second, within the limit of the agent.",
    )
    .default("no limit"),
];

/// When a new way to judge builds takes effect.
const JUDGING: Effect<AppConfig> = Effect::NowUnless(changes_notification);

const HEALTH: &[Key<AppConfig>] = &[
    app(
        "health.http",
        JUDGING,
        probe!(
            "`http://IP:PORT/PATH`",
            values::http_probe,
            access::http_value,
            access::Shown::Comment("http, tcp, command and notify are not set")
        ),
        "Probes the program with a GET, which has to be answered with a status of 200 to 399.",
    )
    .private(),
    app(
        "health.tcp",
        JUDGING,
        probe!("`IP:PORT`", values::tcp_probe, access::tcp_value, access::Shown::Hidden),
        "Probes the program with a connection, which it has to accept.",
    ),
    app(
        "health.command",
        JUDGING,
        probe!("command", values::command_probe, access::command_value, access::Shown::Hidden),
        "Probes the program with a command of the build, which has to end with exit code 0.",
    )
    .private(),
    app(
        "health.notify",
        JUDGING,
        probe!(
            "`true` or `false`",
            values::notify_probe,
            access::notify_value,
            access::Shown::Hidden
        ),
        "Whether the program says READY=1 itself, as with sd_notify.",
    ),
    app(
        "health.interval",
        JUDGING,
        field!(health.interval: DURATION_ABOVE_ZERO),
        "Time between two probes.",
    ),
    app(
        "health.timeout",
        JUDGING,
        field!(health.timeout: DURATION_ABOVE_ZERO),
        "Time for the answer to a probe.",
    ),
    app(
        "health.min_healthy_time",
        JUDGING,
        field!(health.min_healthy_time: DURATION),
        "How long a new program has to be healthy without a break before its build is good.",
    ),
    app(
        "health.deadline",
        JUDGING,
        field!(health.deadline: DURATION_ABOVE_ZERO),
        "Most time from the start of a new program until it is good; past it its build is rolled back.",
    ),
    app(
        "health.tries",
        JUDGING,
        field!(health.tries: TRIES),
        "Starts of a new build before it is rolled back because its program ended.",
    ),
    app(
        "health.max_failed_probes",
        JUDGING,
        field!(health.max_failed_probes: TRIES),
        "Probes in a row, over `min_healthy_time` or longer, that fail before a program that was good is restarted.",
    ),
    app(
        "health.after_good",
        JUDGING,
        field!(health.after_good: AFTER_GOOD),
        "What follows then: `restart`, with pauses that grow, or only a `report` in the host's status.",
    ),
    app(
        "health.max_output_rate",
        JUDGING,
        field!(health.max_output_rate: OUTPUT_RATE),
        "Most bytes per second that a new build may print before it is rolled back.",
    )
    // Refused for an app whose output the agent does not see.
    .shown_if(|app| app.exec.is_some()),
];

const WATCH: &[Key<AppConfig>] = &[
    app(
        "watch.files",
        Effect::Restart,
        field!(watch.files: FILES),
        "Files outside the build whose change restarts or reloads the program.",
    ),
    app(
        "watch.on_change",
        Effect::Restart,
        field!(watch.on_change: ON_CHANGE),
        "What follows such a change: a new start of the program, or SIGHUP.",
    )
    // Without files the key is refused for an app without a program.
    .shown_if(|app| !app.watch.files.is_empty()),
];

const fn agent(
    name: &'static str,
    effect: Effect<Config>,
    access: Access<Config>,
    about: &'static str,
) -> Key<Config> {
    Key::new(name, effect, access, about)
}

const fn app(
    name: &'static str,
    effect: Effect<AppConfig>,
    access: Access<AppConfig>,
    about: &'static str,
) -> Key<AppConfig> {
    Key::new(name, effect, access, about)
}

/// The parts of every key's path. An app's name is `NAME`.
pub(super) fn paths() -> impl Iterator<Item = Vec<&'static str>> {
    let agent = AGENT.iter().copied().flatten().map(|key| key.name.split('.').collect());
    let app = APP.iter().copied().flatten();
    agent.chain(app.map(|key| ["apps", "NAME"].into_iter().chain(key.name.split('.')).collect()))
}

/// What the row of a key says of it, and of what holds without it.
pub(super) fn about(name: &str) -> Option<(&'static str, Option<&'static str>)> {
    fn find<C>(
        tables: &[&'static [Key<C>]],
        name: &str,
    ) -> Option<(&'static str, Option<&'static str>)> {
        let key = tables.iter().copied().flatten().find(|key| key.name == name)?;
        Some((key.about, key.default))
    }
    name.strip_prefix("apps.NAME.").map_or_else(|| find(AGENT, name), |name| find(APP, name))
}

/// The keys that a bootstrap document may have, in order of their names.
pub(super) fn bootstrap_keys() -> Vec<&'static str> {
    let keys = AGENT.iter().copied().flatten().filter(|key| key.is_bootstrap);
    let mut names: Vec<_> = keys.map(|key| key.name).collect();
    names.sort_unstable();
    names
}

/// A probe by notification needs the socket that the program was started with.
fn changes_notification(running: &AppConfig, wanted: &AppConfig) -> bool {
    let notifies = |app: &AppConfig| app.health.probe == Some(Probe::Notify);
    notifies(running) != notifies(wanted)
}
