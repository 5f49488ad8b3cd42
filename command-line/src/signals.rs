//! Waits for the signals by which people, terminals and service managers speak to a program.
//!
//! Invariant: from its creation on no signal that is caught is lost, and none of them ends the
//! process. What a program does when it is asked is its own.

use std::io::{self, IsTerminal as _};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SignalRequest {
    /// The program shall end.
    Stop,
    /// It shall read its settings again.
    Reload,
}

/// What SIGHUP is to a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hangup {
    /// Not caught: it ends the process at once.
    Uncaught,
    /// A request to stop, as any other.
    Stop,
    /// A request to read settings again; to stop if a terminal of the program is gone, because that
    /// arrives as the same signal.
    Reload,
}

/// Why a signal cannot be waited for.
#[derive(Debug, thiserror::Error)]
#[error("cannot wait for {signal}")]
pub struct SignalError {
    /// The signal's name.
    pub signal: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// Catches SIGTERM, SIGINT and, unless it is [`Hangup::Uncaught`], SIGHUP.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
    /// Looked at when a hangup may be a request for something else.
    terminal: Option<Terminal>,
}

impl Signals {
    /// Starts to catch. Must be called within a runtime.
    ///
    /// # Errors
    ///
    /// If the system refuses a handler.
    pub fn catch(hangup: Hangup) -> Result<Self, SignalError> {
        let caught =
            |kind, name| signal(kind).map_err(|source| SignalError { signal: name, source });
        let is_hangup_caught = hangup != Hangup::Uncaught;
        Ok(Self {
            terminate: caught(SignalKind::terminate(), "SIGTERM")?,
            interrupt: caught(SignalKind::interrupt(), "SIGINT")?,
            hangup: is_hangup_caught.then(|| caught(SignalKind::hangup(), "SIGHUP")).transpose()?,
            terminal: (hangup == Hangup::Reload).then(Terminal::look),
        })
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a signal that came is seen by the next call.
    pub async fn next(&mut self) -> SignalRequest {
        let Self { terminate, interrupt, hangup, terminal } = self;
        tokio::select! {
            _ = terminate.recv() => SignalRequest::Stop,
            _ = interrupt.recv() => SignalRequest::Stop,
            () = received(hangup) => match terminal {
                Some(terminal) if !terminal.is_gone() => SignalRequest::Reload,
                _ => SignalRequest::Stop,
            },
        }
    }

    /// Waits for the next signal that means stop.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::next`].
    pub async fn stop(&mut self) {
        while self.next().await != SignalRequest::Stop {}
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Which of the standard streams were a terminal when the program started.
#[derive(Clone, Copy, Debug)]
struct Terminal {
    streams: [bool; 3],
}

impl Terminal {
    /// Looks at the streams now.
    fn look() -> Self {
        let streams =
            [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
        Self { streams }
    }

    /// Whether a terminal that was there is gone. When a service manager sends SIGHUP, no terminal
    /// is gone: there was none, or somebody still sits at it.
    fn is_gone(self) -> bool {
        let now = Self::look();
        self.streams.into_iter().zip(now.streams).any(|(then, now)| then && !now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_is_gone_only_if_it_was_there() {
        // Under a test runner none of the streams is a terminal that ends.
        assert!(!Terminal::look().is_gone());
        let now = Terminal::look().streams;
        let gone = Terminal { streams: now.map(|_| true) }.is_gone();
        assert_eq!(gone, now.contains(&false));
    }
}
