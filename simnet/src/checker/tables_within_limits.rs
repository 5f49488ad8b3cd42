//! Rule: no table, queue or account of a swarm is larger than its configuration allows.
//!
//! The limits are those that the swarm itself names with its tables; a test may set tighter ones.

use p2p_core::{Instant, TableSize};

use crate::checker::{Checker, Violation};
use crate::queue::NodeIndex;
use crate::trace::{Observation, StepKind};

/// Checks the rule with the limits that the tables name, or with tighter ones.
#[derive(Debug, Default)]
pub struct TablesWithinLimits {
    tighter: Vec<(&'static str, u64)>,
}

impl TablesWithinLimits {
    /// As well with `limit` for the table of this name.
    #[must_use]
    pub fn with_limit(mut self, name: &'static str, limit: u64) -> Self {
        self.tighter.push((name, limit));
        self
    }

    fn limit_of(&self, table: &TableSize) -> u64 {
        let set = self.tighter.iter().filter(|(name, _)| *name == table.name);
        set.map(|(_, limit)| *limit).chain([table.limit]).min().unwrap_or(table.limit)
    }
}

impl Checker for TablesWithinLimits {
    fn observe(&mut self, _: &Observation) -> Result<(), Violation> {
        Ok(())
    }

    fn look_at(
        &mut self,
        at: Instant,
        node: NodeIndex,
        tables: &[TableSize],
    ) -> Result<(), Violation> {
        let Some(table) = tables.iter().find(|table| table.size > self.limit_of(table)) else {
            return Ok(());
        };
        let (TableSize { name, size, .. }, limit) = (table, self.limit_of(table));
        let rule = format!("at most {limit} {name}, not {size}");
        Err(Violation {
            rule,
            step: Observation { at, node, kind: StepKind::End, peer: None, chunk: None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_may_be_full_and_no_more() {
        let mut checker = TablesWithinLimits::default().with_limit("bans", 2);
        let table = |name, size| TableSize { name, size, limit: 5 };
        let mut look = |tables: &[TableSize]| checker.look_at(Instant::ZERO, 7, tables);
        assert_eq!(look(&[table("bans", 2), table("dials", 5)]), Ok(()));
        let violation = look(&[table("bans", 2), table("dials", 6)]).unwrap_err();
        assert_eq!(violation.rule, "at most 5 dials, not 6");
        assert_eq!(violation.step.node, 7);
        assert_eq!(look(&[table("bans", 3)]).unwrap_err().rule, "at most 2 bans, not 3");
    }
}
