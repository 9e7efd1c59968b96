//! Reads a log's folder to the last byte, and says of each file whether it is sound. Takes no lock,
//! changes nothing; what an application writes meanwhile is looked at again.

use std::os::unix::fs::MetadataExt;

use unanimous_core::ports::{Finding, LogError, LogImage, Severity};
use unanimous_core::xid::ManagerId;

use super::FileLog;
use super::appender::{segment_name, segment_number};
use super::errors::{self, DAMAGE_MEND};
use super::home::Home;
use super::identity::{FolderId, IDENTITY, Identity, IdentityFault};
use super::moved::{MOVED, Mark};
use super::moving::image_of;
use super::open::{BESIDE, UNDER_WAY, emptied, no_log, read_newest};
use super::recover::{read_file, segment_numbers};
use super::segment::{Fault, read as read_segment};
use super::sound::{Loss, Sound, read_sound};
use super::writer::visit;

/// One file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileRead {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) batches: usize,
    pub(crate) records: usize,
}

/// What was found at a place of a file.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: String,
    pub(crate) offset: Option<u64>,
    pub(crate) finding: Finding,
}

/// What a folder holds, and how sound it is.
#[derive(Debug, Default)]
pub(crate) struct FolderVerified {
    pub(crate) manager: Option<ManagerId>,
    pub(crate) files: Vec<FileRead>,
    pub(crate) found: Vec<Found>,
    /// What is sound of the log; `None` if nothing is.
    pub(crate) image: Option<LogImage>,
    pub(crate) losses: Vec<Loss>,
    /// The home that it was sealed for, or arrives from.
    pub(crate) mark: Option<(bool, String)>,
}

/// Reads all of it.
///
/// # Errors
/// There is no log in the folder, or the system does not let it be read.
pub(crate) fn verify_folder(log: FileLog) -> Result<FolderVerified, LogError> {
    let (folder, options) = log.into_parts();
    let home = visit(folder, options)?;
    let mut seen = FolderVerified::default();
    let numbers = segment_numbers(&home)?;
    let identity = read_if_there(&home, IDENTITY)?;
    let mark = read_if_there(&home, MOVED)?;
    if identity.is_none() && numbers.is_empty() && mark.is_none() {
        return Err(no_log(&home));
    }
    seen.judge_mark(mark.as_deref());
    seen.judge_identity(&home, identity.as_deref(), !numbers.is_empty());
    seen.judge_newest(&home)?;
    seen.judge_others(&home)?;
    Ok(seen)
}

fn read_if_there(home: &Home, name: &str) -> Result<Option<Vec<u8>>, LogError> {
    match home.storage.read(name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(home.failed(&format!("read {name}"), error)),
    }
}

impl FolderVerified {
    fn add(
        &mut self,
        severity: Severity,
        subject: &str,
        place: (&str, Option<u64>),
        evidence: impl Into<String>,
        mend: &str,
    ) {
        self.found.push(Found {
            file: place.0.to_owned(),
            offset: place.1,
            finding: Finding::new(severity, subject, evidence, mend),
        });
    }

    fn add_file(&mut self, name: &str, bytes: u64, sound: Option<&Sound>) {
        self.files.push(FileRead {
            name: name.to_owned(),
            bytes,
            batches: sound.map_or(0, |sound| sound.batches),
            records: sound.map_or(0, |sound| sound.records),
        });
    }

    fn judge_mark(&mut self, bytes: Option<&[u8]>) {
        let Some(bytes) = bytes else {
            return;
        };
        self.add_file(MOVED, bytes.len() as u64, None);
        let at = (MOVED, None);
        let Some(mark) = Mark::parse(bytes) else {
            let evidence = "it is damaged or was edited: the log was moved, or is being moved";
            self.add(
                Severity::Error,
                "mark of a move",
                at,
                evidence,
                "put the file's original back",
            );
            return;
        };
        self.manager = Some(mark.manager);
        let (evidence, mend) = if mark.is_arriving {
            let evidence = format!(
                "a log arrives here from {}, and is not used yet",
                mark.place
            );
            (evidence, "run the move, or the import, again: it goes on")
        } else {
            let evidence = format!("the log is sealed: it went to {}", mark.place);
            (evidence, "name that as the log's home")
        };
        self.add(Severity::Note, "mark of a move", at, evidence, mend);
        self.mark = Some((mark.is_arriving, mark.place));
    }

    fn judge_identity(&mut self, home: &Home, bytes: Option<&[u8]>, has_segments: bool) {
        let at = (IDENTITY, None);
        let Some(bytes) = bytes else {
            if has_segments {
                let mend = "put it back; if it is lost and this folder is the original, adopt it \
                            by `unanimous log adopt`";
                self.add(Severity::Error, "identity", at, "it is gone", mend);
            }
            return;
        };
        self.add_file(IDENTITY, bytes.len() as u64, None);
        match Identity::parse(bytes) {
            Ok(identity) => {
                self.manager = Some(identity.manager);
                self.judge_place(home, identity);
            }
            Err(IdentityFault::Format(found)) => {
                let evidence = format!("it is of format version {found}, unknown to this program");
                self.add(
                    Severity::Error,
                    "identity",
                    at,
                    evidence,
                    "use the release that wrote it",
                );
            }
            Err(IdentityFault::Damage) => {
                let mend = "put the original back; if it is lost and this folder is the original, \
                            remove the file and adopt the log by `unanimous log adopt`";
                self.add(
                    Severity::Error,
                    "identity",
                    at,
                    "it is damaged or was edited",
                    mend,
                );
            }
        }
    }

    fn judge_place(&mut self, home: &Home, identity: Identity) {
        let Ok(data) = home.folder.metadata() else {
            return;
        };
        let here = FolderId {
            device: data.dev(),
            inode: data.ino(),
        };
        if here != identity.folder {
            let evidence = format!(
                "the folder is a copy, or was restored or moved to another disk (device {} inode \
                 {} when the log was made, now device {} inode {})",
                identity.folder.device, identity.folder.inode, here.device, here.inode
            );
            let mend = "if the original is used by nobody and this is its latest state, adopt it \
                        by `unanimous log adopt`; else begin a new log in another folder";
            self.add(Severity::Error, "place", (IDENTITY, None), evidence, mend);
        }
    }

    /// The one that counts.
    fn judge_newest(&mut self, home: &Home) -> Result<(), LogError> {
        let newest = read_newest(home, |number| {
            let bytes = read_file(home, &segment_name(number));
            let is_whole = bytes.as_ref().is_ok_and(|b| read_segment(b).is_ok());
            (is_whole, (number, bytes))
        })?;
        if let Some((number, bytes)) = newest {
            return self.judge_segment(home, number, &bytes?);
        }
        if let (Some(manager), None) = (self.manager, &self.mark) {
            let evidence = emptied(home, manager).to_string();
            let mend = "do what the evidence says";
            let at = (IDENTITY, None);
            self.add(Severity::Error, "segments", at, evidence, mend);
        }
        Ok(())
    }

    fn judge_segment(&mut self, home: &Home, number: u64, bytes: &[u8]) -> Result<(), LogError> {
        let name = segment_name(number);
        let retain = home.options.retain_completed;
        let sound = read_sound(&name, bytes, retain);
        self.add_file(&name, bytes.len() as u64, sound.as_ref().ok());
        if let Err(fault) = read_segment(bytes) {
            let evidence = errors::segment(&home.folder, &name, fault).to_string();
            // What to do stands in the mend.
            let evidence = evidence.split("; ").next().unwrap_or_default();
            let offset = match fault {
                Fault::Damage { offset } => Some(offset),
                Fault::Length { found, .. } => Some(found),
                Fault::NotASegment | Fault::Format(_) => Some(0),
            };
            let mend = if sound.is_ok() { SALVAGE } else { DAMAGE_MEND };
            self.add(Severity::Error, "damage", (&name, offset), evidence, mend);
        }
        let Ok(sound) = sound else {
            return Ok(());
        };
        let found = sound.header;
        if found.number != number || self.manager.is_some_and(|has| has != found.opening.manager) {
            let evidence = format!(
                "it is segment {} of manager {}: it was copied here",
                found.number, found.opening.manager
            );
            self.add(
                Severity::Error,
                "segment",
                (&name, Some(0)),
                evidence,
                "put the log's own back",
            );
            return Ok(());
        }
        self.manager = Some(found.opening.manager);
        if let Some(offset) = sound.torn_at {
            let evidence = "a batch begins here that was not written to its end (or is being \
                            written just now): nobody was told that anything in it is recorded";
            let mend = "nothing: the next opening cuts it off";
            self.add(
                Severity::Note,
                "torn tail",
                (&name, Some(offset)),
                evidence,
                mend,
            );
        }
        for at in &sound.strange {
            let evidence = "bytes behind a batch that this program has not written; they mean \
                            nothing, but the disk, or another program, has changed this file";
            self.add(
                Severity::Warning,
                "padding",
                (&name, Some(*at)),
                evidence,
                "check the disk",
            );
        }
        self.judge_losses(&sound);
        self.image = Some(image_of(&sound.state)?);
        self.losses = sound.losses;
        Ok(())
    }

    fn judge_losses(&mut self, sound: &Sound) {
        let epoch = sound.header.opening.epoch;
        let others = if sound.has_beginning {
            "; those of earlier epochs are not concerned"
        } else {
            ""
        };
        for loss in &sound.losses {
            let legible: Vec<_> = loss.legible.iter().map(ToString::to_string).collect();
            let seem = if legible.is_empty() {
                "nothing in it is legible".to_owned()
            } else {
                format!(
                    "legible in it, and proven by nothing: {}",
                    legible.join(", ")
                )
            };
            let evidence = format!(
                "bytes {} to {} cannot be read: decisions of epoch {epoch} may be missing \
                 ({seem}){others}",
                loss.from, loss.to
            );
            let place = (&*loss.segment, Some(loss.from));
            self.add(
                Severity::Error,
                "loss",
                place,
                evidence,
                "as for the damage",
            );
        }
        if !sound.has_beginning {
            let evidence = "the state that the segment began with is lost, or cannot be understood \
                            to its end: branches of earlier openings will be shown, and left to a \
                            person";
            let place = (&*segment_name(sound.header.number), None);
            self.add(
                Severity::Error,
                "loss",
                place,
                evidence,
                "as for the damage",
            );
        }
    }

    /// Nothing in them counts.
    fn judge_others(&mut self, home: &Home) -> Result<(), LogError> {
        let newest = segment_numbers(home)?.last().copied();
        let names = home.storage.list();
        let mut names = names.map_err(|error| home.failed("list the folder", error))?;
        names.sort_unstable();
        for name in names {
            let is_newest = segment_number(&name).is_some() && segment_number(&name) == newest;
            let is_seen = self.files.iter().any(|file| file.name == name);
            if is_newest || is_seen || BESIDE.contains(&&*name) || name == IDENTITY {
                continue;
            }
            let is_ours = segment_number(&name).is_some() || UNDER_WAY.contains(&&*name);
            let (severity, evidence, mend) = if is_ours {
                let evidence = "left behind, or being made or removed just now; it has no meaning";
                (Severity::Note, evidence, "nothing")
            } else {
                let evidence = "this is no file of the log";
                (
                    Severity::Warning,
                    evidence,
                    "move it away: the folder has to belong to the log alone",
                )
            };
            self.add(severity, "other file", (&name, None), evidence, mend);
        }
        Ok(())
    }
}

const SALVAGE: &str = "stop the application, keep a copy of the folder as it is, check the disk; \
     what is sound can be brought to a new home:\n\
     unanimous log export --seal --salvage --out log.jsonl\n\
     unanimous --config NEW.toml log import --incomplete log.jsonl\n\
     then unanimous recover; what may have been decided in the lost part is left to a person";
