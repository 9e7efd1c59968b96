//! Members that give no sign of life when their log leaves.
//!
//! A person is asked between the plan and the deed, and takes any time: whoever lives again by then
//! keeps the log.

use std::time::Duration;

use unanimous_core::ports::{LogImage, OpeningRow};
use unanimous_core::xid::{Epoch, ManagerId};

use super::error::OperatorError;
use super::relocate::End;
use super::shared::{Watched, failed, patience};

/// Whose epochs have to be closed before a home is sealed.
#[derive(Default)]
pub(super) struct Silent {
    epochs: Vec<Epoch>,
    /// Since they were told. Nothing where nobody has to be closed.
    watched: Option<(Watched, Duration)>,
}

impl Silent {
    pub(super) fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }
}

impl End {
    /// Who has to be closed before; nobody may live.
    pub(super) async fn silent(&self, image: &LogImage) -> Result<Silent, OperatorError> {
        let Self::Table {
            table,
            suspect_after,
            ..
        } = self
        else {
            return Ok(Silent::default());
        };
        let watched = Watched::for_long(&**table, patience(*suspect_after)).await?;
        self.refuse(image, |epoch| watched.has_lived(epoch))?;
        let epochs: Vec<_> = open(image).map(|row| row.opening.epoch).collect();
        let watched = (!epochs.is_empty()).then_some((watched, *suspect_after));
        Ok(Silent { epochs, watched })
    }

    /// Before any of them is closed: nobody has given a sign of life since, for as long at least as
    /// the members themselves wait for one, and nobody has joined.
    pub(super) async fn still_silent(
        &self,
        manager: ManagerId,
        silent: Silent,
    ) -> Result<Vec<Epoch>, OperatorError> {
        let Silent { epochs, watched } = silent;
        let (Self::Table { table, .. }, Some((mut watched, time))) = (self, watched) else {
            return Ok(epochs);
        };
        watched.go_on(&**table, time).await?;
        // Read last: whoever has joined before is open in it.
        let image = self.cargo(manager).await?;
        let is_new = |epoch| !epochs.contains(&epoch);
        self.refuse(&image, |epoch| watched.has_lived(epoch) || is_new(epoch))?;
        Ok(epochs)
    }

    fn refuse(
        &self,
        image: &LogImage,
        is_alive: impl Fn(Epoch) -> bool,
    ) -> Result<(), OperatorError> {
        let alive = open(image).filter(|row| is_alive(row.opening.epoch));
        let name = |row: &OpeningRow| format!("{} (epoch {})", row.label, row.opening.epoch);
        let alive: Vec<_> = alive.map(name).collect();
        if alive.is_empty() {
            return Ok(());
        }
        Err(failed(&format!(
            "{}: the log is in use by {}: stop them, then run this again",
            self.place(),
            alive.join(", ")
        )))
    }
}

fn open(image: &LogImage) -> impl Iterator<Item = &OpeningRow> {
    image.openings.iter().filter(|row| !row.is_closed)
}
