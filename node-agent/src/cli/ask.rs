//! The commands that ask the agent of this host through its control socket.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use command_line::{complain, describe};
use goal_state::{AppName, HostPhase, span};
use p2p_core::BuildId;

use crate::control::{AgentStatus, AppState, AskError, ControlClient, Request, Response};

/// Exit code of `status` for an agent that does not run (LSB).
const EXIT_NOT_RUNNING: u8 = 3;

/// Exit code of `status` if it is unknown whether an agent runs (LSB).
const EXIT_UNKNOWN: u8 = 4;

/// Which agent is asked, and who reads the answer.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct AskArgs {
    /// Socket of the agent [default: control.sock in its state directory].
    #[arg(long, value_name = "PATH", env = "SHOAL_CONTROL")]
    control: Option<PathBuf>,
    /// State directory of the agent [default: /var/lib/shoal].
    #[arg(long, value_name = "DIR", env = "SHOAL_STATE")]
    state: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl AskArgs {
    fn ask(&self, request: &Request) -> Result<Response, AskError> {
        let path = super::control_path(self.control.as_ref(), self.state.as_ref());
        ControlClient::connect(&path)?.ask(request)
    }

    /// Prints `value` as JSON, or `text` for people.
    fn print(&self, value: &impl serde::Serialize, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
        } else {
            write!(out, "{text}")?;
        }
        Ok(())
    }

    fn order(&self, request: &Request, done: &str) -> anyhow::Result<ExitCode> {
        let response = self.ask(request)?;
        let Response::Done { apps } = &response else { return Err(unexpected(&response)) };
        let names: Vec<&str> = apps.iter().map(AppName::as_str).collect();
        let text = if names.is_empty() {
            "nothing had to change\n".to_owned()
        } else {
            format!("{done}: {}\n", names.join(", "))
        };
        self.print(&response, &text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn unexpected(response: &Response) -> anyhow::Error {
    tracing::debug!(?response, "unexpected answer");
    anyhow::anyhow!(
        "the agent answered something else than it was asked; is it of another version? restart it"
    )
}

pub(super) fn status(program: &str, args: &AskArgs) -> ExitCode {
    let (code, error) = match args.ask(&Request::Status {}) {
        Ok(Response::Status(status)) => match args.print(&status, &status_text(&status)) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (EXIT_UNKNOWN, error),
        },
        Ok(other) => (EXIT_UNKNOWN, unexpected(&other)),
        Err(error @ AskError::NotRunning { .. }) => (EXIT_NOT_RUNNING, error.into()),
        Err(error) => (EXIT_UNKNOWN, error.into()),
    };
    complain(program, &describe(&error));
    ExitCode::from(code)
}

pub(super) fn pause(
    args: &AskArgs,
    app: Option<&str>,
    reason: Option<String>,
) -> anyhow::Result<ExitCode> {
    let app = app.map(str::parse).transpose()?;
    args.order(&Request::Pause { app, reason }, "no switch starts until shoal-agent resume")
}

pub(super) fn resume(args: &AskArgs, app: Option<&str>) -> anyhow::Result<ExitCode> {
    let app = app.map(str::parse).transpose()?;
    args.order(&Request::Resume { app }, "goes on")
}

pub(super) fn restart(args: &AskArgs, app: &str) -> anyhow::Result<ExitCode> {
    args.order(&Request::Restart { app: app.parse()? }, "the restart is ordered")
}

pub(super) fn explain(args: &AskArgs, app: &str) -> anyhow::Result<ExitCode> {
    let response = args.ask(&Request::Explain { app: app.parse()? })?;
    let Response::Explanation(explanation) = response else { return Err(unexpected(&response)) };
    let answer = explanation.answer();
    let text = answer.to_string();
    // Both: the conclusion for people who read JSON, the facts for programs.
    args.print(&serde_json::json!({ "answer": answer, "facts": explanation }), &text)?;
    Ok(ExitCode::SUCCESS)
}

fn status_text(status: &AgentStatus) -> String {
    let up = span(Duration::from_millis(status.up_for_ms));
    let mut lines = vec![format!(
        "shoal-agent {} on {} runs for {up} (process {})",
        status.version, status.host, status.pid
    )];
    lines.extend(status.note.as_ref().map(|note| format!("note: {note}")));
    lines.extend(status.apps.iter().flat_map(app_lines));
    lines.join("\n") + "\n"
}

fn app_lines(app: &AppState) -> Vec<String> {
    let row = &app.row;
    let build = |build: Option<BuildId>| build.map_or_else(|| "none".into(), |id| id.short());
    let generation = row.generation.map_or_else(|| "-".into(), |number| number.to_string());
    let pid = row.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
    let mut lines = vec![format!(
        "{}: {}, build {}, goal {} of generation {generation}, process {pid}",
        row.app,
        row.phase,
        build(row.current),
        build(row.target),
    )];
    if app.is_held {
        lines.push("  held by the configuration".into());
    }
    if let Some(paused) = &app.paused {
        let why = paused.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        lines.push(format!("  paused{why}; shoal-agent resume {}", row.app));
    }
    if row.phase == HostPhase::Downloading {
        lines.extend(goal_state::progress_text(row).map(|progress| {
            let percent = row.bytes_total.map_or(0, |total| row.bytes_done * 100 / total.max(1));
            format!("  {percent} %: {progress}")
        }));
    }
    lines.extend(row.troubles().iter().map(|trouble| format!("  {}", trouble.text)));
    lines
}

#[cfg(test)]
mod tests {
    use goal_state::HostStatus;

    use super::*;
    use crate::state::app_dir::Paused;

    #[test]
    fn status_tells_what_holds_an_app() {
        let row = HostStatus {
            message: Some("disk full".into()),
            ..HostStatus::new("h1", "web".parse().unwrap())
        };
        let paused = Some(Paused { since_ms: 0, reason: Some("ticket".into()) });
        let apps = vec![AppState { row, is_held: true, paused }];
        let (host, version) = ("h1".into(), "1.2".into());
        let note = Some("restart the agent".into());
        let status = AgentStatus { host, version, pid: 7, up_for_ms: 61_000, note, apps };
        assert_eq!(
            status_text(&status),
            "shoal-agent 1.2 on h1 runs for 1m 1s (process 7)\nnote: restart the agent\n\
             web: no-goal, build none, goal none of generation -, process -\n  \
             held by the configuration\n  paused: ticket; shoal-agent resume web\n  disk full\n"
        );
    }
}
