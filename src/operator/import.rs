//! A log that comes from a file into an empty home.
//!
//! Invariants I1 and I5: every opening of it is closed there, and what is in doubt stays in doubt.
//! So two homes that the same file was brought to, and the one that it came from, give the same
//! answers for all that they share, and what each begins has random bits of its own.

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{AN_EXPORT_OF, Standing};
use xxhash_rust::xxh3::xxh3_64;

use super::counts::{LogCounts, doubtful_epochs};
use super::error::OperatorError;
use super::file::ConfigFile;
use super::lines::{self, Export};
use super::relocate::End;
use super::shared::failed;
use super::source::doubtful;
use crate::log::one_line;

/// An import that can be made. Nobody opens a folder that is part of it as long as this exists.
pub struct LogImport {
    to: End,
    /// What an import that was interrupted is known by.
    from: String,
    export: Export,
    plan: Imported,
}

/// What an import does, or has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Imported {
    /// The home that the log was exported from.
    pub from: String,
    /// The new home.
    pub to: String,
    /// Whose log it is. It stays the same.
    pub manager: String,
    /// An earlier attempt had begun it.
    pub resumed: bool,
    /// The log was sealed when it was exported, and nothing of it was lost.
    pub complete: bool,
    /// Epochs of which decisions may be missing: what is not decided there is left to a person.
    pub doubtful_epochs: Vec<u32>,
    /// What is in it.
    #[serde(flatten)]
    pub counts: LogCounts,
}

impl std::fmt::Debug for LogImport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogImport")
            .field("plan", &self.plan)
            .finish()
    }
}

impl LogImport {
    /// Looks at the file's bytes and at the home. Changes nothing but that a folder is made and
    /// locked. `incomplete` says that a file may be imported of which decisions may be missing.
    ///
    /// # Errors
    /// The file is not whole; it is incomplete, and that was not said; the home is not empty.
    pub async fn plan(
        file: &ConfigFile,
        bytes: &[u8],
        incomplete: bool,
    ) -> Result<Self, OperatorError> {
        let export = lines::read(bytes).map_err(|error| failed(&error.to_string()))?;
        let complete = export.sealed && export.losses.is_empty();
        if !complete && !incomplete {
            return Err(failed(&refusal(&export)));
        }
        let export = closed(export)?;
        let sum = xxh3_64(bytes);
        let from = one_line(&format!("{AN_EXPORT_OF}{} ({sum:016x})", export.from));
        let to = End::of_new(file)?;
        let resumed = is_begun(&to, &export, &from).await?;
        let plan = Imported {
            from: export.from.clone(),
            to: to.place().to_owned(),
            manager: export.manager.to_string(),
            resumed,
            complete,
            doubtful_epochs: doubtful_epochs(&export.image),
            counts: LogCounts::of(&export.image),
        };
        Ok(Self {
            to,
            from,
            export,
            plan,
        })
    }

    /// What will be done.
    pub const fn planned(&self) -> &Imported {
        &self.plan
    }

    /// Does it. If it fails, or dies, plan it again with the same file: it goes on.
    ///
    /// # Errors
    /// A step failed: says the mend.
    pub async fn run(self) -> Result<Imported, OperatorError> {
        let (manager, from) = (self.export.manager, &self.from);
        self.to.begin_arrival(manager, from).await?;
        for part in self.to.parts(self.export.image) {
            self.to.arrive(manager, from, part).await?;
        }
        self.to.end_arrival(from).await?;
        Ok(self.plan)
    }
}

/// Openings that were open when the file was written are in doubt; all of them are closed here.
fn closed(mut export: Export) -> Result<Export, OperatorError> {
    if export.image.openings.is_empty() {
        return Err(failed(
            "the export lists no opening: nobody has used that log",
        ));
    }
    let doubtful = doubtful()?;
    for row in &mut export.image.openings {
        if !row.is_closed && !export.sealed {
            row.identity = doubtful.clone();
        }
        row.is_closed = true;
    }
    Ok(export)
}

fn refusal(export: &Export) -> String {
    if export.losses.is_empty() {
        return "this is a copy of a log that was not sealed: decisions that were made since are \
                not in it. Seal the log when it is exported (unanimous log export --seal). If it \
                is lost, and this copy is all that is left, say --incomplete: what may be missing \
                is then left to a person"
            .to_owned();
    }
    let lost = export.losses.iter().map(|loss| {
        let (file, from, to) = (&loss.segment, loss.from, loss.to);
        format!("{file}, bytes {from} to {to}")
    });
    let lost: Vec<_> = lost.collect();
    format!(
        "this is what was sound of a damaged log ({} could not be read): decisions may be missing. \
         If there is no better copy, say --incomplete: what may be missing is left to a person",
        lost.join("; ")
    )
}

/// Has this very import been begun there? Nothing else may be there.
async fn is_begun(to: &End, export: &Export, from: &str) -> Result<bool, OperatorError> {
    let place = to.place();
    match to.standing().await? {
        Standing::Empty => Ok(false),
        Standing::Arriving(manager, place) if manager == export.manager && place == from => {
            Ok(true)
        }
        Standing::Here(manager) if manager == export.manager => Err(failed(&format!(
            "{place}: the log of manager {manager} is here already: an import of it has ended, or \
             it never left; nothing was imported"
        ))),
        Standing::Here(manager) => Err(failed(&format!(
            "{place}: there is a log of manager {manager} already: two logs cannot become one; \
             import into an empty home"
        ))),
        Standing::Sealed(_, to) => Err(failed(&format!(
            "{place}: a log was here and was moved to {to}: what is left of it is of no use any \
             more; remove that folder, or drop those tables, and run this again"
        ))),
        Standing::Arriving(_, from) => Err(failed(&format!(
            "{place}: a log arrives there from {from}: end that first"
        ))),
    }
}
