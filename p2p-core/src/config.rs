//! Limits and timings of swarms and trackers, in one place, with the reasons for their sizes.

use core::time::Duration;

use crate::contact::Location;

/// Limits and timings of one node's part in a swarm.
///
/// Every table, queue and retry of the swarm is bounded by a field of this struct. There is no
/// `Default`: see [`SwarmConfig::host`] and [`SwarmConfig::seeder`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SwarmConfig {
    /// Neighbours a node looks for. Fewer lengthen the paths through the swarm, more cost a message
    /// per offer and a set of chunks each.
    pub neighbours_target: u16,
    /// Most neighbours it accepts, so that others can find a place with a full node. A node that
    /// knows its rack does not count rack mates here.
    pub neighbours_max: u16,
    /// Neighbours outside its rack that a node looks for once it has enough rack mates for
    /// `neighbours_target` in all: the ways by which chunks come into the rack.
    pub far_target: u16,
    /// Most rack mates that a node connects to. All hosts of an ordinary rack, because only those
    /// that know of each other's claims keep a chunk from crossing the uplink twice.
    pub near_max: u16,
    /// A rack mate that claims a chunk gets this long to bring it, or `late_factor` times what a
    /// request usually takes, if that is longer.
    pub claim_time_min: Duration,
    /// Most dials under way at once.
    pub dials_max: usize,
    /// Most contacts remembered beyond the neighbours.
    pub contacts_max: usize,
    /// Most peers remembered as banned.
    pub bans_max: usize,
    /// How long a ban lasts.
    pub ban_time: Duration,
    /// Requests in flight to one neighbour while there are enough neighbours. One: a second would
    /// wait in the queue of a busy host while others have nothing to send.
    pub requests_per_peer: u16,
    /// The same with a single neighbour: a link of some length needs more than one chunk under way.
    pub requests_per_peer_max: u16,
    /// Requests in flight to all neighbours beyond which only those are asked that said that they
    /// have nothing to send; twice as many for a node that has fewer chunks than its neighbours.
    /// Each request more waits at a busy host, and its chunk spreads later.
    pub requests_target: u16,
    /// The same for a build of small chunks.
    pub requests_target_small: u16,
    /// A build whose chunks are smaller than this on average is one of small chunks. They are sent
    /// within a few round trips, in which a connection does not come to its share of a link: it takes
    /// more of them at once to fill one, and still fewer bytes are under way.
    pub small_chunk_bytes: u64,
    /// Neighbours told at once that a node has nothing to send. One may have nothing to ask for.
    pub ready_hints: u16,
    /// Most requests in flight to all neighbours.
    pub requests_max: u16,
    /// Most bytes of chunks in flight to all neighbours; bounds the memory of a download.
    pub request_bytes_max: u64,
    /// Candidates compared for rarity per choice. The rarest of a sample is close enough to the
    /// rarest of all, and keeps the cost of a choice independent of the build's size.
    pub pick_sample_max: u32,
    /// Chunks sent at once. Few, because a chunk that arrives early can be passed on early.
    pub uploads_max: usize,
    /// The same for a build of small chunks.
    pub uploads_max_small: usize,
    /// Requests waiting beyond those; the next one is answered "busy".
    pub upload_queue_max: usize,
    /// Requests of one peer, waiting or being sent, past which it is flooding. No correct node has
    /// more than `requests_per_peer_max` in flight; cancelled ones may still be on their way.
    pub upload_flood: usize,
    /// Longest time that new chunks are collected before they are offered. On links so fast that
    /// a chunk takes less than this, half of what a chunk takes is the time...
    pub offer_interval_max: Duration,
    /// ...but not less than this, which bounds the messages.
    pub offer_interval_min: Duration,
    /// A request is late after this many times what its peer usually takes...
    pub late_factor: u32,
    /// ...but not before this time, so that noise does not double the traffic...
    pub late_min: Duration,
    /// ...and after this time if nothing is known of the peer.
    pub late_unknown: Duration,
    /// A peer that delivers nothing for this long while it owes us chunks is dropped.
    pub stall_time: Duration,
    /// Without a new chunk for this long, the node goes to the seeder of last resort.
    pub starve_time: Duration,
    /// Wait before the second announce after a failed one; doubles up to `announce_retry_max`.
    pub announce_retry_min: Duration,
    /// Longest wait between two announces that fail.
    pub announce_retry_max: Duration,
    /// Longest wait between announces while neighbours are short.
    pub announce_hungry: Duration,
    /// An announce that is due within this time goes along with one of another build, once half of its
    /// wait is over. Half of the shortest interval that trackers give, so that of the builds of a host
    /// any two come together within one interval; of long intervals nothing is cut off.
    pub announce_along: Duration,
    /// Wait between two exchanges with neighbours while no tracker answers.
    pub exchange_interval: Duration,
    /// A seeder gives a chunk out again at the earliest after this time...
    pub reserve_min: Duration,
    /// ...or this many times the time that it needs to send a chunk, if that is longer: so long the
    /// swarm gets to spread the first copy.
    pub reserve_factor: u32,
    /// Copies of the build that a seeder gives out. Past them it sends chunks that are nowhere else,
    /// and any to neighbours that got nothing from anybody else for `starve_time`; it tells the rest
    /// to ask hosts. More than one, so that what is spread badly is spread again; a few, so that a
    /// fast seeder cannot become the source for everybody.
    pub copies_max: u32,
}

impl SwarmConfig {
    /// A host of a region: many neighbours, links of about equal speed.
    pub const fn host() -> Self {
        Self {
            neighbours_target: 14,
            neighbours_max: 32,
            far_target: 6,
            near_max: 48,
            claim_time_min: Duration::from_secs(2),
            dials_max: 8,
            contacts_max: 64,
            bans_max: 256,
            ban_time: Duration::from_mins(10),
            requests_per_peer: 1,
            requests_per_peer_max: 8,
            requests_target: 4,
            requests_target_small: 10,
            small_chunk_bytes: 512 << 10,
            ready_hints: 2,
            requests_max: 16,
            request_bytes_max: 32 << 20,
            pick_sample_max: 256,
            uploads_max: 5,
            uploads_max_small: 12,
            upload_queue_max: 6,
            upload_flood: 32,
            offer_interval_max: Duration::from_millis(100),
            offer_interval_min: Duration::from_millis(5),
            late_factor: 4,
            late_min: Duration::from_secs(1),
            late_unknown: Duration::from_secs(5),
            stall_time: Duration::from_secs(30),
            starve_time: Duration::from_secs(5),
            announce_retry_min: Duration::from_millis(500),
            announce_retry_max: Duration::from_secs(10),
            announce_hungry: Duration::from_secs(1),
            announce_along: Duration::from_millis(2_500),
            exchange_interval: Duration::from_secs(5),
            reserve_min: Duration::from_secs(2),
            reserve_factor: 16,
            copies_max: 3,
        }
    }

    /// Most neighbours of a node that stands there.
    pub(crate) fn neighbours_max_at(&self, location: Location) -> usize {
        let mates = if location.rack == 0 { 0 } else { self.near_max };
        usize::from(self.neighbours_max) + usize::from(mates)
    }

    /// The seeder of a region: a host that accepts more neighbours, because it is the place of last
    /// resort for all of them.
    pub const fn seeder() -> Self {
        Self { neighbours_max: 128, upload_queue_max: 24, ..Self::host() }
    }
}

/// Limits and timings of a tracker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrackerConfig {
    /// Most swarms tracked; announces for others are answered empty.
    pub swarms_max: usize,
    /// Most members of one swarm; more are answered but not remembered.
    pub members_max: usize,
    /// Most contacts handed out per announce.
    pub contacts_max: usize,
    /// Members with this many neighbours outside their rack are not handed out any more.
    pub degree_max: u16,
    /// A newcomer gets the seeder with a chance of this many in the number of members, so that the
    /// seeder's neighbours are from all over the swarm and grow with the logarithm of its size.
    /// Chunks that enter at a few old members only have a long way.
    pub seeder_draws: u32,
    /// Most mates of a host in its rack; they are handed out beyond `contacts_max`. A larger rack is
    /// cut into parts that bring chunks in each for itself.
    pub mates_max: usize,
    /// Hosts of one rack to which the seeder is handed out, so that it feeds many racks alike. More
    /// than one, so that a rack does not lose it with a host.
    pub seeded_per_rack: u32,
    /// A seeder with this many neighbours is not handed out to hosts that know their rack. Below
    /// what it accepts: the rest of the places is for those who starve.
    pub seeder_degree_max: u16,
    /// Shortest interval given to announcing nodes.
    pub interval_min: Duration,
    /// Announces per second that the tracker is willing to answer for one swarm: the interval grows
    /// with the swarm to keep this.
    pub announces_per_second: u32,
    /// A member that missed this many intervals is forgotten.
    pub intervals_missed_max: u32,
}

impl TrackerConfig {
    /// The tracker inside a seeder of a region.
    pub const fn region() -> Self {
        Self {
            swarms_max: 10_000,
            members_max: 200_000,
            contacts_max: 32,
            degree_max: 28,
            seeder_draws: 8,
            mates_max: 48,
            seeded_per_rack: 3,
            seeder_degree_max: 96,
            interval_min: Duration::from_secs(5),
            announces_per_second: 1_000,
            intervals_missed_max: 3,
        }
    }
}
