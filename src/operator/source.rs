//! A log as it is now, read beside whoever uses it: without a lock, and as nobody's member.

use std::time::Duration;

use unanimous_core::ports::{DOUBTFUL, LogImage, ServerIdentity, Standing};
use unanimous_core::xid::ManagerId;

use super::error::OperatorError;
use super::file::ConfigFile;
use super::place::{Place, TablePlace};
use super::shared::{failed, of_table};
use crate::bounded::bounded;
use crate::log::{FileLog, TornTail, one_line, read_folder};

/// How long one question may take: a network file system can hang for ever.
const LIMIT: Duration = Duration::from_secs(60);

/// What a log says.
pub(super) struct Source {
    /// Where it is.
    pub(super) place: String,
    pub(super) manager: ManagerId,
    pub(super) image: LogImage,
    /// It went there, and nothing is recorded here any more.
    pub(super) sealed_for: Option<String>,
    /// And this is where it was: a copy may have been made before the seal was.
    pub(super) is_sealed: bool,
    pub(super) unfinished_batch: Option<TornTail>,
}

impl Source {
    /// # Errors
    /// There is no log, or it cannot be read.
    pub(super) async fn read(file: &ConfigFile) -> Result<Self, OperatorError> {
        match file.log() {
            Place::Folder(log) => Self::of_folder(log).await,
            Place::Table(place) => Self::of_table(file, place).await,
        }
    }

    async fn of_folder(log: &FileLog) -> Result<Self, OperatorError> {
        let place = folder_place(log);
        let reading = |log: FileLog| {
            let is_original = is_original(&log);
            Ok((read_folder(log)?, is_original))
        };
        let (read, is_original) = on_a_thread(&place, log, reading).await?;
        Ok(Self {
            place,
            manager: read.manager,
            image: read.image,
            is_sealed: is_original && read.sealed_for.is_some(),
            sealed_for: read.sealed_for,
            unfinished_batch: read.unfinished_batch,
        })
    }

    async fn of_table(file: &ConfigFile, place: &TablePlace) -> Result<Self, OperatorError> {
        let table = file.table_move()?;
        let name = table.place();
        let reading = async {
            let standing = table.standing().await.map_err(of_table)?;
            let (mut image, server) = match &standing {
                Standing::Here(_) | Standing::Sealed(_, _) => {
                    table.image().await.map_err(of_table)?
                }
                Standing::Empty => {
                    return Err(failed(&format!("{name}: there is no log here")));
                }
                Standing::Arriving(_, from) => {
                    return Err(failed(&format!(
                        "{name}: a log arrives here from {from}, and is not whole yet"
                    )));
                }
            };
            doubt_lost(&mut image, &server, place.is_lossless())?;
            Ok((standing, image))
        };
        let read = bounded(LIMIT, reading).await;
        let (standing, image) =
            read.unwrap_or_else(|silence| Err(failed(&format!("{name}: {silence}"))))?;
        let (manager, sealed_for) = match standing {
            Standing::Sealed(manager, to) => (manager, Some(to)),
            Standing::Here(manager) => (manager, None),
            Standing::Empty | Standing::Arriving(_, _) => {
                return Err(failed("a log that is not here was read, which is a bug"));
            }
        };
        Ok(Self {
            place: one_line(&table.place()),
            manager,
            image,
            is_sealed: sealed_for.is_some(),
            sealed_for,
            unfinished_batch: None,
        })
    }
}

/// The folder can be read to be the log's own.
pub(super) fn is_original(log: &FileLog) -> bool {
    matches!(log.manager(), Ok(Some(_))) && log.check_place().is_ok()
}

/// What messages call a log in a folder.
pub(super) fn folder_place(log: &FileLog) -> String {
    let path = std::path::absolute(log.folder());
    let path = path.unwrap_or_else(|_| log.folder().to_owned());
    one_line(&format!("folder {}", path.display()))
}

/// Openings that were made on another server than the one that answers now may have lost decisions
/// since, wherever the log goes from here.
pub(super) fn doubt_lost(
    image: &mut LogImage,
    server: &ServerIdentity,
    is_lossless: bool,
) -> Result<(), OperatorError> {
    let doubtful = doubtful()?;
    for row in &mut image.openings {
        if row.identity != *server && !is_lossless {
            row.identity = doubtful.clone();
        }
    }
    Ok(())
}

pub(super) fn doubtful() -> Result<ServerIdentity, OperatorError> {
    ServerIdentity::new(DOUBTFUL)
        .ok_or_else(|| failed("an identity that cannot be named, which is a bug"))
}

/// Reads a folder on a thread that may block.
pub(super) async fn on_a_thread<T: Send + 'static>(
    place: &str,
    log: &FileLog,
    read: impl FnOnce(FileLog) -> Result<T, OperatorError> + Send + 'static,
) -> Result<T, OperatorError> {
    let log = log.clone();
    let reading = tokio::task::spawn_blocking(move || read(log));
    match bounded(LIMIT, reading).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) => Err(failed(&format!(
            "{place}: reading it panicked, which is a bug"
        ))),
        Err(silence) => Err(failed(&format!(
            "{place}: {silence}; see whether its file system hangs: ls -l in it by hand"
        ))),
    }
}
