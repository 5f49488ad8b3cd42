//! `shoal demo`: the whole system on one machine, with nothing to prepare.
//!
//! One seeder and a few agents as processes of their own, real sockets, real files. This file is
//! the story; [`children`] keeps the processes, [`folder`] the folder, [`follow`] watches hosts and
//! [`figures`] does the sums. Invariant: whatever happens, no process and (without `--keep`) no
//! file is left behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use goal_state::{AppName, Goal, GoalStore, HostLimit, HostStatus, RolloutChange};
use p2p_core::BuildId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::output::grid::Layout;
use crate::output::{self, Outcome, human};
use crate::runtime::{block_on, catch_signals};

mod ask;
mod children;
mod figures;
mod folder;
mod follow;
mod sample;

use children::Children;
pub(crate) use children::end_with_parent;
use figures::Measure;
use folder::{DemoFolder, Host};
use follow::FollowError;

/// How long the seeder may take to print its address.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait for agents before the first deploy.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a service may take to answer once its agent says that it runs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two questions to a service.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Arguments of `shoal demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many hosts to start
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    hosts: u16,
    /// Distribute this file or directory of yours instead of the demo's service
    #[arg(long, value_name = "FILE_OR_DIR")]
    path: Option<PathBuf>,
    /// Keep the temporary folder with logs, stores and hosts
    #[arg(long)]
    keep: bool,
}

/// What `shoal publish --json` prints, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
struct Published {
    build: BuildId,
    bytes: u64,
    chunks: u64,
    /// Bytes that the version before does not have; `None` for the first.
    bytes_new: Option<u64>,
    seconds: f64,
}

/// What `shoal fetch --json` prints, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Fetched {
    bytes: u64,
    seconds: f64,
}

/// Runs the demo to its end or to the first signal, then cleans up.
///
/// # Errors
///
/// If a host does not end up with the right build, or something on the way fails.
pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    if let Some(path) = &args.path {
        let readable = std::fs::metadata(path);
        readable.with_context(|| format!("cannot read {}; check --path", path.display()))?;
    }
    // On this thread: see `children`.
    block_on(async {
        let mut signals = catch_signals()?;
        let mut demo = Demo::new(args)?;
        let ended = tokio::select! {
            ended = demo.play() => ended.map(|()| Outcome::Done),
            () = signals.stop() => {
                output::note("interrupted, cleaning up");
                Ok(Outcome::Interrupted)
            }
        };
        demo.clean_up();
        ended
    })
}

/// Fields are dropped in order: processes end before their files go.
struct Demo {
    children: Children,
    folder: DemoFolder,
    store: GoalStore,
    app: AppName,
    hosts: Vec<Host>,
    args: Args,
    steps: Vec<(&'static str, Duration)>,
}

impl Demo {
    fn new(args: Args) -> anyhow::Result<Self> {
        let folder = DemoFolder::new(args.keep)?;
        let name = if args.path.is_some() { "files" } else { "service" };
        Ok(Self {
            children: Children::new()?,
            store: GoalStore::new(&folder.goal_url()),
            app: name.parse().context("the demo's app has a valid name")?,
            hosts: folder::hosts(usize::from(args.hosts)).context("cannot find free ports")?,
            folder,
            args,
            steps: vec![],
        })
    }

    async fn play(&mut self) -> anyhow::Result<()> {
        output::line(&format!(
            "Shoal demo: one seeder and {} as processes on this machine, in {}",
            human::counted(self.hosts.len(), "host"),
            self.folder.root().display()
        ))?;
        match self.args.path.clone() {
            Some(path) => self.play_files(&path).await,
            None => self.play_service().await,
        }
    }

    /// Plays with the demo's own service, in two versions.
    async fn play_service(&mut self) -> anyhow::Result<()> {
        heading(
            1,
            "Publish",
            "a small web service with 64 MiB of data, in two versions, is cut into chunks",
        )?;
        let started = Instant::now();
        let executable = std::env::current_exe().context("cannot find the shoal executable")?;
        let service_bytes = std::fs::metadata(&executable).map_or(0, |file| file.len());
        let copies = 2 * self.hosts.len() as u64 + 4;
        self.folder.check_space(copies * (service_bytes + sample::DATA_BYTES))?;
        let first = self.publish_version(1, &executable).await?;
        let second = self.publish_version(2, &executable).await?;
        self.steps.push(("publish", started.elapsed()));

        let seeder = self.start_seeder().await?;
        let alone = self.fetch_alone(2, &first, &seeder).await?;

        heading(
            3,
            "Deploy version 1",
            "every host learns the goal, downloads, verifies and starts it",
        )?;
        let started = Instant::now();
        self.start_hosts(&seeder).await?;
        let (first_rows, first_answers) = self.deploy_version(1, &first).await?;
        said_by_all(first_rows.len(), 1, started)?;
        self.steps.push(("start and deploy version 1", started.elapsed()));

        heading(
            4,
            "Deploy version 2",
            "hosts copy what version 1 has already, exchange the new chunks, and switch",
        )?;
        let started = Instant::now();
        let (rows, answers) = self.deploy_version(2, &second).await?;
        said_by_all(rows.len(), 2, started)?;
        self.steps.push(("deploy version 2", started.elapsed()));

        output::line("\nVersion 1, which no host had anything of:")?;
        conclude(&first_rows, &first_answers, &first, &alone)?;
        output::line("\nVersion 2, most of which every host had:")?;
        show_table(&rows, &answers)?;
        output::line(&figures::reuse_sentence(&rows, second.bytes, second.bytes_new))?;
        output::line(&figures::timings(&self.steps))?;
        output::line(&format!("Version 2 runs on {0} of {0} hosts.", self.hosts.len()))
    }

    /// Plays with the person's own files: one deploy, then every byte on every host is checked.
    async fn play_files(&mut self, path: &Path) -> anyhow::Result<()> {
        heading(1, "Publish", "your files are cut into chunks")?;
        let started = Instant::now();
        let published = self.publish(path, &path.display().to_string()).await?;
        self.folder.check_space(published.bytes * (self.hosts.len() as u64 + 1))?;
        self.steps.push(("publish", started.elapsed()));

        let seeder = self.start_seeder().await?;
        let alone = self.fetch_alone(2, &published, &seeder).await?;

        heading(3, "Deploy", "every host learns the goal, downloads and verifies")?;
        let started = Instant::now();
        self.start_hosts(&seeder).await?;
        let rows = self.deploy(&published).await?;
        self.steps.push(("start and deploy", started.elapsed()));
        output::line(&format!(
            "   {0} of {0} hosts have it after {1}",
            rows.len(),
            since(started)
        ))?;

        heading(4, "Verify", "every file on every host is read and compared with the build")?;
        let started = Instant::now();
        for host in &self.hosts {
            self.verify(host, published.build).await?;
        }
        self.steps.push(("verify", started.elapsed()));

        let answers = vec!["verified".to_owned(); rows.len()];
        output::line("\nResult")?;
        conclude(&rows, &answers, &published, &alone)?;
        output::line(&figures::timings(&self.steps))?;
        output::line(&format!(
            "Your files are on {0} of {0} hosts, byte for byte.",
            self.hosts.len()
        ))
    }

    async fn publish_version(&self, version: u32, executable: &Path) -> anyhow::Result<Published> {
        let root = self.folder.path("versions").join(version.to_string());
        sample::write(&root, version, executable).await?;
        let published = self.publish(&root, &format!("version {version}")).await?;
        // The store has its own copy.
        std::fs::remove_dir_all(&root)
            .with_context(|| format!("cannot remove {}", root.display()))?;
        Ok(published)
    }

    async fn publish(&self, path: &Path, label: &str) -> anyhow::Result<Published> {
        let mut command = children::shoal()?;
        command.arg("publish").arg(path).arg("--json");
        command.arg("--app").arg(self.app.as_str()).arg("--store").arg(self.folder.path("store"));
        let published: Published = result_of("publish", command).await?;
        let new = published
            .bytes_new
            .map_or_else(String::new, |new| format!(", {} of them new", human::bytes(new)));
        output::line(&format!(
            "   {label}: build {}, {} in {} chunks{new}, {}",
            published.build.short(),
            human::bytes(published.bytes),
            published.chunks,
            human::seconds(seconds(published.seconds))
        ))?;
        Ok(published)
    }

    /// Starts the seeder and returns its address.
    async fn start_seeder(&mut self) -> anyhow::Result<String> {
        let mut command = children::shoal()?;
        command.args(["seeder", "--listen", "127.0.0.1:0"]);
        command.arg("--store").arg(self.folder.path("store"));
        command.arg("--state").arg(self.folder.path("seeder"));
        let stdout = self.children.start("seeder", command, self.folder.log("seeder"))?;
        let stdout = stdout.context("the seeder's output is not connected")?;
        let mut lines = BufReader::new(tokio::process::ChildStdout::from_std(stdout)?).lines();
        let line = tokio::time::timeout(READY_TIMEOUT, lines.next_line()).await;
        match line {
            Ok(Ok(Some(address))) => Ok(address),
            Ok(_) => {
                self.children.show_log("seeder");
                anyhow::bail!("the seeder ended before it was ready")
            }
            Err(_) => {
                self.children.show_log("seeder");
                anyhow::bail!("the seeder is not ready after {} s", READY_TIMEOUT.as_secs())
            }
        }
    }

    /// Lets one host fetch without a swarm: the bound is calculated from its rate.
    async fn fetch_alone(
        &mut self,
        number: u32,
        published: &Published,
        seeder: &str,
    ) -> anyhow::Result<Fetched> {
        heading(
            number,
            "Measure",
            "one host alone fetches the build from the seeder: the rate that the bound is made of",
        )?;
        let started = Instant::now();
        let out = self.folder.path("alone");
        let mut command = children::shoal()?;
        command.arg("fetch").arg(published.build.to_string()).args(["--json", "--seeder", seeder]);
        command.args(["--listen", "127.0.0.1:0", "--out"]).arg(&out);
        let fetched: Fetched = match result_of("fetch", command).await {
            Ok(fetched) => fetched,
            Err(error) => {
                self.children.show_log("seeder");
                return Err(error);
            }
        };
        std::fs::remove_dir_all(&out)
            .with_context(|| format!("cannot remove {}", out.display()))?;
        let took = seconds(fetched.seconds);
        output::line(&format!(
            "   {} in {}: {}/s",
            human::bytes(fetched.bytes),
            human::seconds(took),
            human::bytes(human::rate(fetched.bytes, took))
        ))?;
        self.steps.push(("measure", started.elapsed()));
        Ok(fetched)
    }

    async fn start_hosts(&mut self, seeder: &str) -> anyhow::Result<()> {
        let has_service = self.args.path.is_none();
        for host in &self.hosts {
            let config = self.folder.configure(host, &self.app, seeder, has_service)?;
            let mut command = children::shoal()?;
            command.arg("agent").arg("--config").arg(config);
            // Its standard output is the program's; nobody reads it here.
            drop(self.children.start(&host.name, command, self.folder.log(&host.name))?);
        }
        let names = self.host_names();
        let waited =
            follow::wait_for_reports(&self.store, &names, &mut self.children, REPORT_TIMEOUT);
        let waited = waited.await;
        waited.map_err(|error| self.explained(&error))
    }

    /// Sets the goal and waits until every host says that it is there.
    async fn deploy(&mut self, published: &Published) -> anyhow::Result<Vec<HostStatus>> {
        // What is shown is how fast bytes spread; a fleet keeps three quarters of its hosts up.
        let rollout =
            RolloutChange { max_unavailable: Some(HostLimit::None), ..RolloutChange::default() };
        let goal: Goal = self
            .store
            .deploy(&self.app, published.build, rollout)
            .await
            .context("cannot set the demo's goal")?;
        let names = self.host_names();
        let rows = follow::follow(&self.store, &goal, &names, &mut self.children).await;
        rows.map_err(|error| self.explained(&error))
    }

    /// As [`Self::deploy`], and then asks every host itself. Returns rows and answers.
    async fn deploy_version(
        &mut self,
        version: u32,
        published: &Published,
    ) -> anyhow::Result<(Vec<HostStatus>, Vec<String>)> {
        let rows = self.deploy(published).await?;
        let mut answers = vec![];
        for host in &self.hosts {
            answers.push(self.ask(host, &version.to_string()).await?);
        }
        Ok((rows, answers))
    }

    /// Asks a host until it answers with `version`.
    async fn ask(&self, host: &Host, version: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let answer = ask::version(host.port).await;
            if answer.as_deref() == Ok(version) {
                return Ok(format!("version {version}"));
            }
            if Instant::now() >= deadline {
                self.children.show_log(&host.name);
                let name = &host.name;
                match answer {
                    Ok(other) => anyhow::bail!(
                        "{name} answers with version {}, not {version}",
                        human::printable(&other)
                    ),
                    Err(reason) => anyhow::bail!("{name} does not answer over HTTP: {reason}"),
                }
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    }

    async fn verify(&self, host: &Host, build: BuildId) -> anyhow::Result<()> {
        let current = self.folder.current(host, &self.app);
        let current = std::fs::canonicalize(&current)
            .with_context(|| format!("{} has no {}", host.name, current.display()))?;
        let verified = tokio::task::spawn_blocking(move || p2p_net::verify(&current, None, None))
            .await
            .context("the verification ended early")?;
        let actual = verified.with_context(|| format!("cannot verify {}", host.name))?.actual;
        anyhow::ensure!(actual == build, "{} has build {actual}, not {build}", host.name);
        output::line(&format!("   {}: every byte is right", host.name))
    }

    /// Shows the log of the process that the error is about, and returns the error for people.
    fn explained(&self, error: &FollowError) -> anyhow::Error {
        if let Some(culprit) = error.culprit() {
            self.children.show_log(culprit);
        }
        let keep =
            if self.args.keep { "" } else { "; run again with --keep to look into its folder" };
        anyhow::anyhow!("{error}{keep}")
    }

    fn host_names(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.name.clone()).collect()
    }

    /// Stops every process; the folder goes when `self` does.
    fn clean_up(&mut self) {
        self.children.stop();
        if self.args.keep {
            output::note(&format!("kept: {}", self.folder.root().display()));
        }
    }
}

/// Runs a command of this executable that prints one JSON object. Its bar and its complaints go to
/// the person directly.
async fn result_of<T: DeserializeOwned>(name: &str, command: Command) -> anyhow::Result<T> {
    let output = tokio::process::Command::from(command)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start shoal {name}"))?
        // Not `output`, which would take standard error away from the person.
        .wait_with_output()
        .await
        .with_context(|| format!("cannot wait for shoal {name}"))?;
    anyhow::ensure!(
        output.status.success(),
        "shoal {name} failed ({}); it said why above",
        output.status
    );
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("shoal {name} printed something else than its result"))
}

fn conclude(
    rows: &[HostStatus],
    answers: &[String],
    published: &Published,
    alone: &Fetched,
) -> anyhow::Result<()> {
    show_table(rows, answers)?;
    let measure = Measure {
        build_bytes: published.bytes,
        alone_bytes: alone.bytes,
        alone: seconds(alone.seconds),
    };
    for sentence in figures::sentences(rows, &measure) {
        output::line(&sentence)?;
    }
    Ok(())
}

fn show_table(rows: &[HostStatus], answers: &[String]) -> anyhow::Result<()> {
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let layout = if is_terminal { Layout::Table { width: None } } else { Layout::Plain };
    output::raw(&figures::table(rows, answers, layout))?;
    output::line("")
}

fn heading(number: u32, title: &str, what: &str) -> anyhow::Result<()> {
    output::line(&format!("\n{number}. {title}: {what}"))
}

fn said_by_all(hosts: usize, version: u32, started: Instant) -> anyhow::Result<()> {
    let after = since(started);
    output::line(&format!(
        "   {hosts} of {hosts} hosts answer with version {version} after {after}"
    ))
}

fn since(started: Instant) -> String {
    human::seconds(started.elapsed())
}

/// A span that another process measured; nothing for one that is no span.
fn seconds(span: f64) -> Duration {
    Duration::try_from_secs_f64(span).unwrap_or_default()
}
