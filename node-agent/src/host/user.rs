//! The user that a program or a hook runs as.
//!
//! Owns the lookup of users, with the user's own groups as login and systemd give them. Becomes
//! nobody: only the starter (`crate::host::start::starter`) does, and only one of root can.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

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

/// A user as the kernel knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct UserIds {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
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

    /// The user and its groups by their numbers.
    pub(crate) fn ids(&self) -> UserIds {
        UserIds {
            uid: self.uid.as_raw(),
            gid: self.gid.as_raw(),
            groups: self.groups.iter().map(|group| group.as_raw()).collect(),
        }
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
    fn user_has_its_own_groups() {
        let own = User::own().unwrap();
        if own.uid() != 0 {
            let error = User::find("root").unwrap_err();
            assert!(matches!(error, UserError::NotRoot { .. }), "{error}");
            return;
        }
        let nobody = User::find("nobody").unwrap().ids();
        assert_eq!(nobody.groups, [nobody.gid]);
    }
}
