//! Links as arithmetic: each is a server that works off chunks one after the other.
//!
//! A chunk passes a chain of links cut-through, so a transfer costs as many steps of arithmetic as
//! it has hops, whatever else is going on. Invariant: over any stretch of time without an idle
//! moment, a link carries exactly its rate.

use p2p_core::{ByteRate, Instant};

use crate::buckets::Buckets;

/// Links on the longest way: out of a host, out of its rack, into a rack, into a host.
const HOPS_MAX: usize = 4;

/// Position of a link in the network's table.
pub(crate) type LinkIndex = u32;

#[derive(Debug)]
struct Link {
    rate: ByteRate,
    /// When it has worked off what it was given.
    free_at: Instant,
    /// Bytes that it carried or will carry of what it was given.
    bytes: u64,
}

/// The time that a chunk takes of one link.
#[derive(Clone, Copy, Debug, Default)]
struct Hop {
    link: LinkIndex,
    from: Instant,
    until: Instant,
}

/// The way of one chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passage {
    hops: [Hop; HOPS_MAX],
    hop_count: usize,
    size: u64,
    /// When the last byte comes out of the last link, latency not counted.
    pub(crate) finish: Instant,
}

impl Passage {
    /// When the first link has sent the last byte.
    pub(crate) fn first_hop_end(&self) -> Instant {
        self.hops[0].until
    }
}

/// What a link is to a picture. Each is a lane of [`LinkUse::busy`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(usize)]
pub enum LinkClass {
    /// Out of a seeder.
    SeederUplink,
    /// Out of a host.
    HostUplink,
    /// Into a rack.
    RackUplink,
}

/// How many classes there are.
pub const LINK_CLASSES: usize = 3;

/// How busy links were, by class.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LinkUse {
    /// Links of each class.
    pub links: [u32; LINK_CLASSES],
    /// Nanoseconds that links of each class were taken.
    pub busy: Buckets<LINK_CLASSES>,
    /// Class of each link that is watched.
    classes: Vec<Option<LinkClass>>,
}

impl LinkUse {
    pub(crate) fn watch(&mut self, link: LinkIndex, class: LinkClass) {
        let place = link as usize;
        self.classes.resize(self.classes.len().max(place + 1), None);
        self.classes[place] = Some(class);
        self.links[class as usize] += 1;
    }

    fn class_of(&self, link: LinkIndex) -> Option<usize> {
        self.classes.get(link as usize).copied().flatten().map(|class| class as usize)
    }
}

/// All links.
#[derive(Debug, Default)]
pub(crate) struct Network {
    links: Vec<Link>,
    /// Only if somebody wants to see it.
    pub(crate) link_use: Option<LinkUse>,
}

impl Network {
    pub(crate) fn add(&mut self, rate: ByteRate) -> LinkIndex {
        self.links.push(Link { rate, free_at: Instant::ZERO, bytes: 0 });
        u32::try_from(self.links.len() - 1).expect("a fleet has fewer links")
    }

    pub(crate) fn rate_of(&self, link: LinkIndex) -> ByteRate {
        self.links[link as usize].rate
    }

    /// A link is made slower or faster, before anything was sent on it.
    pub(crate) fn set_rate(&mut self, link: LinkIndex, rate: ByteRate) {
        self.links[link as usize].rate = rate;
    }

    pub(crate) fn bytes_of(&self, link: LinkIndex) -> u64 {
        self.links[link as usize].bytes
    }

    /// Sends `size` bytes along `way` as soon as its links are free.
    ///
    /// A link is taken for as long as the bytes take at its own rate. Were it taken until the last
    /// byte has trickled in from a slower link before it, a fast link with many slow feeders would
    /// be no faster than one of them.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        way: impl Iterator<Item = LinkIndex>,
        size: u64,
    ) -> Passage {
        let mut passage =
            Passage { hops: [Hop::default(); HOPS_MAX], hop_count: 0, size, finish: now };
        let mut start = now;
        for index in way {
            let link = &mut self.links[index as usize];
            start = start.max(link.free_at);
            link.free_at = start.after(link.rate.occupancy(size));
            link.bytes += size;
            let hop = Hop { link: index, from: start, until: link.free_at };
            passage.finish = passage.finish.max(link.free_at);
            passage.hops[passage.hop_count] = hop;
            passage.hop_count += 1;
            if let Some(link_use) = &mut self.link_use
                && let Some(lane) = link_use.class_of(index)
            {
                link_use.busy.add_span(hop.from, hop.until, lane);
            }
        }
        passage
    }

    /// Takes back what was not sent yet of a passage.
    ///
    /// A link gets its time back if nothing was queued behind the passage; otherwise those behind
    /// keep their times, and the link has a hole. First links never have one: whoever sends queues
    /// by itself and gives its link one chunk at a time.
    pub(crate) fn cancel(&mut self, now: Instant, passage: &Passage) {
        for hop in &passage.hops[..passage.hop_count] {
            let link = &mut self.links[hop.link as usize];
            let cut = now.clamp(hop.from, hop.until);
            let whole = hop.until.since(hop.from).as_nanos().max(1);
            let unsent = u128::from(passage.size) * hop.until.since(cut).as_nanos() / whole;
            link.bytes -= u64::try_from(unsent).unwrap_or(passage.size);
            if link.free_at == hop.until {
                link.free_at = cut;
            }
            if let Some(link_use) = &mut self.link_use
                && let Some(lane) = link_use.class_of(hop.link)
            {
                link_use.busy.take_span(cut, hop.until, lane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn network(rates: &[u64]) -> Network {
        let mut network = Network::default();
        for rate in rates {
            network.add(ByteRate::new(*rate).unwrap());
        }
        network
    }

    fn second(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn chunk_passes_equal_links_in_the_time_of_one() {
        let mut network = network(&[10, 10, 10]);
        assert_eq!(network.send(second(0), 0..3, 20).finish, second(2));
    }

    #[test]
    fn slowest_link_sets_the_pace() {
        let mut network = network(&[10, 5, 20]);
        assert_eq!(network.send(second(1), 0..3, 20).finish, second(5));
    }

    /// Goal: a fast link carries many slow senders at once.
    /// Method: two senders of half its rate; both chunks are through when either sender is done.
    #[test]
    fn fast_link_serves_slow_senders_side_by_side() {
        let mut network = network(&[5, 5, 10]);
        let first = network.send(second(0), [0, 2].into_iter(), 10);
        let other = network.send(second(0), [1, 2].into_iter(), 10);
        assert_eq!((first.finish, other.finish), (second(2), second(2)));
        let third = network.send(second(0), [2].into_iter(), 10);
        assert_eq!(third.finish, second(3));
    }

    #[test]
    fn cancelled_passage_gives_back_what_it_had_not_used() {
        let mut network = network(&[10, 10]);
        let passage = network.send(second(0), 0..2, 40);
        network.cancel(second(1), &passage);
        assert_eq!((network.bytes_of(0), network.bytes_of(1)), (10, 10));
        assert_eq!(network.send(second(1), 0..2, 10).finish, second(2));
    }

    /// Goal: what is drawn is what was carried.
    /// Method: one passage over a watched and an unwatched link, cancelled after a quarter.
    #[test]
    fn use_of_watched_links_is_counted_without_what_was_cancelled() {
        let mut network = network(&[10, 10]);
        let mut link_use = LinkUse::default();
        link_use.watch(1, LinkClass::HostUplink);
        network.link_use = Some(link_use);
        let passage = network.send(second(0), 0..2, 40);
        network.cancel(second(1), &passage);
        let busy: u64 = network.link_use.unwrap().busy.amounts().iter().flatten().sum();
        assert_eq!(busy, 1_000_000_000);
    }

    #[test]
    fn those_queued_behind_a_cancelled_passage_keep_their_time() {
        let mut network = network(&[10, 10, 10]);
        let passage = network.send(second(0), [0, 2].into_iter(), 40);
        let behind = network.send(second(0), [1, 2].into_iter(), 10);
        network.cancel(second(1), &passage);
        assert_eq!(behind.finish, second(5));
        assert_eq!(network.send(second(1), [2].into_iter(), 10).finish, second(6));
    }
}
