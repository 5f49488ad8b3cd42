//! Tests of the relay's table: rules for rows, ownership of names, and how documents are cut.

use std::collections::BTreeSet;

use goal_state::{HostPhase, NAME_KEPT_MS};

use super::*;

mod inventory;

const NOW_MS: u64 = 1_700_000_000_000;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn numbered_node(number: usize) -> NodeId {
    NodeId::from_bytes(*Digest::of(number.to_string().as_bytes()).as_bytes())
}

fn row(host: &str, app: &str) -> HostStatus {
    HostStatus {
        generation: Some(1),
        phase: HostPhase::Downloading,
        bytes_total: Some(100),
        bytes_done: 1,
        updated_at_ms: NOW_MS,
        ..HostStatus::new(host, app.parse().unwrap())
    }
}

/// The row as the table hands it on, taken from `node` at `now_ms`.
fn kept(row: &HostStatus, node: NodeId, now_ms: u64) -> HostStatus {
    HostStatus { node: Some(node.to_string()), received_at_ms: now_ms, ..row.clone() }
}

fn report(rows: &[HostStatus]) -> Vec<u8> {
    serde_json::to_vec(rows).unwrap()
}

fn taken(rows: usize) -> Taken {
    Taken { rows, ..Taken::default() }
}

/// A table of `count` hosts, each reported by a node of its own.
fn table_of(count: usize) -> StatusTable {
    let mut table = StatusTable::new(count);
    for number in 0..count {
        let rows = [row(&format!("host-{number}"), "web")];
        assert_eq!(table.on_report(NOW_MS, numbered_node(number), &report(&rows)), taken(1));
    }
    table
}

#[test]
fn reported_rows_come_out_as_one_document() {
    let mut table = StatusTable::new(10);
    assert_eq!(table.row_count, 0);
    let rows = [row("a", "db"), row("a", "web")];
    assert_eq!(table.on_report(NOW_MS, node(1), &report(&rows)), taken(2));

    assert_eq!(table.take_due(NOW_MS, 10), [0]);
    assert_eq!(table.document(0), rows.map(|row| kept(&row, node(1), NOW_MS)));
    assert_eq!(table.take_due(NOW_MS, 10), [0; 0], "a document is written once per change");
}

#[test]
fn failed_write_is_due_again() {
    let mut table = table_of(1);
    assert_eq!(table.take_due(NOW_MS, 10), [0]);
    table.on_write_failed(NOW_MS + 5, 0);
    assert_eq!(table.take_due(NOW_MS + 4, 10), [0; 0]);
    assert_eq!(table.take_due(NOW_MS + 5, 10), [0]);
}

#[test]
fn change_is_due_at_once_and_heartbeat_later() {
    let mut table = StatusTable::new(10);
    let mut status = row("a", "web");
    table.on_report(NOW_MS, node(1), &report(&[status.clone()]));
    table.take_due(NOW_MS, 10);

    status.updated_at_ms += 1;
    let later_ms = NOW_MS + 1;
    table.on_report(later_ms, node(1), &report(&[status.clone()]));
    assert_eq!(table.take_due(later_ms + HEARTBEAT_MS - 1, 10), [0; 0]);

    status.bytes_done += 1;
    table.on_report(later_ms + 1, node(1), &report(&[status.clone()]));
    assert_eq!(table.take_due(later_ms + 1, 10), [0]);

    table.on_report(later_ms + 2, node(1), &report(&[HostStatus { updated_at_ms: 5, ..status }]));
    assert_eq!(table.take_due(later_ms + 2 + HEARTBEAT_MS, 10), [0]);
}

#[test]
fn bad_rows_are_left_out_and_named() {
    let long = "x".repeat(HOST_BYTES_MAX + 1);
    let wide = HostStatus { group: Some("g".repeat(ROW_BYTES_MAX)), ..row("h", "a") };
    let cases = [
        (row("", "web"), ReportFault::BadHost { bytes: 0 }),
        (row("a\nb", "web"), ReportFault::BadHost { bytes: 3 }),
        (row("a\u{202e}b", "web"), ReportFault::BadHost { bytes: 5 }),
        (row(&long, "web"), ReportFault::BadHost { bytes: long.len() }),
        (
            wide.clone(),
            ReportFault::RowTooLarge {
                host: "h".into(),
                bytes: serde_json::to_vec(&kept(&wide, node(1), NOW_MS)).unwrap().len(),
            },
        ),
    ];
    for (bad, fault) in cases {
        let mut table = StatusTable::new(10);
        let outcome = table.on_report(NOW_MS, node(1), &report(&[bad, row("good", "web")]));
        assert_eq!(outcome, Taken { refused: Some(fault.clone()), ..taken(1) });
        assert_eq!(table.row_count, 1);
        let told = format!("the seeder leaves out rows that this host reports: {fault}");
        assert_eq!(table.notes(NOW_MS, node(1)), [told]);
        assert_eq!(table.notes(NOW_MS + NAME_KEPT_MS, node(1)), [""; 0], "for as long as it lasts");
    }
}

#[test]
fn report_that_is_not_json_changes_nothing() {
    let mut table = StatusTable::new(10);
    let outcome = table.on_report(NOW_MS, node(1), b"{");
    assert!(matches!(outcome.refused, Some(ReportFault::Malformed { .. })));
    assert!(table.row_count == 0 && table.take_due(u64::MAX, 10).is_empty());
}

#[test]
fn message_is_cut() {
    let mut table = StatusTable::new(10);
    let status = HostStatus {
        message: Some(format!("line\n{}", "y".repeat(MESSAGE_CHARS_MAX))),
        failure: Some("a\u{202e}b\u{200b}".into()),
        group: Some("z\u{2066}1".into()),
        last_output: Some("z\u{1b}\n".repeat(goal_state::LAST_OUTPUT_BYTES_MAX)),
        ..row("a", "web")
    };
    assert_eq!(table.on_report(NOW_MS, node(1), &report(&[status])), taken(1));
    let kept = table.document(0).remove(0);
    let output = kept.last_output.unwrap();
    assert!(output.len() <= goal_state::LAST_OUTPUT_BYTES_MAX, "{output}");
    assert!(!output.contains('\u{1b}'), "{output}");
    let message = kept.message.unwrap();
    assert_eq!(message.chars().count(), MESSAGE_CHARS_MAX);
    assert!(message.starts_with("line y"), "{message}");
    let printable = (kept.failure.as_deref(), kept.group.as_deref());
    assert_eq!(printable, (Some("a b "), Some("z 1")));
}

/// Goal: a host in trouble is in the inventory, whatever its programs print.
#[test]
fn texts_of_a_large_row_are_cut_and_the_row_stays() {
    let mut table = StatusTable::new(10);
    let wide = |count| Some("\u{1f600}".repeat(count));
    let status = HostStatus {
        message: wide(MESSAGE_CHARS_MAX),
        failure: wide(200),
        last_output: wide(99),
        ..row(&"\"".repeat(HOST_BYTES_MAX), "web")
    };
    assert_eq!(table.on_report(NOW_MS, node(1), &report(&[status])), taken(1));
    let kept = table.document(0).remove(0);
    assert!(serde_json::to_vec(&kept).unwrap().len() <= ROW_BYTES_MAX);
    assert_eq!((kept.last_output, kept.failure), (None, wide(200)));
    assert!(kept.message.unwrap().starts_with(&"\u{1f600}".repeat(100)));
}

#[test]
fn node_has_a_limit_of_rows() {
    let mut table = StatusTable::new(1_000);
    let apps: Vec<_> = (0..=ROWS_PER_NODE_MAX).map(|app| row("a", &format!("app-{app}"))).collect();
    let outcome = table.on_report(NOW_MS, node(1), &report(&apps));
    assert_eq!(
        outcome,
        Taken { refused: Some(ReportFault::TooManyRows), ..taken(ROWS_PER_NODE_MAX) }
    );
}

#[test]
fn full_table_keeps_its_hosts_for_ever_and_says_so_to_others() {
    let mut table = table_of(3);
    let newcomer = report(&[row("new", "web")]);
    let outcome = table.on_report(NOW_MS, node(9), &newcomer);
    assert_eq!(outcome.refused, Some(ReportFault::TableFull { rows: 3 }));
    // A host that is in the table still gets through.
    let known = report(&[row("host-0", "web")]);
    assert_eq!(table.on_report(NOW_MS, numbered_node(0), &known), taken(1));

    let in_a_year_ms = NOW_MS + 365 * 24 * 60 * 60 * 1_000;
    let outcome = table.on_report(in_a_year_ms, node(9), &newcomer);
    assert_eq!(outcome.refused, Some(ReportFault::TableFull { rows: 3 }));
    let notes = table.notes(in_a_year_ms, node(9));
    assert!(notes[0].contains("the table is full with 3 rows; forget hosts that are gone"));
    let forgotten = Forgotten {
        host: "host-1".into(),
        heard_until_ms: NOW_MS,
        ahead_ms: vec![],
        set_at_ms: in_a_year_ms,
    };
    table.forget(in_a_year_ms, &forgotten);
    assert_eq!(table.on_report(in_a_year_ms, node(9), &newcomer), taken(1));
}

/// Goal: documents stay below the store's limits at any number of hosts, and few hosts need few.
/// Method: tables of growing size; each row must be in exactly one document.
#[test]
fn documents_hold_every_row_once_and_stay_small() {
    for (hosts, documents_max) in [(1, 1), (200, 1), (201, 2), (5_000, 32)] {
        let mut table = table_of(hosts);
        let due = table.take_due(NOW_MS, usize::MAX);
        assert!(due.len() <= documents_max, "{hosts} hosts in {} documents", due.len());
        let mut seen = BTreeSet::new();
        for shard in due {
            let rows = table.document(shard);
            assert!(rows.len() <= ROWS_PER_SHARD_MAX, "{} rows", rows.len());
            for row in rows {
                assert!(seen.insert(row.host.clone()), "{} is in two documents", row.host);
            }
        }
        assert_eq!(seen.len(), hosts);
    }
}

#[test]
fn documents_due_longest_come_first_and_the_rest_stay_due() {
    let mut table = table_of(5_000);
    let all = table.take_due(NOW_MS, usize::MAX);
    table.on_write_failed(NOW_MS + 2, all[0]);
    table.on_write_failed(NOW_MS + 1, all[1]);
    assert_eq!(table.take_due(NOW_MS + 2, 1), [all[1]]);
    assert_eq!(table.take_due(NOW_MS + 2, 1), [all[0]]);
}

/// Goal: a host in every trouble at once is not turned away for the size of its row, and one that
/// names more kinds than there can be is cut.
#[test]
fn row_of_a_host_full_of_troubles_is_taken() {
    let build = Some(p2p_core::BuildId::of_manifest(b"x"));
    let text = "x".repeat(500);
    let troubles = vec![goal_state::TroubleKind::DownloadStuck; TROUBLES_MAX + 12];
    let full = HostStatus {
        target: build,
        current: build,
        quarantined: build,
        message: Some(text),
        failure: Some("f".repeat(256)),
        last_output: Some("o".repeat(goal_state::LAST_OUTPUT_BYTES_MAX)),
        download_rate: Some(10 << 30),
        download_limit: Some(10 << 30),
        bytes_total: Some(1 << 40),
        bytes_done: 1 << 40,
        bytes_from_peers: 1 << 40,
        group: Some("g".repeat(64)),
        troubles,
        ..row(&"h".repeat(64), &"a".repeat(64))
    };
    let mut table = StatusTable::new(10);
    assert_eq!(table.on_report(NOW_MS, node(1), &report(&[full])), taken(1));
    assert_eq!(table.document(0)[0].troubles.len(), TROUBLES_MAX);
}
