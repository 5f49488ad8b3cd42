//! `shoal-agent doctor`: looks at everything on a host that an agent needs, and says what to do.
//!
//! Invariant: it changes nothing but files of its own that it removes again, and needs no agent. If
//! one runs, the ports and files that it holds are not reported as problems. Every check is bounded
//! in time.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use goal_state::{GoalStore, GoalUrl};
use serde::Serialize;
use tokio::time::timeout;

use crate::config::{AppConfig, Config, GoalSource};
use crate::control::{AskError, ControlClient, Request};

mod goals;
mod host;
mod network;

/// Time for a goal store or a seeder to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How a check went.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Nothing to do.
    Ok,
    /// It works, but could be better or will not last.
    Warning,
    /// The agent cannot do its work.
    Problem,
}

/// What a check found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at, such as "disk".
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do; empty if nothing is.
    pub next_step: String,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, text: text.into(), next_step: String::new() }
    }

    fn warning(check: &'static str, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, text: text.into(), next_step: next.into() }
    }

    fn problem(check: &'static str, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Problem, text: text.into(), next_step: next.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "PROBLEM",
        };
        write!(f, "{verdict:<8} {:<10} {}", self.check, self.text)?;
        if self.next_step.is_empty() {
            Ok(())
        } else {
            write!(f, "\n{:>19} {}", "->", self.next_step)
        }
    }
}

/// What is odd about the configuration.
pub(crate) fn warnings(warnings: &[String]) -> Vec<Finding> {
    let next = "see shoal-agent --check-config";
    warnings.iter().map(|warning| Finding::warning("settings", warning, next)).collect()
}

/// All checks of a host with `config`, in the order in which they matter.
pub(crate) async fn examine(config: &Config) -> Vec<Finding> {
    let (agent, is_running) = agent(config);
    let mut findings = vec![agent];
    findings.extend(host::clock(&config.state));
    findings.extend(host::disk(&config.state));
    findings.push(host::descriptors());
    findings.extend(network::udp_buffers());
    findings.push(network::listen_address(config.listen, is_running));
    let asked: Vec<_> =
        config.seeders.iter().map(|seeder| tokio::spawn(network::seeder(*seeder))).collect();
    for asked in asked {
        findings.extend(asked.await);
    }
    match &config.goal {
        GoalSource::Store(url) => findings.push(goal_store(url).await),
        GoalSource::Seeders => findings.extend(goals::of_seeders(config).await),
    }
    for (name, app) in &config.apps {
        findings.extend(users_of(name.as_str(), app));
        findings.extend(network::sockets(name.as_str(), app, is_running));
    }
    findings
}

/// Whether somebody answers behind the control socket, and whether an agent runs at all.
fn agent(config: &Config) -> (Finding, bool) {
    let path = config.control_path();
    let asked =
        ControlClient::connect(&path).and_then(|mut client| client.ask(&Request::Status {}));
    match asked {
        Ok(_) => {
            let text = format!("an agent runs and answers on {}", path.display());
            (Finding::ok("agent", text), true)
        }
        Err(AskError::NotRunning { .. }) => {
            let text = "no agent runs; start it with systemctl start shoal-agent";
            (Finding::ok("agent", text), false)
        }
        Err(error @ AskError::NoPermission { .. }) => {
            let next = "run doctor as root to see everything";
            (Finding::warning("agent", error.to_string(), next), true)
        }
        Err(error) => {
            let next = "restart it: systemctl restart shoal-agent; its programs run on";
            (Finding::problem("agent", command_line::describe(&error.into()), next), true)
        }
    }
}

async fn goal_store(url: &GoalUrl) -> Finding {
    let text = url.to_string();
    if let GoalUrl::File { directory } = url
        && !Path::new(directory).is_dir()
    {
        return Finding::problem(
            "goal",
            format!("{text} is not there"),
            "create the directory, mount it, or correct goal in the configuration",
        );
    }
    let next = "check the address, and that nothing in between blocks it";
    match timeout(ANSWER_MAX, GoalStore::new(url).goals()).await {
        Err(_elapsed) => {
            Finding::problem("goal", format!("{text} does not answer within {ANSWER_MAX:?}"), next)
        }
        Ok(Err(error)) => {
            let reason = command_line::describe(&error.into());
            Finding::problem("goal", format!("{text} cannot be read: {reason}"), next)
        }
        Ok(Ok(_)) => Finding::ok("goal", format!("{text} answers")),
    }
}

/// Users that the configuration names for `app`.
fn users_of(name: &str, app: &AppConfig) -> Vec<Finding> {
    let hooks = &app.hooks;
    let of_hooks = hooks.kinds().into_iter().filter_map(|kind| hooks.of(kind)?.user.as_ref());
    let mut users: Vec<&String> = app.user.iter().chain(of_hooks).collect();
    users.sort_unstable();
    users.dedup();
    users.into_iter().map(|user| host::user(name, user)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_is_one_line_and_its_next_step() {
        let finding = Finding::problem("disk", "it is full", "free space");
        assert_eq!(
            finding.to_string(),
            "PROBLEM  disk       it is full\n                 -> free space"
        );
        assert_eq!(Finding::ok("disk", "fine").to_string(), "ok       disk       fine");
    }
}
