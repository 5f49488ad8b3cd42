//! What the loop of an app does when its programs wake it: counts for the metrics.
//!
//! What becomes of the programs is the supervisor's, and what follows from that the brain's.

use super::App;
use crate::host::Host;
use crate::source::BuildSource;
use crate::supervisor;
use crate::tokens::TokenDesk;

impl<S: BuildSource, H: Host, T: TokenDesk> App<S, H, T> {
    pub(super) fn on_program(&mut self, wake: supervisor::Wake) {
        let (crashes, output) = (self.supervisor.crash_count(), self.supervisor.output_counts());
        self.supervisor.on_wake(wake);
        let crashes = u64::from(self.supervisor.crash_count() - crashes);
        let now = self.supervisor.output_counts();
        let (bytes, floods) = (now.bytes - output.bytes, now.floods - output.floods);
        if crashes + bytes > 0 {
            self.count(|counts| {
                counts.restarts += crashes;
                counts.output_bytes += bytes;
                counts.output_floods += floods;
            });
        }
    }
}
