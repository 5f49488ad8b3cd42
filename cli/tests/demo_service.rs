//! The face that the demo deploys: the same executable under the name of the service.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};

/// Goal: a build that holds a copy of `shoal` as `demo-service` runs the service, as an agent
/// starts it.
/// Method: the copy in a folder with a version file, started there, asked over HTTP, told to stop.
#[test]
fn copy_under_the_services_name_is_the_service() {
    let build = tempfile::tempdir().unwrap();
    fs::copy(env!("CARGO_BIN_EXE_shoal"), build.path().join("demo-service")).unwrap();
    fs::write(build.path().join("VERSION"), "42\n").unwrap();
    let mut service = Command::new("./demo-service")
        .args(["--listen", "127.0.0.1:0"])
        .env("SHOAL_BUILD", "ab12")
        .env("SHOAL_HOST", "host-3")
        .current_dir(build.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap();

    for (path, body) in [("/version", "42\n"), ("/", "version 42 on host-3, build ab12\n")] {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
    }

    rustix::process::kill_process(Pid::from_child(&service), Signal::TERM).unwrap();
    assert_eq!(service.wait().unwrap().code(), Some(0));
}

#[test]
fn service_outside_of_a_build_says_where_to_start_it() {
    let empty = tempfile::tempdir().unwrap();
    let program = empty.path().join("demo-service");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_shoal"), &program).unwrap();
    let output = Command::new(&program)
        .args(["--listen", "127.0.0.1:0"])
        .current_dir(empty.path())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.starts_with("demo-service: error: ") && error.contains("VERSION"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
