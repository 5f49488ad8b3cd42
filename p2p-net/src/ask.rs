//! Questions of hosts to a seeder about matters that are not the swarm's: a topic, and bytes that
//! this crate does not look into.
//!
//! Invariant: every question that reached a seeder is answered once. One that nobody picks up, or
//! that is dropped without an answer, is refused, so that the host need not wait for a time-out. A
//! status is answered as it arrives, because a host that stops must not wait for whoever reads it.

use std::collections::VecDeque;
use std::sync::Arc;

use libp2p::request_response::InboundRequestId;
use p2p_core::NodeId;
use p2p_core::wire::CONTROL_BYTES_MAX;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, WeakSender};

use crate::control::{
    Answer, ControlCommand, ControlEvent, Question, STATUS_TOPIC, TOPIC_BYTES_MAX,
};

/// Questions that may wait to be picked up. There are more only if a region asks faster than its
/// seeder answers; those are refused, and asked again later.
const ASKS_MAX: usize = 1_024;

/// Status reports that may wait to be picked up. Every host reports again, so losing the oldest
/// costs little.
const STATUSES_MAX: usize = 4_096;

/// A question of a host, with the way to answer it.
#[derive(Debug)]
pub struct Ask {
    /// Who asks, as the connection proved.
    pub node: NodeId,
    /// What it is about; it says which program understands the body, and in which version.
    pub topic: String,
    /// What is asked. The host's claim.
    pub body: Vec<u8>,
    id: InboundRequestId,
    /// Weak, so that a question that somebody keeps does not keep the node running.
    control: WeakSender<ControlCommand>,
    is_answered: bool,
}

impl Ask {
    /// Most bytes of a topic.
    pub const TOPIC_BYTES_MAX: usize = TOPIC_BYTES_MAX;

    /// Most bytes of an answer. A question has one less for its topic and its body together.
    pub const ANSWER_BYTES_MAX: usize = CONTROL_BYTES_MAX;

    /// Answers with up to [`Self::ANSWER_BYTES_MAX`] bytes; what is longer does not arrive. One
    /// about [`STATUS_TOPIC`] was answered when it arrived, so this does nothing for it. A host
    /// that is gone meanwhile does not mind.
    pub fn answer(mut self, body: Vec<u8>) {
        if !self.is_answered {
            self.send(Answer::Ask(body));
        }
    }

    fn send(&mut self, answer: Answer) {
        self.is_answered = true;
        if let Some(control) = self.control.upgrade() {
            // The host asks again if the control plane is swamped.
            drop(control.try_send(ControlCommand::Answer { id: self.id, answer }));
        }
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        if !self.is_answered {
            self.send(Answer::Refused);
        }
    }
}

/// Puts questions aside for whoever answers them.
#[derive(Clone, Debug)]
pub(crate) struct AskSorter {
    /// `None` with a node that is no seeder: it refuses.
    queues: Option<(mpsc::Sender<Ask>, Arc<Statuses>)>,
    control: WeakSender<ControlCommand>,
}

/// The end at which questions are picked up.
#[derive(Debug)]
pub(crate) struct Asks {
    asks: tokio::sync::Mutex<mpsc::Receiver<Ask>>,
    statuses: Arc<Statuses>,
}

/// Status reports that wait: a bounded queue that drops its oldest entry when it is full.
#[derive(Debug, Default)]
struct Statuses {
    waiting: Mutex<VecDeque<Ask>>,
    arrived: Notify,
}

impl AskSorter {
    pub(crate) fn new(is_seeder: bool, control: WeakSender<ControlCommand>) -> (Self, Asks) {
        let (sender, receiver) = mpsc::channel(ASKS_MAX);
        let statuses = Arc::new(Statuses::default());
        let queues = is_seeder.then(|| (sender, Arc::clone(&statuses)));
        (Self { queues, control }, Asks { asks: receiver.into(), statuses })
    }

    /// Takes what is a question for the program out; what is for the hub comes back.
    pub(crate) fn sort(&self, event: ControlEvent) -> Option<ControlEvent> {
        let ControlEvent::Asked { id, node, question: Question::Ask { topic, body }, .. } = event
        else {
            return Some(event);
        };
        let control = self.control.clone();
        let mut ask = Ask { node, topic, body, id, control, is_answered: false };
        match &self.queues {
            Some((_, statuses)) if ask.topic == STATUS_TOPIC => {
                ask.send(Answer::Status);
                statuses.push(ask);
            }
            // Without room, or without anybody who picks it up, it is refused as it is dropped.
            Some((asks, _)) => drop(asks.try_send(ask)),
            None => {}
        }
        None
    }
}

impl Asks {
    /// The next question; waits for one, `None` once the node has ended and none is left.
    ///
    /// Questions that somebody waits for come before status reports, which may be dropped.
    pub(crate) async fn next(&self) -> Option<Ask> {
        let mut asks = self.asks.lock().await;
        loop {
            if let Ok(ask) = asks.try_recv() {
                return Some(ask);
            }
            if let Some(status) = self.statuses.pop() {
                return Some(status);
            }
            tokio::select! {
                ask = asks.recv() => return ask.or_else(|| self.statuses.pop()),
                () = self.statuses.arrived.notified() => {}
            }
        }
    }
}

impl Statuses {
    fn push(&self, status: Ask) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= STATUSES_MAX {
            waiting.pop_front();
        }
        waiting.push_back(status);
        self.arrived.notify_one();
    }

    fn pop(&self) -> Option<Ask> {
        self.waiting.lock().pop_front()
    }
}
