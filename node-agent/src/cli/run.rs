//! Runs the agent until it is told to stop.

use std::mem::ManuallyDrop;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use command_line::{Hangup, SignalRequest, Signals};
use tokio::task::block_in_place;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::settings::SettingArgs;
use crate::agent::Agent;
use crate::config::Config;
use crate::report::metrics::{MetricsServer, MetricsSource};
use crate::report::service;
use crate::self_update;

/// Signals this soon after the first are the same request. Ctrl-C may arrive from a terminal and
/// from a wrapper, a terminal that goes away may follow, and a parent that is killed lets the
/// kernel signal once per thread of it; a person who loses patience takes longer.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Runs an agent with `config` on a runtime of its own.
pub(super) fn run(settings: &SettingArgs, config: Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Never shut down: after a second signal nobody wants to wait for its threads, and without
    // waiting their timers could panic. They end with the process.
    ManuallyDrop::new(runtime).block_on(run_until_stopped(settings, config))?;
    Ok(ExitCode::SUCCESS)
}

async fn run_until_stopped(settings: &SettingArgs, config: Config) -> anyhow::Result<()> {
    // Before anything is started, so that no signal finds the agent half started.
    let mut signals = Signals::catch(Hangup::Reload).map_err(|error| error.source)?;
    let start = Agent::start(config.clone());
    tokio::pin!(start);
    let early = tokio::select! {
        agent = &mut start => Ok(agent?),
        () = signals.stop() => Err(Instant::now()),
    };
    let mut agent = match early {
        Ok(agent) => agent,
        // In the middle of its start it does not know yet what an earlier agent left running, and
        // would leave that behind.
        Err(asked_at) => {
            let agent = tokio::select! {
                agent = start => agent?,
                () = next_request(&mut signals, asked_at) => return Ok(()),
            };
            return stop(agent, &mut signals, asked_at).await;
        }
    };
    let feeding = service::feed_watchdog(agent.heartbeat().clone());
    let _watchdog = AbortOnDropHandle::new(tokio::spawn(feeding));
    let showing = service::show_status(agent.board().clone());
    let _status = AbortOnDropHandle::new(tokio::spawn(showing));
    let _metrics = start_metrics(&config, &agent).await;
    service::say_ready();
    let replaced = agent.replacement();
    tokio::pin!(replaced);
    let result = loop {
        tokio::select! {
            () = &mut replaced => {
                agent.let_go().await;
                // Everything that matters is on disk, and programs belong to whoever finds them.
                let error = self_update::restart_in_place();
                break Err(anyhow::Error::new(error).context("cannot start the new agent"));
            }
            error = agent.unexpected_end() => break Err(error),
            asked = signals.next() => match asked {
                SignalRequest::Stop => break Ok(()),
                SignalRequest::Reload => {
                    service::say_reloading();
                    // Reads a file, and user data over the network if the host was started from
                    // that.
                    agent.reload(block_in_place(|| read_again(settings)));
                    service::say_ready();
                }
            },
        }
    };
    stop(agent, &mut signals, Instant::now()).await.and(result)
}

/// Stops the programs, unless somebody asks once more.
async fn stop(agent: Agent, signals: &mut Signals, asked_at: Instant) -> anyhow::Result<()> {
    service::say_stopping();
    info!("stopping the programs; once more to end at once and leave them running");
    tokio::select! {
        () = agent.stop() => Ok(()),
        () = next_request(signals, asked_at) => anyhow::bail!("told twice to stop; programs may still be running"),
    }
}

/// The metrics serve only those who watch the agent; it works without them.
async fn start_metrics(config: &Config, agent: &Agent) -> Option<AbortOnDropHandle<()>> {
    let source = MetricsSource {
        host: config.host.clone(),
        board: agent.board().clone(),
        heartbeat: agent.heartbeat().clone(),
        started_at: Instant::now(),
    };
    match MetricsServer::bind(config.metrics?, source).await {
        Ok(server) => Some(AbortOnDropHandle::new(tokio::spawn(server.run()))),
        Err(error) => {
            warn!(address = ?config.metrics, "the agent runs without metrics: cannot listen: {error}");
            None
        }
    }
}

/// The settings as they are now: flags and variables as at the start, the file as it is now.
fn read_again(settings: &SettingArgs) -> anyhow::Result<Config> {
    let loaded = settings.load()?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config)
}

/// Waits for a signal to stop that does not belong to the request of `asked_at`.
async fn next_request(signals: &mut Signals, asked_at: Instant) {
    loop {
        signals.stop().await;
        if asked_at.elapsed() >= SAME_REQUEST {
            return;
        }
    }
}
