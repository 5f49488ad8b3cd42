//! The node's one task that changes state: feeds the swarms with what happened, carries out what
//! they order, answers the handle.
//!
//! Waiting and acting are separated: `next_wake` waits and changes nothing, everything after it
//! changes state and waits for nothing. Disks, hashes and sockets are worked by other tasks, whose
//! outcomes come back as [`Wake`]s. The hub decides nothing about the protocol.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use p2p_core::wire::{Message, RequestId};
use p2p_core::{
    Action, BuildId, ChunkIndex, Contact, Event, Holdings, Instant, NodeId, PeerRole, Seed, Swarm,
    SwarmConfig, SwarmParams, TrackerTable,
};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::address::SeederAddress;
use crate::control::{Answer, ControlCommand, ControlEvent, Question};
use crate::data::buffers::Room;
use crate::data::limiter::{SharedLimits, TransferLimits};
use crate::data::link::{Link, LinkId};
use crate::data::transfer::{Expected, ExpectedBytes};
use crate::data::{DataEvent, DataPlane};
use crate::error::FetchError;
use crate::progress::{Phase, StatusReport};
use crate::store::{BuildStore, StoreError, StoredBuild};

use self::clock::{Alarms, Clock};
use self::links::{Admission, Links};
use self::member::{Member, Upload};
use self::questions::{Outcome as Answered, Questions};
use self::reports::Reports;
use self::reuse::{Stores, look_at_disk};
use self::shared::Shared;
pub(crate) use self::wake::{AskOrder, Command, HubSender, Wake, Watches, channel};
use self::wake::{Fetch, OnDisk};

mod announces;
mod clock;
mod copy;
mod links;
pub(crate) mod member;
mod memory;
mod questions;
pub(crate) mod reports;
mod reuse;
pub(crate) mod shared;
mod wake;

/// How often people are told of progress, and unused connections are looked for.
const TICK: Duration = Duration::from_millis(200);

/// When no chunk has moved for so long, their memory is given back to the system.
const QUIET_TIME: Duration = Duration::from_secs(5);

/// What the hub is made of.
#[derive(Debug)]
pub(crate) struct HubParts {
    pub(crate) contact: Contact,
    pub(crate) seeders: Vec<SeederAddress>,
    pub(crate) tracker: Option<TrackerTable>,
    pub(crate) data: DataPlane,
    pub(crate) data_events: mpsc::Receiver<DataEvent>,
    pub(crate) control: mpsc::Sender<ControlCommand>,
    pub(crate) limits: SharedLimits,
    pub(crate) reports: Arc<Reports>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sender: HubSender,
    pub(crate) inbox: mpsc::Receiver<Wake>,
}

/// The hub's state.
#[derive(Debug)]
pub(crate) struct Hub {
    contact: Contact,
    seeders: Vec<SeederAddress>,
    tracker: Option<TrackerTable>,
    data: DataPlane,
    data_events: mpsc::Receiver<DataEvent>,
    /// The caps of the whole process.
    limits: SharedLimits,
    reports: Arc<Reports>,
    sender: HubSender,
    inbox: mpsc::Receiver<Wake>,
    clock: Clock,
    members: BTreeMap<BuildId, Member>,
    links: Links,
    banned: BTreeMap<NodeId, Instant>,
    alarms: Alarms,
    /// Events for swarms that came of carrying out actions.
    pending: VecDeque<(BuildId, Event)>,
    questions: Questions,
    shared: Arc<Shared>,
    /// Where builds on this host lie, as far as this node was told.
    stores: Stores,
    /// Downloads that were left and are being made durable.
    saving: TaskTracker,
    /// When chunks last moved; `None` once their memory was given back.
    moved_at: Option<tokio::time::Instant>,
    /// Draws the swarms' seeds.
    entropy: RandomState,
}

impl Hub {
    pub(crate) fn new(parts: HubParts) -> Self {
        let HubParts { contact, seeders, tracker, data, data_events, .. } = parts;
        let HubParts { control, limits, reports, shared, sender, inbox, .. } = parts;
        Self {
            questions: Questions::new(control, sender.clone(), seeders.clone()),
            contact,
            seeders,
            tracker,
            data,
            data_events,
            limits,
            reports,
            sender,
            inbox,
            clock: Clock::start(),
            members: BTreeMap::new(),
            links: Links::default(),
            banned: BTreeMap::new(),
            alarms: Alarms::default(),
            pending: VecDeque::new(),
            shared,
            stores: Stores::new(),
            saving: TaskTracker::new(),
            moved_at: None,
            entropy: RandomState::new(),
        }
    }

    /// Runs until it is told to shut down.
    pub(crate) async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            match self.next_wake(&mut ticks).await {
                Some(Wake::Command(Command::Shutdown { reply })) => {
                    self.shut_down().await;
                    // Who asked may have gone away meanwhile.
                    reply.send(()).ok();
                    return;
                }
                Some(wake) => self.on_wake(wake),
                None => return self.shut_down().await,
            }
            self.feed_swarms();
        }
    }

    async fn next_wake(&mut self, ticks: &mut tokio::time::Interval) -> Option<Wake> {
        let deadline = self.alarms.earliest().map(|at| self.clock.to_system(at));
        let is_restless = self.moved_at.is_some()
            || self.links.has_unused()
            || self.members.values().any(|member| member.is_dirty);
        let alarm = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            wake = self.inbox.recv() => wake,
            event = self.data_events.recv() => event.map(Wake::Data),
            () = alarm => Some(Wake::Deadline),
            _ = ticks.tick(), if is_restless => Some(Wake::Tick),
        }
    }

    fn on_wake(&mut self, wake: Wake) {
        match wake {
            Wake::Command(command) => self.on_command(command),
            Wake::Control(event) => self.on_control(event),
            Wake::Data(event) => self.on_data(event),
            Wake::Prepared { build, outcome } => self.on_prepared(build, outcome),
            Wake::Reuse { staged, news } => self.on_reuse(&staged, news),
            Wake::Checkpointed { build, chunks, outcome } => {
                self.on_checkpointed(build, chunks, outcome);
            }
            Wake::ReadBack { build, outcome } => self.on_read_back(build, outcome),
            Wake::Served { build, node, request, outcome } => {
                self.on_served(build, node, request, outcome);
            }
            Wake::RoomMade { fetch, room } => self.on_room(fetch, room),
            Wake::Deadline => {
                for build in self.alarms.take_due(self.clock.now()) {
                    self.pending.push_back((build, Event::DeadlineReached));
                }
            }
            Wake::Tick => self.on_tick(),
        }
    }

    /// Gives the swarms what waits for them and carries out what they order, until all is quiet.
    fn feed_swarms(&mut self) {
        while let Some((build, event)) = self.pending.pop_front() {
            let now = self.clock.now();
            let Some(swarm) = self.members.get_mut(&build).and_then(|m| m.swarm.as_mut()) else {
                continue;
            };
            // One that went along takes nobody along.
            let goes_along = matches!(event, Event::TrackerAsked { .. });
            swarm.handle_event(now, event);
            let actions: Vec<Action> = std::iter::from_fn(|| swarm.poll_action()).collect();
            self.alarms.set(build, swarm.next_deadline().map(|deadline| deadline.at));
            if !goes_along {
                self.take_along(&actions);
            }
            for action in actions {
                self.carry_out(build, action);
            }
        }
    }

    /// Starts an action without waiting for it.
    fn carry_out(&mut self, build: BuildId, action: Action) {
        match action {
            Action::Connect { contact } => self.connect(build, *contact),
            Action::Disconnect { peer } => self.disconnect(build, peer),
            Action::Ban { peer, fault, until } => {
                warn!(%build, peer = %peer, "banned a peer: it {fault}");
                if let Some(member) = self.members.get_mut(&build) {
                    member.note_fault(peer, fault);
                }
                self.ban(peer, until);
            }
            Action::Send { peer, message } => self.send(build, peer, &message),
            Action::FetchManifest { peer } => self.fetch_manifest(build, peer),
            Action::ServeManifest { peer } => self.serve_manifest(build, peer),
            Action::Fetch { request, peer, chunk } => self.fetch(build, peer, request, chunk),
            Action::CancelFetch { request, peer } => {
                self.data.expectations().cancel(&(peer, build, Some(request)));
                self.send(build, peer, &Message::Cancel { request });
            }
            Action::Serve { peer, request, chunk } => {
                self.serve(build, Upload { peer, request, chunk });
            }
            Action::CancelServe { peer, request } => {
                let member = self.members.get(&build);
                if let Some(token) = member.and_then(|m| m.serving.get(&(peer, request))) {
                    token.cancel();
                }
            }
            Action::Announce { tracker, announce } => self.announce(tracker, *announce),
            Action::Exchange { contact } => self.questions.exchange(build, *contact),
            Action::Complete => {
                if let Some(member) = self.members.get_mut(&build) {
                    member.read_back(&self.sender);
                }
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Fetch { build, store, limits, reply } => {
                // The handle that asked may be gone; the download then ends with its watches.
                drop(reply.send(self.start_download(build, store, limits)));
            }
            Command::Cancel { build, store } => {
                // A copy into another store ends by itself when nobody waits for it.
                let is_it =
                    |member: &Member| member.phase != Phase::Serving && member.is_in(&store);
                if self.members.get(&build).is_some_and(is_it) {
                    self.leave(build);
                }
            }
            Command::Serve { stored, limits } => self.serve_stored(stored, limits),
            Command::Leave { build, reply } => match self.leave(build) {
                Some(member) => {
                    member.tasks.close();
                    tokio::spawn(async move {
                        member.tasks.wait().await;
                        drop(member);
                        reply.send(()).ok();
                    });
                }
                None => {
                    reply.send(()).ok();
                }
            },
            Command::Report { report, reply } => self.questions.report(report, 0, reply),
            Command::Ask(order) => self.questions.ask_seeder(order),
            Command::Shutdown { .. } => unreachable!("handled where the loop ends"),
        }
    }

    fn on_data(&mut self, event: DataEvent) {
        match event {
            DataEvent::Linked { node, outcome } => self.on_linked(node, outcome),
            DataEvent::LinkLost { id, node } => self.on_link_lost(id, node),
            DataEvent::Message { id, node, build, message } => {
                if self.links.is_current(node, id) {
                    self.on_message(node, build, message);
                }
            }
            DataEvent::Malformed { id, node, build } => {
                if self.links.is_current(node, id) {
                    self.on_malformed(node, build);
                }
            }
            DataEvent::Nonsense { node, build } => self.on_malformed(node, build),
            DataEvent::Transferred { build, event } => self.on_transfer(build, event),
            DataEvent::Staged { build, staged } => self.on_staged(build, staged),
            DataEvent::StoreFailed { build, error } => self.fail(build, error),
        }
    }

    fn on_control(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Asked { id, node, from, question } => {
                let answer = self.answer(node, from, question);
                self.questions.answer(id, answer);
            }
            ControlEvent::Answered { token, outcome } => self.on_answered(token, outcome),
        }
    }

    fn answer(&mut self, node: NodeId, from: IpAddr, question: Question) -> Answer {
        match question {
            Question::Announce(mut announce) => match &mut self.tracker {
                Some(tracker) if announce.contact.node == node => {
                    announce.contact = announce.contact.seen_from(from);
                    Answer::Announce(tracker.answer(self.clock.now(), &announce))
                }
                Some(_) | None => Answer::Refused,
            },
            Question::Exchange(exchange) => {
                let member = self.members.get(&exchange.build);
                let swarm = member.and_then(|member| member.swarm.as_ref());
                Answer::Exchange(swarm.map(Swarm::known_contacts).unwrap_or_default())
            }
            Question::Status(report) if self.contact.role == PeerRole::Seeder => {
                self.reports.push(StatusReport { node, report });
                Answer::Status
            }
            // Asks were sorted out before.
            Question::Status(_) | Question::Ask { .. } => Answer::Refused,
            Question::Reach => Answer::Reach(self.contact),
        }
    }

    fn on_answered(&mut self, token: u64, outcome: Result<Answer, String>) {
        match self.questions.on_answered(token, outcome) {
            Some(Answered::Announce { build, event, error }) => {
                if let Some(member) = self.members.get_mut(&build) {
                    member.is_dirty |= member.announce_error != error;
                    member.announce_error = error;
                    self.pending.push_back((build, event));
                }
            }
            Some(Answered::Exchange { build, contacts }) => {
                self.pending.push_back((build, Event::ContactsLearned { contacts }));
            }
            None => {}
        }
    }

    fn on_linked(&mut self, node: NodeId, outcome: Result<Link, String>) {
        let link = match outcome {
            Ok(link) if self.is_banned(node) => {
                link.close("banned");
                return self.on_dial_failed(node, "it is banned");
            }
            Ok(link) => link,
            Err(reason) => return self.on_dial_failed(node, &reason),
        };
        let waiting = match self.links.admit(self.contact.node, link) {
            Admission::Taken { waiting } => waiting,
            Admission::Replaced { old, waiting } => {
                old.link.close("replaced");
                for build in &old.builds {
                    self.lose_peer(*build, node);
                    self.links.attach(node, *build);
                    self.pending.push_back((*build, Event::PeerConnected { peer: node }));
                }
                waiting
            }
            Admission::Surplus { link, waiting } => {
                link.close("there is another connection");
                waiting
            }
        };
        for build in waiting {
            self.links.attach(node, build);
            self.pending.push_back((build, Event::PeerConnected { peer: node }));
        }
        self.note_connections();
    }

    fn on_dial_failed(&mut self, node: NodeId, reason: &str) {
        debug!(%node, reason, "could not connect");
        for build in self.links.end_dial(node) {
            self.pending.push_back((build, Event::DialFailed { peer: node }));
        }
    }

    fn on_link_lost(&mut self, id: LinkId, node: NodeId) {
        if self.links.is_current(node, id)
            && let Some(linked) = self.links.remove(node)
        {
            for build in linked.builds {
                self.lose_peer(build, node);
            }
            self.note_connections();
        }
    }

    fn note_connections(&self) {
        self.shared.note_links(self.links.counts());
    }

    fn lose_peer(&mut self, build: BuildId, node: NodeId) {
        self.data.expectations().cancel_peer(node, build);
        self.pending.push_back((build, Event::PeerLost { peer: node }));
    }

    fn on_message(&mut self, node: NodeId, build: BuildId, mut message: Message) {
        if self.members.get(&build).is_none_or(|member| member.swarm.is_none()) {
            // Tell it, so that it looks elsewhere; but never answer a farewell with a farewell.
            if message != Message::Leave {
                self.send(build, node, &Message::Leave);
            }
            return;
        }
        if let Message::Join { contact, .. } = &mut message {
            let Some(linked) = self.links.get_mut(node) else { return };
            **contact = contact.seen_from(linked.link.remote_ip());
            linked.role = contact.role;
            if self.links.attach(node, build) {
                self.pending.push_back((build, Event::PeerConnected { peer: node }));
            }
        }
        if let Message::Busy { request, .. } = &message {
            self.data.expectations().cancel(&(node, build, Some(*request)));
        }
        if message == Message::NoManifest {
            self.data.expectations().cancel(&(node, build, None));
        }
        self.pending.push_back((build, Event::MessageReceived { peer: node, message }));
    }

    fn on_malformed(&mut self, node: NodeId, build: Option<BuildId>) {
        let event = Event::MalformedReceived { peer: node };
        let builds = self.links.get(node).map(|linked| linked.builds.clone()).unwrap_or_default();
        match build.filter(|build| builds.contains(build)).or(builds.first().copied()) {
            Some(build) => self.pending.push_back((build, event)),
            // No swarm to judge it: hang up.
            None => {
                if let Some(linked) = self.links.get(node) {
                    linked.link.close("malformed");
                }
            }
        }
    }

    fn on_transfer(&mut self, build: BuildId, event: Event) {
        self.moved_at = Some(tokio::time::Instant::now());
        let Some(member) = self.members.get_mut(&build) else { return };
        member.note_transfer(&event);
        let event = member.keep_back(event);
        self.pending.extend(event.map(|event| (build, event)));
    }

    fn on_checkpointed(&mut self, build: BuildId, chunks: u32, outcome: Result<(), StoreError>) {
        let Some(member) = self.members.get_mut(&build) else { return };
        member.checkpoint.is_running = false;
        match outcome {
            Ok(()) => member.checkpoint.chunks = chunks,
            Err(error) => self.on_store_error(build, error),
        }
    }

    /// A sync that failed costs the chunks that it was for; anything else ends the download.
    fn on_store_error(&mut self, build: BuildId, error: StoreError) {
        match error {
            StoreError::SyncFailed { ref chunks, .. } => {
                warn!(%build, %error, "the disk did not keep chunks; they are fetched again");
                self.lose_chunks(build, chunks.clone());
            }
            error => self.fail(build, Arc::new(error)),
        }
    }

    fn lose_chunks(&mut self, build: BuildId, chunks: Vec<ChunkIndex>) {
        let Some(member) = self.members.get_mut(&build) else { return };
        member.note_lost(&chunks);
        self.pending.push_back((build, Event::ChunksLost { chunks }));
    }

    fn on_read_back(
        &mut self,
        build: BuildId,
        outcome: Result<Result<StoredBuild, Vec<ChunkIndex>>, StoreError>,
    ) {
        let Some(member) = self.members.get_mut(&build) else { return };
        match outcome {
            Ok(Ok(stored)) => {
                member.links = self.links.counts_of(build);
                debug!(%build, bytes = member.bytes_done, "build is complete and verified");
                member.succeed(stored);
            }
            Ok(Err(chunks)) => {
                warn!(%build, chunks = chunks.len(), "chunks read back wrong from the disk");
                self.lose_chunks(build, chunks);
            }
            Err(error) => self.on_store_error(build, error),
        }
    }

    fn on_served(
        &mut self,
        build: BuildId,
        node: NodeId,
        request: RequestId,
        outcome: Result<bool, StoreError>,
    ) {
        let Some(member) = self.members.get_mut(&build) else { return };
        self.moved_at = Some(tokio::time::Instant::now());
        member.serving.remove(&(node, request));
        member.is_dirty = true;
        let is_delivered = match outcome {
            Ok(is_delivered) => is_delivered,
            Err(error) => {
                warn!(%build, %error, "cannot read a chunk that another node asked for");
                false
            }
        };
        if is_delivered && member.phase != Phase::Serving {
            member.chunks_served_early += 1;
        }
        self.pending.push_back((build, Event::ServeEnded { peer: node, request, is_delivered }));
    }

    fn on_tick(&mut self) {
        self.links.close_unused();
        self.note_connections();
        if self.moved_at.is_some_and(|at| at.elapsed() >= QUIET_TIME) {
            self.moved_at = None;
            self.data.buffers().trim();
        }
        let builds: Vec<BuildId> = self.members.keys().copied().collect();
        for build in builds {
            let Some(member) = self.members.get_mut(&build) else { continue };
            member.checkpoint(&self.sender);
            member.save_contacts();
            if member.is_dirty {
                member.links = self.links.counts_of(build);
                member.publish(&self.seeders);
                // While it waits, the reason may change without an event.
                member.is_dirty = matches!(member.phase, Phase::Locating | Phase::Downloading);
            }
        }
    }

    fn start_download(
        &mut self,
        build: BuildId,
        store: BuildStore,
        limits: SharedLimits,
    ) -> Watches {
        self.know_store(&store);
        let failed = |member: &Member| matches!(&*member.outcome.borrow(), Some(Err(_)));
        if self.members.get(&build).is_some_and(failed) {
            self.leave(build);
        }
        if let Some(member) = self.members.get(&build)
            && !member.is_in(&store)
        {
            return copy::start(build, store, member.watches());
        }
        let (sender, stores) = (self.sender.clone(), self.known_stores());
        let limits = TransferLimits::new(limits, self.limits.clone());
        let member = self.members.entry(build).or_insert_with(|| {
            let member = Member::new(build, Phase::Resuming, Some(store.clone()), limits);
            let prepare = move || look_at_disk(build, &store, &stores);
            member.tasks.spawn(async move {
                if let Ok(outcome) = spawn_blocking(prepare).await {
                    sender.send(Wake::Prepared { build, outcome }).await;
                }
            });
            self.shared.add(build, member.progress.subscribe());
            member
        });
        member.watches()
    }

    fn serve_stored(&mut self, stored: StoredBuild, limits: SharedLimits) {
        let build = stored.id();
        if let Some(store) = stored.store() {
            self.know_store(store);
        }
        if self.members.contains_key(&build) {
            return;
        }
        let limits = TransferLimits::new(limits, self.limits.clone());
        let mut member = Member::new(build, Phase::Serving, None, limits);
        let holdings = member.adopt(OnDisk::Whole(stored));
        self.shared.add(build, member.progress.subscribe());
        self.members.insert(build, member);
        self.enter_swarm(build, holdings);
    }

    fn enter_swarm(&mut self, build: BuildId, holdings: Holdings) {
        let is_seeder = self.contact.role == PeerRole::Seeder;
        // A seeder is its own first tracker.
        let own = is_seeder.then_some(self.contact.node);
        let trackers = own.into_iter().chain(self.seeders.iter().map(|seeder| seeder.node));
        let Some(member) = self.members.get_mut(&build) else { return };
        let params = SwarmParams {
            config: if is_seeder { SwarmConfig::seeder() } else { SwarmConfig::host() }.into(),
            build,
            contact: self.contact,
            trackers: trackers.collect(),
            remembered: std::mem::take(&mut member.memory.remembered),
            seed: Seed::from_u64(self.entropy.hash_one(build)),
        };
        let swarm = Swarm::new(params, holdings, self.clock.now());
        // An attempt that ended after its last chunk left only the reading back to do.
        if swarm.is_complete() {
            member.read_back(&self.sender);
        }
        member.swarm = Some(swarm);
        self.pending.push_back((build, Event::Started));
    }

    fn leave(&mut self, build: BuildId) -> Option<Member> {
        self.pending.push_back((build, Event::Leaving));
        self.feed_swarms();
        let mut member = self.members.remove(&build)?;
        self.alarms.set(build, None);
        member.reuse.cancel.cancel();
        for token in member.serving.values() {
            token.cancel();
        }
        member.publish(&self.seeders);
        member.fail(FetchError::Cancelled);
        self.shared.forget(build);
        if let Some(staged) = member.staged().cloned() {
            // What is written is made durable, so that the next attempt resumes all of it.
            let save = member.tasks.track_future(self.saving.track_future(async move {
                if let Ok(Err(error)) = spawn_blocking(move || staged.checkpoint()).await {
                    warn!(%build, %error, "cannot save how far the download came");
                }
            }));
            tokio::spawn(save);
        }
        Some(member)
    }

    /// The disk failed a download: nothing more can be stored, so the build is left.
    fn fail(&mut self, build: BuildId, error: Arc<StoreError>) {
        debug!(%build, %error, "the download failed");
        if let Some(member) = self.members.get_mut(&build) {
            member.fail_store(error);
            self.leave(build);
        }
    }

    async fn shut_down(&mut self) {
        let builds: Vec<BuildId> = self.members.keys().copied().collect();
        for build in builds {
            self.leave(build);
        }
        self.saving.close();
        self.saving.wait().await;
        self.reports.close();
        self.data.close().await;
    }

    fn connect(&mut self, build: BuildId, contact: Contact) {
        let node = contact.node;
        if self.links.get(node).is_some() {
            self.links.attach(node, build);
            self.pending.push_back((build, Event::PeerConnected { peer: node }));
            return;
        }
        if self.is_banned(node) {
            self.pending.push_back((build, Event::DialFailed { peer: node }));
            return;
        }
        if self.links.begin_dial(node, build) {
            self.data.dial(contact);
        }
    }

    fn disconnect(&mut self, build: BuildId, node: NodeId) {
        self.data.expectations().cancel_peer(node, build);
        self.links.detach(node, build);
    }

    fn ban(&mut self, node: NodeId, until: Instant) {
        let now = self.clock.now();
        self.banned.retain(|_, until| *until > now);
        self.banned.insert(node, until);
        if let Some(linked) = self.links.remove(node) {
            linked.link.close("banned");
            for build in linked.builds {
                self.lose_peer(build, node);
            }
        }
    }

    fn is_banned(&self, node: NodeId) -> bool {
        self.banned.get(&node).is_some_and(|until| *until > self.clock.now())
    }

    fn send(&mut self, build: BuildId, node: NodeId, message: &Message) {
        if let Some(linked) = self.links.get(node)
            && linked.link.send(build, message).is_err()
        {
            debug!(%node, "peer does not read what it is sent");
            linked.link.close("too slow");
        }
    }

    fn fetch_manifest(&mut self, build: BuildId, peer: NodeId) {
        let Some(member) = self.members.get(&build) else { return };
        let Some(store) = member.store.clone() else { return };
        self.expect((peer, build, None), ExpectedBytes::Manifest(store));
        self.send(build, peer, &Message::RequestManifest);
    }

    /// Asks a peer for a chunk, as soon as there is memory for it.
    fn fetch(&mut self, build: BuildId, peer: NodeId, request: RequestId, chunk: ChunkIndex) {
        let staged = self.members.get(&build).and_then(Member::staged).cloned();
        let Some(staged) = staged else { return };
        let size = staged.manifest().layout().size_of(chunk);
        let fetch = Fetch { build, peer, request, chunk };
        self.expect(fetch.key(), ExpectedBytes::Chunk(staged));
        let buffers = self.data.buffers().clone();
        if let Some(room) = buffers.try_reserve(size) {
            return self.on_room(fetch, room);
        }
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let room = buffers.reserve(size).await;
            sender.send(Wake::RoomMade { fetch, room }).await;
        });
    }

    fn on_room(&mut self, fetch: Fetch, room: Room) {
        // Cancelled while it waited: the room goes to the next.
        if self.data.expectations().give_room(&fetch.key(), room) {
            let Fetch { build, peer, request, chunk } = fetch;
            self.send(build, peer, &Message::Request { request, chunk: chunk.get() });
        }
    }

    fn expect(&mut self, key: (NodeId, BuildId, Option<RequestId>), what: ExpectedBytes) {
        let Some(member) = self.members.get(&key.1) else { return };
        let role = self.links.get(key.0).map(|linked| linked.role);
        let expected = Expected {
            what,
            counters: member.counters.clone(),
            limits: member.limits.clone(),
            is_from_seeder: role == Some(PeerRole::Seeder),
            cancel: CancellationToken::new(),
            room: None,
        };
        self.data.expectations().add(key, expected);
    }

    fn serve_manifest(&self, build: BuildId, peer: NodeId) {
        if let (Some(member), Some(linked)) = (self.members.get(&build), self.links.get(peer)) {
            member.send_manifest(&linked.link.uplink());
        }
    }

    fn serve(&mut self, build: BuildId, upload: Upload) {
        let uplink = self.links.get(upload.peer).map(|linked| linked.link.uplink());
        let member = self.members.get_mut(&build);
        let is_started = match (member, uplink) {
            (Some(member), Some(uplink)) => member.send_chunk(&uplink, upload, &self.sender),
            _ => false,
        };
        if !is_started {
            let Upload { peer, request, .. } = upload;
            let ended = Event::ServeEnded { peer, request, is_delivered: false };
            self.pending.push_back((build, ended));
        }
    }
}
