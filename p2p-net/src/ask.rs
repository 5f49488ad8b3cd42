//! Questions of hosts to a seeder about matters that are not the swarm's: a topic, and bytes that
//! this crate does not look into. Some are for news: they are answered when there is something to
//! say, and are kept by whoever picked them up until then. Those count apart from all others.
//!
//! Invariant: every question that reached a seeder is answered once. One that nobody picks up, or
//! that is dropped without an answer, is refused, so that the host need not wait for a time-out. A
//! status is answered as it arrives, because a host that stops must not wait for whoever reads it;
//! where nobody ever reads them it is refused. What waits is bounded by its bytes, too: a question
//! counts from when it is put aside until it is dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use std::time::Duration;

use bytes::Bytes;
use p2p_core::NodeId;
use p2p_core::wire::CONTROL_BYTES_MAX;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, WeakSender};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::control::{
    Answer, AskedId, ControlCommand, ControlEvent, KEEP_TIME_MAX, NEWS_BYTES_MAX, Pace, Question,
    Refusal, STATUS_TOPIC, TOPIC_BYTES_MAX,
};

/// Questions that may wait to be picked up. There are more only if a region asks faster than its
/// seeder answers; those are refused, and asked again later.
const ASKS_MAX: usize = 1_024;

/// Status reports that may wait to be picked up. Every host reports again, so losing the oldest
/// costs little.
const STATUSES_MAX: usize = 4_096;

/// Bytes of questions that may wait for their answers, those that were picked up included. They are
/// of a kilobyte or less where all is well; with half, longer ones would be refused before there
/// are [`ASKS_MAX`], and double would only be for strangers.
const ASK_BYTES_MAX: usize = 4 << 20;

/// The same for status reports: as many as may wait, of four kilobytes each, which is the rows of a
/// host with a few apps.
const STATUS_BYTES_MAX: usize = STATUSES_MAX * (4 << 10);

/// Questions for news that may wait to be picked up, which takes a moment: the hosts of a region
/// that all come at once, because their seeder was restarted.
const NEWS_ASKS_MAX: usize = 8_192;

/// Bytes of questions for news, those that are kept included: more than twice as many as a large
/// region has hosts, each without its body, and as many bytes again for those with one.
const NEWS_ASK_BYTES_MAX: usize = 2 * (64 << 10) * OVERHEAD_BYTES;

/// What a question costs beside its bytes.
const OVERHEAD_BYTES: usize = 256;

/// A question of a host, with the way to answer it.
#[derive(Debug)]
pub struct Ask {
    /// Who asks, as the connection proved.
    pub node: NodeId,
    /// What it is about; it says which program understands the body, and in which version.
    pub topic: String,
    /// What is asked. The host's claim.
    pub body: Vec<u8>,
    way: WayBack,
}

/// A question for news that waits, without what was asked. There are tens of thousands.
#[derive(Debug)]
pub struct KeptAsk {
    way: WayBack,
}

/// How a question is answered; refuses it when dropped unanswered.
#[derive(Debug)]
struct WayBack {
    id: AskedId,
    /// Weak, so that a question that somebody keeps does not keep the node running.
    control: WeakSender<ControlCommand>,
    is_answered: bool,
    /// Its share of the bytes that may wait; `None` for one that is refused at once.
    room: Option<OwnedSemaphorePermit>,
}

impl Ask {
    /// Most bytes of a topic.
    pub const TOPIC_BYTES_MAX: usize = TOPIC_BYTES_MAX;

    /// Most bytes of an answer. A question has one less for its topic and its body together.
    pub const ANSWER_BYTES_MAX: usize = CONTROL_BYTES_MAX;

    /// Most bytes of an answer to a question for news.
    pub const NEWS_BYTES_MAX: usize = NEWS_BYTES_MAX;

    /// How long a question for news may be kept. With nothing to say by then it has to be answered
    /// all the same; soon after, its host gives up.
    pub const KEEP_TIME_MAX: Duration = KEEP_TIME_MAX;

    /// Answers with up to [`Self::ANSWER_BYTES_MAX`] bytes; what is longer does not arrive. One
    /// about [`STATUS_TOPIC`] was answered when it arrived, so this does nothing for it. A host
    /// that is gone meanwhile does not mind.
    pub fn answer(mut self, body: Vec<u8>) {
        if !self.way.is_answered {
            self.way.send(Answer::Ask(body.into()));
        }
    }

    /// Lets go of what was asked, which makes room for others, and keeps the way to answer it. For
    /// questions for news.
    pub fn keep(mut self) -> KeptAsk {
        if let Some(room) = &mut self.way.room {
            let bytes = room.num_permits().saturating_sub(OVERHEAD_BYTES);
            drop(room.split(bytes));
        }
        KeptAsk { way: self.way }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.way.send(Answer::Refused(refusal));
    }

    fn weight(&self) -> usize {
        OVERHEAD_BYTES + self.topic.len() + self.body.len()
    }
}

impl KeptAsk {
    /// Answers with up to [`Ask::NEWS_BYTES_MAX`] bytes. Waits while too many answers are on their
    /// way: none is lost, however many hosts hear the same news. A host that is gone meanwhile does
    /// not mind.
    pub async fn tell(mut self, news: Bytes) {
        self.way.is_answered = true;
        if let Some(control) = self.way.control.upgrade() {
            let command = ControlCommand::Answer { id: self.way.id, answer: Answer::Ask(news) };
            // An error means that the node has ended.
            drop(control.send(command).await);
        }
    }
}

impl WayBack {
    fn send(&mut self, answer: Answer) {
        self.is_answered = true;
        if let Some(control) = self.control.upgrade() {
            // The host asks again if the control plane is swamped.
            drop(control.try_send(ControlCommand::Answer { id: self.id, answer }));
        }
    }
}

impl Drop for WayBack {
    fn drop(&mut self) {
        if !self.is_answered {
            self.send(Answer::Refused(Refusal::Unanswered));
        }
    }
}

/// Puts questions aside for whoever answers them.
#[derive(Clone, Debug)]
pub(crate) struct AskSorter {
    /// `None` with a node that is no seeder: it refuses.
    queues: Option<Queues>,
    control: WeakSender<ControlCommand>,
}

/// Where a seeder puts questions aside.
#[derive(Clone, Debug)]
struct Queues {
    asks: mpsc::Sender<Ask>,
    ask_bytes: Arc<Semaphore>,
    news_asks: mpsc::Sender<Ask>,
    news_ask_bytes: Arc<Semaphore>,
    /// `None` where nobody reads reports: they are refused.
    statuses: Option<Arc<Statuses>>,
}

/// Whose questions a node puts aside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Audience {
    /// It is no seeder.
    Nobody,
    /// A seeder on which nobody reads status reports.
    Asks,
    /// A seeder that takes everything.
    AsksAndReports,
}

/// The end at which questions are picked up.
#[derive(Debug)]
pub(crate) struct Asks {
    prompt: tokio::sync::Mutex<mpsc::Receiver<Ask>>,
    for_news: tokio::sync::Mutex<mpsc::Receiver<Ask>>,
    statuses: Arc<Statuses>,
}

/// Status reports that wait: a queue that is bounded in entries and bytes, and drops its oldest
/// entries when it is full.
#[derive(Debug)]
struct Statuses {
    waiting: Mutex<VecDeque<Ask>>,
    bytes: Arc<Semaphore>,
    arrived: Notify,
}

impl AskSorter {
    pub(crate) fn new(audience: Audience, control: WeakSender<ControlCommand>) -> (Self, Asks) {
        let (sender, receiver) = mpsc::channel(ASKS_MAX);
        let (news_sender, news_receiver) = mpsc::channel(NEWS_ASKS_MAX);
        let statuses = Arc::new(Statuses {
            waiting: Mutex::default(),
            bytes: Arc::new(Semaphore::new(STATUS_BYTES_MAX)),
            arrived: Notify::new(),
        });
        let takes_reports = audience == Audience::AsksAndReports;
        let queues = (audience != Audience::Nobody).then(|| Queues {
            asks: sender,
            ask_bytes: Arc::new(Semaphore::new(ASK_BYTES_MAX)),
            news_asks: news_sender,
            news_ask_bytes: Arc::new(Semaphore::new(NEWS_ASK_BYTES_MAX)),
            statuses: takes_reports.then(|| Arc::clone(&statuses)),
        });
        let (prompt, for_news) = (receiver.into(), news_receiver.into());
        (Self { queues, control }, Asks { prompt, for_news, statuses })
    }

    /// Takes what is a question for the program out; what is for the hub comes back.
    pub(crate) fn sort(&self, event: ControlEvent) -> Option<ControlEvent> {
        let ControlEvent::Asked { id, node, question: Question::Ask { topic, body }, .. } = event
        else {
            return Some(event);
        };
        let control = self.control.clone();
        let way = WayBack { id, control, is_answered: false, room: None };
        let mut ask = Ask { node, topic, body, way };
        match &self.queues {
            None => ask.refuse(Refusal::NotASeeder),
            Some(queues) if ask.way.id.pace() == Pace::News => queues.take_for_news(ask),
            Some(queues) if ask.topic == STATUS_TOPIC => match &queues.statuses {
                Some(statuses) => statuses.take(ask),
                None => ask.refuse(Refusal::KeepsNoReports),
            },
            Some(queues) => queues.take(ask),
        }
        None
    }
}

impl Queues {
    fn take(&self, ask: Ask) {
        put_aside(ask, &self.asks, &self.ask_bytes);
    }

    fn take_for_news(&self, ask: Ask) {
        put_aside(ask, &self.news_asks, &self.news_ask_bytes);
    }
}

/// Puts a question aside. Without anybody who picks it up it is refused as it is dropped.
fn put_aside(mut ask: Ask, queue: &mpsc::Sender<Ask>, bytes: &Arc<Semaphore>) {
    ask.way.room = room_for(&ask, bytes);
    if ask.way.room.is_none() {
        return ask.refuse(Refusal::Swamped);
    }
    if let Err(mpsc::error::TrySendError::Full(mut ask)) = queue.try_send(ask) {
        ask.refuse(Refusal::Swamped);
    }
}

/// The share of a question in the bytes that may wait; `None` if there are not so many left.
fn room_for(ask: &Ask, bytes: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let weight = u32::try_from(ask.weight()).ok()?;
    Arc::clone(bytes).try_acquire_many_owned(weight).ok()
}

impl Asks {
    /// The next question; waits for one, `None` once the node has ended and none is left.
    ///
    /// Questions that somebody waits for come before status reports, which may be dropped.
    pub(crate) async fn next(&self) -> Option<Ask> {
        let mut asks = self.prompt.lock().await;
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

    /// The next question for news; waits for one, `None` once the node has ended and none is left.
    pub(crate) async fn next_for_news(&self) -> Option<Ask> {
        self.for_news.lock().await.recv().await
    }
}

impl Statuses {
    /// Acknowledges a report and puts it aside; the oldest make room for it.
    fn take(&self, mut status: Ask) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= STATUSES_MAX {
            waiting.pop_front();
        }
        loop {
            status.way.room = room_for(&status, &self.bytes);
            if status.way.room.is_some() {
                break;
            }
            if waiting.pop_front().is_none() {
                // The bytes are all with whoever reads the reports: it is behind.
                return status.refuse(Refusal::Swamped);
            }
        }
        status.way.send(Answer::Status);
        waiting.push_back(status);
        self.arrived.notify_one();
    }

    fn pop(&self) -> Option<Ask> {
        self.waiting.lock().pop_front()
    }
}
