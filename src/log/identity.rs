//! The file `identity`: whose log a folder holds, and which folder it is.
//!
//! Text, so that a person can read it. It tells a folder that lost its segments from one that
//! never had any, and a copied or restored folder from the original (I5: two logs that both take
//! themselves for one manager would end each other's work).

use unanimous_core::xid::ManagerId;
use xxhash_rust::xxh3::xxh3_64;

use super::segment::FORMAT;

/// The name of the file.
pub(super) const IDENTITY: &str = "identity";

const TITLE: &str = "unanimous decision log";

/// A folder, as the operating system tells it from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FolderId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// Has the folder held a segment?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Birth {
    /// The first opening has not ended: without a segment it begins again.
    Begun,
    /// It has: without a segment something was lost.
    Done,
}

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) manager: ManagerId,
    pub(super) folder: FolderId,
    pub(super) birth: Birth,
}

/// Why the file cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdentityFault {
    Format(u32),
    Damage,
}

impl Identity {
    /// The text of the file.
    ///
    /// # Panics
    /// When parsing would not give the same identity back.
    pub(super) fn encode(&self) -> String {
        let text = self.text();
        assert!(
            Self::parse(text.as_bytes()) == Ok(*self),
            "an identity is read back as it was written"
        );
        text
    }

    fn text(&self) -> String {
        let birth = match self.birth {
            Birth::Begun => "begun",
            Birth::Done => "done",
        };
        let body = format!(
            "{TITLE}\nformat {FORMAT}\nmanager {}\ndevice {}\ninode {}\nbirth {birth}\n",
            self.manager, self.folder.device, self.folder.inode
        );
        format!("{body}checksum {:016x}\n", xxh3_64(body.as_bytes()))
    }

    /// Reads the file's bytes: each identity has exactly one text.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, IdentityFault> {
        let text = core::str::from_utf8(bytes).map_err(|_| IdentityFault::Damage)?;
        let format = text
            .strip_prefix(TITLE)
            .and_then(|rest| rest.strip_prefix("\nformat "))
            .and_then(|rest| rest.lines().next()?.parse().ok())
            .ok_or(IdentityFault::Damage)?;
        if format != FORMAT {
            return Err(IdentityFault::Format(format));
        }
        // Among what has to be the same is the checksum.
        let identity = Self::parse_lines(text).filter(|identity| identity.text() == text);
        identity.ok_or(IdentityFault::Damage)
    }

    fn parse_lines(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(2);
        let mut value = |key| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        Some(Self {
            manager: value("manager")?.parse().ok()?,
            folder: FolderId {
                device: value("device")?.parse().ok()?,
                inode: value("inode")?.parse().ok()?,
            },
            birth: match value("birth")? {
                "begun" => Birth::Begun,
                "done" => Birth::Done,
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        manager: ManagerId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        folder: FolderId {
            device: 65025,
            inode: 4711,
        },
        birth: Birth::Done,
    };

    #[test]
    fn an_identity_whose_text_was_changed_anywhere_is_not_read() {
        let text = IDENTITY.encode();
        assert_eq!(Identity::parse(text.as_bytes()), Ok(IDENTITY));
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            assert!(Identity::parse(&changed).is_err(), "byte {at}");
            assert!(
                Identity::parse(&text.as_bytes()[..at]).is_err(),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn another_text_for_the_same_identity_is_not_read_whatever_its_checksum() {
        let text = IDENTITY.encode();
        let (body, _) = text.split_once("checksum").unwrap();
        for other in [
            text.clone(),
            format!("{body}\n"),
            body.replace("device 65025", "device +65025"),
            body.replace("inode 4711", "inode 04711"),
            body.replace("\ndevice", "\r\ndevice"),
        ] {
            let checksum = xxh3_64(other.as_bytes());
            let other = format!("{other}checksum {checksum:016x}\n");
            let read = Identity::parse(other.as_bytes());
            assert_eq!(read, Err(IdentityFault::Damage), "{other}");
        }
    }

    #[test]
    fn an_identity_of_another_version_says_so() {
        let text = IDENTITY.encode().replace("format 1", "format 2");
        assert_eq!(
            Identity::parse(text.as_bytes()),
            Err(IdentityFault::Format(2))
        );
    }
}
