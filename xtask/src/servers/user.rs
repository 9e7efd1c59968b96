//! The user that servers run as.
//!
//! PostgreSQL refuses to run as root, and no server needs it. Started by root, servers run as a
//! user that exists already (`postgres` or `nobody`) and get folders that belong to that user;
//! started by anybody else, they run as that somebody.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

use super::Error;

/// A user to drop to, or nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerUser(Option<(u32, u32)>);

impl ServerUser {
    /// The user for this process's servers.
    pub(super) fn choose() -> Result<Self, Error> {
        if !is_root() {
            return Ok(Self(None));
        }
        let path = Path::new("/etc/passwd");
        let passwd = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let found = ["postgres", "nobody"]
            .iter()
            .find_map(|name| ids_of(&passwd, name));
        match found {
            Some(ids) => Ok(Self(Some(ids))),
            None => Err(Error::Environment(
                "root may not run a database server, and there is neither a user `postgres` nor \
                 `nobody` to run it as: create one of them, or run this as another user"
                    .to_owned(),
            )),
        }
    }

    /// Makes the command run as this user.
    pub(super) fn apply(self, command: &mut Command) {
        if let Self(Some((uid, gid))) = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives a file or folder to this user.
    pub(super) fn own(self, path: &Path) -> Result<(), Error> {
        let Self(Some((uid, gid))) = self else {
            return Ok(());
        };
        chown(path, Some(uid), Some(gid)).map_err(Error::io("change the owner of", path))
    }
}

/// Whether this process runs as root.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether every user can get into this folder; of a path that does not exist yet, whether every
/// user can get as far as it exists.
pub(super) fn is_reachable(path: &Path) -> bool {
    path.ancestors()
        .filter_map(|folder| fs::metadata(folder).ok())
        .all(|folder| folder.mode() & 0o001 != 0)
}

/// The user and group ids of a user other than root, from the text of `/etc/passwd`.
fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    (uid != 0).then_some((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name_and_is_never_root() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody2:x:1:1::/:/x\nnobody:x:65534:7::/:/x\n";
        assert_eq!(ids_of(passwd, "nobody"), Some((65534, 7)));
        assert_eq!(ids_of(passwd, "root"), None);
        assert_eq!(ids_of(passwd, "postgres"), None);
    }

    #[test]
    fn a_folder_that_does_not_exist_yet_is_as_reachable_as_its_parent() {
        assert!(is_reachable(Path::new("/usr/no-such-folder/below")));
    }
}
