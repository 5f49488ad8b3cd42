//! What the brain reasons about: what is wanted of an app, where it stands, what the operator
//! allows, and the steps that lead from one to the other.
//!
//! Invariant: plain values only, complete enough that [`reconcile`](crate::brain::reconcile) needs
//! nothing else. Nothing is decided here.

use std::collections::{BTreeMap, BTreeSet};

use p2p_core::BuildId;

use crate::state::app_dir::{AskedBy, Journal};

/// What is wanted of an app.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Wanted {
    /// Generation of the goal.
    pub generation: u64,
    /// Who asked for `build`: one that failed here is not tried again for the same.
    pub asked_by: AskedBy,
    /// The build that should run.
    pub build: BuildId,
}

/// Where an app stands on this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Actual {
    /// Builds that are complete on disk, with their bytes.
    pub complete: BTreeMap<BuildId, u64>,
    /// Builds of which parts are on disk.
    pub staged: BTreeSet<BuildId>,
    /// The complete build that `current` points to; `None` if there is none.
    pub current: Option<BuildId>,
    /// The switch under way or done last; `None` before the first.
    pub journal: Option<Journal>,
    /// The programs of the app.
    pub programs: Programs,
    /// How the program that serves is.
    pub vitals: Vitals,
    /// What is known of this agent if the app is the agent itself, `None` for any other app.
    pub agent: Option<AgentView>,
    /// The build that this host could not start now, for a reason that is not the build's; `None`
    /// if there is none.
    pub unready: Option<BuildId>,
    /// The build that was looked at before the switch to it and lacks something to start; `None` if
    /// there is none.
    pub unstartable: Option<BuildId>,
    /// The build whose hook failed, that was not healthy in time, or that printed too much while it
    /// was judged; `None` if there is none.
    pub failed: Option<BuildId>,
    /// What is known of hooks.
    pub hooks: HookView,
    /// The token for this host to be down.
    pub token: Token,
    /// The download of the app.
    pub download: Transfer,
    /// The build whose removal is under way.
    pub removing: Option<BuildId>,
    /// Whether the last attempt to write to the disk failed too recently for another.
    pub is_disk_resting: bool,
}

/// What the operator configured about running an app, and what holds for this host now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Policy {
    /// Whether the app has a program to run. If not, its builds are only switched.
    pub has_program: bool,
    /// How a new program takes the place of the old one.
    pub swap: Swap,
    /// Builds to keep, the current one included. The previous good one is kept in any case.
    pub keep_builds: usize,
    /// Most bytes of kept builds; `None`: no limit. Those that must be kept may be more.
    pub keep_bytes: Option<u64>,
    /// Hooks that are configured.
    pub hooks: BTreeSet<HookKind>,
    /// Whether a switch may start.
    pub permission: Permission,
    /// Whether a token is needed for a switch to start.
    pub needs_token: bool,
}

/// How one program takes the place of another.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Swap {
    /// The old program is stopped, then the new one started.
    #[default]
    Stop,
    /// The new program is started, and the old one stopped once the new one is good.
    Overlap,
}

/// This agent, as the app that it is itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AgentView {
    /// The build that this process was started from; `None` for the installed agent.
    pub runs: Option<BuildId>,
    /// Whether it has been well for long enough.
    pub is_good: bool,
    /// Whether it has been up long enough that another restart does not make a storm of restarts.
    pub may_restart: bool,
}

/// Whether a switch may start on this host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Permission {
    /// Yes.
    Granted,
    /// Not yet: the host's wave has not come. A host without any build does not wait for it, since
    /// it has nothing to run.
    Later,
    /// No host may begin a switch to the build, not even one that has nothing to run: the rollout
    /// is halted, or the build is only to be staged. What runs may be restarted.
    Withheld,
    /// No: the host is held or paused.
    Refused,
}

/// Commands around a switch.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum HookKind {
    /// Before `current` points to the new build.
    BeforeSwitch,
    /// Before the program of the new build starts.
    AfterSwitch,
    /// Once the build that was rolled back to serves.
    AfterRollback,
    /// Before a program that serves alone is stopped.
    Drain,
    /// Once a program serves again.
    Undrain,
}

/// What is known of hooks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct HookView {
    /// The hook that runs, and the build that it runs in.
    pub running: Option<(HookKind, BuildId)>,
    /// Hooks that have run for the switch under way, whether well or not.
    pub done: BTreeSet<(HookKind, BuildId)>,
    /// The build whose hook failed in the switch under way.
    pub failed: Option<BuildId>,
    /// Whether the host is out of its load balancer.
    pub drained: Drained,
}

/// Whether a host is out of its load balancer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Drained {
    /// It is in.
    No,
    /// Not known: the agent has just started, or a hook has begun and not ended.
    #[default]
    Unknown,
    /// It is out.
    Yes,
}

/// The token for this host to be down.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Token {
    /// Not asked for.
    #[default]
    None,
    /// Asked for.
    Asked,
    /// Held.
    Held,
}

/// The programs of an app. At most two run, not counting those that were told to stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Programs {
    /// The one that serves.
    pub serving: Program,
    /// The one that is to take its place.
    pub candidate: Program,
    /// Whether a program that was replaced has not ended yet.
    pub is_leaving: bool,
}

/// A program, as its supervisor sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// Nothing runs, and it may be started.
    Stopped,
    /// It runs.
    Running {
        /// The build that it was started from.
        build: BuildId,
        /// Whether it was started as it is configured now, and after the last order to restart.
        is_fresh: bool,
        /// How far it is trusted.
        gate: Gate,
    },
    /// It was told to stop, or its processes were: some of them still run.
    Ending,
    /// It ended by itself and is started again later.
    Resting {
        /// The build that it was started from.
        build: BuildId,
    },
}

/// How the program that serves is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Vitals {
    /// Nothing is known against it.
    #[default]
    Well,
    /// It failed its last probe.
    Unhealthy,
    /// It failed so many probes, or was not good for so long, that it has to be started again.
    Ailing,
}

/// How far a program is trusted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Gate {
    /// It has not answered its probe yet.
    Starting,
    /// It serves.
    Ready,
    /// It has been healthy for long enough.
    Good,
}

/// The download of an app.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Transfer {
    /// None runs.
    Idle,
    /// It runs.
    Active {
        /// What is being downloaded.
        build: BuildId,
    },
    /// It failed and is tried again later.
    Resting {
        /// What was being downloaded.
        build: BuildId,
    },
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Nothing, until something changes.
    Rest,
    /// Drop the download that runs; what it stored stays.
    CancelDownload,
    /// Download `build` instead of whatever is being downloaded.
    Download {
        /// The build of the goal.
        build: BuildId,
    },
    /// Ask for a token.
    AskToken,
    /// Give the token back, or stop asking.
    ReturnToken,
    /// Run a hook in `build`.
    RunHook {
        /// Which.
        kind: HookKind,
        /// The build that it is about.
        build: BuildId,
    },
    /// End the hook that runs: what it was for is not wanted any more.
    CancelHook,
    /// Note the switch in the journal, then let `current` point to `build`.
    Switch {
        /// A complete build.
        build: BuildId,
    },
    /// Let `current` point where the journal says.
    Repoint {
        /// A complete build.
        build: BuildId,
    },
    /// Note in the journal that `failed` is not to be tried again. Nothing was switched, or there
    /// is no build to go back to and its program is started again and again.
    Quarantine {
        /// The build that failed.
        failed: BuildId,
    },
    /// Let `current` point nowhere, then note in the journal that `failed` is not to be tried
    /// again: its hook failed, and there is no build to go back to.
    GiveUp {
        /// The build whose hook failed.
        failed: BuildId,
    },
    /// Note the way back in the journal, with what failed, then let `current` point to `build`.
    RollBack {
        /// A complete build that ran well here.
        build: BuildId,
    },
    /// Tell the serving program to stop.
    Stop,
    /// Tell the serving program to stop, to be started again after a pause: it is not healthy.
    Revive,
    /// Start the program of `build` where none serves.
    Start {
        /// The current build.
        build: BuildId,
    },
    /// Start the program of `build` beside the one that serves.
    StartCandidate {
        /// The current build.
        build: BuildId,
    },
    /// Tell the candidate to stop.
    StopCandidate,
    /// The candidate serves from now on, and the program that served is told to stop.
    Promote,
    /// Let the agent of the current build take the place of this one.
    RestartAgent,
    /// Note in the journal that the current build is good.
    Settle,
    /// Remove `build` from the disk, complete or staged.
    Remove {
        /// A build that nothing needs.
        build: BuildId,
    },
}
