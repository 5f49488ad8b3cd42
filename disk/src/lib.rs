//! The one way Shoal writes durably.
//!
//! Every change of a file system on which something depends after a crash goes through this crate:
//! [`DiskFile`] for the bytes of a file, the functions of this module for names, and
//! [`replace_file`] and [`replace_symlink`] for the usual "write, sync, rename, sync the
//! directory". Each is the system call of that name and nothing else, and costs one relaxed atomic
//! load more than that. Reading stays with `std::fs`. All calls block.
//!
//! What that buys: a test can [`watch`] a directory, see each operation before it is carried out,
//! let it fail, or let the host lose its power there, and compute from the record what a disk may
//! hold afterwards (the module `simulated`, which only tests have: it is behind a feature).
//!
//! Invariant: nothing here depends on who calls. Knows no formats, and decides nothing about order
//! apart from the two functions that replace.

mod calls;
mod file;
mod operation;
mod record;
mod replace;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
mod watch;

pub use calls::{
    create_dir, create_dir_all, create_dir_all_synced, create_dir_with, exchange, hard_link,
    remove_dir, remove_dir_all, remove_file, rename, rename_new, set_mode, symlink, sync_dir,
    sync_file_system,
};
pub use file::DiskFile;
pub use operation::{Open, Operation, Outcome, Recorded};
pub use record::{Node, Record, Tree};
pub use replace::{Durability, replace_file, replace_symlink, scratch_beside};
pub use watch::{PowerLost, Verdict, Watcher, Watching, watch};
