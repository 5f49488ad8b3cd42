//! Transcript tests of the core: whole swarms on links that exist only as numbers.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::cast_precision_loss, reason = "ratios for people")]

mod fleet;
mod hostile;
mod locality;
mod membership;
mod own_disk;
mod swarm;
mod tracker;
