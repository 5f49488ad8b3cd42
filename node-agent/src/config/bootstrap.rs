//! The one small document from which a host that knows nothing starts: region, seeders, goal store,
//! join token, labels, place.
//!
//! Invariant: it is the lowest layer of the configuration, and kept in the state directory once it
//! was used, so that the next start needs neither the file nor the network. The join token is kept
//! apart from it, readable by the agent's user only, and is never shown. Nothing uses it yet: it is
//! for the day when hosts prove who they are.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use command_line::{StateLock, StateLockError};
use disk::{DiskFile, Open};
use serde::{Deserialize, Serialize};

use crate::config::{BootstrapSettings, table};
use crate::state::durable::{self, ReadError, WriteError};

/// Most bytes of a document: what clouds take as user data.
const DOCUMENT_BYTES_MAX: u64 = 16 * 1024;

/// Time for user data over the network. A host that was started before has it on disk.
const FETCH_MAX: Duration = Duration::from_secs(5);

/// Name of the document in the state directory.
const KEPT_FILE: &str = "bootstrap.json";

/// Name of the token in the state directory.
const TOKEN_FILE: &str = "join-token";

/// Where a document comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum BootstrapSource {
    /// A file.
    File(PathBuf),
    /// The document itself.
    Inline(String),
    /// An HTTP address, such as that of a cloud's user data.
    Url(String),
}

impl BootstrapSource {
    /// A document or the path of one: a document has a key with its value, or is JSON.
    pub(crate) fn of_text(text: &str) -> Self {
        let is_document = text.trim_start().starts_with('{') || text.contains(['=', '\n']);
        if is_document && !Path::new(text).is_file() {
            Self::Inline(text.into())
        } else {
            Self::File(text.into())
        }
    }
}

/// For messages: an inline document may have a token in it.
impl fmt::Display for BootstrapSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Inline(_) => f.write_str("SHOAL_BOOTSTRAP"),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// The secret with which a host asks to become part of its region.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct JoinToken(String);

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

impl JoinToken {
    /// Durable, and never readable by others, not even for a moment.
    fn keep(&self, state: &Path) -> io::Result<()> {
        let (path, temporary) = (state.join(TOKEN_FILE), state.join(".join-token.new"));
        // One that a crash left may have another mode.
        match disk::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = DiskFile::open(&temporary, Open::New(0o600))?;
        file.write_all(format!("{}\n", self.0).as_bytes())?;
        file.sync_all()?;
        disk::rename(&temporary, &path)?;
        disk::sync_dir(state)
    }
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BootstrapError {
    /// It cannot be read.
    #[error("cannot read {from}")]
    Read {
        /// Its place.
        from: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is larger than any such document.
    #[error("{from} has more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge {
        /// Its place.
        from: String,
    },
    /// It is not one.
    #[error("{from}: {reason}")]
    Malformed {
        /// Its place.
        from: String,
        /// What was expected.
        reason: String,
    },
    /// It cannot be kept.
    #[error("the bootstrap document cannot be kept for the next start")]
    Keep(#[from] WriteError),
    /// The token cannot be kept.
    #[error("the join token cannot be kept in {}", directory.display())]
    KeepToken {
        /// The state directory.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateLockError),
}

/// A document that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bootstrap {
    from: String,
    region: Option<String>,
    settings: toml::Table,
    token: Option<JoinToken>,
    is_kept: bool,
}

/// A document, if there is one, and a warning.
pub(crate) type Found = (Option<Bootstrap>, Option<String>);

/// What is kept of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    from: String,
    region: Option<String>,
    settings: toml::Table,
}

impl Bootstrap {
    /// The document of `source`, or the one that an earlier start kept in `state` if there is no
    /// source or it cannot be reached; and what a person should know of how it was found.
    ///
    /// # Errors
    ///
    /// If a source is given that has no usable document, and none was kept.
    pub(crate) fn find(
        source: Option<&BootstrapSource>,
        state: &Path,
    ) -> Result<Found, BootstrapError> {
        let kept = || match Self::kept(state) {
            Ok(kept) => (kept, None),
            // Whether the host can do without it, the configuration will show.
            Err(error) => (None, Some(command_line::describe(&error.into()))),
        };
        let Some(source) = source else { return Ok(kept()) };
        let error = match read(source) {
            Ok(text) => {
                return Self::parse(&source.to_string(), &text).map(|read| (Some(read), None));
            }
            Err(error) => error,
        };
        let (Some(kept), _) = kept() else { return Err(error) };
        let reason = command_line::describe(&error.into());
        Ok((Some(kept), Some(format!("{reason}; going on with what was kept of it"))))
    }

    /// The settings as a layer of the configuration.
    pub(crate) fn settings(&self) -> BootstrapSettings {
        BootstrapSettings { source: self.from.clone(), settings: self.settings.clone() }
    }

    /// Keeps document and token in the state directory for the next start.
    ///
    /// # Errors
    ///
    /// If the directory is in use or cannot be written.
    pub(crate) fn keep(&self, state: &Path) -> Result<(), BootstrapError> {
        if self.is_kept {
            return Ok(());
        }
        let lock = StateLock::take(state)?;
        let directory = lock.directory();
        if let Some(token) = &self.token {
            token.keep(directory).map_err(|source| BootstrapError::KeepToken {
                directory: directory.into(),
                source,
            })?;
        }
        let (from, region, settings) =
            (self.from.clone(), self.region.clone(), self.settings.clone());
        // Last: with it, the document counts as kept.
        durable::write_json(&directory.join(KEPT_FILE), &Kept { from, region, settings })?;
        Ok(())
    }

    fn kept(state: &Path) -> Result<Option<Self>, ReadError> {
        let path = state.join(KEPT_FILE);
        let kept: Option<Kept> = match durable::read_json(&path) {
            // Such as no permission, or no directory: that is reported by whatever needs the
            // directory.
            Err(ReadError::Io { .. }) => None,
            read => read?,
        };
        Ok(kept.map(|Kept { from, region, settings }| Self {
            from: format!("{} (from {from})", path.display()),
            region,
            settings,
            token: None,
            is_kept: true,
        }))
    }

    fn parse(from: &str, text: &str) -> Result<Self, BootstrapError> {
        let malformed =
            |reason: String| BootstrapError::Malformed { from: from.to_owned(), reason };
        let mut settings = table_of(text).map_err(malformed)?;
        let mut text_of = |key: &str| match settings.remove(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(malformed(format!("{key}: expected a string with something in it"))),
        };
        let (region, token) = (text_of("region")?, text_of("join_token")?);
        let is_line = |token: &String| !token.contains(char::is_whitespace);
        if !token.as_ref().is_none_or(is_line) {
            return Err(malformed("join_token: expected a word without blanks".into()));
        }
        // `region` and `join_token` are kept, but are no settings.
        let known = table::bootstrap_keys();
        if let Some(key) = settings.keys().find(|key| !known.contains(&key.as_str())) {
            let known = known.join(", ");
            return Err(malformed(format!(
                "unknown key {key:?}; a bootstrap document has region, join_token, {known}; the rest belongs into the configuration file"
            )));
        }
        let token = token.map(JoinToken);
        Ok(Self { from: from.into(), region, settings, token, is_kept: false })
    }
}

fn table_of(text: &str) -> Result<toml::Table, String> {
    let text = text.trim_start();
    if text.starts_with("#cloud-config") || text.starts_with("#!") {
        return Err("this is a document for cloud-init; let it write the bootstrap document to a file, and give that with --bootstrap".into());
    }
    if text.starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| format!("it is not valid JSON: {error}"));
    }
    text.parse().map_err(|error: toml::de::Error| {
        // Its message may quote the line, which may have the token in it.
        format!("it is neither TOML nor JSON: {}", error.message().replace('\n', ", "))
    })
}

fn read(source: &BootstrapSource) -> Result<String, BootstrapError> {
    let from = source.to_string();
    let read = match source {
        BootstrapSource::Inline(text) => Ok(text.clone()),
        BootstrapSource::File(path) => File::open(path).and_then(|file| {
            let mut text = String::new();
            file.take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut text).map(|_| text)
        }),
        BootstrapSource::Url(url) => fetch(url).map_err(io::Error::other),
    };
    let text = read.map_err(|source| BootstrapError::Read { from: from.clone(), source })?;
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(BootstrapError::TooLarge { from });
    }
    Ok(text)
}

/// A document over HTTP, as clouds serve it to their instances: EC2 wants a token of the session
/// first (`IMDSv2`), Google and Azure a header that no browser sends. A service that does not know
/// the one or the other ignores it.
fn fetch(url: &str) -> Result<String, ureq::Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(FETCH_MAX))
        .max_redirects(0)
        // The host's own user data is never behind a proxy.
        .proxy(None)
        .build()
        .into();
    let mut request = agent.get(url).header("Metadata-Flavor", "Google").header("Metadata", "true");
    if let Some(token) = session_token(&agent, url) {
        request = request.header("X-aws-ec2-metadata-token", token);
    }
    let mut response = request.call()?;
    response.body_mut().with_config().limit(DOCUMENT_BYTES_MAX + 1).read_to_string()
}

fn session_token(agent: &ureq::Agent, url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    let request = agent
        .put(format!("{scheme}://{host}/latest/api/token"))
        .header("X-aws-ec2-metadata-token-ttl-seconds", "60");
    let mut response = request.send_empty().ok()?;
    let token = response.body_mut().with_config().limit(1024).read_to_string().ok()?;
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    is_token.then_some(token)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt as _;
    use std::thread;

    use super::*;

    const DOCUMENT: &str = "region = \"eu\"\njoin_token = \"secret-1\"\nzone = \"z1\"\n\
                            labels = [\"canary\"]\ngoal = \"file:///goal\"\n";

    fn inline(text: &str) -> BootstrapSource {
        BootstrapSource::Inline(text.into())
    }

    #[test]
    fn document_is_kept_and_the_next_start_needs_none() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert_eq!(Bootstrap::find(None, &state).unwrap(), (None, None));
        let first = Bootstrap::find(Some(&inline(DOCUMENT)), &state).unwrap().0.unwrap();
        assert!(!state.exists(), "nothing may be written before the settings are right");
        first.keep(&state).unwrap();
        let again = Bootstrap::find(None, &state).unwrap().0.unwrap();
        assert_eq!(again.settings().settings, first.settings().settings);
        assert_eq!((again.region.as_deref(), again.token.clone()), (Some("eu"), None));
        again.keep(&state).unwrap();
        assert_eq!(fs::read_to_string(state.join(TOKEN_FILE)).unwrap(), "secret-1\n");
        assert_eq!(format!("{:?}", JoinToken("secret-1".into())), "JoinToken(..)");
        let mode = fs::metadata(state.join(TOKEN_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let kept = fs::read_to_string(state.join(KEPT_FILE)).unwrap();
        assert!(!kept.contains("secret") && kept.contains("SHOAL_BOOTSTRAP"), "{kept}");
        // A source that is gone does not matter any more.
        let gone = BootstrapSource::File("/nowhere/b.toml".into());
        let (found, warning) = Bootstrap::find(Some(&gone), &state).unwrap();
        assert_eq!(found, Some(again));
        assert!(warning.unwrap().contains("/nowhere/b.toml: No such file"));
        let error = Bootstrap::find(Some(&gone), folder.path()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/b.toml"), "{error}");
        // A newer document takes the place of the old one.
        Bootstrap::find(Some(&inline("{\"zone\": \"z2\"}")), &state)
            .unwrap()
            .0
            .unwrap()
            .keep(&state)
            .unwrap();
        fs::write(state.join("copy"), fs::read(state.join(KEPT_FILE)).unwrap()).unwrap();
        fs::write(state.join(KEPT_FILE), "damaged").unwrap();
        let (found, warning) = Bootstrap::find(None, &state).unwrap();
        assert!(found.is_none() && warning.unwrap().contains("bootstrap.json is not a valid"));
        fs::rename(state.join("copy"), state.join(KEPT_FILE)).unwrap();
        let newest = Bootstrap::find(None, &state).unwrap().0.unwrap().settings();
        assert_eq!(newest.settings["zone"].as_str(), Some("z2"));
    }

    #[test]
    fn documents_that_are_none_are_refused_without_showing_the_token() {
        let long = format!("zone = \"{}\"", "x".repeat(20_000));
        let cases = [
            ("exec = \"x\"", "unknown key \"exec\""),
            ("zone = \"a", "neither TOML nor JSON"),
            ("{\"zone\": 1", "not valid JSON"),
            ("region = 1", "region: expected a string"),
            ("join_token = \"secret x\"", "join_token: expected a word"),
            ("join_token = secret", "neither TOML nor JSON"),
            ("#cloud-config\nx: 1", "cloud-init"),
            (long.as_str(), "more than 16384 bytes"),
        ];
        for (text, part) in cases {
            let error = Bootstrap::find(Some(&inline(text)), Path::new("/nowhere")).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{text}: {error}");
        }
        let is_file = |text| matches!(BootstrapSource::of_text(text), BootstrapSource::File(_));
        assert!(is_file("/etc/b.toml") && !is_file("zone = \"a\"") && !is_file("{}"));
    }

    /// An instance metadata service that answers `user_data`, with `IMDSv2` or without; returns its
    /// address and what it was asked, once `requests` were answered.
    fn metadata(
        has_tokens: bool,
        user_data: &'static str,
        requests: usize,
    ) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/latest/user-data", listener.local_addr().unwrap());
        let served = thread::spawn(move || {
            let mut asked = vec![];
            while asked.len() < requests {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let mut head = String::new();
                while let Some(Ok(line)) =
                    lines.next().filter(|line| line.as_ref().is_ok_and(|l| !l.is_empty()))
                {
                    head = head + &line.to_lowercase() + "\n";
                }
                let is_put = head.starts_with("put /latest/api/token");
                let is_known = head.contains("x-aws-ec2-metadata-token: tok");
                let (status, body) = match (is_put, has_tokens) {
                    (true, true) => (200, "tok"),
                    (true, false) => (404, ""),
                    (false, true) if !is_known => (401, ""),
                    _ => (200, user_data),
                };
                let length = body.len();
                write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
                asked.push(head);
            }
            asked
        });
        (url, served)
    }

    #[test]
    fn user_data_is_fetched_with_and_without_session_tokens() {
        for has_tokens in [true, false] {
            let (url, served) = metadata(has_tokens, DOCUMENT, 2);
            let source = BootstrapSource::Url(url);
            let found = Bootstrap::find(Some(&source), Path::new("/nowhere")).unwrap().0.unwrap();
            assert_eq!(found.settings().settings["zone"].as_str(), Some("z1"));
            let asked = served.join().unwrap();
            assert!(asked[1].contains("metadata-flavor: google"), "{asked:?}");
            assert_eq!(asked[1].contains("x-aws-ec2-metadata-token"), has_tokens);
        }
    }
}
