//! `shoal-agent init`: writes a configuration that explains itself, and asks nothing.
//!
//! Invariant: what is written is read by the agent without a complaint, and a file that is there is
//! never replaced unless that was asked for.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::cli::settings::HostArgs;
use crate::config::{Config, ConfigError, FlagSetting, Inputs, about_key, toml_key};

/// An address as shoal-seeder prints it.
const SEEDER_EXAMPLE: &str =
    "/ip4/10.0.0.1/udp/7400/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";

/// The values that go into the file. What is `None` is written as a comment with an example.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct InitValues {
    #[command(flatten)]
    host: HostArgs,
    /// Zone of this host.
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Rack within the zone.
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// A mark of this host, such as canary or stage=prod; can be repeated.
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// The app of this host.
    #[arg(long, value_name = "NAME", default_value = "web")]
    app: String,
    /// Its program with its arguments: './server --port 80'.
    #[arg(long, value_name = "WORDS")]
    exec: Option<String>,
    /// User that the program runs as.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

/// Why no configuration was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum InitError {
    /// A value is wrong.
    #[error("a value does not fit; nothing was written")]
    Value(#[from] ConfigError),
    /// There is a file.
    #[error("{} is there already; give --force to replace it, or another --output", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl InitValues {
    /// Writes the configuration to `path`.
    ///
    /// # Errors
    ///
    /// If a value is wrong or the file cannot be written; nothing was changed then.
    pub(crate) fn write(&self, path: &Path, is_forced: bool) -> Result<(), InitError> {
        let text = self.text();
        self.check(&text, path)?;
        let failed = |source| InitError::Write { path: path.into(), source };
        let mut options = File::options();
        options.write(true);
        let opened = if is_forced {
            options.create(true).truncate(true).open(path)
        } else {
            options.create_new(true).open(path)
        };
        let mut file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => InitError::Exists { path: path.into() },
            _ => failed(error),
        })?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Reads `text` as the agent would; what is left out is given, so that only mistakes show.
    fn check(&self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let mut inputs = Inputs::default();
        let mut give = |key: &str, value: &str| {
            let value = Some(value.to_owned());
            inputs.flags.push(FlagSetting { flag: "init".into(), key: key.into(), value });
        };
        if self.host.seeders.is_empty() {
            give("seeders", SEEDER_EXAMPLE);
        }
        Config::load_text(text, path, &inputs).map(|_| ())
    }

    /// The file.
    fn text(&self) -> String {
        let head = "# Configuration of shoal-agent, written by shoal-agent init. node-agent/example.toml explains every\n\
                    # key; shoal-agent --check-config shows what is in effect, shoal-agent doctor whether it works.\n\n";
        let text = self.agent_lines() + &self.app_lines();
        format!("{head}{}\n", text.trim_end())
    }

    fn agent_lines(&self) -> String {
        let HostArgs { host, state, goal, seeders } = &self.host;
        [
            setting("host", quoted(host.as_ref()), "\"web-17\""),
            setting("state", quoted(state.as_ref()), "\"/var/lib/shoal\""),
            setting("goal", quoted(goal.as_ref()), "\"seeders\""),
            setting("seeders", list(seeders), &format!("[\"{SEEDER_EXAMPLE}\"]")),
            setting("zone", quoted(self.zone.as_ref()), "\"fra-2\""),
            // Explained with the zone.
            line("rack", quoted(self.rack.as_ref()), "\"b17\""),
            setting("labels", list(&self.labels), "[\"canary\", \"stage=prod\"]"),
            setting("metrics", None, "\"127.0.0.1:9464\""),
        ]
        .concat()
    }

    fn app_lines(&self) -> String {
        let health = "# How the agent asks the program whether it is well, and what it may print per second while its \
                      build is new. A build that is not well, or floods its log, is rolled back.\n";
        let health_example =
            "{ http = \"http://127.0.0.1:8080/healthz\", max_output_rate = \"16MiB\" }";
        [
            format!(
                "# What this host runs, and how a new build of it is judged.\n[apps.{}]\n",
                toml_key(&self.app)
            ),
            setting(
                "apps.NAME.exec",
                quoted(self.exec.as_ref()),
                "[\"./server\", \"--port\", \"8080\"]",
            ),
            setting("apps.NAME.user", quoted(self.user.as_ref()), "\"www-data\""),
            setting("apps.NAME.sockets.SOCKET", None, "{ http = \"0.0.0.0:8080\" }"),
            health.to_owned() + &line("health", None, health_example),
        ]
        .concat()
    }
}

fn list(values: &[String]) -> Option<String> {
    (!values.is_empty()).then(|| toml::Value::from(values.to_vec()).to_string())
}

fn quoted(value: Option<&String>) -> Option<String> {
    value.map(|text| toml::Value::from(text.as_str()).to_string())
}

/// One key of the key table with what that says of it, or a table of keys as one.
fn setting(name: &str, value: Option<String>, example: &str) -> String {
    let key = name.trim_start_matches("apps.NAME.").trim_end_matches(".SOCKET");
    format!("# {}\n{}", about_key(name), line(key, value, example))
}

/// One key; commented out if it has no value.
fn line(key: &str, value: Option<String>, example: &str) -> String {
    match value {
        Some(value) => format!("{key} = {value}\n\n"),
        None => format!("# {key} = {example}\n\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> InitValues {
        InitValues {
            host: HostArgs {
                host: Some("h1".into()),
                state: Some("/s".into()),
                goal: Some("file:///goal".into()),
                seeders: vec![
                    "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo".into(),
                ],
            },
            zone: Some("z \"1\"".into()),
            rack: Some("r".into()),
            labels: vec!["canary".into()],
            app: "my.app".into(),
            exec: Some("./run --port '8 0'".into()),
            user: Some("nobody".into()),
        }
    }

    #[test]
    fn what_is_written_is_what_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        all().write(&path, false).unwrap();
        let inputs = Inputs { file: Some(path.clone()), ..Inputs::default() };
        let loaded = Config::load(&inputs).unwrap();
        assert!(loaded.warnings.is_empty());
        let config = loaded.config;
        assert_eq!((config.host.as_str(), config.zone.as_str()), ("h1", "z \"1\""));
        let app = config.apps.values().next().unwrap();
        assert_eq!(app.exec.as_ref().unwrap(), &["./run", "--port", "8 0"]);
        assert_eq!((app.user.as_deref(), config.labels.len()), (Some("nobody"), 1));

        let error = InitValues::default().write(&path, false).unwrap_err();
        assert!(matches!(error, InitError::Value(_)), "an app without a name: {error}");
        let few = InitValues { app: "web".into(), ..InitValues::default() };
        let error = few.write(&path, false).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        few.write(&path, true).unwrap();
        let error = Config::load(&inputs).unwrap_err();
        assert!(error.to_string().contains("no seeder is given"), "{error}");
    }

    #[test]
    fn every_comment_is_a_setting_once_it_is_none() {
        let few = InitValues { app: "web".into(), ..InitValues::default() };
        let is_setting = |line: &str| line.strip_prefix("# ").is_some_and(|l| l.contains(" = "));
        let text: Vec<String> = few
            .text()
            .lines()
            .map(|line| if is_setting(line) { line[2..].to_owned() } else { line.to_owned() })
            .collect();
        let text = text.join("\n");
        Config::load_text(&text, Path::new("agent.toml"), &Inputs::default()).unwrap();
    }

    #[test]
    fn value_that_does_not_fit_is_named_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        let wrong = InitValues { host: HostArgs { goal: Some("x".into()), ..all().host }, ..all() };
        let error = wrong.write(&path, true).unwrap_err();
        let said = format!("{:#}", anyhow::Error::new(error));
        assert!(said.contains("goal: \"x\" is not a goal store"), "{said}");
        assert!(!path.exists());
    }
}
