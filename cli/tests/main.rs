//! The `shoal` executable from outside: what it accepts, what it says, and its other faces.

#![allow(
    clippy::unwrap_used,
    reason = "tests; helper functions are not recognised as such, some modules may need none"
)]

mod command_line;
mod demo_service;
mod end_to_end;
mod rig;
