//! Which damaged status documents were reported: each is logged once, however often a program
//! reads all of them.
//!
//! Invariant: a document is reported again if it is damaged in another way, or was sound meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Clones share what was reported.
#[derive(Clone, Debug, Default)]
pub(crate) struct DamageLog {
    /// Reasons by place, for each scope that is read.
    reported: Arc<Mutex<BTreeMap<String, BTreeMap<String, String>>>>,
}

impl DamageLog {
    /// Takes in all damage that one reading of `scope` found, reason by place; logs what is news.
    pub(crate) fn note(&self, scope: &str, found: BTreeMap<String, String>) {
        for (place, reason) in self.news(scope, found) {
            tracing::warn!(
                place,
                reason,
                "skipped a damaged status document; its writer replaces it, or remove it"
            );
        }
    }

    fn news(&self, scope: &str, found: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut scopes = self.reported.lock();
        let reported = scopes.entry(scope.to_owned()).or_default();
        let is_news = |(place, reason): &(&String, &String)| reported.get(*place) != Some(*reason);
        let news = found.iter().filter(is_news);
        let news = news.map(|(place, reason)| (place.clone(), reason.clone())).collect();
        *reported = found;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_news_once() {
        let log = DamageLog::default();
        let damage = |reason: &str| BTreeMap::from([("a.json".to_owned(), reason.to_owned())]);
        assert_eq!(log.news("", damage("empty")), damage("empty"));
        assert!(log.clone().news("", damage("empty")).is_empty());
        assert_eq!(log.news("", damage("cut off")), damage("cut off"));
        assert!(log.news("", BTreeMap::new()).is_empty());
        assert_eq!(log.news("", damage("cut off")), damage("cut off"), "it was sound meanwhile");
    }
}
