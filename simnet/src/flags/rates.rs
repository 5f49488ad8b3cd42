//! Flags for rates, which every command that runs a swarm takes.
//!
//! Two groups, because each command lists flags of its own between them. What a rate means for a
//! scenario, such as what packet headers take of it, is up to the command.

use p2p_core::ByteRate;

/// What machines can send and receive.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct NodeRates {
    /// What a host can send, and what it can receive
    #[arg(long, value_name = "RATE", default_value = "1Gbit")]
    pub host_rate: ByteRate,
    /// What a seeder can send; the rate of a host if not given
    #[arg(long, value_name = "RATE")]
    pub seeder_rate: Option<ByteRate>,
}

impl NodeRates {
    /// What a seeder can send, whether or not it was given.
    pub fn of_seeder(self) -> ByteRate {
        self.seeder_rate.unwrap_or(self.host_rate)
    }
}

/// What racks and disks let through.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct SiteRates {
    /// What a rack's uplink carries each way; unlimited if not given
    #[arg(long, value_name = "RATE")]
    pub rack_rate: Option<ByteRate>,
    /// What a host can hash and write
    #[arg(long, value_name = "RATE", default_value = "1GB")]
    pub disk_rate: ByteRate,
}
