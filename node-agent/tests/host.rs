//! What the agent does to the machine, each with real processes, files and sockets.

mod hook;
mod launch;
mod notify;
mod other_users;
mod probe;
mod runs_from;
mod sockets;
mod unit;
mod watch_files;
