//! Publishes or verifies a path once and prints how long each part took, as one line of JSON.
//!
//! Owns no rule of publishing: what it times is what `shoal publish` and `shoal verify` call. Run
//! by `benches/publish.py`, which says what the figures mean.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "prints its measurement")]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use p2p_net::{BuildStore, PublishProgress, publish, verify};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["publish", path, store] => measure(|progress| {
            let store = BuildStore::open(store)?;
            Ok(publish(Path::new(path), &store, progress)?.build.id().to_string())
        }),
        ["verify", path] => {
            measure(|progress| Ok(verify(Path::new(path), None, progress)?.actual.to_string()))
        }
        _ => {
            eprintln!("publish_speed: usage: publish_speed publish PATH STORE | verify PATH");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("publish_speed: {error}");
            ExitCode::FAILURE
        }
    }
}

type Progress<'a> = Option<&'a mut dyn FnMut(PublishProgress)>;

/// Runs `work`, which returns the build's name. The pass ends with the report of all bytes; what
/// comes after it is the sync.
fn measure(
    work: impl Fn(Progress<'_>) -> Result<String, Box<dyn Error>>,
) -> Result<String, Box<dyn Error>> {
    let (mut progress, mut pass) = (PublishProgress::default(), Duration::ZERO);
    let started = Instant::now();
    let mut note = |now| (progress, pass) = (now, started.elapsed());
    let build = work(Some(&mut note))?;
    let all = started.elapsed();
    let peak = peak_rss_kib()?;
    Ok(format!(
        "{{\"build\":\"{build}\",\"bytes\":{},\"pass_seconds\":{:.3},\"sync_seconds\":{:.3},\"peak_rss_kib\":{peak}}}",
        progress.bytes_done,
        pass.as_secs_f64(),
        all.saturating_sub(pass).as_secs_f64(),
    ))
}

/// The most memory that this process has had, by the kernel's account.
fn peak_rss_kib() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmHWM")?;
    Ok(number.parse()?)
}
