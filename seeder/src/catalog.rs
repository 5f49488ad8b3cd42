//! Which builds of the store the seeder serves, and what to change when the store changes.
//!
//! Owns the difference between what the store lists and what is served; [`crate::daemon`] carries
//! it out. Invariant: a build is served only while the store lists it. A damaged build never stops
//! the others from being served, and is named once, not once per scan.

use std::collections::{BTreeMap, BTreeSet};

use p2p_core::BuildId;

/// The builds that are served, and those that cannot be.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    served: BTreeSet<BuildId>,
    /// With the reason that was logged last.
    damaged: BTreeMap<BuildId, String>,
}

/// What a scan of the store asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Changes {
    /// Builds to open and serve; damaged ones are among them at every scan, in case they were
    /// repaired.
    pub(crate) start: Vec<BuildId>,
    /// Builds to stop serving.
    pub(crate) stop: Vec<BuildId>,
}

impl Catalog {
    /// Compares what is served with what the store lists now. Builds to stop are forgotten at once.
    pub(crate) fn on_scan(&mut self, listed: &[BuildId]) -> Changes {
        let listed: BTreeSet<BuildId> = listed.iter().copied().collect();
        let stop: Vec<BuildId> = self.served.difference(&listed).copied().collect();
        self.served.retain(|build| listed.contains(build));
        self.damaged.retain(|build, _| listed.contains(build));
        Changes { start: listed.difference(&self.served).copied().collect(), stop }
    }

    /// Notes that a build is served now.
    pub(crate) fn on_started(&mut self, build: BuildId) {
        self.damaged.remove(&build);
        self.served.insert(build);
    }

    /// Notes that a build cannot be served. Returns whether that is news worth logging.
    pub(crate) fn on_damaged(&mut self, build: BuildId, reason: &str) -> bool {
        let known = self.damaged.insert(build, reason.to_owned());
        known.as_deref() != Some(reason)
    }

    /// How many builds are served.
    pub(crate) fn served_count(&self) -> usize {
        self.served.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(number: u8) -> BuildId {
        BuildId::of_manifest(&[number])
    }

    fn sorted(numbers: &[u8]) -> Vec<BuildId> {
        let builds: BTreeSet<BuildId> = numbers.iter().copied().map(build).collect();
        builds.into_iter().collect()
    }

    #[test]
    fn scans_name_what_came_and_what_went() {
        let mut catalog = Catalog::default();
        let first = catalog.on_scan(&[build(1), build(2)]);
        assert_eq!(first, Changes { start: sorted(&[1, 2]), stop: vec![] });
        first.start.into_iter().for_each(|build| catalog.on_started(build));

        let second = catalog.on_scan(&[build(2), build(3)]);
        assert_eq!(second, Changes { start: vec![build(3)], stop: vec![build(1)] });
        catalog.on_started(build(3));
        assert_eq!(catalog.on_scan(&[build(3), build(2)]), Changes::default());
        assert_eq!(catalog.served_count(), 2);
    }

    #[test]
    fn damaged_build_is_news_once_and_tried_again() {
        let mut catalog = Catalog::default();
        catalog.on_scan(&[build(1)]);
        assert!(catalog.on_damaged(build(1), "cut off"));
        assert_eq!(catalog.on_scan(&[build(1)]).start, [build(1)]);
        assert!(!catalog.on_damaged(build(1), "cut off"));
        assert!(catalog.on_damaged(build(1), "unreadable"), "another reason is news");
        assert_eq!(catalog.served_count(), 0);

        // Removed and published again: a new life, and a new line in the log.
        catalog.on_scan(&[]);
        catalog.on_scan(&[build(1)]);
        assert!(catalog.on_damaged(build(1), "unreadable"));
    }
}
