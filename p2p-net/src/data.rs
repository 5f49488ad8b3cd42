//! The data plane: connections of a node to its neighbours, on which messages and chunks travel.
//!
//! One connection per pair of nodes serves every build they share, over QUIC or over TCP with TLS
//! (`transport` says what both provide). Both listen on the same port number. A [`Worker`] is a
//! thread with a runtime on which a share of the connections lives. Every connection is pinned to
//! the far end's key; nothing here decides anything about the protocol.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use p2p_core::{Contact, NodeId};
use tokio::sync::mpsc;

use crate::budget::BufferBudget;
use crate::disk_priority::DiskPriority;
use crate::identity::Identity;
use crate::tls::TlsIdentity;

use self::buffers::Buffers;
use self::dscp::TrafficClass;
pub(crate) use self::event::DataEvent;
use self::limiter::SharedLimits;
use self::receiving::{Expectations, Receiving};
use self::transport::Transport;
use self::worker::{Ports, Worker};

pub(crate) mod buffers;
pub(crate) mod dscp;
mod event;
mod first;
pub(crate) mod frame;
pub(crate) mod limiter;
pub(crate) mod link;
mod linking;
pub(crate) mod measure;
mod quic;
pub(crate) mod receiving;
pub(crate) mod sending;
mod tcp;
pub(crate) mod transport;
mod worker;

pub(crate) use self::quic::socket_buffers;
pub(crate) use self::worker::DIAL_TIME;

/// How a data plane is configured.
#[derive(Clone, Debug)]
pub(crate) struct DataConfig {
    /// Where to listen; port 0: any free one.
    pub(crate) address: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) traffic_class: TrafficClass,
    /// That of the threads beside the caller's.
    pub(crate) disk_priority: DiskPriority,
    pub(crate) buffer_budget: BufferBudget,
    /// Threads that carry connections, the caller's included.
    pub(crate) threads: NonZero<usize>,
    /// The caps that hold measurements back, as they do uploads.
    pub(crate) limits: SharedLimits,
}

/// The node's connections for chunks.
#[derive(Debug)]
pub(crate) struct DataPlane {
    workers: Vec<Worker>,
    next_worker: AtomicUsize,
    address: SocketAddr,
    receiving: Receiving,
}

impl DataPlane {
    /// Listens, on the current runtime and on threads of its own, and accepts connections from then
    /// on. What happens on them comes out of the receiver.
    pub(crate) fn start(
        identity: &Identity,
        config: &DataConfig,
    ) -> io::Result<(Self, mpsc::Receiver<DataEvent>)> {
        let tls = TlsIdentity::new(identity).map_err(io::Error::other)?;
        let (events, inbox) = event::channel();
        let buffers = Buffers::new(config.buffer_budget);
        let receiving = Receiving { events, expectations: Arc::default(), buffers };
        let ports = Ports::bind(config)?;
        let address = ports.address();
        let workers = worker::start(ports, &tls, config, &receiving)?;
        let plane = Self { workers, next_worker: AtomicUsize::new(0), address, receiving };
        Ok((plane, inbox))
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// What transfers are matched against.
    pub(crate) fn expectations(&self) -> &Expectations {
        &self.receiving.expectations
    }

    /// The memory that chunks pass through.
    pub(crate) fn buffers(&self) -> &Arc<Buffers> {
        &self.receiving.buffers
    }

    /// Connects to a node; the outcome is a [`DataEvent::Linked`].
    pub(crate) fn dial(&self, contact: Contact) {
        let turn = self.next_worker.fetch_add(1, Ordering::Relaxed);
        self.workers[turn % self.workers.len()].dial(contact);
    }

    /// Closes every connection, and waits a moment for the far ends to hear of it.
    pub(crate) async fn close(&self) {
        futures::future::join_all(self.workers.iter().map(Worker::close)).await;
    }
}

/// Whom to dial, and where.
#[derive(Clone, Copy, Debug)]
struct Callee {
    node: NodeId,
    address: SocketAddr,
}
