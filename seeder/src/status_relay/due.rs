//! Documents to be written, each with the time from which on to do so.

use std::collections::BTreeMap;

/// A list of documents, each at most once.
#[derive(Debug, Default)]
pub(super) struct DueList {
    at_ms: BTreeMap<usize, u64>,
}

impl DueList {
    /// Lets a document be due at `at_ms`, unless it is earlier already.
    pub(super) fn mark(&mut self, document: usize, at_ms: u64) {
        let due = self.at_ms.entry(document).or_insert(at_ms);
        *due = (*due).min(at_ms);
    }

    /// Takes the documents due at `now_ms` from the list: longest due first, at most `count_max`.
    pub(super) fn take(&mut self, now_ms: u64, count_max: usize) -> Vec<usize> {
        let mut due: Vec<(u64, usize)> = self
            .at_ms
            .iter()
            .filter(|&(_, &at_ms)| at_ms <= now_ms)
            .map(|(&document, &at_ms)| (at_ms, document))
            .collect();
        due.sort_unstable();
        due.truncate(count_max);
        for (_, document) in &due {
            self.at_ms.remove(document);
        }
        due.into_iter().map(|(_, document)| document).collect()
    }
}
