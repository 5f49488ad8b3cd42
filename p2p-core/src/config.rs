//! Limits and timings of swarms and trackers, in one place, with the reasons for their sizes.
//!
//! Every number on which a swarm or a tracker bases a decision is a field here, so that the
//! simulator can sweep it; only proportions, such as a half or a tenth, are elsewhere. Invariant:
//! every table, queue and retry has its limit here. Nothing here decides anything.

use core::time::Duration;

use crate::contact::Location;

/// Limits and timings of one node's part in a swarm.
///
/// Every table, queue and retry of the swarm is bounded by a field of this struct. There is no
/// `Default`: see [`SwarmConfig::host`] and [`SwarmConfig::seeder`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SwarmConfig {
    // Whom to know.
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
    /// Most contacts remembered beyond the neighbours.
    pub contacts_max: usize,
    /// Most dials under way at once.
    pub dials_max: usize,
    /// How long a contact that could not be reached is left alone the first time; doubles each
    /// time. A machine that restarts is seldom back after half of it; double would leave a host
    /// alone for longer than its neighbours were away.
    pub dial_retry_min: Duration,
    /// Longest time that a contact is left alone. A fleet that was cut in two is whole again at
    /// most this long after the cut has healed; if it were shorter, the dials to machines that are
    /// gone for good would add up.
    pub dial_retry_max: Duration,
    /// How long a neighbour whose connection broke is left alone. A peer that closes every
    /// connection must not be dialled in a loop; one that was restarted is up again by then.
    pub redial_wait: Duration,
    /// How long a tracker has to answer before contacts from an earlier life are dialled. What a
    /// tracker hands out is fresh and balanced, so it goes first; one that lives answers in far
    /// less, and one that takes longer costs a few dials too many.
    pub recall_wait: Duration,
    /// Most peers remembered as banned.
    pub bans_max: usize,
    /// How long a ban lasts.
    pub ban_time: Duration,

    // What to ask for.
    /// Requests in flight to one neighbour while there are enough neighbours. One: a second would
    /// wait in the queue of a busy host while others have nothing to send.
    pub requests_per_peer: u16,
    /// The same with a single neighbour: a link of some length needs more than one chunk under way.
    pub requests_per_peer_max: u16,
    /// The same to a neighbour that has delivered nothing yet: nobody knows how many others ask it,
    /// nor whether it has what it offers. One would leave a link of some length idle between its
    /// first two chunks; more would be lost with a peer that turns out to be dead.
    pub first_requests_max: u16,
    /// With more requests than this in flight to all neighbours, only those neighbours are asked
    /// that have said that they have nothing to send; twice as many for a node that has fewer
    /// chunks than its neighbours. Each request more waits at a busy host, and its chunk spreads
    /// later.
    pub requests_target: u16,
    /// The same for a build of small chunks.
    pub requests_target_small: u16,
    /// How many chunks fewer than its neighbours a node must have to count as behind. One batch of
    /// offers makes a difference of one; with more, a node that fell behind would catch up late.
    pub behind_min: u32,
    /// A build whose chunks are smaller than this on average is one of small chunks. They are sent
    /// within a few round trips, in which a connection does not reach its share of a link: it
    /// takes more of them at once to fill one, and still fewer bytes are under way.
    pub small_chunk_bytes: u64,
    /// Most requests in flight to all neighbours.
    pub requests_max: u16,
    /// Most bytes of chunks in flight to all neighbours; bounds the memory of a download.
    pub request_bytes_max: u64,
    /// Candidates compared for rarity per choice. The rarest of a sample is close enough to the
    /// rarest of all, and keeps the cost of a choice independent of the build's size.
    pub pick_sample_max: u32,
    /// A rack mate that claims a chunk gets this long to bring it, or `late_factor` times what a
    /// request usually takes, if that is longer.
    pub claim_time_min: Duration,
    /// How often a claim may be renewed. With fewer renewals, a rack mate on a slow link would lose
    /// its claim of a chunk of which it has half; with more, one that is stuck would keep a chunk
    /// from the rack for longer.
    pub claim_renewals_max: u8,
    /// How long a neighbour that turned out not to have the manifest is not asked for it again:
    /// about as long as it takes to get one itself. Sooner would mostly be in vain; later would
    /// leave a node without the manifest that its neighbours have by then.
    pub manifest_missing_wait: Duration,

    // When to stop waiting for an answer.
    /// A request is late after this many times what its peer usually takes...
    pub late_factor: u32,
    /// ...but not before this time, so that noise does not double the traffic...
    pub late_min: Duration,
    /// ...and after this time if nothing is known of the peer.
    pub late_unknown: Duration,
    /// Most peers that are asked for one chunk at once, when all before are late. The first two may
    /// both have offered what they lack; more would be bytes sent for nothing wherever the network
    /// is slow.
    pub asked_at_once_max: usize,
    /// How long a neighbour that did not answer with a single byte is left alone the first time;
    /// doubles up to `silences_max` times. With less, it would soon hold another request that
    /// others could answer; with more, one that was only busy would be missed.
    pub silence_wait: Duration,
    /// Silences in a row that are counted. Each doubles the patience with the neighbour. After this
    /// many, the patience with a neighbour about which nothing is known is longer than
    /// `stall_time`, so that the next silence ends the connection.
    pub silences_max: u8,
    /// How long a neighbour whose answer broke off is left alone: enough for whatever broke, and
    /// short beside what a chunk takes to come from anybody else.
    pub fetch_failed_wait: Duration,
    /// A peer that delivers nothing for this long while it owes us chunks is dropped.
    pub stall_time: Duration,
    /// Without a new chunk for this long, the node goes to the seeder of last resort.
    pub starve_time: Duration,
    /// How often a node that starves looks for others to dial. The wait between two dials of one
    /// contact is longer, so looking more often would find nothing new; less often would prolong
    /// the starving.
    pub starve_check: Duration,

    // What to send.
    /// Chunks sent at once. Few, because a chunk that arrives early can be passed on early.
    pub uploads_max: usize,
    /// The same for a build of small chunks.
    pub uploads_max_small: usize,
    /// Requests waiting beyond those; the next one is answered "busy".
    pub upload_queue_max: usize,
    /// Requests of one peer, waiting or being sent, past which it is flooding. No correct node has
    /// more than `requests_per_peer_max` in flight; cancelled ones may still be on their way.
    pub upload_flood: usize,
    /// How often a peer may ask again for the manifest while it is being sent to it; past that it
    /// is flooding. A correct node that waits for a large manifest on a slow link asks again about
    /// every other `late_unknown`, so this is minutes of one manifest. Each costs nothing, so half
    /// would only be harsher on slow links; double would tell nobody more.
    pub manifest_repeats_max: u16,
    /// Neighbours that hear at once that a node has nothing to send. One may have
    /// nothing to ask for.
    pub ready_hints: u16,
    /// Longest time that new chunks are collected before they are offered. On links so fast that
    /// a chunk takes less than this, half of what a chunk takes is the time...
    pub offer_interval_max: Duration,
    /// ...but not less than this, which bounds the messages.
    pub offer_interval_min: Duration,

    // How long "busy" lasts.
    /// Shortest wait that a refusal names, and shortest that one is believed to mean. With less,
    /// two fast nodes would exchange little but requests and refusals; twice as much would be most
    /// of what a chunk takes on a fast link.
    pub busy_min: Duration,
    /// Longest wait that a refusal names: that of a node that has nothing for the asker yet, which
    /// soon changes in a swarm that works. Half of it would mostly be too early. It is less than
    /// `busy_wait_max`, so that askers of a seeder that refuses them again and again can still
    /// double it.
    pub busy_named_max: Duration,
    /// Longest time that a neighbour is left alone for being busy, whatever it names and however
    /// often it has refused: a peer may ask for patience, not for silence. Long enough for the
    /// crowd around a seeder when a build is new, short enough to take a place in a queue that
    /// became free.
    pub busy_wait_max: Duration,
    /// How long a request is assumed to take while no neighbour has delivered anything: about that
    /// of a large chunk on a gigabit, with others before it. A first guess, replaced by the first
    /// chunk that comes.
    pub service_unknown: Duration,

    // When to ask trackers.
    /// Shortest interval between announces that a tracker may name. A shorter one is a mistake of
    /// the tracker, and a fleet that kept to it would be an attack on it.
    pub announce_interval_min: Duration,
    /// Longest interval that a tracker may name: it may ask for silence, but not for longer than a
    /// swarm can do without a tracker, or a tracker that was restarted without the swarm.
    pub announce_interval_max: Duration,
    /// Wait before the second announce after a failed one; doubles up to `announce_retry_max`.
    pub announce_retry_min: Duration,
    /// Longest wait between two announces that fail.
    pub announce_retry_max: Duration,
    /// Longest wait between announces while neighbours are short.
    pub announce_hungry: Duration,
    /// An announce that is due within this time goes along with one of another build, once half of
    /// its wait is over. Half of the shortest interval that trackers give, so that of the builds of
    /// a host any two come together within one interval; of long intervals nothing is cut off.
    pub announce_along: Duration,
    /// Wait between two exchanges with neighbours while no tracker answers.
    pub exchange_interval: Duration,

    // What a seeder gives out.
    /// A seeder gives a chunk out again at the earliest after this time...
    pub reserve_min: Duration,
    /// ...or this many times the time that it needs to send a chunk, if that is longer: this is how
    /// long the swarm gets to spread the first copy.
    pub reserve_factor: u32,
    /// Copies of the build that a seeder gives out. Past them it sends chunks that are nowhere
    /// else, and any to neighbours that got nothing from anybody else for `starve_time`; it refers
    /// the rest to hosts. More than one, so that what is spread badly is spread again; a few, so
    /// that a fast seeder cannot become the source for everybody.
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
            contacts_max: 64,
            dials_max: 8,
            dial_retry_min: Duration::from_secs(5),
            dial_retry_max: Duration::from_secs(30),
            redial_wait: Duration::from_secs(1),
            recall_wait: Duration::from_millis(250),
            bans_max: 256,
            ban_time: Duration::from_mins(10),
            requests_per_peer: 1,
            requests_per_peer_max: 8,
            first_requests_max: 2,
            requests_target: 4,
            requests_target_small: 10,
            behind_min: 2,
            small_chunk_bytes: 512 << 10,
            requests_max: 16,
            request_bytes_max: 32 << 20,
            pick_sample_max: 256,
            claim_time_min: Duration::from_secs(2),
            claim_renewals_max: 3,
            manifest_missing_wait: Duration::from_secs(1),
            late_factor: 4,
            late_min: Duration::from_secs(1),
            late_unknown: Duration::from_secs(5),
            asked_at_once_max: 3,
            silence_wait: Duration::from_secs(2),
            silences_max: 2,
            fetch_failed_wait: Duration::from_millis(250),
            stall_time: Duration::from_secs(30),
            starve_time: Duration::from_secs(5),
            starve_check: Duration::from_secs(1),
            uploads_max: 5,
            uploads_max_small: 12,
            upload_queue_max: 6,
            upload_flood: 32,
            manifest_repeats_max: 64,
            ready_hints: 2,
            offer_interval_max: Duration::from_millis(100),
            offer_interval_min: Duration::from_millis(5),
            busy_min: Duration::from_millis(10),
            busy_named_max: Duration::from_secs(1),
            busy_wait_max: Duration::from_secs(2),
            service_unknown: Duration::from_millis(100),
            announce_interval_min: Duration::from_millis(100),
            announce_interval_max: Duration::from_mins(10),
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
    /// Members drawn for each one handed out. Two already balance well; more pull towards the
    /// newest members, which have the fewest neighbours.
    pub draws_per_pick: usize,
    /// Members with this many neighbours outside their rack are not handed out any more.
    pub degree_max: u16,
    /// A newcomer gets the seeder with a probability of this many divided by the number of members,
    /// so that the seeder's neighbours are from all over the swarm and their number grows with the
    /// logarithm of its size. Chunks that enter at a few old members only have a long way to go.
    pub seeder_draws: u32,
    /// Most mates of a host in its rack; they are handed out beyond `contacts_max`. A larger rack
    /// is cut into parts, each of which brings chunks in for itself.
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
    /// with the swarm so that there are no more.
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
            draws_per_pick: 3,
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
