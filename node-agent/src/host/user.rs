//! The user that a program or a hook runs as.
//!
//! Owns the lookup of users and the start of a command as one of them, with the user's own groups
//! as login and systemd give them. Only an agent that runs as root can start anything as somebody
//! else.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::process::{Gid, Uid};

/// A user of this machine, as the user database knew it when it was looked up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct User {
    /// Login name; the number for a user that the database does not know.
    pub name: String,
    /// Home directory, `/` for a user that the database does not know.
    pub home: PathBuf,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

/// Why nothing can be run as a user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The configuration names somebody who is not there.
    #[error(
        "there is no user {name:?} on this host; create it or change `user` in the configuration"
    )]
    Unknown {
        /// As configured.
        name: String,
    },
    /// Only root can become another user.
    #[error(
        "the agent runs as {own} and cannot start anything as {name}; run it as root or leave `user` out"
    )]
    NotRoot {
        /// The wanted user.
        name: String,
        /// The agent's user.
        own: String,
    },
    /// The user database cannot be asked.
    #[error("cannot look up the user {name:?}")]
    Lookup {
        /// As configured.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl User {
    /// The user with this login name or, if it is a number, this id.
    ///
    /// # Errors
    ///
    /// If there is none, or the agent may not run anything as this user.
    ///
    /// # Cost
    ///
    /// Blocks while the user database answers, which may be on the network.
    pub(crate) fn find(name: &str) -> Result<Self, UserError> {
        let lookup =
            |source: nix::Error| UserError::Lookup { name: name.into(), source: source.into() };
        let by_name = nix::unistd::User::from_name(name).map_err(lookup)?;
        let found = match (by_name, name.parse::<u32>()) {
            (Some(entry), _) => Self::of_entry(entry).map_err(lookup)?,
            // An id of all ones means "leave as it is" to the kernel: the hook would run as root.
            (None, Ok(raw)) if raw != u32::MAX => Self::of_id(raw).map_err(lookup)?,
            (None, _) => return Err(UserError::Unknown { name: name.into() }),
        };
        let own = rustix::process::geteuid();
        if found.uid != own && !own.is_root() {
            let own = Self::of_id(own.as_raw()).map_err(lookup)?;
            return Err(UserError::NotRoot { name: found.name, own: own.name });
        }
        Ok(found)
    }

    /// The user that the agent itself runs as.
    ///
    /// # Errors
    ///
    /// If the user database cannot be asked.
    pub(crate) fn own() -> Result<Self, UserError> {
        let raw = rustix::process::geteuid().as_raw();
        Self::of_id(raw)
            .map_err(|source| UserError::Lookup { name: raw.to_string(), source: source.into() })
    }

    /// User id.
    pub(crate) fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// Sets `HOME`, `USER` and `LOGNAME` of `command`, as a login does.
    pub(crate) fn set_variables(&self, command: &mut Command) {
        command.env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name);
    }

    /// Starts `command` as this user with the user's own groups, and none of the agent's.
    ///
    /// # Errors
    ///
    /// If the system refuses, as when the user may not enter the command's directory.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        if self.uid == rustix::process::geteuid() {
            return command.spawn();
        }
        // On Linux user and groups belong to the thread, and a child inherits those of the thread
        // that started it. `Command::uid` drops all groups, and `Command::groups` is not stable
        // yet.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("spawn-as-user".into());
            let child = thread.spawn_scoped(scope, || {
                self.become_user()?;
                command.spawn()
            })?;
            child.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
        })
    }

    fn become_user(&self) -> io::Result<()> {
        rustix::thread::set_thread_groups(&self.groups)?;
        rustix::thread::set_thread_res_gid(self.gid, self.gid, self.gid)?;
        rustix::thread::set_thread_res_uid(self.uid, self.uid, self.uid)?;
        Ok(())
    }

    fn of_id(raw: u32) -> nix::Result<Self> {
        match nix::unistd::User::from_uid(raw.into())? {
            Some(entry) => Self::of_entry(entry),
            None => Ok(Self {
                name: raw.to_string(),
                home: "/".into(),
                uid: Uid::from_raw(raw),
                gid: Gid::from_raw(raw),
                groups: vec![],
            }),
        }
    }

    fn of_entry(entry: nix::unistd::User) -> nix::Result<Self> {
        let name = CString::new(entry.name.as_str()).ok().ok_or(nix::Error::EINVAL)?;
        let groups = nix::unistd::getgrouplist(&name, entry.gid)?;
        Ok(Self {
            name: entry.name,
            home: entry.dir,
            uid: Uid::from_raw(entry.uid.as_raw()),
            gid: Gid::from_raw(entry.gid.as_raw()),
            groups: groups.into_iter().map(|group| Gid::from_raw(group.as_raw())).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_found_by_name_and_by_number() {
        let root = User::of_id(0).unwrap();
        assert_eq!(
            (root.name.as_str(), root.uid(), root.home.as_path()),
            ("root", 0, "/root".as_ref())
        );
        let own = User::own().unwrap();
        assert_eq!(User::find(&own.name).unwrap(), own);
        assert_eq!(User::find(&own.uid().to_string()).unwrap(), own);
    }

    #[test]
    fn unknown_user_is_named() {
        for name in ["nobody-has-this-name", "", "-1", "4294967295"] {
            let error = User::find(name).unwrap_err();
            assert!(matches!(error, UserError::Unknown { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn command_has_ids_and_groups_of_the_user_and_the_agent_keeps_its_own() {
        let own = User::own().unwrap();
        if own.uid() != 0 {
            let error = User::find("root").unwrap_err();
            assert!(matches!(error, UserError::NotRoot { .. }), "{error}");
            return;
        }
        // A user with more than one group; Debian's `games` and `nobody` have only their own.
        let mut user = User::find("nobody").unwrap();
        user.groups.push(Gid::from_raw(4242));
        let ids = |command: &mut Command| {
            command.args(["-c", "id -u; id -g; id -G"]).stdout(std::process::Stdio::piped());
            let child = user.spawn(command).unwrap();
            String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
        };
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        assert_eq!(ids(&mut Command::new("sh")), format!("{uid}\n{gid}\n{gid} 4242\n"));
        assert_eq!(User::own().unwrap(), own);
    }
}
