//! Chunks that a host copies from other builds of its own, and chunks that its disk loses.

use std::sync::Arc;

use p2p_core::wire::{Have, Message};
use p2p_core::{
    Action, ChunkLayout, ChunkSet, Event, Holdings, Instant, LocalCopy, ManifestOutcome, NodeId,
    PeerRole, Swarm,
};

use crate::fleet::{Fleet, node};
use crate::swarm::{give, join, lone_host, set_of};

const HOST: u8 = 5;
const SEEDER: u8 = 6;

/// A host without a manifest that is connected to a host and a seeder, both with all four chunks.
fn between_two() -> Swarm {
    let mut swarm = lone_host(Holdings::Name);
    for (peer, role) in [(HOST, PeerRole::Host), (SEEDER, PeerRole::Seeder)] {
        give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(peer) });
        give(&mut swarm, Instant::ZERO, join(peer, role, &ChunkSet::full(4)));
    }
    swarm
}

fn layout_of(chunk_count: u32) -> Arc<ChunkLayout> {
    Fleet::new(chunk_count, 0).layout
}

fn begun(chunks: &[u32]) -> Event {
    Event::LocalCopy(LocalCopy::Begun { layout: layout_of(4), chunks: set_of(4, chunks) })
}

fn indices(chunks: &[u32]) -> Vec<p2p_core::ChunkIndex> {
    set_of(4, chunks).iter().collect()
}

fn asked_in(actions: &[Action]) -> Vec<u32> {
    let asked = |action: &Action| match action {
        Action::Fetch { chunk, .. } => Some(chunk.get()),
        _ => None,
    };
    let mut asked: Vec<u32> = actions.iter().filter_map(asked).collect();
    asked.sort_unstable();
    asked
}

/// What a `Join` last showed a neighbour.
fn shown_to(actions: &[Action], to: NodeId) -> Option<ChunkSet> {
    let have_in = |action: &Action| match action {
        Action::Send { peer, message: Message::Join { have, .. } } if *peer == to => {
            have.as_ref().and_then(Have::to_set)
        }
        _ => None,
    };
    actions.iter().filter_map(have_in).next_back()
}

/// Goal: a chunk that is being copied is asked of nobody, a host hears of it when it is verified,
/// and a seeder at once, so that it does not send it unasked.
#[test]
fn chunks_that_are_copied_are_asked_of_nobody() {
    let mut swarm = between_two();
    let actions = give(&mut swarm, Instant::ZERO, begun(&[0, 1, 2]));
    assert_eq!(asked_in(&actions), [3]);
    assert_eq!(shown_to(&actions, node(HOST)), Some(ChunkSet::empty(4)));
    assert_eq!(shown_to(&actions, node(SEEDER)), Some(set_of(4, &[0, 1, 2])));
    let outcome = ManifestOutcome::Valid(layout_of(4));
    let actions =
        give(&mut swarm, Instant::ZERO, Event::ManifestArrived { peer: node(HOST), outcome });
    assert_eq!(asked_in(&actions), [0; 0]);

    let stored = LocalCopy::Stored { chunks: indices(&[0, 1]) };
    give(&mut swarm, Instant::ZERO, Event::LocalCopy(stored));
    let due = swarm.next_deadline().unwrap().at;
    let actions = give(&mut swarm, due, Event::DeadlineReached);
    assert_eq!(swarm.have(), &set_of(4, &[0, 1]));
    assert_eq!(asked_in(&actions), [0; 0]);
    assert!(swarm.waiting().is_none());
}

/// Goal: a seeder that connects while chunks are being copied hears of them before it is asked.
#[test]
fn seeder_that_comes_later_is_told_of_copies_first() {
    let mut swarm = lone_host(Holdings::Name);
    give(&mut swarm, Instant::ZERO, begun(&[0, 1]));
    let connected = Event::PeerConnected { peer: node(SEEDER) };
    let actions = give(&mut swarm, Instant::ZERO, connected);
    assert_eq!(shown_to(&actions, node(SEEDER)), Some(ChunkSet::empty(4)), "its role is not known");
    let full = ChunkSet::full(4);
    let join = || join(SEEDER, PeerRole::Seeder, &full);
    let actions = give(&mut swarm, Instant::ZERO, join());
    assert_eq!(shown_to(&actions, node(SEEDER)), Some(set_of(4, &[0, 1])));
    let is_fetch = |action: &Action| matches!(action, Action::Fetch { .. });
    let is_join =
        |action: &Action| matches!(action, Action::Send { message: Message::Join { .. }, .. });
    assert!(actions.iter().position(is_join) < actions.iter().position(is_fetch));
    // Two seeders that copy would otherwise join each other for ever.
    assert_eq!(shown_to(&give(&mut swarm, Instant::ZERO, join()), node(SEEDER)), None);
}

/// Goal: what cannot be copied is fetched, and the seeder that heard otherwise is put right.
#[test]
fn chunks_that_cannot_be_copied_are_fetched() {
    let mut swarm = between_two();
    give(&mut swarm, Instant::ZERO, begun(&[0, 1, 2]));
    let failed = Event::LocalCopy(LocalCopy::Failed { chunks: indices(&[1]) });
    let actions = give(&mut swarm, Instant::ZERO, failed);
    assert_eq!(shown_to(&actions, node(SEEDER)), Some(set_of(4, &[0, 2])));
    assert_eq!(asked_in(&actions), [1]);
}

/// Goal: the last copied chunk completes the build, whatever else was under way.
#[test]
fn build_of_copies_only_completes() {
    let mut swarm = between_two();
    give(&mut swarm, Instant::ZERO, begun(&[0, 1, 2, 3]));
    let stored = LocalCopy::Stored { chunks: indices(&[0, 1, 2, 3]) };
    let actions = give(&mut swarm, Instant::ZERO, Event::LocalCopy(stored));
    assert!(actions.contains(&Action::Complete));
    assert!(swarm.is_complete());
}

/// Goal: a host that resumes copies what it lacks.
#[test]
fn resumed_host_copies_what_it_lacks() {
    let holdings = Holdings::Chunks { layout: layout_of(4), have: set_of(4, &[0]) };
    let mut swarm = lone_host(holdings);
    give(&mut swarm, Instant::ZERO, begun(&[0, 1]));
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(SEEDER) });
    let actions =
        give(&mut swarm, Instant::ZERO, join(SEEDER, PeerRole::Seeder, &ChunkSet::full(4)));
    assert_eq!(asked_in(&actions), [2, 3]);
}

/// Goal: neighbours learn that chunks were lost: a seeder does not send what it
/// believes to be here.
#[test]
fn neighbours_are_told_of_lost_chunks() {
    let mut swarm = between_two();
    give(&mut swarm, Instant::ZERO, begun(&[0, 1, 2, 3]));
    let stored = LocalCopy::Stored { chunks: indices(&[0, 1, 2, 3]) };
    give(&mut swarm, Instant::ZERO, Event::LocalCopy(stored));
    let lost = Event::ChunksLost { chunks: indices(&[2]) };
    let actions = give(&mut swarm, Instant::ZERO, lost);
    for peer in [HOST, SEEDER] {
        assert_eq!(shown_to(&actions, node(peer)), Some(set_of(4, &[0, 1, 3])));
    }
    assert_eq!(asked_in(&actions), [2]);
}
