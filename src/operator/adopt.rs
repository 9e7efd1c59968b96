//! A folder that was copied, restored or moved to another disk becomes the log's own.
//!
//! Invariant I1: that is right only if the original is used by nobody and nothing was decided in it
//! since the copy was made, which a person alone can know.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::counts::LogCounts;
use super::error::OperatorError;
use super::file::ConfigFile;
use super::relocate::{End, on_disk};
use super::shared::failed;
use crate::log::FolderMove;

/// An adoption that can be made. Nobody opens the folder as long as this exists.
pub struct Adoption {
    folder: Arc<FolderMove>,
    plan: Adopted,
}

/// What an adoption does, or has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Adopted {
    /// The folder.
    pub place: String,
    /// Whose log it is. It stays the same.
    pub manager: String,
    /// The folder is the log's own already: there is nothing to do.
    pub done_before: bool,
    /// What is in it.
    #[serde(flatten)]
    pub counts: LogCounts,
}

impl std::fmt::Debug for Adoption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adoption")
            .field("plan", &self.plan)
            .finish()
    }
}

impl Adoption {
    /// Looks at the folder, and locks it. Changes nothing else.
    ///
    /// # Errors
    /// The log is not in a folder; there is none, it is in use, or it cannot be read.
    pub async fn plan(file: &ConfigFile) -> Result<Self, OperatorError> {
        let End::Folder { folder, place } = End::of_old(file)? else {
            return Err(failed(
                "the log is in a table, which knows its server: only a folder is adopted",
            ));
        };
        let (manager, is_own, image) = on_disk(&folder, FolderMove::to_be_adopted).await?;
        let plan = Adopted {
            place,
            manager: manager.to_string(),
            done_before: is_own,
            counts: LogCounts::of(&image),
        };
        Ok(Self { folder, plan })
    }

    /// What will be done.
    pub const fn planned(&self) -> &Adopted {
        &self.plan
    }

    /// Does it. If it fails, or dies, plan it again.
    ///
    /// # Errors
    /// The file `identity` could not be written.
    pub async fn run(self) -> Result<Adopted, OperatorError> {
        if !self.plan.done_before {
            on_disk(&self.folder, FolderMove::adopt).await?;
        }
        Ok(self.plan)
    }
}
