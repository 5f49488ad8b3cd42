//! The structure of the workspace, as far as reading its text can hold it.
//!
//! A rule that fails says which file breaks it and what to do. A rule that makes one place worse is
//! changed here, with the reason, and not worked around there.
#![allow(clippy::unwrap_used, reason = "tests")]

mod crates;
mod documents;
mod files;
mod rooms;
