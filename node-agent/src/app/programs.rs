//! What the loop of an app does when its programs wake it: counts for the metrics.
//!
//! What becomes of the programs is the supervisor's, and what follows from that the brain's.

use super::App;
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::TokenDesk;
use crate::host::Host;
use crate::programs::supervisor;

pub(super) fn on_program<S: BuildSource, H: Host, T: TokenDesk>(
    app: &mut App<S, H, T>,
    wake: supervisor::Wake,
) {
    let (crashes, output) = (app.supervisor.crash_count(), app.supervisor.output_counts());
    app.supervisor.on_wake(wake);
    let crashes = u64::from(app.supervisor.crash_count() - crashes);
    let now = app.supervisor.output_counts();
    let (bytes, floods) = (now.bytes - output.bytes, now.floods - output.floods);
    if crashes + bytes > 0 {
        app.count(|counts| {
            counts.restarts += crashes;
            counts.output_bytes += bytes;
            counts.output_floods += floods;
        });
    }
}
