//! The file `moved`: the log was moved from this folder to another home, or arrives here from one.
//!
//! Whoever opens the log is refused as long as the file is there.

use unanimous_core::ports::{LogError, arrives_from, went_to};
use unanimous_core::xid::ManagerId;
use xxhash_rust::xxh3::xxh3_64;

use super::home::Home;

/// The name of the file.
pub(super) const MOVED: &str = "moved";
pub(super) const MOVED_TEMP: &str = "moved.tmp";

const TITLE: &str = "unanimous decision log, moved";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) is_arriving: bool,
    pub(super) manager: ManagerId,
    /// The other home, on one line.
    pub(super) place: String,
}

impl Mark {
    pub(super) fn encode(&self) -> String {
        let direction = if self.is_arriving { "from" } else { "to" };
        let (manager, place) = (self.manager, &self.place);
        let body = format!("{TITLE}\nmanager {manager}\n{direction} {place}\n");
        format!("{body}checksum {:016x}\n", xxh3_64(body.as_bytes()))
    }

    /// Each mark has exactly one text.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines().skip(1);
        let manager = lines.next()?.strip_prefix("manager ")?.parse().ok()?;
        let (direction, place) = lines.next()?.split_once(' ')?;
        let mark = Self {
            is_arriving: direction == "from",
            manager,
            place: place.to_owned(),
        };
        (mark.encode() == text).then_some(mark)
    }
}

pub(super) fn read_mark(home: &Home) -> Result<Option<Mark>, LogError> {
    match home.storage.read(MOVED) {
        Ok(bytes) => match Mark::parse(&bytes) {
            Some(mark) => Ok(Some(mark)),
            None => Err(LogError::new(format!(
                "log {}: its file `moved` is damaged or was edited: the log was moved, or is being \
                 moved; put the file's original back",
                home.folder.display()
            ))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(home.failed("read the file `moved`", error)),
    }
}

#[cfg(feature = "operator")]
pub(super) fn write_mark(home: &Home, mark: &Mark) -> Result<(), LogError> {
    home.replace(MOVED, MOVED_TEMP, &mark.encode())
}

/// A log that was moved away, or is not here yet, is not opened.
pub(super) fn refuse_moved(home: &Home) -> Result<(), LogError> {
    let Some(mark) = read_mark(home)? else {
        return Ok(());
    };
    let why = if mark.is_arriving {
        arrives_from(&mark.place)
    } else {
        went_to(&mark.place)
    };
    let folder = home.folder.display();
    Err(LogError::new(format!("log {folder}: {why}")))
}
