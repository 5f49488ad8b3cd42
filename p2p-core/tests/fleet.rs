//! A fleet in one thread: the real state machines, an event queue, and links that are arithmetic.
//!
//! Each node sends its chunks one after the other at its own rate; messages take the latency. That
//! is enough to see whether a swarm finishes and who carried it; the simulator crate models more.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use p2p_core::wire::{Announce, Message, RequestId};
use p2p_core::{
    Action, BuildId, ByteRate, ChunkIndex, ChunkLayout, ChunkSet, Contact, Event, Holdings,
    Instant, Location, ManifestOutcome, NodeId, PeerFault, PeerRole, Seed, Swarm, SwarmConfig,
    SwarmParams, TrackerConfig, TrackerTable, Verdict,
};

pub(crate) const LATENCY: Duration = Duration::from_micros(500);

/// A node's machine and what the test knows of it.
pub(crate) struct TestNode {
    pub(crate) swarm: Swarm,
    pub(crate) rate: ByteRate,
    /// When its uplink is free again.
    free_at: Instant,
    /// Sends bytes that do not match.
    pub(crate) is_lying: bool,
    is_dead: bool,
    pub(crate) completed_at: Option<Instant>,
    pub(crate) bytes_sent: u64,
    pub(crate) first_served_at: Option<Instant>,
    pub(crate) manifests_sent: u32,
    pub(crate) bans: Vec<(NodeId, PeerFault)>,
    /// Fetches under way: whom, and what.
    fetches: BTreeMap<RequestId, NodeId>,
    links: BTreeSet<NodeId>,
    wake_at: Option<Instant>,
}

enum Step {
    Event(NodeId, Event),
    /// A chunk arrived at `asker` from `server`.
    Arrive {
        asker: NodeId,
        server: NodeId,
        request: RequestId,
        chunk: ChunkIndex,
    },
    Wake(NodeId),
    TrackerAsked(NodeId, Announce),
    ExchangeAsked(NodeId, NodeId),
}

pub(crate) struct Fleet {
    pub(crate) now: Instant,
    pub(crate) layout: Arc<ChunkLayout>,
    pub(crate) build: BuildId,
    pub(crate) nodes: BTreeMap<NodeId, TestNode>,
    pub(crate) tracker: TrackerTable,
    pub(crate) is_tracker_alive: bool,
    pub(crate) announces: u32,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    steps: BTreeMap<u64, Step>,
    next_step: u64,
    seed: u64,
}

/// Requests that a swarm has in flight.
pub(crate) fn request_count(swarm: &Swarm) -> usize {
    let requests = swarm.table_sizes().into_iter().find(|table| table.name == "requests");
    usize::try_from(requests.unwrap().size).unwrap()
}

/// The node with this number; the seeder of a fleet has number zero.
pub(crate) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

pub(crate) fn contact(number: u8, role: PeerRole) -> Contact {
    let address = format!("10.0.0.{number}:1").parse().unwrap();
    Contact {
        node: node(number),
        control: address,
        data: address,
        role,
        location: Location::default(),
    }
}

impl Fleet {
    /// A fleet of nobody, for a build of `chunk_count` chunks of 1000 bytes.
    pub(crate) fn new(chunk_count: u32, seed: u64) -> Self {
        let layout = ChunkLayout::new(vec![1_000; chunk_count as usize].into_iter()).unwrap();
        Self {
            now: Instant::ZERO,
            layout: Arc::new(layout),
            build: BuildId::of_manifest(b"test"),
            nodes: BTreeMap::new(),
            tracker: TrackerTable::new(TrackerConfig::region(), Seed::from_u64(seed)),
            is_tracker_alive: true,
            announces: 0,
            queue: BinaryHeap::new(),
            steps: BTreeMap::new(),
            next_step: 0,
            seed,
        }
    }

    /// Everything, as a seeder has it.
    pub(crate) fn everything(&self) -> Holdings {
        let have = ChunkSet::full(self.layout.chunk_count());
        Holdings::Chunks { layout: self.layout.clone(), have }
    }

    /// Adds a node that can send `rate` bytes per second.
    pub(crate) fn add(&mut self, number: u8, role: PeerRole, holdings: Holdings, rate: u64) {
        let is_seeder = role == PeerRole::Seeder;
        let params = SwarmParams {
            config: if is_seeder { SwarmConfig::seeder() } else { SwarmConfig::host() }.into(),
            build: self.build,
            contact: contact(number, role),
            trackers: vec![node(0)],
            remembered: Vec::new(),
            seed: Seed::from_u64(self.seed * 1_000 + u64::from(number)),
        };
        let test_node = TestNode {
            swarm: Swarm::new(params, holdings, self.now),
            rate: ByteRate::new(rate).unwrap(),
            free_at: self.now,
            is_lying: false,
            is_dead: false,
            completed_at: None,
            bytes_sent: 0,
            first_served_at: None,
            manifests_sent: 0,
            bans: Vec::new(),
            fetches: BTreeMap::new(),
            links: BTreeSet::new(),
            wake_at: None,
        };
        self.nodes.insert(node(number), test_node);
        self.give(node(number), Event::Started);
    }

    /// A seeder and `hosts` hosts that know only the build's name, all at 20 kB/s:
    /// a chunk takes 50 ms.
    pub(crate) fn with_hosts(hosts: u8, chunk_count: u32, seed: u64) -> Self {
        let mut fleet = Self::new(chunk_count, seed);
        fleet.add(0, PeerRole::Seeder, fleet.everything(), 20_000);
        for number in 1..=hosts {
            fleet.add(number, PeerRole::Host, Holdings::Name, 20_000);
        }
        fleet
    }

    /// Takes a node off the network without a word.
    pub(crate) fn kill(&mut self, number: u8) {
        let gone = node(number);
        self.nodes.get_mut(&gone).unwrap().is_dead = true;
        let others: Vec<NodeId> = self.nodes.keys().copied().collect();
        for other in others {
            self.unlink(other, gone);
        }
    }

    /// Runs until `is_done`, or until nothing is left to happen before `limit`. Returns whether it
    /// is done.
    pub(crate) fn run(&mut self, limit: Duration, is_done: impl Fn(&Self) -> bool) -> bool {
        while !is_done(self) {
            let Some(Reverse((at, id))) = self.queue.pop() else { return false };
            if at > Instant::from_start(limit) {
                self.queue.push(Reverse((at, id)));
                return false;
            }
            self.now = at;
            match self.steps.remove(&id).unwrap() {
                Step::Event(to, event) => self.give(to, event),
                Step::Arrive { asker, server, request, chunk } => {
                    self.arrive(asker, server, request, chunk);
                }
                Step::Wake(to) => self.wake(to),
                Step::TrackerAsked(from, announce) => self.track(from, &announce),
                Step::ExchangeAsked(from, to) => self.exchange(from, to),
            }
        }
        true
    }

    /// Something happens to a node on account of a peer that is none of the fleet's.
    pub(crate) fn inject(&mut self, to: NodeId, stranger: NodeId, event: Event) {
        let target = self.nodes.get_mut(&to).unwrap();
        if matches!(event, Event::PeerConnected { .. }) {
            target.links.insert(stranger);
        }
        self.give(to, event);
    }

    pub(crate) fn all_complete(&self) -> bool {
        self.nodes.values().all(|node| node.is_dead || node.swarm.is_complete())
    }

    pub(crate) fn get(&self, number: u8) -> &TestNode {
        &self.nodes[&node(number)]
    }

    /// Copies of the build that the seeder sent.
    pub(crate) fn seeder_copies(&self) -> f64 {
        self.get(0).bytes_sent as f64 / self.layout.build_size() as f64
    }

    /// Bytes that left all nodes, against those that hosts needed.
    pub(crate) fn sent_over_needed(&self) -> f64 {
        let sent: u64 = self.nodes.values().map(|node| node.bytes_sent).sum();
        let needed = (self.nodes.len() - 1) as u64 * self.layout.build_size();
        sent as f64 / needed as f64
    }

    /// When the last host was complete, against the time that one copy takes.
    pub(crate) fn last_over_line_time(&self) -> f64 {
        let last = self.nodes.values().filter_map(|node| node.completed_at).max().unwrap();
        let line = self.get(0).rate.occupancy(self.layout.build_size());
        last.since(Instant::ZERO).as_secs_f64() / line.as_secs_f64()
    }

    fn schedule(&mut self, at: Instant, step: Step) {
        self.queue.push(Reverse((at, self.next_step)));
        self.steps.insert(self.next_step, step);
        self.next_step += 1;
    }

    fn later(&mut self, to: NodeId, event: Event) {
        self.schedule(self.now.after(LATENCY), Step::Event(to, event));
    }

    fn give(&mut self, to: NodeId, event: Event) {
        let Some(target) = self.nodes.get_mut(&to).filter(|target| !target.is_dead) else { return };
        // Messages on a connection that was closed meanwhile are lost with it.
        if let Event::MessageReceived { peer, .. } = &event
            && !target.links.contains(peer)
        {
            return;
        }
        target.swarm.handle_event(self.now, event);
        while let Some(action) = self.nodes.get_mut(&to).and_then(|t| t.swarm.poll_action()) {
            self.carry_out(to, action);
        }
        self.set_alarm(to);
    }

    fn set_alarm(&mut self, to: NodeId) {
        let target = self.nodes.get_mut(&to).unwrap();
        let Some(deadline) = target.swarm.next_deadline() else { return };
        if target.wake_at.is_none_or(|wake_at| deadline.at < wake_at) {
            target.wake_at = Some(deadline.at);
            self.schedule(deadline.at, Step::Wake(to));
        }
    }

    fn wake(&mut self, to: NodeId) {
        let target = self.nodes.get_mut(&to).unwrap();
        if target.wake_at != Some(self.now) {
            return;
        }
        target.wake_at = None;
        self.give(to, Event::DeadlineReached);
    }

    fn carry_out(&mut self, from: NodeId, action: Action) {
        match action {
            Action::Connect { contact } => self.connect(from, contact.node),
            Action::Disconnect { peer } => {
                self.nodes.get_mut(&from).unwrap().links.remove(&peer);
            }
            Action::Ban { peer, fault, .. } => {
                self.nodes.get_mut(&from).unwrap().bans.push((peer, fault));
                self.unlink(from, peer);
                self.unlink(peer, from);
            }
            Action::Send { peer, message } => {
                self.later(peer, Event::MessageReceived { peer: from, message });
            }
            Action::FetchManifest { peer } => {
                let message = Message::RequestManifest;
                self.later(peer, Event::MessageReceived { peer: from, message });
            }
            Action::ServeManifest { peer, serve } => {
                self.nodes.get_mut(&from).unwrap().manifests_sent += 1;
                let outcome = ManifestOutcome::Valid(self.layout.clone());
                self.later(peer, Event::ManifestArrived { peer: from, outcome });
                self.later(from, Event::ManifestServeEnded { peer, serve });
            }
            Action::Fetch { request, peer, chunk } => {
                self.nodes.get_mut(&from).unwrap().fetches.insert(request, peer);
                let message = Message::Request { request, chunk: chunk.get() };
                self.later(peer, Event::MessageReceived { peer: from, message });
            }
            Action::CancelFetch { request, peer } => {
                self.nodes.get_mut(&from).unwrap().fetches.remove(&request);
                let message = Message::Cancel { request };
                self.later(peer, Event::MessageReceived { peer: from, message });
            }
            Action::Serve { peer, request, chunk } => self.serve(from, peer, request, chunk),
            // Bytes on the wire are not called back in this model; the arrival is ignored.
            Action::CancelServe { .. } => {}
            Action::Announce { announce, .. } => {
                let at = self.now.after(LATENCY);
                self.schedule(at, Step::TrackerAsked(from, *announce));
            }
            Action::Exchange { contact } => {
                let at = self.now.after(LATENCY);
                self.schedule(at, Step::ExchangeAsked(from, contact.node));
            }
            Action::Complete => {
                self.nodes.get_mut(&from).unwrap().completed_at = Some(self.now);
            }
        }
    }

    fn connect(&mut self, from: NodeId, to: NodeId) {
        if self.nodes.get(&to).is_none_or(|target| target.is_dead) {
            return self.later(from, Event::DialFailed { peer: to });
        }
        for (one, other) in [(from, to), (to, from)] {
            self.nodes.get_mut(&one).unwrap().links.insert(other);
            self.later(one, Event::PeerConnected { peer: other });
        }
    }

    fn unlink(&mut self, one: NodeId, other: NodeId) {
        if let Some(node) = self.nodes.get_mut(&one)
            && node.links.remove(&other)
        {
            node.fetches.retain(|_, peer| *peer != other);
            self.later(one, Event::PeerLost { peer: other });
        }
    }

    fn serve(&mut self, from: NodeId, peer: NodeId, request: RequestId, chunk: ChunkIndex) {
        let size = u64::from(self.layout.size_of(chunk));
        let now = self.now;
        let server = self.nodes.get_mut(&from).unwrap();
        assert!(server.swarm.have().contains(chunk), "a chunk is served that is not verified");
        server.first_served_at.get_or_insert(now);
        server.bytes_sent += size;
        server.free_at = server.free_at.max(now).after(server.rate.occupancy(size));
        let (sent_at, here) = (server.free_at, server.free_at.after(LATENCY));
        let ended = Event::ServeEnded { peer, request, is_delivered: true };
        self.schedule(sent_at, Step::Event(from, ended));
        self.schedule(here, Step::Arrive { asker: peer, server: from, request, chunk });
    }

    fn arrive(&mut self, asker: NodeId, server: NodeId, request: RequestId, chunk: ChunkIndex) {
        let is_lying = self.nodes[&server].is_lying;
        let receiver = self.nodes.get_mut(&asker).unwrap();
        if receiver.fetches.remove(&request).is_none() {
            return;
        }
        let verdict = if is_lying { Verdict::Differs } else { Verdict::Matches };
        self.give(asker, Event::ChunkHashed { request, chunk, verdict });
    }

    fn track(&mut self, from: NodeId, announce: &Announce) {
        self.announces += 1;
        if !self.is_tracker_alive {
            return self.later(from, Event::AnnounceFailed { tracker: node(0) });
        }
        let answer = self.tracker.answer(self.now, announce);
        self.later(from, Event::AnnounceAnswered { tracker: node(0), answer: Box::new(answer) });
    }

    fn exchange(&mut self, from: NodeId, to: NodeId) {
        let contacts = self.nodes.get(&to).map(|node| node.swarm.known_contacts());
        self.later(from, Event::ContactsLearned { contacts: contacts.unwrap_or_default() });
    }
}
