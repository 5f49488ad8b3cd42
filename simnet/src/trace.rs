//! What happened, step by step: folded into a digest, written as lines, shown to checkers.
//!
//! Invariant: the digest covers every step in order, whether or not anybody reads the lines, so
//! that two runs with equal digests did the same.

use std::fmt;
use std::io::{self, Write};

use p2p_core::Instant;

use crate::queue::NodeIndex;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum StepKind {
    /// A node entered the swarm.
    Start,
    /// A connection to the peer is ready.
    Connected,
    /// A dial led nowhere.
    DialFailed,
    /// A connection is gone.
    Lost,
    /// The peer said what it is and what it has.
    Joined,
    /// The peer offered chunks; the first of them.
    Offered,
    /// The peer asks for the chunk.
    Requested,
    /// The peer needs no answer any more.
    Cancelled,
    /// The peer is busy.
    Busy,
    /// The peer leaves, or asks for or lacks the manifest.
    OtherMessage,
    /// The manifest came from the peer.
    Manifest,
    /// The node asked the peer for the chunk.
    Fetch,
    /// The node gave up its request for a chunk.
    FetchGivenUp,
    /// The node began to send the chunk to the peer.
    Serve,
    /// Sending the chunk ended, delivered or not.
    ServeEnded,
    /// The chunk was hashed, found right and stored.
    Stored,
    /// The chunk was hashed, found wrong and thrown away.
    Differs,
    /// A tracker answered.
    Answered,
    /// A tracker did not answer.
    Unanswered,
    /// A neighbour named others.
    Contacts,
    /// The node's alarm went off.
    Wake,
    /// A chunk is still on its way.
    Advanced,
    /// Every chunk is here.
    Complete,
    /// The node died.
    Crash,
    /// The node is back.
    Return,
    /// The node died for good.
    Vanish,
    /// The run ended.
    End,
}

impl StepKind {
    /// How the trace spells it, at most eight letters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Connected => "connect",
            Self::DialFailed => "nodial",
            Self::Lost => "lost",
            Self::Joined => "join",
            Self::Offered => "offer",
            Self::Requested => "request",
            Self::Cancelled => "cancel",
            Self::Busy => "busy",
            Self::OtherMessage => "message",
            Self::Manifest => "manifest",
            Self::Fetch => "fetch",
            Self::FetchGivenUp => "giveup",
            Self::Serve => "serve",
            Self::ServeEnded => "served",
            Self::Stored => "stored",
            Self::Differs => "differs",
            Self::Answered => "answer",
            Self::Unanswered => "noanswer",
            Self::Contacts => "contacts",
            Self::Wake => "wake",
            Self::Advanced => "advance",
            Self::Complete => "complete",
            Self::Crash => "crash",
            Self::Return => "return",
            Self::Vanish => "vanish",
            Self::End => "end",
        }
    }
}

/// One step of one node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Observation {
    /// When.
    pub at: Instant,
    /// Whose step it is.
    pub node: NodeIndex,
    /// What happened.
    pub kind: StepKind,
    /// The other node, if there is one.
    pub peer: Option<NodeIndex>,
    /// The chunk, if it is about one.
    pub chunk: Option<u32>,
}

impl fmt::Display for Observation {
    /// One line with fixed columns, for `diff` and `grep`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, node, kind, peer, chunk } = self;
        let micros = at.as_nanos() / 1_000;
        write!(f, "{micros:>12}  n{node:06}  {:<8}", kind.name())?;
        match peer {
            Some(peer) => write!(f, "  n{peer:06}")?,
            None => write!(f, "        -")?,
        }
        match chunk {
            Some(chunk) => write!(f, "  {chunk:>7}"),
            None => write!(f, "        -"),
        }
    }
}

/// A 64-bit digest of all steps so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceDigest(u64);

impl TraceDigest {
    const fn fold(&mut self, word: u64) {
        // The multiplication of FNV-1a over words, with a rotation so that high
        // bits come back down.
        self.0 = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
}

impl fmt::Display for TraceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Takes every step.
pub(crate) struct Trace {
    digest: TraceDigest,
    steps: u64,
    lines: Option<Box<dyn Write>>,
    /// The first failure to write a line; nothing is written after it.
    failure: Option<io::Error>,
}

impl Trace {
    pub(crate) const fn new() -> Self {
        Self { digest: TraceDigest(0xCBF2_9CE4_8422_2325), steps: 0, lines: None, failure: None }
    }

    pub(crate) fn write_to(&mut self, lines: Box<dyn Write>) {
        self.lines = Some(lines);
    }

    pub(crate) fn note(&mut self, step: &Observation) {
        self.steps += 1;
        let other = u64::from(step.peer.unwrap_or(u32::MAX)) << 32;
        self.digest.fold(step.at.as_nanos());
        self.digest.fold(u64::from(step.node) << 8 | u64::from(step.kind as u8));
        self.digest.fold(other | u64::from(step.chunk.unwrap_or(u32::MAX)));
        if let Some(lines) = &mut self.lines
            && let Err(error) = writeln!(lines, "{step}")
        {
            self.failure = Some(error);
            self.lines = None;
        }
    }

    /// Whether a line could not be written.
    pub(crate) const fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(crate) const fn digest(&self) -> TraceDigest {
        self.digest
    }

    pub(crate) const fn step_count(&self) -> u64 {
        self.steps
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    ///
    /// The first failure to write a line, or the one to flush.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        match self.failure.take() {
            Some(error) => Err(error),
            None => self.lines.as_mut().map_or(Ok(()), Write::flush),
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, steps, .. } = self;
        f.debug_struct("Trace")
            .field("digest", digest)
            .field("steps", steps)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(peer: Option<u32>, chunk: Option<u32>) -> Observation {
        Observation {
            at: Instant::from_nanos(1_204_117_900),
            node: 17,
            kind: StepKind::Fetch,
            peer,
            chunk,
        }
    }

    #[test]
    fn lines_have_fixed_columns() {
        let full = step(Some(2), Some(93)).to_string();
        assert_eq!(full, "     1204117  n000017  fetch     n000002       93");
        assert_eq!(step(None, None).to_string().len(), full.len());
    }

    #[test]
    fn every_field_changes_the_digest() {
        let digest_of = |step: &Observation| {
            let mut trace = Trace::new();
            trace.note(step);
            trace.digest()
        };
        let base = step(Some(2), Some(93));
        let others = [
            Observation { at: Instant::from_nanos(1), ..base },
            Observation { node: 18, ..base },
            Observation { kind: StepKind::Serve, ..base },
            Observation { peer: None, ..base },
            Observation { chunk: Some(94), ..base },
        ];
        for other in others {
            assert_ne!(digest_of(&base), digest_of(&other), "{other:?}");
        }
    }

    struct FullDisk;

    impl Write for FullDisk {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn failure_to_write_a_line_is_reported_at_the_end() {
        let mut trace = Trace::new();
        trace.write_to(Box::new(FullDisk));
        trace.note(&step(None, None));
        trace.note(&step(None, None));
        assert_eq!(trace.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(trace.step_count(), 2);
    }
}
