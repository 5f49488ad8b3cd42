//! What lies in the store, as bytes: packs, builds, and the keys they lie under. Pure.
//!
//! A *pack* ([`pack`]) holds segments: runs of chunks, compressed where something is won by it. A
//! *build* ([`build`]) is a manifest and an index ([`index`]), which says in which segment of which
//! pack each chunk lies. [`codec`] compresses, [`bytes`] reads and writes numbers.
//!
//! Invariant: what a store hands over is foreign. Every reader here ends with a checked value or a
//! [`FormatError`], and allocates in proportion to the bytes it was given, never to a number that
//! these bytes claim.

pub(crate) mod build;
pub(crate) mod bytes;
pub(crate) mod codec;
pub(crate) mod error;
pub(crate) mod index;
pub(crate) mod keys;
pub(crate) mod pack;
pub(crate) mod segment;
#[cfg(test)]
mod tests;
