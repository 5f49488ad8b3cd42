//! Tests of who is in the inventory: names that two nodes claim, nodes with two names, hosts that
//! are gone, and what each is told.

use super::*;

const MINUTE_MS: u64 = 60_000;

fn stopped(host: &str) -> HostStatus {
    HostStatus { phase: HostPhase::Stopped, ..row(host, "web") }
}

/// Lets a node report `rows` at `now_ms`, with a clock that is as far off as theirs are from
/// [`NOW_MS`]; what the seeder's log says of it.
fn hear(table: &mut StatusTable, now_ms: u64, number: u8, rows: &[HostStatus]) -> Vec<String> {
    let stamped = |row: &HostStatus| {
        let updated_at_ms = row.updated_at_ms + now_ms - NOW_MS;
        HostStatus { updated_at_ms, ..row.clone() }
    };
    let stamped: Vec<_> = rows.iter().map(stamped).collect();
    let taken = table.on_report(now_ms, node(number), &report(&stamped));
    assert_eq!((taken.rows, taken.refused), (rows.len(), None));
    taken.warnings
}

/// The hosts of the table with the number of their node, in order.
fn holders(table: &StatusTable) -> Vec<(String, u8)> {
    let rows = (0..table.shards.len()).flat_map(|shard| table.document(shard));
    let mut holders: Vec<_> = rows
        .map(|row| (row.host, u8::from_str_radix(&row.node.unwrap()[..2], 16).unwrap()))
        .collect();
    holders.sort();
    holders
}

fn held(pairs: &[(&str, u8)]) -> Vec<(String, u8)> {
    pairs.iter().map(|&(host, node)| (host.to_owned(), node)).collect()
}

/// Goal: two machines under one name are two rows, both are told, and the log has it once.
#[test]
fn nodes_under_one_name_are_both_kept_and_told() {
    let mut table = StatusTable::new(10);
    let rows = [row("a", "web")];
    assert_eq!(hear(&mut table, NOW_MS, 1, &rows), [""; 0]);
    assert_eq!(hear(&mut table, NOW_MS + 1, 2, &rows), [""; 0], "perhaps a new machine");
    let warnings = hear(&mut table, NOW_MS + 2, 1, &rows);
    assert_eq!(warnings.len(), 1);
    let (first, second) = (node(1).to_string(), node(2).to_string());
    assert!(warnings[0].starts_with("two nodes report as host a: "), "{warnings:?}");
    assert!(warnings[0].contains(&first) && warnings[0].contains(&second), "{warnings:?}");
    for step in 0..20 {
        let number = 1 + u8::try_from(step % 2).unwrap();
        assert_eq!(hear(&mut table, NOW_MS + 3 + step, number, &rows), [""; 0], "once");
    }
    assert_eq!(holders(&table), held(&[("a", 1), ("a", 2)]));
    for (own, other) in [(1, &second), (2, &first)] {
        let notes = table.notes(NOW_MS + 30, node(own));
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(
            notes[0].starts_with(&format!("two nodes report as host a: this one, {}", node(own)))
        );
        assert!(notes[0].contains(other.as_str()), "{notes:?}");
    }

    // One goes: nobody is told any more, and it is absent, not unknown.
    let later_ms = NOW_MS + 5 * MINUTE_MS;
    hear(&mut table, later_ms, 1, &rows);
    assert_eq!(table.notes(later_ms, node(1)), [""; 0]);
    assert_eq!(holders(&table), held(&[("a", 1), ("a", 2)]));
}

/// Goal: a host that was set up anew takes the place of what it was.
#[test]
fn new_key_takes_the_name_over_from_one_that_is_gone() {
    let rows = [row("a", "web")];
    let mut table = StatusTable::new(1);
    hear(&mut table, NOW_MS, 1, &rows);
    let refused = table.on_report(NOW_MS + NAME_KEPT_MS - 1, node(2), &report(&rows));
    assert_eq!(refused.refused, Some(ReportFault::TableFull { rows: 1 }), "both would be kept");
    hear(&mut table, NOW_MS + NAME_KEPT_MS, 2, &rows);
    assert_eq!(holders(&table), held(&[("a", 2)]));

    // Sooner than that, it is there beside the old one for a minute, and nobody is alarmed.
    let mut table = StatusTable::new(2);
    hear(&mut table, NOW_MS, 1, &rows);
    for second in 1..=59 {
        assert_eq!(hear(&mut table, NOW_MS + second * 1_000, 2, &rows), [""; 0]);
    }
    assert_eq!(holders(&table), held(&[("a", 1), ("a", 2)]));
    hear(&mut table, NOW_MS + NAME_KEPT_MS, 2, &rows);
    assert_eq!(holders(&table), held(&[("a", 2)]));

    // At once if the old one said that it stops; with all of its apps.
    let mut table = StatusTable::new(2);
    let both = [stopped("a"), HostStatus { phase: HostPhase::Stopped, ..row("a", "db") }];
    hear(&mut table, NOW_MS, 1, &both);
    hear(&mut table, NOW_MS + 1, 2, &rows);
    assert_eq!(holders(&table), held(&[("a", 2)]));
}

#[test]
fn host_that_stopped_in_part_has_not_stopped() {
    let mut table = StatusTable::new(10);
    for rows in [[stopped("a"), row("a", "db")], [row("a", "db"), stopped("a")]] {
        hear(&mut table, NOW_MS, 1, &rows);
        hear(&mut table, NOW_MS + 1, 2, &[row("a", "web")]);
        assert_eq!(holders(&table), held(&[("a", 1), ("a", 1), ("a", 2)]));
    }
}

/// Goal: a machine that was renamed is one host; two with one key are two, and told.
#[test]
fn names_of_one_node_are_told_from_a_renamed_host() {
    let mut table = StatusTable::new(10);
    hear(&mut table, NOW_MS, 1, &[stopped("a")]);
    assert_eq!(hear(&mut table, NOW_MS + 1, 1, &[row("b", "web")]), [""; 0]);
    assert_eq!(holders(&table), held(&[("b", 1)]));

    assert_eq!(hear(&mut table, NOW_MS + 2, 1, &[row("c", "web")]), [""; 0], "killed, renamed");
    let warnings = hear(&mut table, NOW_MS + 3, 1, &[row("b", "web")]);
    assert!(warnings[0].contains("reports as host b and as host c: two machines have one key"));
    assert!(warnings[0].contains("remove node.key"), "{warnings:?}");
    assert_eq!(holders(&table), held(&[("b", 1), ("c", 1)]));
    let notes = table.notes(NOW_MS + 4, node(1));
    assert!(notes[0].starts_with("this node reports as host b and as host c"), "{notes:?}");
    assert_eq!(notes.len(), 1, "the same words for both: {notes:?}");
    assert_eq!(hear(&mut table, NOW_MS + 4, 1, &[row("c", "web")]), [""; 0], "logged once");
}

#[test]
fn clock_that_is_off_is_told_and_makes_nobody_absent() {
    let cases: [(i64, &str); 2] = [(-61, "61 min behind the seeder's"), (61, "61 min ahead of")];
    for (minutes, expected) in cases {
        let mut table = StatusTable::new(10);
        let updated_at_ms = NOW_MS.saturating_add_signed(minutes * 60_000);
        hear(&mut table, NOW_MS, 1, &[HostStatus { updated_at_ms, ..row("a", "web") }]);
        let kept = table.document(0).remove(0);
        assert_eq!((kept.updated_at_ms, kept.heard_at_ms()), (updated_at_ms, NOW_MS));
        let notes = table.notes(NOW_MS, node(1));
        assert!(notes[0].contains(expected), "{notes:?}");
        let late = HostStatus { updated_at_ms: NOW_MS - MINUTE_MS, ..row("a", "web") };
        hear(&mut table, NOW_MS + MINUTE_MS, 1, &[late]);
        assert_eq!(table.notes(NOW_MS + MINUTE_MS, node(1)), [""; 0], "a report may be late");
    }
}

/// Goal: an app that is taken out of a host's configuration leaves the inventory, and no other.
#[test]
fn app_that_a_live_host_no_longer_has_is_dropped() {
    let mut table = StatusTable::new(10);
    hear(&mut table, NOW_MS, 1, &[row("a", "db"), row("a", "web")]);
    hear(&mut table, NOW_MS, 2, &[row("b", "web")]);
    let apps = |table: &StatusTable| {
        table.document(0).iter().map(|row| format!("{}/{}", row.host, row.app)).collect::<Vec<_>>()
    };
    let mut now_ms = NOW_MS;
    while now_ms <= NOW_MS + APP_GONE_MS {
        assert_eq!(apps(&table), ["a/db", "a/web", "b/web"]);
        now_ms += MINUTE_MS / 2;
        hear(&mut table, now_ms, 1, &[row("a", "web")]);
    }
    assert_eq!(apps(&table), ["a/web", "b/web"]);
    // After a pause it may be that an app is only slow to open.
    hear(&mut table, now_ms, 1, &[row("a", "db"), row("a", "web")]);
    hear(&mut table, now_ms + 2 * APP_GONE_MS, 1, &[row("a", "web")]);
    assert_eq!(apps(&table), ["a/db", "a/web", "b/web"]);
}

/// Goal: a seeder that starts anew goes on where it was.
#[test]
fn restored_rows_are_as_they_were() {
    let mut before = StatusTable::new(1_000);
    for number in 0..300 {
        let rows = [row(&format!("host-{number}"), "web")];
        before.on_report(NOW_MS, numbered_node(number), &report(&rows));
    }
    hear(&mut before, NOW_MS + 1, 1, &[row("host-0", "web")]);
    let documents: Vec<_> = (0..before.shards.len()).map(|shard| before.document(shard)).collect();
    let mut after = StatusTable::new(1_000);
    let later_ms = NOW_MS + 60 * MINUTE_MS;
    // Twice: from disk and from the goal store, where some rows are older.
    for documents in [&documents, &documents] {
        for document in documents {
            after.restore(later_ms, document.clone());
        }
    }
    let all: Vec<_> = (0..after.shards.len()).map(|shard| after.document(shard)).collect();
    assert_eq!(all, documents, "the times, too");
    assert_eq!(after.take_due(later_ms, 10), [0, 1], "the goal store may have lost them");

    // The two that had one name were twins, for all that is known: none is taken for the other.
    hear(&mut after, later_ms, 1, &[row("host-0", "web")]);
    assert_eq!(after.row_count, 301);
    // Any other host that comes with a new key was set up anew.
    hear(&mut after, later_ms, 2, &[row("host-1", "web")]);
    assert_eq!(after.row_count, 301);
}

/// Goal: rows that a seeder of before wrote belong to whoever reports next.
#[test]
fn rows_without_a_node_are_taken_over() {
    let mut table = StatusTable::new(1_000);
    let old: Vec<_> = (0..2 * ROWS_PER_NODE_MAX).map(|n| row(&format!("h{n}"), "web")).collect();
    table.restore(NOW_MS + 5, old.clone());
    assert_eq!(table.row_count, old.len());
    let first = table.document(0).remove(0);
    assert_eq!((first.node.as_deref(), first.received_at_ms), (None, NOW_MS));
    hear(&mut table, NOW_MS + 6, 1, &[row("h0", "web")]);
    assert_eq!(table.row_count, old.len());
    let nodes = table.document(0).into_iter().filter(|row| row.node.is_some());
    assert_eq!(nodes.count(), 1);
}

#[test]
fn forgotten_host_comes_back_when_it_reports() {
    let mut table = StatusTable::new(10);
    hear(&mut table, NOW_MS, 1, &[row("a", "web"), row("a", "db")]);
    hear(&mut table, NOW_MS, 2, &[row("b", "web")]);
    let forgotten = |heard_until_ms| Forgotten {
        host: "a".into(),
        heard_until_ms,
        ahead_ms: vec![],
        set_at_ms: NOW_MS,
    };
    table.forget(NOW_MS, &forgotten(NOW_MS - 1));
    assert_eq!(table.row_count, 3, "it reported since");
    table.take_due(NOW_MS, 10);
    table.forget(NOW_MS, &forgotten(NOW_MS));
    assert_eq!(holders(&table), held(&[("b", 2)]));
    assert_eq!(table.take_due(NOW_MS, 10), [0]);
    table.forget(NOW_MS, &forgotten(NOW_MS));
    assert_eq!(table.take_due(NOW_MS, 10), [0; 0], "told every ten seconds, written once");
    hear(&mut table, NOW_MS + 1, 1, &[row("a", "web")]);
    table.forget(NOW_MS + 2, &forgotten(NOW_MS));
    assert_eq!(holders(&table), held(&[("a", 1), ("b", 2)]));
}

/// Goal: a seeder whose clock was an hour ahead neither hides a host that was forgotten and reports
/// again, nor brings back one that does not.
#[test]
fn clock_that_was_ahead_neither_hides_nor_brings_back() {
    const AHEAD_MS: u64 = NOW_MS + 60 * MINUTE_MS;
    let forgotten = Forgotten {
        host: "a".into(),
        heard_until_ms: NOW_MS + MINUTE_MS,
        ahead_ms: vec![AHEAD_MS],
        set_at_ms: NOW_MS + MINUTE_MS,
    };
    let later_ms = NOW_MS + 2 * MINUTE_MS;
    let mut same = StatusTable::new(10);
    hear(&mut same, AHEAD_MS, 1, &[row("a", "web")]);
    let mut restarted = StatusTable::new(10);
    restarted.restore(later_ms, vec![kept(&row("a", "web"), node(1), AHEAD_MS)]);
    assert!(restarted.document(0)[0].received_at_ms <= later_ms, "it was not heard in the future");
    for table in [&mut same, &mut restarted] {
        table.forget(later_ms, &forgotten);
        assert_eq!(holders(table), held(&[]));
        hear(table, later_ms, 1, &[row("a", "web")]);
        table.forget(later_ms, &forgotten);
        assert_eq!(holders(table), held(&[("a", 1)]));
    }
}

#[test]
fn name_has_a_limit_of_nodes_and_the_next_is_told() {
    let mut table = StatusTable::new(100);
    let rows = [row("localhost", "web")];
    let mut number = 0;
    let refused = loop {
        number += 1;
        let taken = table.on_report(NOW_MS, node(number), &report(&rows));
        assert!(number < 50, "no limit");
        if let Some(fault) = taken.refused {
            break fault;
        }
    };
    let nodes = usize::from(number) - 1;
    assert_eq!(refused, ReportFault::NameTaken { host: "localhost".into(), nodes });
    let notes = table.notes(NOW_MS, node(number));
    assert!(notes[0].contains("other nodes report as host localhost; give each"), "{notes:?}");
    assert_eq!(table.on_report(NOW_MS, node(1), &report(&rows)).refused, None);
}
