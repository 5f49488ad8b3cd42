//! Tells a hangup of the terminal from a request to read settings again: both arrive as SIGHUP.

use std::io::{self, IsTerminal as _};

/// Which of the standard streams were a terminal when the program started.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    streams: [bool; 3],
}

impl Terminal {
    /// Looks at the streams now.
    pub fn look() -> Self {
        let streams =
            [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
        Self { streams }
    }

    /// Whether a terminal that was there is gone. A service manager that sends SIGHUP finds none
    /// gone: there was none, or somebody still sits at it.
    pub fn is_gone(self) -> bool {
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
