//! The whole loop of an app on a simulated machine whose disk, agent and power fail.
//!
//! Real are the loop with its brain and supervisor, the store of builds and the state files; every
//! durable write goes through `disk`, which is watched. Simulated are programs, probes, hooks, the
//! network and time: minutes pass in milliseconds. Each life of an agent is a runtime of its own,
//! so that a kill ends all that it was doing, as a kill does.
//!
//! What is asked for at every moment and after every crash is in `world`.

mod builds;
mod machine;
mod matrix;
mod orders;
mod random;
mod seeds;
mod source;
mod witness;
mod world;
