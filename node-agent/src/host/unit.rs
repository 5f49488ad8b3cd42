//! Programs that systemd runs: restarted, stopped, reloaded and looked at over D-Bus.
//!
//! Owns the conversation with systemd and its time limits. A job counts as done when systemd says
//! so (`JobRemoved`), not when it was accepted. `runs_from` finds out which build a unit runs.

use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::Mutex;
use tokio::time::timeout;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath};

/// Time for one answer of systemd, which gives them from memory.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a job: a unit may take its `TimeoutStopSec` and then its `TimeoutStartSec`, both of
/// which have long defaults.
pub(crate) const JOB_TIMEOUT: Duration = Duration::from_mins(5);

/// Time between two looks at a unit. A look is one question to systemd, which answers from memory.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A connection to systemd over a bus.
#[derive(Debug)]
pub struct Systemd {
    bus: Bus,
    call_timeout: Duration,
    job_timeout: Duration,
    look_interval: Duration,
    /// Kept between calls, and made anew after a failure.
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone, Debug)]
enum Bus {
    System,
    At(String),
}

/// A unit at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnitState {
    /// `ActiveState`, such as `active`, `activating`, `failed`.
    pub active: String,
    /// `SubState`, such as `running`, `auto-restart`, `dead`.
    pub sub: String,
    /// Process id of the main process; `None` while there is none.
    pub main_pid: Option<u32>,
    /// `Result` of the last run: `success`, `exit-code`, `signal`, `oom-kill`, `start-limit-hit`...
    pub result: String,
    /// How often systemd restarted it by itself since it was started.
    pub restarts: u32,
}

/// What was wanted of a unit, for messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum UnitOrder {
    /// Stop it if it runs, then start it.
    Restart,
    /// Stop it.
    Stop,
    /// Let it read its configuration again.
    Reload,
    /// Say how it is.
    Look,
}

/// Why systemd did not do what was wanted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// There is no bus, or no systemd on it.
    #[error(
        "cannot {order} {unit}: systemd does not answer on D-Bus ({source}); is this host run by systemd, and the bus \
         reachable for the agent?"
    )]
    NoSystemd {
        /// The unit.
        unit: String,
        /// What was wanted.
        order: UnitOrder,
        /// What the bus said.
        #[source]
        source: Box<zbus::Error>,
    },
    /// The configuration names a unit that is not installed.
    #[error(
        "cannot {order} {unit}: there is no such unit; install it or change `systemd` in the configuration"
    )]
    NoSuchUnit {
        /// The unit.
        unit: String,
        /// What was wanted.
        order: UnitOrder,
    },
    /// The agent may not do this.
    #[error(
        "cannot {order} {unit}: not allowed; run the agent as root or add a polkit rule for its user"
    )]
    Denied {
        /// The unit.
        unit: String,
        /// What was wanted.
        order: UnitOrder,
    },
    /// systemd refused, such as a reload of a unit that knows none.
    #[error("cannot {order} {unit}: {source}")]
    Refused {
        /// The unit.
        unit: String,
        /// What was wanted.
        order: UnitOrder,
        /// What systemd said.
        #[source]
        source: Box<zbus::Error>,
    },
    /// The job did not succeed.
    #[error("cannot {order} {unit}: systemd says {result}{}; see journalctl -u {unit}", after_colon(.unit_result))]
    Job {
        /// The unit.
        unit: String,
        /// What was wanted.
        order: UnitOrder,
        /// The job's result: `failed`, `canceled`, `timeout`, `dependency` or `skipped`.
        result: String,
        /// The unit's own result, such as `exit-code`, if systemd gives it.
        unit_result: String,
    },
    /// No answer in time.
    #[error("cannot {order} {unit}: systemd did not finish within {}", humantime::format_duration(*.limit))]
    TimedOut {
        /// The unit.
        unit: String,
        /// What was wanted.
        order: UnitOrder,
        /// The time it had.
        limit: Duration,
    },
}

impl fmt::Display for UnitOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Reload => "reload",
            Self::Look => "look at",
        })
    }
}

fn after_colon(text: &str) -> String {
    if text.is_empty() || text == "success" { String::new() } else { format!(": {text}") }
}

impl Systemd {
    /// The systemd of this host. Connects when it is first asked for something.
    pub fn of_host() -> Self {
        Self::new(Bus::System)
    }

    /// The systemd on the bus at a D-Bus address, such as that of a user or of a test.
    pub fn at(address: &str) -> Self {
        Self::new(Bus::At(address.into()))
    }

    /// The same with another limit for jobs, and for answers if it is shorter than theirs.
    #[must_use]
    pub fn with_job_timeout(self, limit: Duration) -> Self {
        Self { job_timeout: limit, call_timeout: self.call_timeout.min(limit), ..self }
    }

    /// The same, with units that are programs of apps looked at this often.
    #[must_use]
    pub fn with_look_interval(self, look_interval: Duration) -> Self {
        Self { look_interval, ..self }
    }

    pub(crate) const fn look_interval(&self) -> Duration {
        self.look_interval
    }

    fn new(bus: Bus) -> Self {
        Self {
            bus,
            call_timeout: CALL_TIMEOUT,
            job_timeout: JOB_TIMEOUT,
            look_interval: LOOK_INTERVAL,
            connection: Mutex::new(None),
        }
    }

    /// Restarts a unit, or starts it if it does not run, and waits until systemd is done: for
    /// `Type=notify` until the program said ready, for others until it was started.
    ///
    /// # Errors
    ///
    /// If systemd cannot be asked, refuses, fails, or takes too long.
    pub async fn restart(&self, unit: &str) -> Result<(), UnitError> {
        self.order(unit, UnitOrder::Restart).await
    }

    /// Stops a unit and waits until it has ended.
    ///
    /// # Errors
    ///
    /// As of [`Self::restart`].
    pub async fn stop(&self, unit: &str) -> Result<(), UnitError> {
        self.order(unit, UnitOrder::Stop).await
    }

    /// Lets a unit read its configuration again, and waits until systemd is done with it.
    ///
    /// # Errors
    ///
    /// As for [`Self::restart`]; also if the unit cannot reload or does not run.
    pub async fn reload(&self, unit: &str) -> Result<(), UnitError> {
        self.order(unit, UnitOrder::Reload).await
    }

    /// How a unit is now.
    ///
    /// # Errors
    ///
    /// If systemd cannot be asked, has no such unit, or takes too long.
    pub async fn state(&self, unit: &str) -> Result<UnitState, UnitError> {
        let order = UnitOrder::Look;
        // Boxed: what zbus keeps between two steps is large.
        let conversation = Box::pin(async {
            let connection = self.connect().await?;
            look(&connection, unit).await
        });
        let looked = timeout(self.call_timeout, conversation);
        let state = self.settle(unit, order, self.call_timeout, looked).await?;
        state.ok_or_else(|| UnitError::NoSuchUnit { unit: unit.into(), order })
    }

    async fn order(&self, unit: &str, order: UnitOrder) -> Result<(), UnitError> {
        let conversation = Box::pin(async {
            let connection = self.connect().await?;
            carry_out(&connection, unit, order).await
        });
        let carried_out = timeout(self.job_timeout, conversation);
        let result = self.settle(unit, order, self.job_timeout, carried_out).await?;
        if result == "done" {
            return Ok(());
        }
        let unit_result = self.state(unit).await.map(|state| state.result).unwrap_or_default();
        Err(UnitError::Job { unit: unit.into(), order, result, unit_result })
    }

    /// Awaits a conversation and gives its failure a name. The next one gets a new connection then.
    async fn settle<T>(
        &self,
        unit: &str,
        order: UnitOrder,
        limit: Duration,
        conversation: impl Future<Output = Result<zbus::Result<T>, tokio::time::error::Elapsed>>,
    ) -> Result<T, UnitError> {
        let unit = unit.to_owned();
        let error = match conversation.await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => of_bus(unit, order, error),
            Err(_elapsed) => UnitError::TimedOut { unit, order, limit },
        };
        *self.connection.lock().await = None;
        Err(error)
    }

    async fn connect(&self) -> zbus::Result<Connection> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let builder = match &self.bus {
            Bus::System => zbus::connection::Builder::system(),
            Bus::At(address) => zbus::connection::Builder::address(address.as_str()),
        };
        let connection = builder.build().await?;
        *kept = Some(connection.clone());
        Ok(connection)
    }
}

fn of_bus(unit: String, order: UnitOrder, error: zbus::Error) -> UnitError {
    let name = match &error {
        zbus::Error::MethodError(name, ..) => name.to_string(),
        zbus::Error::FDO(known) => zbus::DBusError::name(&**known).to_string(),
        _ => String::new(),
    };
    // Debian lets the bus start systemd by a command that fails.
    if name.starts_with("org.freedesktop.DBus.Error.Spawn.") {
        return UnitError::NoSystemd { unit, order, source: Box::new(error) };
    }
    match name.as_str() {
        "org.freedesktop.systemd1.NoSuchUnit" => UnitError::NoSuchUnit { unit, order },
        "org.freedesktop.DBus.Error.AccessDenied"
        | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => {
            UnitError::Denied { unit, order }
        }
        // No reply of systemd itself.
        ""
        | "org.freedesktop.DBus.Error.ServiceUnknown"
        | "org.freedesktop.DBus.Error.NameHasNoOwner"
        | "org.freedesktop.DBus.Error.Disconnected" => {
            UnitError::NoSystemd { unit, order, source: Box::new(error) }
        }
        _ => UnitError::Refused { unit, order, source: Box::new(error) },
    }
}

/// Gives systemd a job and waits for its result.
async fn carry_out(connection: &Connection, unit: &str, order: UnitOrder) -> zbus::Result<String> {
    let manager = ManagerProxy::new(connection).await?;
    // systemd sends no signals to a client that did not ask for them. Asking twice is an error that
    // does not matter.
    drop(manager.subscribe().await);
    // Before the order: a quick job is done before its answer has been read.
    let mut removed = manager.receive_job_removed().await?;
    let job = match order {
        UnitOrder::Restart => manager.restart_unit(unit, "replace").await?,
        UnitOrder::Stop => manager.stop_unit(unit, "replace").await?,
        UnitOrder::Reload => manager.reload_unit(unit, "replace").await?,
        UnitOrder::Look => unreachable!("looking is not a job"),
    };
    while let Some(signal) = removed.next().await {
        let signal = signal.args()?;
        if *signal.job() == job {
            return Ok(signal.result().clone());
        }
    }
    Err(zbus::Error::Failure("the bus closed the connection".into()))
}

/// `None` if no such unit is installed.
async fn look(connection: &Connection, unit: &str) -> zbus::Result<Option<UnitState>> {
    let manager = ManagerProxy::new(connection).await?;
    // Unlike `GetUnit`, this knows units that do not run.
    let path = manager.load_unit(unit).await?;
    let of_unit = UnitProxy::builder(connection).path(path.clone());
    let of_unit = of_unit.cache_properties(CacheProperties::No).build().await?;
    if of_unit.load_state().await? == "not-found" {
        return Ok(None);
    }
    let of_service = ServiceProxy::builder(connection).path(path);
    let of_service = of_service.cache_properties(CacheProperties::No).build().await?;
    Ok(Some(UnitState {
        active: of_unit.active_state().await?,
        sub: of_unit.sub_state().await?,
        main_pid: Some(of_service.main_pid().await?).filter(|pid| *pid != 0),
        result: of_service.result().await?,
        restarts: of_service.n_restarts().await?,
    }))
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait Unit {
    #[zbus(property)]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn sub_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1"
)]
trait Service {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> zbus::Result<u32>;
}
