//! The node's one task that changes state: feeds the swarms with what happened, carries out what
//! they order, answers the handle.
//!
//! Waiting and acting are separated: `next_wake` waits and changes nothing, everything after it
//! changes state and waits for nothing. Disks, hashes and sockets are worked by other tasks, whose
//! outcomes come back as [`Wake`]s. The hub decides nothing about the protocol.

use std::collections::{BTreeMap, VecDeque};
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use p2p_core::wire::{Message, RequestId};
use p2p_core::{
    Action, BuildId, ChunkIndex, Contact, Event, Instant, NodeId, PeerRole, Swarm, TrackerTable,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::address::SeederAddress;
use crate::control::{Answer, ControlCommand, ControlEvent, NoAnswer, Question, Refusal};
use crate::data::buffers::Room;
use crate::data::limiter::SharedLimits;
use crate::data::receiving::{Expected, ExpectedBytes};
use crate::data::{DataEvent, DataPlane};
use crate::progress::Phase;
use crate::store::StoreError;

use self::board::Board;
use self::clock::{Alarms, Clock};
use self::links::Links;
use self::member::{Member, Upload};
use self::questions::{Answered, Questions};
use self::reuse::Stores;
use self::wake::Fetch;
pub(crate) use self::wake::{
    AskOrder, Command, DownloadOutcome, HubSender, Wake, Watches, channel,
};

mod announces;
pub(crate) mod board;
mod clock;
mod copy;
mod downloads;
mod links;
mod member;
mod neighbours;
mod questions;
mod remembered;
mod reuse;
mod wake;

/// How often progress is published, and unused connections are looked for.
const TICK: Duration = Duration::from_millis(200);

/// When no chunk has moved for so long, their memory is given back to the system.
const QUIET_TIME: Duration = Duration::from_secs(5);

/// What a hub is created from.
#[derive(Debug)]
pub(crate) struct HubParts {
    pub(crate) contact: Contact,
    pub(crate) seeders: Vec<SeederAddress>,
    pub(crate) tracker: Option<TrackerTable>,
    pub(crate) data: DataPlane,
    pub(crate) data_events: mpsc::Receiver<DataEvent>,
    pub(crate) control: mpsc::Sender<ControlCommand>,
    pub(crate) limits: SharedLimits,
    pub(crate) board: Arc<Board>,
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
    board: Arc<Board>,
    /// Where builds on this host lie, as far as this node has heard.
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
        let HubParts { control, limits, board, sender, inbox, .. } = parts;
        Self {
            questions: Questions::new(control, sender.clone(), seeders.clone()),
            contact,
            seeders,
            tracker,
            data,
            data_events,
            limits,
            sender,
            inbox,
            clock: Clock::start(),
            members: BTreeMap::new(),
            links: Links::default(),
            banned: BTreeMap::new(),
            alarms: Alarms::default(),
            pending: VecDeque::new(),
            board,
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
                    // The asker may be gone by now.
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
            Wake::ManifestServed { build, node, serve } => {
                let ended = Event::ManifestServeEnded { peer: node, serve };
                self.pending.push_back((build, ended));
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
            // An announce that rode along does not take others with it.
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
            Action::ServeManifest { peer, serve } => self.serve_manifest(build, peer, serve),
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
            Command::Ask(order) => self.questions.ask_about(order),
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
                Some(_) => Answer::Refused(Refusal::Unnamed),
                None => Answer::Refused(Refusal::NotASeeder),
            },
            Question::Exchange(exchange) => {
                let member = self.members.get(&exchange.build);
                let swarm = member.and_then(|member| member.swarm.as_ref());
                Answer::Exchange(swarm.map(Swarm::known_contacts).unwrap_or_default())
            }
            // Sorted out before.
            Question::Ask { .. } => Answer::Refused(Refusal::Unanswered),
            Question::Reach => Answer::Reach(self.contact),
        }
    }

    fn on_answered(&mut self, token: u64, outcome: Result<Answer, NoAnswer>) {
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

    fn on_message(&mut self, node: NodeId, build: BuildId, mut message: Message) {
        if self.members.get(&build).is_none_or(|member| member.swarm.is_none()) {
            // The peer gets an answer, so that it looks elsewhere; but a farewell is never answered
            // with a farewell.
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

    fn on_transfer(&mut self, build: BuildId, event: Event) {
        self.moved_at = Some(tokio::time::Instant::now());
        let Some(member) = self.members.get_mut(&build) else { return };
        member.note_transfer(&event);
        let event = member.keep_back(event);
        self.pending.extend(event.map(|event| (build, event)));
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

    async fn shut_down(&mut self) {
        let builds: Vec<BuildId> = self.members.keys().copied().collect();
        for build in builds {
            self.leave(build);
        }
        self.saving.close();
        self.saving.wait().await;
        self.data.close().await;
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

    fn serve_manifest(&mut self, build: BuildId, peer: NodeId, serve: u64) {
        let uplink = self.links.get(peer).map(|linked| linked.link.uplink());
        let is_started = match (self.members.get(&build), uplink) {
            (Some(member), Some(uplink)) => {
                member.send_manifest(&uplink, (peer, serve), &self.sender)
            }
            _ => false,
        };
        if !is_started {
            self.pending.push_back((build, Event::ManifestServeEnded { peer, serve }));
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
