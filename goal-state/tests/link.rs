//! A TCP link to etcd that a test can cut, so that one watcher loses its server while others keep
//! it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use goal_state::GoalUrl;
use goal_state::testing::EtcdServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Forwards connections to a server until it is cut.
pub(crate) struct Link {
    address: SocketAddr,
    server: String,
    /// Counts down with each part of an answer; the part that finds zero breaks its connection.
    answers_left: Arc<AtomicI64>,
    /// Dropping it closes the listener and every connection.
    forwarding: Option<JoinSet<()>>,
}

impl Link {
    pub(crate) async fn to(server: &EtcdServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers_left = Arc::new(AtomicI64::new(-1));
        let mut link = Self { address, server: server.endpoint(), answers_left, forwarding: None };
        link.forward(listener);
        link
    }

    fn forward(&mut self, listener: TcpListener) {
        let mut forwarding = JoinSet::new();
        forwarding.spawn(forward_all(
            listener,
            self.server.clone(),
            Arc::clone(&self.answers_left),
        ));
        self.forwarding = Some(forwarding);
    }

    /// Breaks all connections and refuses new ones.
    pub(crate) async fn cut(&mut self) {
        self.forwarding.take().unwrap().shutdown().await;
    }

    /// Lets so many parts of answers through, and breaks the connection that the next one is for.
    /// Later connections work.
    pub(crate) fn cut_instead_of_answer(&self, answers: i64) {
        self.answers_left.store(answers, Ordering::Relaxed);
    }

    /// Takes connections again, under the same address.
    pub(crate) async fn restore(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.forward(listener);
    }

    pub(crate) fn url(&self, prefix: &str) -> GoalUrl {
        GoalUrl::Etcd { endpoints: vec![self.address.to_string()], prefix: prefix.to_owned() }
    }
}

async fn forward_all(listener: TcpListener, server: String, answers_left: Arc<AtomicI64>) {
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.unwrap();
        connections.spawn(forward_one(near, server.clone(), Arc::clone(&answers_left)));
    }
}

async fn forward_one(near: TcpStream, server: String, answers_left: Arc<AtomicI64>) {
    let Ok(far) = TcpStream::connect(server).await else { return };
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(size @ 1..) = from_far.read(&mut buffer).await {
            if answers_left.fetch_sub(1, Ordering::Relaxed) == 0 {
                return;
            }
            if to_near.write_all(&buffer[..size]).await.is_err() {
                return;
            }
        }
    };
    // Either side's end is the end of both.
    tokio::select! {
        _ = copy(&mut from_near, &mut to_far) => {}
        () = answers => {}
    }
}
