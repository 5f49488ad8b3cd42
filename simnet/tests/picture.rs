//! The picture of a run, and what it is drawn from.

use std::time::Duration;

use p2p_core::ByteRate;
use shoal_simnet::{Fleet, LinkClass, Outcome, Scenario, Summary, plot};

use crate::office::office;

fn recorded(scenario: &Scenario) -> (Outcome, Summary) {
    let mut fleet = Fleet::new(scenario.clone());
    fleet.record();
    let outcome = fleet.run().unwrap();
    let summary = Summary::new(scenario, &outcome, Duration::from_secs(1));
    (outcome, summary)
}

/// Goal: the lines of the picture are what happened.
/// Method: every chunk of every host is in it once; the time that links were taken is that of the
/// bytes that went over them; recording changes nothing.
#[test]
fn record_is_exact_and_changes_nothing() {
    let rack_rate = ByteRate::new(1_250_000_000);
    let scenario = Scenario { hosts: 30, racks: 3, rack_rate, ..office(21) };
    let (outcome, _) = recorded(&scenario);
    let record = outcome.record.unwrap();
    let stored: u64 = record.stored.amounts().iter().flatten().sum();
    assert_eq!(stored, 30 * 80);
    let busy = |class: LinkClass| -> u64 {
        record.link_use.busy.amounts().iter().map(|amounts| amounts[class as usize]).sum()
    };
    assert_eq!(record.link_use.links, [1, 30, 3]);
    // Eight nanoseconds for a byte at a gigabit, a tenth of it into a rack.
    assert_eq!(busy(LinkClass::SeederUplink), outcome.seeder_bytes * 8);
    let into_racks: u64 = outcome.rack_bytes.iter().map(|(into, _)| into).sum();
    let expected = into_racks * 8 / 10;
    assert!(busy(LinkClass::RackUplink).abs_diff(expected) <= 30 * 80, "{expected}");

    let unrecorded = Fleet::new(scenario).run().unwrap();
    assert_eq!(unrecorded.trace_digest, outcome.trace_digest);
    assert_eq!(unrecorded.record, None);
}

/// Goal: a picture says what it shows, and is small however many hosts and chunks there were.
#[test]
fn picture_has_title_axes_legend_and_lines() {
    let scenario = office(22);
    let (outcome, summary) = recorded(&scenario);
    let svg = plot::draw(&scenario, &outcome, &summary).unwrap();
    let texts = [
        "60 hosts, 80 MiB in 80 chunks, 1 Gbit/s",
        "times the bound",
        "hosts that have the build",
        "chunks stored, over all hosts",
        "uplinks of hosts, in use",
        "uplink of the seeder, in use",
        "seconds",
        "100 %",
    ];
    for text in texts {
        assert!(svg.contains(text), "{text:?} is missing");
    }
    assert!(!svg.contains("uplinks of racks"), "there are none");
    assert_eq!(svg.matches("<svg").count(), 1);
    assert!(svg.trim_end().ends_with("</svg>"));
    assert!(svg.matches("<polyline").count() >= 4);
    assert!(svg.len() < 100_000, "{} bytes", svg.len());
}

/// Goal: there is no picture of a run that nobody recorded, rather than an empty one.
#[test]
fn unrecorded_run_has_no_picture() {
    let scenario = Scenario { hosts: 2, build_size: 2 << 20, ..office(23) };
    let outcome = Fleet::new(scenario.clone()).run().unwrap();
    let summary = Summary::new(&scenario, &outcome, Duration::from_secs(1));
    let error = plot::draw(&scenario, &outcome, &summary).unwrap_err();
    assert!(error.to_string().contains("record"), "{error}");
}
