//! Answers what people ask over the control socket: hands orders to the apps' loops and gathers
//! what they know.
//!
//! Invariant: a loop that hangs holds up only the answer about its own app, and only for a bounded
//! time.

use std::collections::BTreeMap;
use std::time::Duration;

use goal_state::AppName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::app::settings::AppOrder;
use crate::brain::explain::Explanation;
use crate::control::{AgentStatus, AppState, ControlRequest, Refusal};
use crate::report::status::StatusBoard;

/// Time for a loop to take an order or to answer: a sync of a slow disk, not a hang.
const LOOP_PATIENCE: Duration = Duration::from_secs(10);

/// Where orders to each app's loop go.
pub(crate) type AppOrders = BTreeMap<AppName, mpsc::Sender<AppOrder>>;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) host: String,
    pub(crate) board: StatusBoard,
    pub(crate) orders: AppOrders,
    pub(crate) started_at: Instant,
}

impl Answers {
    /// Answers until nobody can ask any more.
    pub(crate) async fn run(self, mut requests: mpsc::Receiver<ControlRequest>) {
        while let Some(request) = requests.recv().await {
            self.serve(request).await;
        }
    }

    /// If the asker is gone, nobody misses the answer.
    async fn serve(&self, request: ControlRequest) {
        match request {
            ControlRequest::Status { answer } => drop(answer.send(self.status().await)),
            ControlRequest::Pause { app, reason, answer } => {
                let order = || AppOrder::Pause { reason: reason.clone() };
                drop(answer.send(self.order(app, order).await));
            }
            ControlRequest::Resume { app, answer } => {
                drop(answer.send(self.order(app, || AppOrder::Resume).await));
            }
            ControlRequest::Restart { app, answer } => {
                drop(answer.send(self.order(Some(app), || AppOrder::Restart).await));
            }
            ControlRequest::Explain { app, answer } => {
                drop(answer.send(self.explain(&app).await.map(Box::new)));
            }
        }
    }

    /// Gives an order to one app or to all; returns which.
    async fn order(
        &self,
        app: Option<AppName>,
        order: impl Fn() -> AppOrder,
    ) -> Result<Vec<AppName>, Refusal> {
        let names = match app {
            Some(app) => vec![app],
            None => self.orders.keys().cloned().collect(),
        };
        for name in &names {
            let sender = self.sender(name)?;
            match timeout(LOOP_PATIENCE, sender.send(order())).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(hangs(name)),
            }
        }
        Ok(names)
    }

    async fn explain(&self, app: &AppName) -> Result<Explanation, Refusal> {
        let (answer, explanation) = oneshot::channel();
        let asked = async {
            self.sender(app)?
                .send(AppOrder::Explain { answer })
                .await
                .map_err(|_gone| hangs(app))?;
            explanation.await.map_err(|_gone| hangs(app))
        };
        timeout(LOOP_PATIENCE, asked).await.unwrap_or_else(|_late| Err(hangs(app)))
    }

    async fn status(&self) -> AgentStatus {
        let rows = self.board.rows();
        let mut apps = vec![];
        for row in rows {
            let explanation = self.explain(&row.app).await.ok();
            apps.push(AppState {
                is_held: explanation.as_ref().is_some_and(|explanation| explanation.is_held),
                paused: explanation.and_then(|explanation| explanation.paused),
                row,
            });
        }
        AgentStatus {
            host: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            up_for_ms: crate::brain::explain::milliseconds(self.started_at.elapsed()),
            note: self.board.note(),
            apps,
        }
    }

    fn sender(&self, app: &AppName) -> Result<&mpsc::Sender<AppOrder>, Refusal> {
        self.orders.get(app).ok_or_else(|| Refusal::UnknownApp {
            app: app.clone(),
            known: self.orders.keys().cloned().collect(),
        })
    }
}

fn hangs(app: &AppName) -> Refusal {
    Refusal::Failed {
        reason: format!(
            "the loop of {app} does not answer; see the agent's log, and restart the agent if that \
             lasts (programs run on)"
        ),
    }
}
