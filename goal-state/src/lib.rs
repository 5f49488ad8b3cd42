//! The goal (which build an app should run) and the status of hosts: documents, and where they
//! live.
//!
//! - [`GoalStore`]: `file:///directory` or `etcd://host:port[,host:port]/prefix`. Start here.
//! - [`Goal`]: what operators write and hosts follow.
//! - [`HostStatus`]: what hosts report and operators read.
//!
//! Invariants: the generation of a goal only rises, however many operators write at once; a
//! document that is damaged is reported and never overwritten. What a goal or a status means for a
//! host is not decided here.

mod documents;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use documents::app_name::{AppName, AppNameError};
pub use documents::explain::{Answer, Reason, progress_text};
pub use documents::fit::{STATUS_ROW_BYTES_MAX, fit_row};
pub use documents::goal::Goal;
pub use documents::history::{ChangeOrder, Origin, Outcome, PastGoal, RollbackTarget};
pub use documents::inventory::{
    FORGOTTEN_KEPT_MS, Forgotten, NAME_KEPT_MS, Presence, SILENT_AFTER_MS, WriterRows,
};
pub use documents::limit::{HostCount, HostCountError, HostLimit};
pub use documents::notes::{CLOCK_STEP, HostNotes, NAMESAKE_STEP, NOTES_TOPIC};
pub use documents::rollout::{
    Applicant, Halted, Label, LabelError, NotYet, Rollout, RolloutChange, SwitchTime,
};
pub use documents::status::{
    CLOCK_OFF_MAX_MS, HostPhase, HostStatus, LAST_OUTPUT_BYTES_MAX, STATUS_ROWS_MAX, WaitReason,
    WriterNameError, last_output,
};
pub use documents::tally::{
    ABSENT_AFTER_MS, Cause, HALTED_BY_SEEDER, causes, ends_again_and_again, fails_to_serve,
    halt_due, halt_due_to, has_failed, is_away, is_good, is_silent_in_switch, is_stuck, outcome,
    went_silent,
};
pub use documents::text::{bytes_text, is_hidden, moment, printable, span};
pub use documents::token::{
    LEASE_MAX, TOKEN_TOPIC, TokenAct, TokenAnswer, TokenDocumentError, TokenRequest,
    granting_seeder,
};
pub use documents::trouble::{TROUBLES_MAX, Trouble, TroubleKind};
pub use store::GoalStore;
pub use store::board::GoalUpdate;
pub use store::change::{DamagedGoal, GoalChange, GoalList};
pub use store::error::{Author, FileAction, GoalReadError, GoalStoreError};
pub use store::pacing::now_ms;
pub use store::url::{GoalUrl, GoalUrlError};
pub use store::watch::GoalWatch;
