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

mod app_name;
mod document_file;
mod error;
mod etcd_store;
mod etcd_watch;
mod file_store;
mod file_watch;
mod folder_watch;
mod goal;
mod pacing;
mod rollout;
mod status;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod token;
mod url;
mod watch;

pub use app_name::{AppName, AppNameError};
pub use error::{FileAction, GoalStoreError};
pub use goal::{Goal, GoalChangeError, GoalDocumentError, HISTORY_MAX, PastGoal};
pub use rollout::{Label, LabelError, NotYet, ROLLOUT_LABELS_MAX, Rollout, RolloutChange};
pub use status::{
    HostPhase, HostStatus, LAST_OUTPUT_BYTES_MAX, STATUS_ROWS_MAX, WaitReason, WriterNameError,
    check_writer_name, last_output,
};
pub use store::{DamagedGoal, GoalList, GoalStore};
pub use token::{
    LEASE_MAX, LEASE_MIN, TOKEN_BYTES_MAX, TOKEN_TOPIC, TokenAct, TokenAnswer, TokenDocumentError,
    TokenRequest, granting_seeder,
};
pub use url::{GoalUrl, GoalUrlError};
pub use watch::{GoalUpdate, GoalWatch};
