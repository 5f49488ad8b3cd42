//! Hooks with real scripts: obedient, failing, deaf, endless, forking, chatty, and abandoned.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use node_agent::host::{
    HOOK_OUTPUT_BYTES_MAX, Hook, HookFailure, HookFailureCause, HookOrder, HookOutput, run_hook,
};

use crate::rig::{Rig, gone, within};

fn order(rig: &Rig, exec: &[&str]) -> HookOrder {
    let exec = exec.iter().copied().map(String::from).collect();
    HookOrder {
        hook: Hook { exec, user: None, timeout: Duration::from_mins(1) },
        root: rig.root.clone(),
        variables: [("SHOAL_APP".into(), "web".into())].into(),
        default_user: None,
    }
}

async fn succeed(order: HookOrder) -> HookOutput {
    within(run_hook(order)).await.unwrap()
}

async fn fail(order: HookOrder) -> HookFailure {
    within(run_hook(order)).await.unwrap_err()
}

#[tokio::test]
async fn hook_runs_in_its_build_with_a_clean_environment_and_no_stdin() {
    let rig = Rig::new();
    rig.script("install", "pwd; cat; echo $1 >&2; env | cut -d= -f1 | sort | tr '\\n' ' '");
    let output = succeed(order(&rig, &["./install", "argument"])).await.output;
    let (start, variables) = output.split_at(output.find("HOME").unwrap());
    assert_eq!(start, format!("{}\nargument\n", rig.root.display()));
    // The shell adds some of its own.
    let own = ["OLDPWD", "PWD", "SHLVL", "_"];
    let variables: Vec<_> = variables.split_whitespace().filter(|v| !own.contains(v)).collect();
    assert_eq!(variables, ["HOME", "LANG", "LOGNAME", "PATH", "SHOAL_APP", "USER"]);
}

#[tokio::test]
async fn failure_says_how_it_ended_and_what_it_printed_last() {
    let rig = Rig::new();
    rig.script("exit", "for i in 1 2 3 4 5 6; do echo line $i; done; exit 3");
    let failure = fail(order(&rig, &["./exit", "--all"])).await;
    assert_eq!(
        failure.to_string(),
        "./exit --all: ended with exit code 3; \
         its last output: line 2 | line 3 | line 4 | line 5 | line 6"
    );
    assert!(failure.output.starts_with("line 1\n"));

    rig.script("die", "kill -SEGV $$");
    assert_eq!(fail(order(&rig, &["./die"])).await.to_string(), "./die: was killed by signal 11");

    let missing = fail(order(&rig, &["./missing"])).await.to_string();
    assert!(missing.starts_with("./missing: cannot start: there is no file"), "{missing}");
    let user = Some("nobody-has-this-name".into());
    let stranger = fail(HookOrder { default_user: user, ..order(&rig, &["./exit"]) }).await;
    assert!(matches!(stranger.cause, HookFailureCause::User(_)), "{stranger}");
}

#[tokio::test]
async fn endless_output_is_read_and_only_its_end_is_kept() {
    let rig = Rig::new();
    // A hook that prints far more than a pipe holds would hang if nobody read.
    rig.script("print", "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo end");
    let output = succeed(order(&rig, &["./print"])).await.output;
    assert_eq!(output.len(), HOOK_OUTPUT_BYTES_MAX);
    assert!(output.ends_with("x\nend\n"));
}

#[tokio::test]
async fn hook_that_takes_too_long_may_clean_up() {
    let rig = Rig::new();
    // The child says that they are up: a signal between its fork and its exec would be lost on it,
    // because the shell's trap still takes it there.
    rig.script(
        "wait",
        "trap 'echo cleaned; exit 0' TERM\nsh -c \"echo up > $EAR; exec sleep 60\" &\nwait",
    );
    let mut ear = rig.ear();
    let run = tokio::spawn(run_hook(order(&rig, &["./wait"])));
    assert_eq!(ear.line().await, "up");
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(1)).await;
    tokio::time::resume();
    let failure = within(run).await.unwrap().unwrap_err();
    assert!(
        matches!(failure.cause, HookFailureCause::TimedOut { is_killed: false, .. }),
        "{failure}"
    );
    assert_eq!(
        failure.to_string(),
        "./wait: did not end within 1m and was stopped; its last output: cleaned"
    );
}

#[tokio::test]
async fn hook_that_is_deaf_and_talks_without_end_is_killed_with_its_children() {
    let rig = Rig::new();
    rig.script(
        "deaf",
        "trap '' TERM\necho begun\n\
         (echo $(exec sh -c 'echo $PPID') > $EAR; while :; do echo child; done) &\n\
         echo $$ > $EAR; while :; do echo parent; done",
    );
    let mut ear = rig.ear();
    let order = order(&rig, &["./deaf"]);
    let run = tokio::spawn(run_hook(order));
    let processes = [ear.process().await, ear.process().await];
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(65)).await;
    tokio::time::resume();
    let failure = within(run).await.unwrap().unwrap_err();
    assert!(
        matches!(failure.cause, HookFailureCause::TimedOut { is_killed: true, .. }),
        "{failure}"
    );
    assert!(!failure.output.is_empty());
    for process in &processes {
        gone(process).await;
    }
}

#[tokio::test]
async fn child_that_holds_the_pipe_ends_with_the_hook() {
    let rig = Rig::new();
    rig.script("child", "trap '' TERM; echo $$ > $EAR; while :; do sleep 60; done");
    rig.script("leave", "./child & read line < $EAR.go; echo done");
    let go = rig.path().join("ear.go");
    let status = std::process::Command::new("mkfifo").arg(&go).status().unwrap();
    assert!(status.success());
    let mut ear = rig.ear();
    let run = tokio::spawn(run_hook(order(&rig, &["./leave"])));
    let child = ear.process().await;
    tokio::fs::write(&go, "go\n").await.unwrap();
    assert_eq!(within(run).await.unwrap().unwrap().output, "done\n");
    gone(&child).await;
}

#[tokio::test]
async fn hook_that_nobody_waits_for_any_more_is_killed() {
    let rig = Rig::new();
    rig.patient_script("wait");
    let mut ear = rig.ear();
    let run = tokio::spawn(run_hook(order(&rig, &["./wait"])));
    let process = ear.process().await;
    run.abort();
    assert!(within(run).await.unwrap_err().is_cancelled());
    gone(&process).await;
}

#[tokio::test]
async fn hook_runs_as_its_user_and_else_as_that_of_the_app() {
    if !rustix::process::geteuid().is_root() {
        // Nothing can be started as somebody else: a test of `user` covers the refusal.
        return;
    }
    let rig = Rig::new();
    rig.script("who", "id -un; echo $HOME; id -u >&2");
    for folder in [rig.path(), &rig.root] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let of_app = HookOrder { default_user: Some("nobody".into()), ..order(&rig, &["./who"]) };
    assert_eq!(succeed(of_app.clone()).await.output, "nobody\n/nonexistent\n65534\n");
    let mut own = of_app.clone();
    own.hook.user = Some("0".into());
    assert_eq!(succeed(own).await.output, "root\n/root\n0\n");

    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let refused = fail(of_app).await.to_string();
    assert!(refused.starts_with("./who: cannot start as nobody: its folder"), "{refused}");
    assert!(
        refused.ends_with("Permission denied (os error 13) (may nobody enter it?)"),
        "{refused}"
    );
}
