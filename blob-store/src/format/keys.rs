//! The keys under which things lie in a store.
//!
//! ```text
//! builds/<build>               manifest and index; written last, never replaced by a publisher
//! packs/<digest>               chunks
//! apps/<app>/<time>-<build>    empty; one for each time that a build of the app was published
//! condemned/<digest>           empty; a pack that is swept unless a build names it in time
//! probe, clock                 written when a store is opened for writing, and when it is swept
//! ```

use p2p_core::{BuildId, Digest};

/// What [`builds`](builds) begin with.
pub(crate) const BUILDS: &str = "builds";
/// What packs begin with.
pub(crate) const PACKS: &str = "packs";
/// What the notes of packs that are to be swept begin with.
pub(crate) const CONDEMNED: &str = "condemned";
/// What the notes of apps begin with.
pub(crate) const APPS: &str = "apps";
/// Shows whether the store refuses to create what is there.
pub(crate) const PROBE: &str = "probe";
/// Shows the store's time.
pub(crate) const CLOCK: &str = "clock";

/// Digits of a time, so that keys sort by it: enough for ten thousand years.
const TIME_DIGITS: usize = 15;

/// Longest name of an app.
const APP_BYTES_MAX: usize = 128;

pub(crate) fn build(build: BuildId) -> String {
    format!("{BUILDS}/{build}")
}

pub(crate) fn pack(pack: &Digest) -> String {
    format!("{PACKS}/{pack}")
}

pub(crate) fn condemned(pack: &Digest) -> String {
    format!("{CONDEMNED}/{pack}")
}

pub(crate) fn published(app: &str, now_ms: u64, build: BuildId) -> String {
    format!("{APPS}/{app}/{now_ms:0TIME_DIGITS$}-{build}")
}

/// The last name of a key, as a digest.
pub(crate) fn digest_of(key: &str) -> Option<Digest> {
    key.rsplit('/').next()?.parse().ok()
}

/// App, time and build of a note that a build was published.
pub(crate) fn parse_published(key: &str) -> Option<(&str, u64, BuildId)> {
    let (rest, name) = key.rsplit_once('/')?;
    let app = rest.rsplit('/').next()?;
    let (time, build) = name.split_once('-')?;
    Some((app, time.parse().ok()?, build.parse().ok()?))
}

/// Whether `app` can be part of a key in every kind of store.
pub(crate) fn is_app(app: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !app.is_empty()
        && app.len() <= APP_BYTES_MAX
        && !app.starts_with('.')
        && app.bytes().all(is_plain)
}
