//! Checks of the machine itself: clock, disk, descriptors, users.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use goal_state::now_ms;
use rustix::fs::{OFlags, StatVfsMountFlags};
use rustix::process::Resource;

use super::Finding;
use goal_state::bytes_text;

/// 2025-01-01: this code is younger, so an earlier time is wrong.
const CLOCK_MIN_MS: u64 = 1_735_689_600_000;

/// 2100-01-01: a later time is wrong, too.
const CLOCK_MAX_MS: u64 = 4_102_444_800_000;

/// With less space than this, no build of a usual size fits.
const FREE_BYTES_LOW: u64 = 2 << 30;

/// With less space than this, not even journals are safe.
const FREE_BYTES_NONE: u64 = 64 << 20;

/// Every file of a build is one.
const FREE_INODES_LOW: u64 = 10_000;

/// Connections, files of builds under way, and programs need about that many at worst.
const DESCRIPTORS_LOW: u64 = 4_096;

/// The kernel's word that no NTP client keeps the clock (`STA_UNSYNC` of adjtimex, as timedatectl
/// shows it) is in this file where systemd's own client runs.
const TIMESYNC_MARK: &str = "/run/systemd/timesync/synchronized";

/// The year, the goals that this host follows, and who sets the clock.
pub(super) fn clock(state: &Path) -> Vec<Finding> {
    let mut findings = vec![clock_at(now_ms(), newest_goal_ms(state))];
    if Path::new("/run/systemd/timesync").is_dir() && !Path::new(TIMESYNC_MARK).exists() {
        findings.push(Finding::warning(
            "clock",
            "it was not set from the network since the machine started",
            "look at timedatectl timesync-status",
        ));
    }
    findings
}

fn clock_at(now_ms: u64, goal_ms: Option<u64>) -> Finding {
    let shown = humantime::format_rfc3339_seconds(
        std::time::UNIX_EPOCH + std::time::Duration::from_millis(now_ms),
    );
    let next = "set it, and let an NTP client keep it (timedatectl set-ntp true)";
    if !(CLOCK_MIN_MS..CLOCK_MAX_MS).contains(&now_ms) {
        return Finding::problem("clock", format!("it says {shown}, which cannot be"), next);
    }
    match goal_ms {
        Some(goal_ms) if goal_ms > now_ms => {
            let text = format!("it says {shown}, but this host learnt of a goal later than that");
            Finding::warning("clock", text, next)
        }
        _ => Finding::ok("clock", format!("it says {shown}")),
    }
}

/// When this host learnt of its newest goal, by its clock at that time.
fn newest_goal_ms(state: &Path) -> Option<u64> {
    let goals: serde_json::Value =
        serde_json::from_slice(&fs::read(state.join("goal.json")).ok()?).ok()?;
    goals.as_object()?.values().filter_map(|goal| goal.get("accepted_at_ms")?.as_u64()).max()
}

/// Space, inodes, and what the file system of the state directory can do.
pub(super) fn disk(state: &Path) -> Vec<Finding> {
    let shown = state.display();
    // Before the first start there is none: its file system is that of the first parent there is.
    let Some(place) = state.ancestors().find(|path| path.is_dir()) else {
        let text = format!("{shown} and all above it are not there");
        return vec![Finding::problem("disk", text, "correct state in the configuration")];
    };
    let mut findings = vec![];
    match rustix::fs::statvfs(place) {
        Ok(found) => {
            findings.push(space(found.f_bavail.saturating_mul(found.f_frsize), place));
            // File systems such as btrfs have as many inodes as they need, and say zero.
            if found.f_files > 0 && found.f_favail < FREE_INODES_LOW {
                let text = format!("{} inodes are free under {}", found.f_favail, place.display());
                findings.push(Finding::warning("disk", text, "remove files"));
            }
            if found.f_flag.contains(StatVfsMountFlags::NOEXEC) {
                let text = format!(
                    "{} is mounted noexec: no program of a build can start",
                    place.display()
                );
                findings.push(Finding::problem(
                    "disk",
                    text,
                    "mount it with exec, or set state to a directory elsewhere",
                ));
            }
        }
        Err(error) => findings.push(Finding::problem(
            "disk",
            format!("{}: {error}", place.display()),
            "mend the file system",
        )),
    }
    findings.extend(abilities(place));
    findings
}

fn space(free: u64, place: &Path) -> Finding {
    let text = format!("{} are free under {}", bytes_text(free), place.display());
    let next = "free space; a build and the one before it have to fit (keep_builds, keep_bytes)";
    match free {
        0..FREE_BYTES_NONE => Finding::problem("disk", text, next),
        FREE_BYTES_NONE..FREE_BYTES_LOW => Finding::warning("disk", text, next),
        _ => Finding::ok("disk", text),
    }
}

/// Removed with everything in it when the check ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Tries what the agent does with files.
fn abilities(place: &Path) -> Vec<Finding> {
    let scratch = Scratch(place.join(format!(".shoal-doctor-{}", std::process::id())));
    if let Err(error) = fs::create_dir(&scratch.0) {
        let text = format!("cannot write into {}: {error}", place.display());
        let next = "run doctor as the user that the agent runs as; if it is that one, give it the directory or mount it rw";
        return vec![Finding::problem("disk", text, next)];
    }
    let (one, two, link) = (scratch.0.join("one"), scratch.0.join("two"), scratch.0.join("link"));
    let mut findings = vec![];
    let basics = File::create(&one)
        .and_then(|mut file| file.write_all(b"shoal").and_then(|()| file.sync_all()))
        .and_then(|()| symlink("one", &link))
        .and_then(|()| fs::rename(&link, scratch.0.join("current")))
        .and_then(|()| File::open(&scratch.0)?.sync_all());
    findings.push(match basics {
        Ok(()) => Finding::ok("disk", "files, links, renames and syncs work"),
        Err(error) => Finding::problem(
            "disk",
            format!("a file, link, rename or sync failed: {error}"),
            "set state to a directory on a local file system",
        ),
    });
    findings.push(match direct(&one) {
        Ok(()) => Finding::ok("disk", "direct reads work"),
        Err(_) => {
            Finding::ok("disk", "no direct reads here: builds are read through the page cache")
        }
    });
    let reflinked = File::open(&one)
        .and_then(|source| Ok((source, File::create(&two)?)))
        .and_then(|(source, copy)| Ok(rustix::fs::ioctl_ficlone(&copy, &source)?));
    findings.push(match reflinked {
        Ok(()) => Finding::ok("disk", "builds share the blocks that they have in common"),
        Err(_) => Finding::ok("disk", "no shared blocks here: each build takes its whole size"),
    });
    findings
}

fn direct(path: &Path) -> io::Result<()> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
    File::options().read(true).custom_flags(flags).open(path).map(|_| ())
}

/// How many files this process, and an agent started as it is, may have open.
pub(super) fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    match limit.current {
        Some(current) if current < DESCRIPTORS_LOW => Finding::warning(
            "files",
            format!("only {current} files may be open at once"),
            format!("raise it: LimitNOFILE= in the unit, or ulimit -n {DESCRIPTORS_LOW}"),
        ),
        Some(current) => Finding::ok("files", format!("{current} files may be open at once")),
        None => Finding::ok("files", "any number of files may be open at once"),
    }
}

/// Whether a user that the app names exists, and the agent may start programs as that user.
pub(super) fn user(app: &str, user: &str) -> Finding {
    let next = "create it (useradd --system), or correct user in the configuration";
    match nix::unistd::User::from_name(user) {
        Ok(Some(found))
            if found.uid == nix::unistd::geteuid() || nix::unistd::geteuid().is_root() =>
        {
            Finding::ok("user", format!("app {app}: {user} exists"))
        }
        Ok(Some(_)) => Finding::warning(
            "user",
            format!("app {app}: {user} exists, but only root can start programs as another user"),
            "run the agent as root, or as that user",
        ),
        Ok(None) => Finding::problem("user", format!("app {app}: there is no user {user}"), next),
        Err(error) => Finding::warning("user", format!("app {app}: {user}: {error}"), next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn impossible_clock_is_found() {
        let now = 1_800_000_000_000;
        let cases = [
            (now, None, Verdict::Ok),
            (now, Some(now), Verdict::Ok),
            (now, Some(now + 1), Verdict::Warning),
            (CLOCK_MIN_MS - 1, None, Verdict::Problem),
            (CLOCK_MAX_MS, None, Verdict::Problem),
        ];
        for (now, goal, expected) in cases {
            let finding = clock_at(now, goal);
            assert_eq!(finding.verdict, expected, "{finding}");
            assert_eq!(finding.next_step.is_empty(), expected == Verdict::Ok);
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest_goal_ms(folder.path()), None);
        let goals = r#"{"a":{"accepted_at_ms":3},"b":{"accepted_at_ms":9},"c":{}}"#;
        fs::write(folder.path().join("goal.json"), goals).unwrap();
        assert_eq!(newest_goal_ms(folder.path()), Some(9));
    }

    #[test]
    fn space_is_judged() {
        let verdict = |free| space(free, Path::new("/x")).verdict;
        assert_eq!(verdict(FREE_BYTES_NONE - 1), Verdict::Problem);
        assert_eq!(verdict(FREE_BYTES_NONE), Verdict::Warning);
        assert_eq!(verdict(FREE_BYTES_LOW), Verdict::Ok);
    }

    #[test]
    fn disk_is_tried_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let findings = disk(&folder.path().join("not/there/yet"));
        assert!(findings.iter().all(|finding| finding.verdict != Verdict::Problem), "{findings:?}");
        assert!(findings.iter().any(|finding| finding.text.contains("renames")), "{findings:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        // Nobody can create files in /proc.
        let findings = abilities(Path::new("/proc"));
        assert_eq!(findings[0].verdict, Verdict::Problem, "{findings:?}");
    }

    #[test]
    fn user_that_is_missing_is_a_problem() {
        assert_eq!(user("web", "no-such-user").verdict, Verdict::Problem);
        let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
        assert_eq!(user("web", &own.name).verdict, Verdict::Ok);
    }
}
