//! `shoal forget`: takes a host that is gone out of the inventory.
//!
//! Owns when that is refused: a host that reports would be back at once. What is written says until
//! when the host was heard, by the clock of whoever heard it, so that no clock of this machine
//! decides which reports count. Prints what is left of the host.

use anyhow::Context as _;
use goal_state::{GoalStore, HostStatus, Presence, now_ms};
use serde::Serialize;

use crate::output::{self, Outcome, human};
use crate::rollout::commands::GoalArgs;
use crate::runtime::{block_on, read_inventory};

/// Most names that are suggested for one that is not known.
const SUGGESTIONS_MAX: usize = 5;

/// Most letters that a suggested name differs in: what a finger slips.
const SLIPS_MAX: usize = 2;

/// Arguments of `shoal forget`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The host's name, as in `shoal status`
    host: String,
    #[command(flatten)]
    goal: GoalArgs,
    /// Also if the host still reports: what it does not report again is gone, such as an app that
    /// it no longer has
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    host: &'a str,
    /// Rows that are left out from now on.
    rows: usize,
    /// When the host was last heard of, in milliseconds since 1970.
    heard_at_ms: u64,
}

/// Takes every row of a host out of the inventory until it reports again.
///
/// # Errors
///
/// If no host has the name, it reports, or the goal store cannot be read or written.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    block_on(async {
        let store = GoalStore::new(&args.goal.url);
        let rows = read_inventory(&store).await?;
        let heard_at_ms = forgettable(now_ms(), &rows, &args.host, args.force)?;
        store.forget(&args.host, heard_at_ms).await.context("cannot forget the host")?;
        let rows = rows.iter().filter(|row| row.host == args.host).count();
        if args.json {
            output::json(&Document { host: &args.host, rows, heard_at_ms })?;
        } else {
            output::line(&format!(
                "{}: forgotten with {}; if it reports again it is back",
                human::printable(&args.host),
                human::counted(rows, "row")
            ))?;
        }
        Ok(Outcome::Done)
    })
}

/// Until when `host` was heard.
///
/// # Errors
///
/// No row has the name, or the host reports and `is_forced` is not set.
fn forgettable(
    now_ms: u64,
    rows: &[HostStatus],
    host: &str,
    is_forced: bool,
) -> anyhow::Result<u64> {
    let own: Vec<&HostStatus> = rows.iter().filter(|row| row.host == host).collect();
    let Some(heard_at_ms) = own.iter().map(|row| row.heard_at_ms()).max() else {
        let names = similar(rows, host);
        let hint = if names.is_empty() {
            "see: shoal status".to_owned()
        } else {
            format!("did you mean {}?", names.join(" or "))
        };
        anyhow::bail!("no host {} is in the inventory; {hint}", human::printable(host));
    };
    let is_present = own.iter().any(|row| Presence::of(now_ms, row) == Presence::Present);
    anyhow::ensure!(
        is_forced || !is_present,
        "host {} reports and would be back at once; stop its agent first, or forget what it does \
         not report again with --force",
        human::printable(host)
    );
    Ok(heard_at_ms)
}

/// Names of the inventory that may have been meant.
fn similar(rows: &[HostStatus], wanted: &str) -> Vec<String> {
    let mut names: Vec<&str> = rows.iter().map(|row| row.host.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let wanted = wanted.to_lowercase();
    let is_similar = |name: &&str| {
        let name = name.to_lowercase();
        // The name without its domain, or with it.
        let is_part = name.split('.').next() == wanted.split('.').next();
        is_part || slips(&name, &wanted) <= SLIPS_MAX
    };
    names.into_iter().filter(is_similar).take(SUGGESTIONS_MAX).map(human::printable).collect()
}

/// In how many letters two names differ: the fewest that have to be changed, added or left out.
fn slips(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    // The cost of making each beginning of `to` out of the letters of `from` so far.
    let mut costs: Vec<usize> = (0..=to.len()).collect();
    for letter in from.chars() {
        let mut diagonal = costs[0];
        costs[0] += 1;
        for (index, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = costs[index + 1];
            costs[index + 1] = changed.min(diagonal + 1).min(costs[index] + 1);
        }
    }
    costs[to.len()]
}

#[cfg(test)]
mod tests {
    use goal_state::{HostPhase, SILENT_AFTER_MS};

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn row(host: &str, app: &str, received_at_ms: u64) -> HostStatus {
        HostStatus {
            phase: HostPhase::Running,
            received_at_ms,
            ..HostStatus::new(host, app.parse().unwrap())
        }
    }

    #[test]
    fn only_hosts_that_are_gone_are_forgotten() {
        let silent_ms = NOW_MS - SILENT_AFTER_MS - 1;
        let rows = [
            row("web-1", "api", silent_ms),
            row("web-1", "web", silent_ms - 1),
            row("web-2", "api", silent_ms),
            row("web-2", "web", NOW_MS),
            HostStatus { phase: HostPhase::Stopped, ..row("web-3", "web", NOW_MS) },
        ];
        assert_eq!(forgettable(NOW_MS, &rows, "web-1", false).unwrap(), silent_ms);
        assert_eq!(forgettable(NOW_MS, &rows, "web-3", false).unwrap(), NOW_MS);
        let error = forgettable(NOW_MS, &rows, "web-2", false).unwrap_err().to_string();
        assert!(error.starts_with("host web-2 reports and would be back at once"), "{error}");
        assert_eq!(forgettable(NOW_MS, &rows, "web-2", true).unwrap(), NOW_MS);
    }

    #[test]
    fn unknown_host_is_an_error_with_names_that_were_meant() {
        let rows = ["web-1.example.com", "web-2", "db"].map(|host| row(host, "web", 1));
        let error = |host| forgettable(NOW_MS, &rows, host, true).unwrap_err().to_string();
        let cases = [
            ("WEB-1", "did you mean web-1.example.com or web-2?"),
            ("bd", "did you mean db?"),
            ("wbe-2", "did you mean web-2?"),
            ("mail", "; see: shoal status"),
        ];
        for (host, end) in cases {
            assert!(error(host).ends_with(end), "{}", error(host));
        }
    }

    #[test]
    fn slips_are_counted() {
        let cases = [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3)];
        for (from, to, count) in cases {
            assert_eq!((slips(from, to), slips(to, from)), (count, count), "{from} {to}");
        }
    }
}
