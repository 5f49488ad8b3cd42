//! `shoal bench` against a real seeder and a real folder.

use std::fs;

use crate::rig::{Rig, fail, names, parse, succeed};

#[test]
fn host_and_the_way_to_a_seeder_are_measured() {
    let rig = Rig::new();
    let (_seeder, address) = rig.seeder("store", &[]);
    fs::create_dir(rig.path("folder")).unwrap();
    let folder = rig.text("folder");
    let measured = ["bench", "--folder", &folder, "--size", "8MiB", "--peer-size", "5MiB"];
    let text = succeed(&[&measured[..], &["--peer", &address, "--json"]].concat());
    let report: serde_json::Value = parse(&text);
    for rate in ["/hash/one_thread", "/seal/records_16k", "/disk/write_and_sync", "/disk/read"] {
        assert!(report.pointer(rate).unwrap().as_u64().unwrap() > 0, "{rate}: {report}");
    }
    for way in report["peer"].as_array().unwrap() {
        assert_eq!(way.pointer("/measured/bytes").unwrap(), 5 << 20, "{way}");
    }
    assert!(report["verdict"].as_str().unwrap().contains("downloads"), "{report}");
    assert_eq!(names(&rig.path("folder")), Vec::<String>::new(), "something is left");

    let table = succeed(&measured);
    for part in ["disk, write", "socket buffers", "--peer"] {
        assert!(table.contains(part), "{part:?} is missing: {table}");
    }
}

#[test]
fn folder_that_cannot_be_measured_is_named() {
    let rig = Rig::new();
    let (missing, place) = (rig.text("missing"), rig.text(""));
    fail(&["bench", "--folder", &missing], &["missing is not a directory", "--folder"]);
    let huge = ["bench", "--folder", &place, "--size", "4000000GB"];
    fail(&huge, &["free", "are needed", "--size"]);
}
