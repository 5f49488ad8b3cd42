//! The goal stores as programs use them: directories, and a real etcd server.
//!
//! `store_contract` is what holds for both kinds; `files` and `etcd` are what only one can show.

#![expect(clippy::unwrap_used, reason = "tests")]

mod etcd;
mod files;
mod link;
mod rig;
mod store_contract;
