//! `shoal forget`: takes hosts that are gone out of the inventory.
//!
//! Owns when that is refused: a host that reports would be back at once. What is written says until
//! when a host was heard, by the clock of whoever heard it, so that no clock of this machine
//! decides which reports count. Either all named hosts can be forgotten, or none is. Prints what
//! was.

use std::collections::BTreeSet;
use std::time::Duration;

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
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The hosts' names, as in `shoal status`
    #[arg(value_name = "HOST", required_unless_present = "absent_for")]
    hosts: Vec<String>,
    #[command(flatten)]
    goal: GoalArgs,
    /// Every host that has been absent for longer, such as `1h`: for fleets whose machines come and
    /// go
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[arg(conflicts_with_all = ["hosts", "force"])]
    absent_for: Option<Duration>,
    /// Only print which hosts that would be
    #[arg(long)]
    dry_run: bool,
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
struct Document {
    /// Whether nothing was done.
    dry_run: bool,
    /// The hosts, by name.
    hosts: Vec<ForgottenHost>,
}

#[derive(Debug, Serialize)]
struct ForgottenHost {
    host: String,
    /// Rows that are left out from now on.
    rows: usize,
    /// When the host was last heard of, in milliseconds since 1970.
    heard_at_ms: u64,
}

/// Takes every row of some hosts out of the inventory until they report again.
///
/// # Errors
///
/// If no host has one of the names, one of them reports, or the goal store cannot be read or
/// written.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    block_on(async {
        let store = GoalStore::new(&args.goal.url);
        let rows = read_inventory(&store).await?;
        let now_ms = now_ms();
        let names: BTreeSet<&str> = match args.absent_for {
            Some(least) => absent_for(now_ms, &rows, least),
            None => args.hosts.iter().map(String::as_str).collect(),
        };
        let mut hosts = Vec::new();
        for host in names {
            let heard_at_ms = forgettable(now_ms, &rows, host, args.force)?;
            let rows = rows.iter().filter(|row| row.host == host).count();
            hosts.push(ForgottenHost { host: host.to_owned(), rows, heard_at_ms });
        }
        if !args.dry_run {
            for ForgottenHost { host, heard_at_ms, .. } in &hosts {
                let forgotten = store.forget(host, *heard_at_ms).await;
                forgotten.with_context(|| format!("cannot forget {}", human::printable(host)))?;
            }
        }
        if args.json {
            output::json(&Document { dry_run: args.dry_run, hosts })?;
        } else {
            output::raw(&text(&hosts, args.dry_run))?;
        }
        Ok(Outcome::Done)
    })
}

/// What is printed for a person: a line per host.
fn text(hosts: &[ForgottenHost], is_dry_run: bool) -> String {
    let line = |host: &ForgottenHost| {
        let (name, rows) = (human::printable(&host.host), human::counted(host.rows, "row"));
        if is_dry_run {
            format!("{name}: would be forgotten with {rows}\n")
        } else {
            format!("{name}: forgotten with {rows}; if it reports again it is back\n")
        }
    };
    if hosts.is_empty() {
        return "no host has been absent for so long\n".to_owned();
    }
    hosts.iter().map(line).collect()
}

/// The hosts no row of which was heard for longer than `least`.
fn absent_for(now_ms: u64, rows: &[HostStatus], least: Duration) -> BTreeSet<&str> {
    let is_absent = |row: &HostStatus| {
        let since_ms = Presence::of(now_ms, row).absent_since_ms();
        since_ms
            .is_some_and(|since_ms| Duration::from_millis(now_ms.saturating_sub(since_ms)) > least)
    };
    let (absent, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| is_absent(row));
    let others: BTreeSet<&str> = others.into_iter().map(|row| row.host.as_str()).collect();
    let absent = absent.into_iter().map(|row| row.host.as_str());
    absent.filter(|host| !others.contains(host)).collect()
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
    fn hosts_that_are_absent_for_long_are_found_together() {
        let hour_ms = 3_600_000;
        let rows = [
            row("gone", "api", NOW_MS - hour_ms - 1),
            row("gone", "web", NOW_MS - 2 * hour_ms),
            row("one app is new", "api", NOW_MS - 2 * hour_ms),
            row("one app is new", "web", NOW_MS),
            row("not for so long", "web", NOW_MS - hour_ms),
            HostStatus { phase: HostPhase::Stopped, ..row("stopped", "web", NOW_MS - 2 * hour_ms) },
            HostStatus { phase: HostPhase::Stopped, ..row("just stopped", "web", NOW_MS) },
        ];
        let found = |least| absent_for(NOW_MS, &rows, least).into_iter().collect::<Vec<_>>();
        assert_eq!(found(Duration::from_hours(1)), ["gone", "stopped"]);
        assert_eq!(found(Duration::ZERO), ["gone", "not for so long", "stopped"]);
    }

    #[test]
    fn what_was_done_is_a_line_per_host() {
        let host = |name: &str, rows| ForgottenHost { host: name.into(), rows, heard_at_ms: 1 };
        let hosts = [host("a", 1), host("b", 2)];
        assert_eq!(
            text(&hosts, false),
            "a: forgotten with 1 row; if it reports again it is back\n\
             b: forgotten with 2 rows; if it reports again it is back\n"
        );
        assert!(text(&hosts, true).starts_with("a: would be forgotten with 1 row\n"));
        assert_eq!(text(&[], false), "no host has been absent for so long\n");
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
