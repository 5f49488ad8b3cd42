//! A fleet that lives through a scenario: the event loop, and the driver of every machine.
//!
//! Does for each machine what the production driver (`p2p-net/src/hub.rs`) does for one: feeds the
//! swarm, carries out what it orders, sets its alarm. Chunks on their way are in `transfers.rs`,
//! connections and questions in `contacts.rs`, crashes in `outages.rs`. Invariant: nothing here
//! decides for the protocol; a fault of the protocol is fixed in `p2p-core`.

use core::hint::black_box;
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use p2p_core::wire::{Announce, AnnounceAnswer, Message, RequestId};
use p2p_core::{
    Action, BuildId, ChunkIndex, ChunkLayout, ChunkSet, Contact, Event, Holdings, Instant,
    Location, ManifestOutcome, PeerRole, Prng, Seed, Swarm, SwarmConfig, SwarmParams, TrackerTable,
    Verdict,
};

use crate::buckets::Buckets;
use crate::checker::{Checker, Violation};
use crate::load::{Load, WorstLoad};
use crate::network::{LinkIndex, LinkUse, Network};
use crate::node::{Node, contact_of, id_of, index_of};
use crate::queue::{NodeIndex, Queue, Step};
use crate::scenario::Scenario;
use crate::slab::Slab;
use crate::trace::{StepKind, Trace, TraceDigest};

use self::fate::Fate;
use self::transfers::Transfer;

mod checks;
mod contacts;
mod cuts;
mod fate;
mod liars;
mod lossy;
mod observe;
mod outages;
mod slow;
mod transfers;

/// Violations that are kept to be shown. The first ones say the most.
const VIOLATIONS_MAX: usize = 20;

/// Something on its way that is no chunk.
#[derive(Debug)]
enum Parcel {
    Message(Message),
    Announce(Box<Announce>),
    Answer(Box<AnnounceAnswer>),
    NoAnswer,
    ExchangeAsked,
    Contacts(Vec<Contact>),
    Manifest {
        /// The server's name for it.
        serve: u64,
    },
    /// Not on the way any more, but in the hands of the disk.
    Hashed {
        request: RequestId,
        chunk: ChunkIndex,
    },
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Steps of the event queue.
    pub events: u64,
    /// Messages between neighbours.
    pub messages: u64,
    /// Of these, offers of chunks.
    pub offers: u64,
    /// Of these, requests for chunks.
    pub requests: u64,
    /// Of these, refusals.
    pub refusals: u64,
    /// Of these, cancellations.
    pub cancels: u64,
    /// Of these, claims of chunks among rack mates, made or given up.
    pub claims: u64,
    /// Announces to trackers.
    pub announces: u64,
    /// Questions to neighbours for others.
    pub exchanges: u64,
    /// Chunks that arrived where they were already.
    pub duplicates: u64,
    /// Manifests sent.
    pub manifests: u64,
    /// Peers banned. If nobody lies, each is a mistake.
    pub bans: u64,
    /// Alarms that went off.
    pub wakes: u64,
}

/// What came of a scenario.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When each host first had every chunk; `None` if it never did.
    pub completed_at: Vec<Option<Instant>>,
    /// Whether each host is one that must complete: not those that lie or died for good.
    pub awaited: Vec<bool>,
    /// Bytes that left the seeders.
    pub seeder_bytes: u64,
    /// Bytes that left the hosts.
    pub host_bytes: u64,
    /// Bytes that went into and out of each rack.
    pub rack_bytes: Vec<(u64, u64)>,
    /// How often things happened.
    pub counts: Counts,
    /// When the run ended.
    pub ended_at: Instant,
    /// Over every step.
    pub trace_digest: TraceDigest,
    /// Steps that the digest covers.
    pub trace_steps: u64,
    /// The first steps that broke a checker's rule.
    pub violations: Vec<Violation>,
    /// Messages from neighbours, at the busiest of the hosts.
    pub host_load: WorstLoad,
    /// Messages from neighbours, at the busiest of the seeders.
    pub seeder_load: WorstLoad,
    /// Announces, at the busiest of the trackers.
    pub tracker_load: WorstLoad,
    /// What a picture shows; `None` unless [`Fleet::record`] was called.
    pub record: Option<Record>,
}

/// How a run went over time, in as many numbers as a picture needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Chunks that hosts stored.
    pub stored: Buckets<1>,
    /// How busy links were.
    pub link_use: LinkUse,
}

/// A fleet in the middle of its scenario.
pub struct Fleet {
    scenario: Scenario,
    layout: Arc<ChunkLayout>,
    /// Of hosts and of seeders.
    configs: [Arc<SwarmConfig>; 2],
    build: BuildId,
    now: Instant,
    queue: Queue,
    nodes: Vec<Node>,
    network: Network,
    /// Uplink and downlink of each rack; none if racks cost nothing.
    racks: Vec<(LinkIndex, LinkIndex)>,
    transfers: Slab<Transfer>,
    /// To whom, from whom, what.
    parcels: Slab<(NodeIndex, NodeIndex, Parcel)>,
    /// One per seeder.
    trackers: Vec<TrackerTable>,
    are_trackers_alive: bool,
    /// Events that came of carrying out actions.
    pending: VecDeque<(NodeIndex, Event)>,
    /// Kept for its memory.
    actions: Vec<Action>,
    /// Hosts that must complete and have not yet.
    incomplete: u32,
    fate: Fate,
    /// Chunks stored by hosts, over all hosts.
    stored: u64,
    /// Chunks that some host has stored.
    seen: ChunkSet,
    counts: Counts,
    trace: Trace,
    checkers: Vec<Box<dyn Checker>>,
    violations: Vec<Violation>,
    /// Messages that reached each node.
    message_loads: Vec<Load>,
    /// Announces that reached each tracker.
    announce_loads: Vec<Load>,
    /// Only if somebody wants to see it.
    stored_over_time: Option<Buckets<1>>,
}

impl core::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { now, incomplete, counts, .. } = self;
        f.debug_struct("Fleet")
            .field("now", now)
            .field("incomplete", incomplete)
            .field("counts", counts)
            .finish_non_exhaustive()
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    /// The fleet of a scenario that was checked, before anything happened.
    pub fn new(scenario: Scenario) -> Self {
        Self::with_starts(scenario, None)
    }

    /// The same with a moment for each host, in their order, at which it enters the swarm, instead
    /// of one drawn within the scenario's `join_within`.
    ///
    /// # Panics
    ///
    /// If there is not one moment per host.
    pub fn with_starts(scenario: Scenario, starts: Option<&[Instant]>) -> Self {
        let layout = scenario.layout();
        let mut fleet = Self {
            configs: [
                Arc::new(scenario.settings.host.clone()),
                Arc::new(scenario.settings.seeder.clone()),
            ],
            build: BuildId::of_manifest(b"simulated"),
            now: Instant::ZERO,
            queue: Queue::default(),
            nodes: Vec::with_capacity(scenario.nodes() as usize),
            network: Network::default(),
            racks: Vec::new(),
            transfers: Slab::default(),
            parcels: Slab::default(),
            trackers: Vec::new(),
            are_trackers_alive: true,
            pending: VecDeque::new(),
            actions: Vec::new(),
            incomplete: scenario.hosts,
            fate: Fate::default(),
            stored: 0,
            seen: ChunkSet::empty(layout.chunk_count()),
            counts: Counts::default(),
            trace: Trace::new(),
            checkers: Vec::new(),
            violations: Vec::new(),
            message_loads: vec![Load::default(); scenario.nodes() as usize],
            announce_loads: vec![Load::default(); scenario.seeders as usize],
            stored_over_time: None,
            layout,
            scenario,
        };
        let mut prng = Prng::from_seed(Seed::from_u64(fleet.scenario.seed));
        fleet.add_nodes(&mut prng.split());
        fleet.add_racks();
        fleet.plan_starts(starts, &mut prng.split());
        fleet.plan_faults(&mut prng.split());
        fleet
    }

    /// Lets `checker` see every step.
    pub fn watch(&mut self, checker: impl Checker + 'static) {
        self.checkers.push(Box::new(checker));
    }

    /// Writes a line per step.
    pub fn trace_to(&mut self, lines: impl io::Write + 'static) {
        self.trace.write_to(Box::new(lines));
    }

    /// Lives through the scenario until every host has the build or the time is up.
    ///
    /// # Errors
    ///
    /// If the lines of the trace could not be written.
    pub fn run(mut self) -> io::Result<Outcome> {
        let limit = self.scenario.gives_up_at();
        while self.incomplete > 0 && !self.trace.has_failed() {
            let next = self.queue.pop().filter(|(at, _)| *at <= limit);
            let Some((at, step)) = next else {
                self.now = limit;
                break;
            };
            self.now = at;
            self.counts.events += 1;
            self.warm_up();
            self.on_step(step);
            self.feed_swarms();
        }
        self.finish_checks();
        self.trace.finish()?;
        Ok(self.into_outcome())
    }

    /// Reads a little of the machines whose turn comes soon, so that their memory is on its way
    /// while others are served: a large fleet is nowhere near the cache, and waiting for memory is
    /// what a step costs. Changes nothing.
    fn warm_up(&self) {
        if let Some(Step::Parcel { to, .. }) = self.queue.upcoming(8) {
            black_box(self.nodes[to as usize].alarm_generation);
        }
        if let Some(Step::Parcel { to, .. }) = self.queue.upcoming(4)
            && let Some(swarm) = &self.nodes[to as usize].swarm
        {
            black_box(swarm.neighbour_count());
            black_box(swarm.next_deadline());
            black_box(swarm.have().count());
        }
    }

    fn into_outcome(self) -> Outcome {
        let hosts = self.scenario.seeders..self.scenario.nodes();
        let awaited = hosts.map(|host| self.is_awaited(host)).collect();
        let seeder_count = self.scenario.seeders as usize;
        let (seeders, hosts) = self.nodes.split_at(seeder_count);
        let (seeder_loads, host_loads) = self.message_loads.split_at(seeder_count);
        let carried = |link| self.network.bytes_of(link);
        Outcome {
            awaited,
            completed_at: hosts.iter().map(|host| host.completed_at).collect(),
            seeder_bytes: seeders.iter().map(|seeder| carried(seeder.uplink)).sum(),
            host_bytes: hosts.iter().map(|host| carried(host.uplink)).sum(),
            rack_bytes: self
                .racks
                .iter()
                .map(|(up, down)| (carried(*down), carried(*up)))
                .collect(),
            counts: self.counts,
            ended_at: self.now,
            trace_digest: self.trace.digest(),
            trace_steps: self.trace.step_count(),
            violations: self.violations,
            host_load: WorstLoad::of(host_loads),
            seeder_load: WorstLoad::of(seeder_loads),
            tracker_load: WorstLoad::of(&self.announce_loads),
            record: self
                .stored_over_time
                .zip(self.network.link_use)
                .map(|(stored, link_use)| Record { stored, link_use }),
        }
    }

    fn add_nodes(&mut self, prng: &mut Prng) {
        let Scenario { hosts, seeders, racks, host_rate, seeder_rate, .. } = self.scenario;
        for index in 0..seeders + hosts {
            let host = index.checked_sub(seeders);
            let (role, rate) = match host {
                None => (PeerRole::Seeder, seeder_rate),
                Some(_) => (PeerRole::Host, host_rate),
            };
            let rack = host.filter(|_| racks > 0).map(|host| {
                let rack = u64::from(host) * u64::from(racks) / u64::from(hosts);
                u32::try_from(rack).unwrap_or(0)
            });
            let location = rack.map_or_else(Location::default, |rack| Location {
                zone: 1 + u64::from(self.scenario.zone_of(rack)),
                rack: 1 + u64::from(rack),
            });
            let links = (self.network.add(rate), self.network.add(rate));
            let mut node = Node::new(contact_of(index, role, location), prng.next_u64(), links);
            node.rack = rack;
            self.nodes.push(node);
        }
        for _ in 0..seeders {
            let seed = Seed::from_u64(prng.next_u64());
            self.trackers.push(TrackerTable::new(self.scenario.settings.tracker.clone(), seed));
        }
    }

    fn add_racks(&mut self) {
        // Without a rate of their own, uplinks are as fast as all that is behind them.
        let all = self.scenario.host_rate.get().saturating_mul(u64::from(self.scenario.hosts));
        let rate = self.scenario.rack_rate.or_else(|| p2p_core::ByteRate::new(all));
        for _ in 0..self.scenario.racks {
            let rate = rate.unwrap_or(self.scenario.host_rate);
            let links = (self.network.add(rate), self.network.add(rate));
            self.racks.push(links);
        }
    }

    fn plan_starts(&mut self, starts: Option<&[Instant]>, prng: &mut Prng) {
        assert!(starts.is_none_or(|starts| starts.len() == self.scenario.hosts as usize));
        let within = u64::try_from(self.scenario.join_within.as_nanos()).unwrap_or(u64::MAX);
        let late = self.draw_hosts(self.scenario.faults.late_percent, &mut prng.split());
        for node in 0..self.scenario.nodes() {
            let is_seeder = node < self.scenario.seeders;
            let mut at = if is_seeder || within == 0 { 0 } else { prng.below(within) };
            if late.contains(&node) {
                // Between one and one and a half times what the others need at least.
                let bound = Instant::from_start(self.scenario.bound().time);
                at = bound.as_nanos() + self.draw_time(50, prng).as_nanos();
            }
            let host = node.checked_sub(self.scenario.seeders);
            let given = host.and_then(|host| starts?.get(host as usize).copied());
            let at = given.unwrap_or(Instant::from_nanos(at));
            self.plan_healing(at, Step::Start { node });
        }
    }

    fn on_step(&mut self, step: Step) {
        match step {
            // Those who died before they were there.
            Step::Start { node } if self.fate.gone.contains(&node) => {}
            Step::Start { node } => {
                self.observe(node, StepKind::Start, None, None);
                let is_seeder = node < self.scenario.seeders;
                let full = is_seeder.then(|| ChunkSet::full(self.layout.chunk_count()));
                self.enter_swarm(node, full);
            }
            Step::Parcel { parcel, .. } => {
                if let Some((to, from, parcel)) = self.parcels.remove(parcel) {
                    self.on_parcel(to, from, parcel);
                }
            }
            Step::DialEnded { from, to } => self.on_dial_ended(from, to),
            Step::UplinkFree { transfer } => self.on_uplink_free(transfer),
            Step::Arrived { transfer } => self.on_arrived(transfer),
            Step::Served { transfer } => self.on_served(transfer),
            Step::Advanced { transfer } => self.on_advanced(transfer),
            Step::Wake { node, generation } => self.on_wake(node, generation),
            Step::PeerSilent { node, peer } => self.on_peer_silent(node, peer),
            Step::Crash { node } => self.crash(node),
            Step::Return { node } => self.bring_back(node),
            Step::Vanish { node } => self.vanish(node),
            Step::CutBegins { cut } => self.on_cut_begins(cut),
            Step::CutIsNoticed { cut } => self.on_cut_noticed(cut),
            Step::CutEnds { cut } => self.on_cut_ends(cut),
        }
    }

    /// Gives the swarms what waits for them and carries out what they order, until all is quiet.
    fn feed_swarms(&mut self) {
        while let Some((index, event)) = self.pending.pop_front() {
            self.observe_event(index, &event);
            let Some(swarm) = self.nodes[index as usize].swarm.as_mut() else { continue };
            swarm.handle_event(self.now, event);
            self.check_tables(index);
            let Some(swarm) = self.nodes[index as usize].swarm.as_mut() else { continue };
            let mut actions = core::mem::take(&mut self.actions);
            actions.extend(std::iter::from_fn(|| swarm.poll_action()));
            self.set_alarm(index);
            for action in actions.drain(..) {
                self.carry_out(index, action);
            }
            self.actions = actions;
        }
    }

    fn carry_out(&mut self, from: NodeIndex, action: Action) {
        match action {
            Action::Connect { contact } => self.connect(from, index_of(contact.node)),
            Action::Disconnect { peer } => self.detach(from, index_of(peer)),
            Action::Ban { peer, until, .. } => self.ban(from, index_of(peer), until),
            Action::Send { peer, message } => self.send(from, index_of(peer), message),
            Action::FetchManifest { peer } => {
                self.send(from, index_of(peer), Message::RequestManifest);
            }
            Action::ServeManifest { peer, serve } => {
                self.send_manifest(from, index_of(peer), serve);
            }
            Action::Fetch { request, peer, chunk } => {
                let peer = index_of(peer);
                self.observe(from, StepKind::Fetch, Some(peer), Some(chunk.get()));
                self.nodes[from as usize].expected.push((peer, request));
                self.send(from, peer, Message::Request { request, chunk: chunk.get() });
            }
            Action::CancelFetch { request, peer } => {
                let peer = index_of(peer);
                self.observe(from, StepKind::FetchGivenUp, Some(peer), None);
                self.nodes[from as usize].unexpect(peer, request);
                self.send(from, peer, Message::Cancel { request });
            }
            Action::Serve { peer, request, chunk } => {
                self.serve(from, (index_of(peer), request), chunk);
            }
            Action::CancelServe { peer, request } => {
                self.cancel_serve(from, index_of(peer), request);
            }
            Action::Announce { tracker, announce } => {
                self.announce(from, index_of(tracker), announce);
            }
            Action::Exchange { contact } => {
                self.counts.exchanges += 1;
                self.post(from, index_of(contact.node), Parcel::ExchangeAsked);
            }
            Action::Complete => self.on_complete(from),
        }
    }

    fn on_complete(&mut self, node: NodeIndex) {
        self.observe(node, StepKind::Complete, None, None);
        let is_host = node >= self.scenario.seeders;
        let is_awaited = self.is_awaited(node);
        let completed_at = &mut self.nodes[node as usize].completed_at;
        if is_host && completed_at.is_none() {
            *completed_at = Some(self.now);
            self.incomplete -= u32::from(is_awaited);
        }
    }

    fn on_parcel(&mut self, to: NodeIndex, from: NodeIndex, parcel: Parcel) {
        match parcel {
            Parcel::Message(message) => self.on_message(to, from, message),
            Parcel::Announce(announce) => self.on_announce(to, from, &announce),
            Parcel::Answer(answer) => {
                self.give(to, Event::AnnounceAnswered { tracker: id_of(from), answer });
            }
            Parcel::NoAnswer => self.give(to, Event::AnnounceFailed { tracker: id_of(from) }),
            Parcel::ExchangeAsked => self.on_exchange_asked(to, from),
            Parcel::Contacts(contacts) => self.give(to, Event::ContactsLearned { contacts }),
            Parcel::Manifest { serve } => {
                if self.nodes[to as usize].is_connected(from) {
                    let outcome = ManifestOutcome::Valid(self.layout.clone());
                    self.give(to, Event::ManifestArrived { peer: id_of(from), outcome });
                }
                self.give(from, Event::ManifestServeEnded { peer: id_of(to), serve });
            }
            Parcel::Hashed { request, chunk } => self.on_hashed(to, from, request, chunk),
        }
    }

    fn on_hashed(&mut self, to: NodeIndex, from: NodeIndex, request: RequestId, chunk: ChunkIndex) {
        let node = &mut self.nodes[to as usize];
        if !node.unexpect(from, request) {
            // Given up while it was being written: right bytes, but nobody waits for them.
            return;
        }
        if self.verdict_on(from) == Verdict::Differs {
            self.observe(to, StepKind::Differs, Some(from), Some(chunk.get()));
            let verdict = Verdict::Differs;
            return self.give(to, Event::ChunkHashed { request, chunk, verdict });
        }
        let Some(swarm) = &self.nodes[to as usize].swarm else { return };
        if swarm.have().capacity() > 0 && swarm.have().contains(chunk) {
            self.counts.duplicates += 1;
        } else {
            self.stored += 1;
            if let Some(stored) = &mut self.stored_over_time {
                stored.add(self.now, 0, 1);
            }
            // What only a liar has, or one who is about to go for good, is as good as nowhere.
            if self.is_awaited(to) && !self.fate.doomed.contains(&to) {
                self.seen.insert(chunk);
            }
        }
        self.observe(to, StepKind::Stored, Some(from), Some(chunk.get()));
        self.give(to, Event::ChunkHashed { request, chunk, verdict: Verdict::Matches });
        self.let_fate_strike();
    }

    /// Enters the swarm for the first time, or again with what was kept.
    fn enter_swarm(&mut self, index: NodeIndex, have: Option<ChunkSet>) {
        let is_seeder = index < self.scenario.seeders;
        // A seeder is its own first tracker; hosts list all seeders in the order of their
        // configuration.
        let own = is_seeder.then_some(index);
        let others = (0..self.scenario.seeders).filter(|seeder| own != Some(*seeder));
        let node = &mut self.nodes[index as usize];
        let params = SwarmParams {
            config: self.configs[usize::from(is_seeder)].clone(),
            build: self.build,
            contact: node.contact,
            trackers: own.into_iter().chain(others).map(id_of).collect(),
            remembered: core::mem::take(&mut node.remembered),
            seed: Seed::from_u64(node.seed.wrapping_add(u64::from(node.crashes))),
        };
        let holdings = have
            .map_or(Holdings::Name, |have| Holdings::Chunks { layout: self.layout.clone(), have });
        node.swarm = Some(Box::new(Swarm::new(params, holdings, self.now)));
        self.give(index, Event::Started);
    }

    /// Puts an event where the swarm will find it.
    fn give(&mut self, to: NodeIndex, event: Event) {
        self.pending.push_back((to, event));
    }

    /// Puts a parcel on its way; it arrives one latency later.
    fn post(&mut self, from: NodeIndex, to: NodeIndex, parcel: Parcel) {
        if self.is_cut(from, to) {
            return self.hold_back(from, to, parcel);
        }
        let at = self.arrival_of(from, to);
        self.post_at(at, from, to, parcel);
    }

    fn post_at(&mut self, at: Instant, from: NodeIndex, to: NodeIndex, parcel: Parcel) {
        let parcel = self.parcels.insert((to, from, parcel));
        self.queue.push(at, Step::Parcel { to, parcel });
    }

    /// Keeps one live alarm per node. One that turned out too early goes off, finds nothing due and
    /// is set anew, which is cheaper than taking it out of the queue.
    fn set_alarm(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index as usize];
        let deadline = node.swarm.as_ref().and_then(|swarm| swarm.next_deadline());
        let Some(at) = deadline.map(|deadline| deadline.at) else { return };
        if node.alarm_at.is_none_or(|alarm_at| at < alarm_at) {
            node.alarm_generation = node.alarm_generation.wrapping_add(1);
            node.alarm_at = Some(at);
            self.queue.push(at, Step::Wake { node: index, generation: node.alarm_generation });
        }
    }

    fn on_wake(&mut self, index: NodeIndex, generation: u32) {
        let node = &mut self.nodes[index as usize];
        if node.alarm_generation != generation {
            return;
        }
        node.alarm_at = None;
        let deadline = node.swarm.as_ref().and_then(|swarm| swarm.next_deadline());
        if deadline.is_some_and(|deadline| deadline.at <= self.now) {
            self.counts.wakes += 1;
            self.give(index, Event::DeadlineReached);
        } else {
            self.set_alarm(index);
        }
    }

    fn later(&self, span: Duration) -> Instant {
        self.now.after(span)
    }
}
