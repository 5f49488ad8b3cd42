//! The asking end of the control socket, without a runtime: one question, one answer.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Request, Response};

/// Time for an answer. Longer than the agent takes for one, so that it is the agent who says why.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// Most bytes of an answer: rows of many apps fit.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A connection to an agent.
#[derive(Debug)]
pub(crate) struct ControlClient {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// Why an agent could not be asked, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AskError {
    /// Nobody listens.
    #[error(
        "no agent is running: nobody listens on {}; start it (systemctl start shoal-agent), or name the socket of another one with --control or its state directory with --state",
        path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to another user.
    #[error("no permission to use {}; ask as root or as the user that the agent runs as", path.display())]
    NoPermission {
        /// The socket.
        path: PathBuf,
    },
    /// The agent is there and does not answer.
    #[error("the agent behind {} did not answer; look at its log (journalctl -u shoal-agent)", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The agent said no.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

impl ControlClient {
    /// Connects to the agent behind the socket `path`.
    ///
    /// # Errors
    ///
    /// If there is none or it may not be asked.
    pub(crate) fn connect(path: &Path) -> Result<Self, AskError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AskError::NotRunning { path: path.into() }
            }
            io::ErrorKind::PermissionDenied => AskError::NoPermission { path: path.into() },
            _ => AskError::NoAnswer { path: path.into(), source: error },
        })?;
        let failed = |source| AskError::NoAnswer { path: path.into(), source };
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(failed)?;
        stream.set_write_timeout(Some(ANSWER_MAX)).map_err(failed)?;
        Ok(Self { path: path.into(), stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// If there is none, or the agent refuses.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Response, AskError> {
        let answered = self.exchange(request);
        match answered {
            Ok(Response::Refused { reason }) => Err(AskError::Refused { reason }),
            Ok(response) => Ok(response),
            // The agent closes the connections of users that it does not serve.
            Err(error) if is_closed(&error) => {
                let path = self.path.clone();
                let mine = rustix::process::geteuid().is_root();
                if mine {
                    Err(AskError::NoAnswer { path, source: error })
                } else {
                    Err(AskError::NoPermission { path })
                }
            }
            Err(source) => Err(AskError::NoAnswer { path: self.path.clone(), source }),
        }
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Response> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = vec![];
        (&mut self.stream).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
