//! Programs as the configured user, with that user's variables unless the operator set them.

use std::path::Path;
use std::process::Stdio;

use node_agent::host::Launch;
use node_agent::state::AppDir;

use crate::rig;

fn output(launch: &Launch) -> String {
    let app = AppDir::new("/nonexistent".into());
    let (mut command, _) = launch.command(rig::build(1), Path::new("/"), &app);
    let child = launch.spawn(command.stdout(Stdio::piped()), |_| ()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn program_runs_as_its_user() {
    // Only root can start anything as somebody else.
    let user = if rustix::process::geteuid().is_root() {
        "nobody".into()
    } else {
        rustix::process::geteuid().as_raw().to_string()
    };
    let script = "id -u; echo $HOME $USER";
    let mut launch = Launch { user: Some(user.clone()), ..rig::launch(&["sh", "-c", script]) };
    launch.environment.insert("HOME".into(), "/here".into());
    let expected = std::process::Command::new("id").args(["-u", &user]).output().unwrap().stdout;
    let name = std::process::Command::new("id").args(["-un", &user]).output().unwrap().stdout;
    let expected = String::from_utf8(expected).unwrap();
    assert_eq!(output(&launch), format!("{expected}/here {}", String::from_utf8(name).unwrap()));
}

#[test]
fn program_of_a_user_who_is_not_there_is_not_started() {
    let launch = Launch { user: Some("nobody-has-this-name".into()), ..rig::launch(&["true"]) };
    let app = AppDir::new("/nonexistent".into());
    let (mut command, _) = launch.command(rig::build(1), Path::new("/"), &app);
    let error = launch.spawn(&mut command, |_| ()).unwrap_err();
    assert!(error.to_string().contains("there is no user \"nobody-has-this-name\""), "{error}");
}
