//! The documents, pure: what operators write and hosts follow ([`goal`], [`rollout`]), what hosts
//! report ([`status`], [`trouble`]) and what that means ([`explain`]), the list of all hosts that
//! comes of it ([`inventory`]), what hosts and seeders ask each other ([`token`], [`notes`]), and
//! what reports say of a goal ([`tally`]).
//!
//! Each parses strictly, prints itself as JSON, and knows the rules by which it may change. Nothing
//! here reads a file, a socket or a clock; where documents live is in `store`.

pub(crate) mod app_name;
pub(crate) mod explain;
pub(crate) mod fields;
pub(crate) mod fit;
pub(crate) mod goal;
pub(crate) mod history;
pub(crate) mod inventory;
pub(crate) mod limit;
pub(crate) mod notes;
pub(crate) mod rollout;
pub(crate) mod status;
pub(crate) mod tally;
pub(crate) mod text;
pub(crate) mod token;
pub(crate) mod trouble;
