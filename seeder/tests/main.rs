//! The real `shoal-seeder`: what it says and how it exits when it cannot start.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

/// Checks that the seeder ends with `code` and one line that has all of `parts`.
fn check_refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-seeder"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SHOAL_")) {
        command.env_remove(name);
    }
    let output = command.args(arguments).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("shoal-seeder: error: "), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    check_refused(&[], 2, &["--store", "--listen", "--state", "run: shoal-seeder --help"]);
    let wrong = ["--store", "s", "--state", "d", "--listen", "localhost"];
    check_refused(&wrong, 2, &["--listen", "localhost"]);
    let right = ["--store", "s", "--state", "d", "--listen", "127.0.0.1:0"];
    let wrong = [&right[..], &["--log-level", "a=b=c"]].concat();
    check_refused(&wrong, 2, &["--log-level", "a=b=c", "not a log filter"]);
}

#[test]
fn state_directory_that_is_a_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let arguments = ["--store", "s", "--listen", "127.0.0.1:0", "--state", path];
    check_refused(&arguments, 1, &["cannot use the state directory", path, "--state"]);
}

#[test]
fn damaged_limits_file_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (store, state, limits) = (path("store"), path("state"), path("limits.toml"));
    let arguments =
        ["--store", &store, "--listen", "127.0.0.1:0", "--state", &state, "--limits", &limits];
    check_refused(&arguments, 2, &["cannot read the limits", &limits]);
    std::fs::write(&limits, "\nuplod_limit = 3\n").unwrap();
    check_refused(&arguments, 2, &["limits.toml:2: ", "uplod_limit"]);
    assert!(!std::path::Path::new(&state).exists(), "nothing may be created before that");
}
