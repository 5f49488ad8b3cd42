//! Status reports of hosts on their way from the network to whoever reads them.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::progress::StatusReport;

/// Reports that may wait to be read. Every host reports again, so losing the oldest costs little.
const REPORTS_MAX: usize = 4_096;

/// A bounded queue that drops its oldest entry when it is full.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<StatusReport>,
    is_closed: bool,
}

impl Reports {
    pub(crate) fn push(&self, report: StatusReport) {
        let mut queue = self.queue.lock().expect("no code panics while it holds the lock");
        if queue.waiting.len() >= REPORTS_MAX {
            queue.waiting.pop_front();
        }
        queue.waiting.push_back(report);
        self.arrived.notify_one();
    }

    pub(crate) fn close(&self) {
        self.queue.lock().expect("no code panics while it holds the lock").is_closed = true;
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }

    /// The oldest report; waits for one, `None` once closed.
    pub(crate) async fn next(&self) -> Option<StatusReport> {
        loop {
            {
                let mut queue = self.queue.lock().expect("no code panics while it holds the lock");
                if let Some(report) = queue.waiting.pop_front() {
                    return Some(report);
                }
                if queue.is_closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }
}
