//! A log as a file: a copy of one that is in use, or the whole of one that ends here.
//!
//! Invariant I1: of an epoch that is closed everything is in the file, and it stays so. Of one that
//! is open, or of which a part was lost, what is not in the file proves nothing; whoever imports it
//! says so of the opening. `docs/log-export.md` has the argument.

use std::io::Write;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::Standing;
use unanimous_core::xid::{Epoch, ManagerId};

use super::counts::LogCounts;
use super::error::OperatorError;
use super::file::ConfigFile;
use super::lines;
use super::place::Place;
use super::relocate::{End, on_disk};
use super::shared::failed;
use super::silence::Silent;
use super::source::{Source, folder_place, is_original, on_a_thread};
use crate::log::{FileLog, FolderMove, verify_folder};

/// What a home that was sealed for an export names as the place where its log went.
const TO_A_FILE: &str = "a file (unanimous log import brings it to a new home)";

/// An export that can be made. Nobody opens a folder that is to be sealed as long as this exists.
pub struct LogExport {
    way: Way,
    plan: Exported,
}

enum Way {
    Copy(Box<lines::Export>),
    Seal {
        end: Box<End>,
        manager: ManagerId,
        silent: Silent,
        salvages: bool,
    },
}

/// What an export writes, or has written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exported {
    /// The log's home.
    pub place: String,
    /// Whose log it is.
    pub manager: String,
    /// The home is sealed: the log goes on where the file is imported.
    pub sealed: bool,
    /// Epochs of silent members, which are closed before.
    pub closed_epochs: Vec<u32>,
    /// What is in it.
    #[serde(flatten)]
    pub counts: LogCounts,
    /// How many parts of a damaged log could not be read.
    pub losses: usize,
}

impl std::fmt::Debug for LogExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogExport")
            .field("plan", &self.plan)
            .finish()
    }
}

impl LogExport {
    /// Looks at the log. With `seal`, the home will be sealed before it is read: nobody may use it.
    /// With `salvage`, what is sound of a damaged log is enough.
    ///
    /// # Errors
    /// There is no log, or it cannot be read, or a row of it not be understood; to be sealed,
    /// somebody uses it, or it went elsewhere. `salvage` is for a folder.
    pub async fn plan(file: &ConfigFile, seal: bool, salvage: bool) -> Result<Self, OperatorError> {
        if let (Place::Table(_), true) = (file.log(), salvage) {
            return Err(failed(
                "the log is in a table: --salvage is for a damaged folder; unanimous log verify \
                 names the rows of a table that cannot be understood",
            ));
        }
        if seal {
            return Self::plan_to_seal(file, salvage).await;
        }
        let (export, place) = match (file.log(), salvage) {
            (Place::Folder(log), true) => {
                let place = folder_place(log);
                let reading = |log: FileLog| {
                    let is_original = is_original(&log);
                    Ok((verify_folder(log)?, is_original))
                };
                let (seen, is_original) = on_a_thread(&place, log, reading).await?;
                let nothing = || failed(&format!("{place}: nothing of this log can be read"));
                let export = lines::Export {
                    manager: seen.manager.ok_or_else(nothing)?,
                    from: place.clone(),
                    sealed: is_original && seen.mark.is_some_and(|(is_arriving, _)| !is_arriving),
                    image: seen.image.ok_or_else(nothing)?,
                    losses: seen.losses,
                };
                (export, place)
            }
            (Place::Folder(_) | Place::Table(_), _) => {
                let source = Source::read(file).await?;
                let export = lines::Export {
                    manager: source.manager,
                    from: source.place.clone(),
                    sealed: source.is_sealed,
                    image: source.image,
                    losses: Vec::new(),
                };
                (export, source.place)
            }
        };
        export.check()?;
        let plan = Exported::of(place, &export, Vec::new());
        let way = Way::Copy(Box::new(export));
        Ok(Self { way, plan })
    }

    async fn plan_to_seal(file: &ConfigFile, salvages: bool) -> Result<Self, OperatorError> {
        let end = End::of_old(file)?;
        let place = end.place().to_owned();
        let export = sealed(&end, &place, salvages).await?;
        let was_sealed = match end.standing().await {
            Ok(Standing::Here(_)) => false,
            Ok(Standing::Sealed(_, to)) if to == TO_A_FILE => true,
            Ok(Standing::Empty) => return Err(failed(&format!("{place}: there is no log here"))),
            Ok(Standing::Sealed(_, to)) => {
                return Err(failed(&format!(
                    "{place}: this log was moved to {to}, or is being moved there: end that move"
                )));
            }
            Ok(Standing::Arriving(_, from)) => {
                return Err(failed(&format!(
                    "{place}: a log arrives here from {from}: end that first"
                )));
            }
            // Its identity is lost, too; the segment says whose it is.
            Err(_) if salvages => false,
            Err(error) => return Err(error),
        };
        let silent = if was_sealed {
            Silent::default()
        } else {
            end.silent(&export.image).await?
        };
        export.check()?;
        let plan = Exported::of(place, &export, silent.epochs().to_vec());
        Ok(Self {
            way: Way::Seal {
                end: Box::new(end),
                manager: export.manager,
                silent,
                salvages,
            },
            plan,
        })
    }

    /// What will be done.
    pub const fn planned(&self) -> &Exported {
        &self.plan
    }

    /// Does it, and writes the file. If a home was sealed and the file is not whole, do it again.
    ///
    /// # Errors
    /// A member has lived, or joined, since it was planned: then nothing was done. A step failed:
    /// says which, and the mend.
    pub async fn run(self, out: &mut (dyn Write + Send)) -> Result<Exported, OperatorError> {
        let place = self.plan.place;
        let (export, silent) = match self.way {
            Way::Copy(export) => (*export, Vec::new()),
            Way::Seal {
                end,
                manager,
                silent,
                salvages,
            } => {
                let silent = end.still_silent(manager, silent).await?;
                for epoch in &silent {
                    end.close(*epoch).await?;
                }
                // Whoever lived until now may have recorded something since it was planned.
                sealed(&end, &place, salvages).await?.check()?;
                end.seal(manager, TO_A_FILE).await?;
                // Nothing is added any more.
                let export = sealed(&end, &place, salvages).await?;
                check_seal(&end).await?;
                (export, silent)
            }
        };
        export
            .write(out)
            .map_err(|error| failed(&format!("the export cannot be written: {error}")))?;
        Ok(Exported::of(place, &export, silent))
    }
}

impl Exported {
    fn of(place: String, export: &lines::Export, silent: Vec<Epoch>) -> Self {
        Self {
            place,
            manager: export.manager.to_string(),
            sealed: export.sealed,
            closed_epochs: silent.into_iter().map(|epoch| epoch.0).collect(),
            counts: LogCounts::of(&export.image),
            losses: export.losses.len(),
        }
    }
}

/// A fail-over of the home's server can lose the seal; then somebody may have gone on there.
async fn check_seal(end: &End) -> Result<(), OperatorError> {
    match end.standing().await {
        Ok(Standing::Sealed(_, to)) if to == TO_A_FILE => Ok(()),
        Ok(_) => Err(failed(&format!(
            "{}: the seal is gone, as after a fail-over, and the log may be in use there: nothing \
             was exported",
            end.place()
        ))),
        Err(error) => Err(error),
    }
}

/// All of it, or what is sound of it, as it is once its home is sealed.
async fn sealed(end: &End, place: &str, salvages: bool) -> Result<lines::Export, OperatorError> {
    let (manager, image, losses) = match end {
        End::Folder { folder, .. } if salvages => on_disk(folder, FolderMove::salvage).await?,
        End::Folder { .. } | End::Table { .. } => {
            let manager = manager(end.standing().await?, place)?;
            (manager, end.cargo(manager).await?, Vec::new())
        }
    };
    Ok(lines::Export {
        manager,
        from: place.to_owned(),
        sealed: true,
        image,
        losses,
    })
}

fn manager(standing: Standing, place: &str) -> Result<ManagerId, OperatorError> {
    match standing {
        Standing::Here(manager) | Standing::Sealed(manager, _) => Ok(manager),
        Standing::Empty => Err(failed(&format!("{place}: there is no log here"))),
        Standing::Arriving(_, from) => Err(failed(&format!(
            "{place}: a log arrives here from {from}: end that first"
        ))),
    }
}
