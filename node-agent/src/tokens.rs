//! Leave to be down: a host with `max_unavailable` in its goal asks the seeder for a token before it
//! starts a switch, and gives it back when the switch is over.
//!
//! Invariant: a switch starts only while a token is held; finishing one and rolling back need none,
//! so a lost seeder never leaves a host half way.

use std::future::Future;
use std::num::NonZero;

use goal_state::AppName;

/// What a token is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenWish {
    /// The app.
    pub app: AppName,
    /// Generation of the goal.
    pub generation: u64,
    /// Most hosts of the group that may hold a token at once.
    pub max_unavailable: NonZero<u32>,
}

/// Where a wish stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenState {
    /// Not granted yet, with the reason for people.
    Waiting {
        /// Such as "2 of 2 tokens of group z1 are out" or "no seeder answers".
        reason: String,
    },
    /// Held; it is renewed until it is given back.
    Held,
}

/// Where tokens come from.
pub trait TokenDesk: Clone + Send + 'static {
    /// A wish under way or a token held. Dropping it gives the token back.
    type Hold: TokenHold;
    /// Starts to ask; does not wait.
    fn ask(&self, wish: TokenWish) -> Self::Hold;
}

/// A wish under way or a token held.
pub trait TokenHold: Send {
    /// Where it stands now. A token whose time ran out is waited for again.
    fn state(&self) -> TokenState;
    /// Waits until the state changes. Cancel safe.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}
