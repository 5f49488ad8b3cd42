//! Who watches which directory, and what a watcher may do to an operation.
//!
//! Invariant: operations under one root are carried out one after the other while it is watched,
//! so that the record is in the order in which they took place. Nobody watching costs one relaxed
//! load. For tests: nothing of the programs registers a watcher.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use crate::operation::{Operation, Outcome, Recorded};
use crate::record::{Record, Tree};

/// Roots that are watched; what every operation looks at.
static WATCHED: AtomicUsize = AtomicUsize::new(0);
static ROOTS: RwLock<Vec<Arc<Root>>> = RwLock::new(Vec::new());

/// What shall happen to an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is carried out.
    Pass,
    /// It fails with this error, and nothing of it takes place.
    Fail(Errno),
    /// Of a write, this many bytes are written before it fails with the error; any other operation
    /// fails.
    Tear {
        /// Bytes that reach the file, at most all of them.
        bytes: usize,
        /// What the caller gets.
        errno: Errno,
    },
    /// The host has lost its power: this and every later operation under the root fails with
    /// [`PowerLost`] and does not take place.
    Stop,
}

/// Decides about each operation before it is carried out.
pub trait Watcher: Send {
    /// `number` counts the operations under the root from zero on. Must not touch the root.
    fn before(&mut self, number: usize, operation: &Operation) -> Verdict;
}

impl<F: FnMut(usize, &Operation) -> Verdict + Send> Watcher for F {
    fn before(&mut self, number: usize, operation: &Operation) -> Verdict {
        self(number, operation)
    }
}

/// Why an operation after [`Verdict::Stop`] failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the simulated host has no power")]
pub struct PowerLost;

/// Watches all operations under `root`, which exists, from now on until the guard is dropped.
/// Files that were opened before go unseen. Syncs are recorded and not carried out: what they
/// achieve is worked out from the record, and they would take most of a test's time.
///
/// # Errors
///
/// If what is there already, which counts as durable in the record, cannot be read.
pub fn watch(root: &Path, watcher: impl Watcher + 'static) -> io::Result<Watching> {
    let path = std::path::absolute(root)?;
    let state = State {
        watcher: Box::new(watcher),
        initial: Tree::read(root)?,
        has_power: true,
        handles: 0,
        recorded: Vec::new(),
    };
    let root = Arc::new(Root { path, state: Mutex::new(state) });
    ROOTS.write().push(Arc::clone(&root));
    WATCHED.fetch_add(1, Ordering::SeqCst);
    Ok(Watching { root })
}

/// A watch; ends when dropped. Files that are still open then keep their watcher.
#[derive(Debug)]
pub struct Watching {
    root: Arc<Root>,
}

impl Watching {
    /// What happened so far.
    pub fn record(&self) -> Record {
        let state = self.root.state.lock();
        Record { initial: state.initial.clone(), operations: state.recorded.clone() }
    }

    /// Operations so far, failed ones included: the number of the next.
    pub fn count(&self) -> usize {
        self.root.state.lock().recorded.len()
    }

    /// Takes the power from the host, as [`Verdict::Stop`] does.
    pub fn stop(&self) {
        self.root.state.lock().has_power = false;
    }

    /// A new process begins on a host that never lost its power: [`Verdict::Stop`] only killed the
    /// old one. Operations take place again, and what was not synced before still is not.
    pub fn resume(&self) {
        self.root.state.lock().has_power = true;
    }

    /// Whether the host still has power.
    pub fn has_power(&self) -> bool {
        self.root.state.lock().has_power
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut roots = ROOTS.write();
        roots.retain(|root| !Arc::ptr_eq(root, &self.root));
        WATCHED.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A directory that somebody watches.
pub(crate) struct Root {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    watcher: Box<dyn Watcher>,
    initial: Tree,
    has_power: bool,
    handles: u64,
    recorded: Vec<Recorded>,
}

/// What an operation may do, now that the watcher was asked.
enum Permit {
    All,
    /// The first bytes of a write, then this error.
    Part(usize, Errno),
}

impl Root {
    /// Asks the watcher, carries the operation out, and records it.
    pub(crate) fn carry_out<T>(
        &self,
        operation: Operation,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        let outcome = match state.ask(&operation)? {
            Permit::All => act(),
            Permit::Part(_, errno) => Err(errno.into()),
        };
        let is_done = outcome.is_ok();
        state.note(operation, is_done, 0);
        outcome
    }

    /// The same for a write, of which a part may be carried out; `act` gets the length of that.
    pub(crate) fn carry_out_write(
        &self,
        operation: Operation,
        size: usize,
        act: impl FnOnce(usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let (written, outcome) = match state.ask(&operation)? {
            Permit::All => (0, act(size)),
            Permit::Part(bytes, errno) => {
                let bytes = bytes.min(size);
                act(bytes)?;
                (bytes, Err(errno.into()))
            }
        };
        state.note(operation, outcome.is_ok(), written);
        outcome
    }

    /// A number for a file that is about to be opened.
    pub(crate) fn new_handle(&self) -> u64 {
        let mut state = self.state.lock();
        state.handles += 1;
        state.handles
    }

    /// `path` as records have it; `None` if it lies outside.
    pub(crate) fn relative(&self, path: &Path) -> Option<PathBuf> {
        let absolute = std::path::absolute(path).ok()?;
        absolute.strip_prefix(&self.path).ok().map(Path::to_owned)
    }
}

impl State {
    fn ask(&mut self, operation: &Operation) -> io::Result<Permit> {
        if !self.has_power {
            return Err(io::Error::other(PowerLost));
        }
        match self.watcher.before(self.recorded.len(), operation) {
            Verdict::Pass => Ok(Permit::All),
            Verdict::Fail(errno) => Ok(Permit::Part(0, errno)),
            Verdict::Tear { bytes, errno } => Ok(Permit::Part(bytes, errno)),
            Verdict::Stop => {
                self.has_power = false;
                Err(io::Error::other(PowerLost))
            }
        }
    }

    fn note(&mut self, operation: Operation, is_done: bool, written: usize) {
        let outcome = if is_done { Outcome::Done } else { Outcome::Failed { written } };
        self.recorded.push(Recorded { operation, outcome });
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The innermost watched directory that holds `path`, and the path in it.
pub(crate) fn root_of(path: &Path) -> Option<(Arc<Root>, PathBuf)> {
    if WATCHED.load(Ordering::Relaxed) == 0 { None } else { find(path) }
}

#[cold]
fn find(path: &Path) -> Option<(Arc<Root>, PathBuf)> {
    let absolute = std::path::absolute(path).ok()?;
    let roots = ROOTS.read();
    let holding = roots.iter().filter(|root| absolute.starts_with(&root.path));
    let root = holding.max_by_key(|root| root.path.as_os_str().len())?;
    Some((Arc::clone(root), root.relative(path)?))
}
