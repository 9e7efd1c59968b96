//! A log in a folder that no application holds: only looked at, and held as long as something is
//! done. Whoever looks is in nobody's way: an application can start meanwhile.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use unanimous_core::ports::{LogError, LogHome};

use super::access::LOG_LIMIT;
use super::client::Client;
use super::error::OperatorError;
use super::file::{ConfigFile, Parts};
use super::shared::failed;
use crate::StartError;
use crate::bounded::bounded;
use crate::log::{FileLog, NoLog, held_by, in_use_by};
use crate::manager::Inner;
use crate::shutdown::close_log;

/// How often to look for a socket while the log is held: an application that starts opens its log a
/// moment before it listens.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct OwnLog {
    parts: Parts,
    log: FileLog,
    observer: Arc<Inner>,
    holder: OnceCell<Holder>,
}

/// Who acts.
pub(super) enum Holder {
    /// It has started meanwhile.
    Application(Client),
    Alone(Arc<Inner>),
}

/// Who has the log in a folder.
pub(super) enum Found {
    Application(Client),
    Nobody(Box<OwnLog>),
}

impl Found {
    /// # Errors
    /// There is no log, or the process that holds it offers no socket. That it cannot be read is no
    /// error yet.
    pub(super) async fn at(file: &ConfigFile, log: &FileLog) -> Result<Self, OperatorError> {
        let folder = log.folder();
        let mut attempt = 1;
        while let Some(found) = look_for_holder(folder).await? {
            match found {
                Ok(client) => return Ok(Self::Application(client)),
                Err(holder) if attempt == ATTEMPTS => {
                    return Err(OperatorError::NoSocket(in_use_by(folder, &holder)));
                }
                Err(_) => {}
            }
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
        }
        let parts = file.parts()?;
        Ok(Self::Nobody(Box::new(OwnLog {
            observer: look_by(&parts, log.clone().observer()).await?,
            parts,
            log: log.clone(),
            holder: OnceCell::new(),
        })))
    }
}

/// An application, or else who it is that cannot be asked; `None` if nobody holds the log.
async fn look_for_holder(folder: &Path) -> Result<Option<Result<Client, String>>, OperatorError> {
    if let Some(client) = Client::find(folder).await? {
        return Ok(Some(Ok(client)));
    }
    if !folder.exists() {
        return Err(failed(&format!(
            "log {}: there is no such folder: check the path in the config file; an application \
             makes its log at its first start",
            folder.display()
        )));
    }
    let path = folder.to_owned();
    // That it cannot be read is told by whoever reads it.
    let held_by = apart(folder, move || held_by(&path)).await?.unwrap_or(None);
    Ok(held_by.map(Err))
}

/// Looks by a log that is opened for nothing else. Where it cannot be opened, what the databases
/// hold can be seen all the same: everything that is asked of the log answers why.
///
/// # Errors
/// The manager cannot be set up.
pub(super) async fn look_by(
    parts: &Parts,
    observer: impl LogHome,
) -> Result<Arc<Inner>, OperatorError> {
    let opening = bounded(LOG_LIMIT, parts.builder_with(observer).open(None)).await;
    let error = match opening {
        Ok(Ok(inner)) => return Ok(inner),
        Ok(Err(StartError::Log(error))) => error,
        Ok(Err(error)) => return Err(error.into()),
        Err(silence) => LogError::new(format!("the decision log: {silence}")),
    };
    Ok(parts.builder_with(NoLog::new(error)).open(None).await?)
}

impl OwnLog {
    /// What looks at log and databases.
    pub(super) fn looker(&self) -> &Arc<Inner> {
        match self.holder.get() {
            Some(Holder::Alone(inner)) => inner,
            Some(Holder::Application(_)) | None => &self.observer,
        }
    }

    /// Whoever is to act: this, holding the log from now on as an application would; or the
    /// application that has started meanwhile (I5: never beside it).
    ///
    /// # Errors
    /// The log cannot be opened, or the process that holds it offers no socket.
    pub(super) async fn holder(&self) -> Result<&Holder, OperatorError> {
        self.holder.get_or_try_init(|| self.hold()).await
    }

    async fn hold(&self) -> Result<Holder, OperatorError> {
        let folder = self.log.folder();
        let mut attempt = 1;
        loop {
            if let Some(client) = Client::find(folder).await? {
                return Ok(Holder::Application(client));
            }
            let error = match open_alone(&self.parts, &self.log).await {
                Ok(inner) => return Ok(Holder::Alone(inner)),
                Err(error) => error,
            };
            if attempt == ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(super) async fn close(self) -> Result<(), OperatorError> {
        let Some(Holder::Alone(inner)) = self.holder.get() else {
            return Ok(());
        };
        match close_log(inner, LOG_LIMIT).await {
            Ok(closed) => Ok(closed?),
            Err(silence) => Err(failed(&format!(
                "the log did not close: {silence}; nothing is lost"
            ))),
        }
    }

    /// How many branches passes have ended here, if they are made here.
    pub(super) fn ended(&self) -> Option<u64> {
        match self.holder.get() {
            Some(Holder::Alone(inner)) => Some(inner.recovery.ended()),
            Some(Holder::Application(_)) => None,
            None => Some(0),
        }
    }
}

/// Without the checks of a start: a resource that is not fit is told when it is looked at. Never
/// makes a log.
async fn open_alone(parts: &Parts, log: &FileLog) -> Result<Arc<Inner>, OperatorError> {
    let (folder, read) = (log.folder(), log.clone());
    apart(folder, move || read.inspect()).await??;
    refuse_other_user(folder)?;
    let opening = bounded(LOG_LIMIT, parts.builder().open(None)).await;
    let opened = opening.map_err(|silence| stuck(folder, &silence.to_string()))?;
    match opened {
        Ok(inner) => Ok(inner),
        Err(StartError::Log(error)) if matches!(held_by(folder), Ok(Some(_))) => {
            Err(OperatorError::NoSocket(error))
        }
        Err(StartError::Log(error)) => Err(error.into()),
        Err(error) => Err(error.into()),
    }
}

/// On a thread of its own: a disk can hang.
async fn apart<T: Send + 'static>(
    folder: &Path,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OperatorError> {
    match bounded(LOG_LIMIT, tokio::task::spawn_blocking(read)).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(_)) => Err(stuck(folder, "reading it panicked, which is a bug")),
        Err(silence) => Err(stuck(folder, &silence.to_string())),
    }
}

fn stuck(folder: &Path, problem: &str) -> OperatorError {
    failed(&format!(
        "log {}: {problem}; see whether its file system hangs: ls -l in it by hand",
        folder.display()
    ))
}

/// Files that another user makes would keep the application out of its own log.
pub(super) fn refuse_other_user(folder: &Path) -> Result<(), OperatorError> {
    let user = rustix::process::geteuid().as_raw();
    match folder.join("identity").metadata() {
        Ok(identity) if identity.uid() != user => {
            Err(OperatorError::Log(other_user(folder, identity.uid(), user)))
        }
        // That there is none is for the opening to say.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A log that is made here by another user than the folder's would keep the application out of it.
/// Of a folder that is missing nobody can tell whose it will be; root is not asked in another
/// user's place.
pub(super) fn refuse_other_owner(folder: &Path) -> Result<(), OperatorError> {
    let user = rustix::process::geteuid().as_raw();
    let (found, is_there) = match folder.metadata() {
        Ok(found) => (found, true),
        Err(_) => {
            let parent = folder.parent().filter(|path| !path.as_os_str().is_empty());
            // That there is none is for the making to say.
            match parent.unwrap_or(Path::new(".")).metadata() {
                Ok(found) => (found, false),
                Err(_) => return Ok(()),
            }
        }
    };
    let owner = found.uid();
    let is_anybodys = owner == user || owner == ROOT || (!is_there && user != ROOT);
    if is_anybodys {
        return Ok(());
    }
    Err(OperatorError::Log(other_user(folder, owner, user)))
}

const ROOT: u32 = 0;

fn other_user(folder: &Path, owner: u32, user: u32) -> LogError {
    LogError::new(format!(
        "log {}: it belongs to the user with number {owner}, and this is {user}, whose files would \
         keep the application out: run this as that user, such as by sudo -u '#{owner}'",
        folder.display()
    ))
}
