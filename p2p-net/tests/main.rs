//! Real nodes on loopback: real QUIC, real files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod asks;
mod crash;
mod examples;
mod limits;
mod measure;
mod news;
mod reuse;
mod rig;
mod swarm;
mod transports;
