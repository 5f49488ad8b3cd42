//! Questions of hosts to a seeder about matters that are not the swarm's: a topic, and bytes that
//! this crate does not look into.
//!
//! Invariant: every question that reached a seeder is answered once. One that nobody picks up, or
//! that is dropped without an answer, is refused, so that the host need not wait for a time-out.

use libp2p::request_response::InboundRequestId;
use p2p_core::NodeId;
use p2p_core::wire::CONTROL_BYTES_MAX;
use tokio::sync::mpsc::{self, WeakSender};

use crate::control::{
    Answer, ControlCommand, ControlEvent, Question, STATUS_TOPIC, TOPIC_BYTES_MAX,
};

/// Questions that may wait to be picked up. There are more only if a region asks faster than its
/// seeder answers; those are refused, and asked again later.
const ASKS_MAX: usize = 4_096;

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
    /// about [`STATUS_TOPIC`] is answered without any. A host that is gone meanwhile does not mind.
    pub fn answer(mut self, body: Vec<u8>) {
        let is_status = self.topic == STATUS_TOPIC;
        self.send(if is_status { Answer::Status } else { Answer::Ask(body) });
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
    asks: Option<mpsc::Sender<Ask>>,
    control: WeakSender<ControlCommand>,
}

/// The end at which questions are picked up.
pub(crate) type Asks = tokio::sync::Mutex<mpsc::Receiver<Ask>>;

impl AskSorter {
    pub(crate) fn new(is_seeder: bool, control: WeakSender<ControlCommand>) -> (Self, Asks) {
        let (sender, receiver) = mpsc::channel(ASKS_MAX);
        (Self { asks: is_seeder.then_some(sender), control }, receiver.into())
    }

    /// Takes what is a question for the program out; what is for the hub comes back.
    pub(crate) fn sort(&self, event: ControlEvent) -> Option<ControlEvent> {
        let ControlEvent::Asked { id, node, question: Question::Ask { topic, body }, .. } = event
        else {
            return Some(event);
        };
        let control = self.control.clone();
        let ask = Ask { node, topic, body, id, control, is_answered: false };
        if let Some(asks) = &self.asks {
            // Without room, or without anybody who picks it up, it is refused as it is dropped.
            drop(asks.try_send(ask));
        }
        None
    }
}
