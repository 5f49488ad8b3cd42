//! Questions to other nodes that were not answered yet, and what their answers mean.
//!
//! Invariant: every question comes back once, answered or not, so whoever waits for it does not
//! wait for ever. What concerns a swarm is returned to the hub; other answers go straight to the
//! asker.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use p2p_core::wire::{Announce, Exchange};
use p2p_core::{BuildId, Contact, Event, NodeId};
use tokio::sync::{mpsc, oneshot};

use crate::address::SeederAddress;
use crate::control::{
    Answer, AskedId, ControlCommand, ControlEvent, NoAnswer, Pace, Question, Refusal,
};
use crate::error::AskError;

use super::wake::{AskOrder, HubSender, Wake};

/// The hub's side of the control plane.
#[derive(Debug)]
pub(super) struct Questions {
    control: mpsc::Sender<ControlCommand>,
    hub: HubSender,
    seeders: Vec<SeederAddress>,
    asked: BTreeMap<u64, Asked>,
    next: u64,
}

type AskReply = oneshot::Sender<Result<Vec<u8>, AskError>>;

/// Who waits for an answer, and what it is needed for.
#[derive(Debug)]
enum Asked {
    Announce {
        build: BuildId,
        tracker: NodeId,
        ip: IpAddr,
    },
    Exchange {
        build: BuildId,
        ip: IpAddr,
    },
    /// One seeder; no other would do.
    Seeder {
        reply: AskReply,
    },
    /// Any seeder, each in turn.
    AnySeeder {
        topic: String,
        body: Vec<u8>,
        /// The number in the list of the one that was asked.
        number: usize,
        reply: AskReply,
    },
    /// Nobody waits for the answer.
    Farewell,
}

/// What came of a question, for a swarm.
#[derive(Debug)]
pub(super) enum Answered {
    /// The event to pass on, and why the announce failed, if it did.
    Announce {
        build: BuildId,
        event: Event,
        error: Option<NoAnswer>,
    },
    Exchange {
        build: BuildId,
        contacts: Vec<Contact>,
    },
}

impl Questions {
    pub(super) fn new(
        control: mpsc::Sender<ControlCommand>,
        hub: HubSender,
        seeders: Vec<SeederAddress>,
    ) -> Self {
        Self { control, hub, seeders, asked: BTreeMap::new(), next: 0 }
    }

    /// Announces to another node's tracker.
    pub(super) fn announce(&mut self, tracker: NodeId, announce: Announce) {
        let Some(seeder) = self.seeders.iter().find(|seeder| seeder.node == tracker) else {
            return;
        };
        let socket = seeder.socket;
        let ask = if announce.is_leaving {
            Asked::Farewell
        } else {
            Asked::Announce { build: announce.build, tracker, ip: socket.ip() }
        };
        self.ask((tracker, socket), Question::Announce(announce), ask);
    }

    pub(super) fn exchange(&mut self, build: BuildId, contact: Contact) {
        let ask = Asked::Exchange { build, ip: contact.control.ip() };
        let question = Question::Exchange(Exchange { build });
        self.ask((contact.node, contact.control), question, ask);
    }

    /// Asks about something that is not the swarm's.
    pub(super) fn ask_about(&mut self, order: AskOrder) {
        let AskOrder { seeder, topic, body, pace, reply } = order;
        let Some(seeder) = seeder else { return self.ask_in_turn(0, (topic, body), reply) };
        let known = self.seeders.iter().find(|known| known.node == seeder).copied();
        let Some(known) = known else {
            // The asker may be gone.
            return drop(reply.send(Err(AskError::UnknownSeeder { seeder })));
        };
        let question = Question::Ask { topic, body };
        self.ask_at((known.node, known.socket), question, pace, Asked::Seeder { reply });
    }

    /// Asks the seeder with this number in the list, and then those after it.
    fn ask_in_turn(&mut self, number: usize, (topic, body): (String, Vec<u8>), reply: AskReply) {
        let Some(seeder) = self.seeders.get(number).copied() else {
            let reason = NoAnswer::NoSeeder;
            // The asker may be gone.
            return drop(reply.send(Err(AskError::NobodyAnswers { reason })));
        };
        let question = Question::Ask { topic: topic.clone(), body: body.clone() };
        let ask = Asked::AnySeeder { topic, body, number, reply };
        self.ask((seeder.node, seeder.socket), question, ask);
    }

    /// Answers a question of another node.
    pub(super) fn answer(&mut self, id: AskedId, answer: Answer) {
        // The asker asks again if the control plane is swamped.
        drop(self.control.try_send(ControlCommand::Answer { id, answer }));
    }

    /// Makes sense of an answer; `None` if no swarm waits for it.
    pub(super) fn on_answered(
        &mut self,
        token: u64,
        outcome: Result<Answer, NoAnswer>,
    ) -> Option<Answered> {
        match self.asked.remove(&token)? {
            Asked::Announce { build, tracker, ip } => {
                let (event, error) = match outcome {
                    Ok(Answer::Announce(mut answer)) => {
                        let seen = |contact: &mut Contact| *contact = contact.seen_from(ip);
                        answer.contacts.iter_mut().chain(&mut answer.seeder).for_each(seen);
                        (Event::AnnounceAnswered { tracker, answer: Box::new(answer) }, None)
                    }
                    Ok(answer) => {
                        let reason = NoAnswer::Refused { refusal: refusal_of(&answer) };
                        (Event::AnnounceFailed { tracker }, Some(reason))
                    }
                    Err(error) => (Event::AnnounceFailed { tracker }, Some(error)),
                };
                Some(Answered::Announce { build, event, error })
            }
            Asked::Exchange { build, ip } => {
                let contacts = match outcome {
                    Ok(Answer::Exchange(contacts)) => contacts,
                    Ok(_) | Err(_) => Vec::new(),
                };
                let contacts = contacts.into_iter().map(|contact| contact.seen_from(ip)).collect();
                Some(Answered::Exchange { build, contacts })
            }
            Asked::AnySeeder { topic, body, number, reply } => {
                let outcome = match outcome {
                    Ok(Answer::Ask(body)) => Ok(body.into()),
                    Ok(_) | Err(_) if number + 1 < self.seeders.len() => {
                        self.ask_in_turn(number + 1, (topic, body), reply);
                        return None;
                    }
                    Ok(answer) => Err(AskError::Refused { refusal: refusal_of(&answer) }),
                    Err(reason) => Err(AskError::NobodyAnswers { reason }),
                };
                // The asker may be gone.
                drop(reply.send(outcome));
                None
            }
            Asked::Seeder { reply } => {
                let outcome = match outcome {
                    Ok(Answer::Ask(body)) => Ok(body.into()),
                    Ok(answer) => Err(AskError::Refused { refusal: refusal_of(&answer) }),
                    Err(reason) => Err(AskError::Unreachable { reason }),
                };
                // The asker may be gone.
                drop(reply.send(outcome));
                None
            }
            Asked::Farewell => None,
        }
    }

    fn ask(&mut self, whom: (NodeId, SocketAddr), question: Question, ask: Asked) {
        self.ask_at(whom, question, Pace::Prompt, ask);
    }

    /// Hands a question to the control plane. It drains its queue all the time; if it is full all
    /// the same, the question comes back as unanswered.
    fn ask_at(
        &mut self,
        (node, address): (NodeId, SocketAddr),
        question: Question,
        pace: Pace,
        ask: Asked,
    ) {
        let token = self.next;
        self.next += 1;
        self.asked.insert(token, ask);
        let command = ControlCommand::Ask { token, node, address, question, pace };
        if self.control.try_send(command).is_err() {
            let hub = self.hub.clone();
            let outcome = Err(NoAnswer::Swamped);
            tokio::spawn(async move {
                hub.send(Wake::Control(ControlEvent::Answered { token, outcome })).await;
            });
        }
    }
}

/// What an answer that is not the one to the question means.
const fn refusal_of(answer: &Answer) -> Refusal {
    match answer {
        Answer::Refused(refusal) => *refusal,
        _ => Refusal::Unnamed,
    }
}
