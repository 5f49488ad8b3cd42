//! What the demo measured, as a table and as sentences.
//!
//! Pure. All numbers come from the hosts' rows and from one measured download, never from what the
//! demo hopes for.

use std::time::Duration;

use goal_state::HostStatus;

use crate::output::grid::{Layout, grid};
use crate::output::human;

/// What the time that one build took to reach all hosts is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    /// Bytes of the build.
    pub(super) build_bytes: u64,
    /// Bytes of the build that one host fetched alone, to learn the rate.
    pub(super) alone_bytes: u64,
    /// How long that took.
    pub(super) alone: Duration,
}

/// A row per host: what it runs and how it got it.
pub(super) fn table(rows: &[HostStatus], answers: &[String], layout: Layout) -> String {
    let header = [
        "host",
        "build",
        "answers",
        "seconds",
        "MiB from own disk",
        "MiB from seeder",
        "MiB from peers",
    ];
    let line = |(row, answer): (&HostStatus, &String)| {
        [
            human::printable(&row.host),
            row.current.map_or_else(|| "-".to_owned(), |build| build.short()),
            human::printable(answer),
            row.elapsed_ms.map_or_else(
                || "-".to_owned(),
                |elapsed| format!("{}.{}", elapsed / 1_000, elapsed % 1_000 / 100),
            ),
            human::mebibytes(row.bytes_reused),
            human::mebibytes(row.bytes_from_seeders),
            human::mebibytes(row.bytes_from_peers),
        ]
    };
    let lines: Vec<_> = rows.iter().zip(answers).map(line).collect();
    grid(&header, &lines, layout)
}

/// Copies that left the seeder, and how the time compares with the bound; a line each.
pub(super) fn sentences(rows: &[HostStatus], measure: &Measure) -> [String; 3] {
    let from_seeder: u128 = rows.iter().map(|row| u128::from(row.bytes_from_seeders)).sum();
    let slowest = rows.iter().filter_map(|row| row.elapsed_ms).max().unwrap_or(0);
    let hosts = rows.len() as u128;
    let alone_ms = measure.alone.as_millis();
    let alone_bytes = u128::from(measure.alone_bytes).max(1);
    let bound_ms = alone_ms * hosts * u128::from(measure.build_bytes) / alone_bytes;
    let copies = human::ratio(from_seeder, u128::from(measure.build_bytes));
    let bound = Duration::from_millis(u64::try_from(bound_ms).unwrap_or(u64::MAX));
    let t_last = Duration::from_millis(slowest);
    [
        format!("Copies that left the seeder: {copies} (without a swarm: {hosts}.00)"),
        format!(
            "T_last / bound:              {} ({} / {})",
            human::ratio(u128::from(slowest), bound_ms),
            human::seconds(t_last),
            human::seconds(bound)
        ),
        format!(
            "  T_last: the slowest host, from learning the goal to running it. Bound: {hosts} hosts one after another at\n  \
             the {}/s that one host alone got from the seeder on this machine. Below 1, the swarm beats that;\n  \
             all hosts share this machine's cores and disk here.",
            human::bytes(human::rate(measure.alone_bytes, measure.alone))
        ),
    ]
}

/// What a version cost when hosts already had most of it.
pub(super) fn reuse_sentence(rows: &[HostStatus], bytes: u64, bytes_new: Option<u64>) -> String {
    let new = bytes_new.unwrap_or(bytes);
    let sum = |of: fn(&HostStatus) -> u64| rows.iter().map(|row| u128::from(of(row))).sum::<u128>();
    let hosts = rows.len();
    format!(
        "New in it: {} of {}. Copies of what is new that left the seeder: {} (without a swarm: {hosts}.00)",
        human::bytes(new),
        human::bytes(bytes),
        human::ratio(sum(|row| row.bytes_from_seeders), u128::from(new)),
    )
}

/// Where the time went, in one line.
pub(super) fn timings(steps: &[(&'static str, Duration)]) -> String {
    let total = steps.iter().map(|(_, took)| *took).sum();
    let parts: Vec<String> =
        steps.iter().map(|(name, took)| format!("{name} {}", human::seconds(*took))).collect();
    format!("Time: {} in all ({})", human::seconds(total), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use goal_state::HostPhase;

    use super::*;
    use crate::rollout::tests::{build, row};

    fn measure() -> Measure {
        Measure { build_bytes: 64 << 20, alone_bytes: 32 << 20, alone: Duration::from_millis(500) }
    }

    #[test]
    fn figures_follow_from_the_rows() {
        let slow = HostStatus { elapsed_ms: Some(4_000), ..row("b", 2, 2, HostPhase::Running) };
        let rows = [row("a", 2, 2, HostPhase::Running), slow];
        let [copies, time, explanation] = sentences(&rows, &measure());
        // 2 x 16 of 64 MiB.
        assert_eq!(copies, "Copies that left the seeder: 0.50 (without a swarm: 2.00)");
        // Alone: 32 MiB in 0.5 s, so two copies of 64 MiB need 2 s.
        assert_eq!(time, "T_last / bound:              2.00 (4.0 s / 2.0 s)");
        assert!(explanation.contains("64.0 MiB/s"), "{explanation}");
    }

    #[test]
    fn copies_of_a_later_version_are_counted_in_what_is_new() {
        let rows = [row("a", 2, 2, HostPhase::Running), row("b", 2, 2, HostPhase::Running)];
        let text = reuse_sentence(&rows, 64 << 20, Some(16 << 20));
        assert!(text.contains("16.0 MiB of 64.0 MiB"), "{text}");
        assert!(text.contains("seeder: 2.00 (without a swarm: 2.00)"), "{text}");
        assert!(reuse_sentence(&rows, 0, None).contains("seeder: - ("));
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        let nothing = Measure { build_bytes: 0, alone_bytes: 0, alone: Duration::ZERO };
        let [copies, time, _] = sentences(&[], &nothing);
        assert!(copies.contains(": - ("), "{copies}");
        assert!(time.contains(" - ("), "{time}");
    }

    #[test]
    fn table_has_a_line_per_host() {
        let rows = [row("host-1", 2, 2, HostPhase::Running)];
        let text = table(&rows, &["version 2".into()], Layout::Plain);
        let expected = format!(
            "host    build         answers    seconds  MiB from own disk  MiB from seeder  MiB from peers\n\
             host-1  {}  version 2  2.3      0.0                16.0             48.0\n",
            build(2).short()
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn times_add_up() {
        let steps = [("publish", Duration::from_millis(1_500)), ("deploy", Duration::from_secs(2))];
        assert_eq!(timings(&steps), "Time: 3.5 s in all (publish 1.5 s, deploy 2.0 s)");
    }
}
