//! Moves the decision log from one home to another.
//!
//! 1. Nobody uses the old home: of a folder its lock is held; in a table every epoch is closed, and
//!    whoever gives signs of life keeps the move from beginning.
//! 2. The old home is *sealed*: nothing is recorded there any more, and nobody can open it. In a
//!    table, in one step with the proof that no epoch is open.
//! 3. The log *arrives* in the new home, which nobody can open meanwhile.
//! 4. The arrival ends, in one step: from then on the log is there.
//!
//! Before 2 it is proven that the new home can take all of it: nothing unseals a home.
//!
//! Until 4 the old home holds the truth, from 4 on the new one. A move that dies goes on where it
//! was: between 2 and 4 neither home can be opened, and both say how to go on; at no time can both.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{LogError, LogImage, OpeningRow, Standing, TableMove};
use unanimous_core::xid::{Epoch, ManagerId};

use super::counts::{LogCounts, doubtful_epochs};
use super::error::OperatorError;
use super::file::ConfigFile;
use super::own::{refuse_other_owner, refuse_other_user};
use super::place::Place;
use super::shared::{failed, of_table};
use super::silence::Silent;
use super::source::{doubt_lost, folder_place};
use crate::bounded::bounded;
use crate::log::{FileLog, FolderMove, check_rows, fit_label, one_line};

/// How long one step may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How many rows go into one transaction.
const PART: usize = 500;

/// A home of a log, for a move.
#[derive(Clone)]
pub(super) enum End {
    Folder {
        folder: Arc<FolderMove>,
        place: String,
    },
    Table {
        table: Arc<dyn TableMove>,
        place: String,
        is_lossless: bool,
        suspect_after: Duration,
    },
}

/// A move that can be made. Nobody opens a folder that is part of it as long as this exists.
pub struct Move {
    from: End,
    to: End,
    manager: ManagerId,
    stage: Stage,
    /// To be closed before.
    silent: Silent,
    plan: Moved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Whole,
    Sealed,
    Done,
}

/// What a move does, or has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Moved {
    /// The old home.
    pub from: String,
    /// The new home.
    pub to: String,
    /// Whose log it is. It stays the same.
    pub manager: String,
    /// An earlier attempt had begun it.
    pub resumed: bool,
    /// An earlier attempt had ended it: there is nothing left to do.
    pub done_before: bool,
    /// Epochs of silent members, which are closed before.
    pub closed_epochs: Vec<u32>,
    /// What is carried over.
    #[serde(flatten)]
    pub counts: LogCounts,
    /// Epochs of which decisions may be missing: they were opened on another server than the
    /// table's of now. What is not decided there is left to a person, in the new home, too.
    pub doubtful_epochs: Vec<u32>,
}

impl std::fmt::Debug for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Move").field("plan", &self.plan).finish()
    }
}

impl Move {
    /// Looks at both homes. Changes nothing but that a folder is made and locked.
    ///
    /// # Errors
    /// There is no log, or one in the new home, too; somebody uses it; it went elsewhere; or a row
    /// of it cannot be taken over. The log is where it was.
    pub async fn plan(from: &ConfigFile, to: &ConfigFile) -> Result<Self, OperatorError> {
        let from = End::of_old(from)?;
        let to = End::of_new(to)?;
        if from.place() == to.place() {
            return Err(failed(&format!(
                "both config files name the same home, {}: write the new one into the second",
                from.place()
            )));
        }
        let (manager, stage) = stage(&from, &to).await?;
        let mut plan = Moved {
            from: from.place().to_owned(),
            to: to.place().to_owned(),
            manager: manager.to_string(),
            resumed: stage == Stage::Sealed,
            done_before: stage == Stage::Done,
            closed_epochs: Vec::new(),
            counts: LogCounts::default(),
            doubtful_epochs: Vec::new(),
        };
        let mut silent = Silent::default();
        if stage != Stage::Done {
            let image = from.cargo(manager).await?;
            to.fits(manager, &image).await?;
            plan.count(&image);
            if stage == Stage::Whole {
                silent = from.silent(&image).await?;
                plan.closed_epochs = silent.epochs().iter().map(|epoch| epoch.0).collect();
            }
        }
        Ok(Self {
            from,
            to,
            manager,
            stage,
            silent,
            plan,
        })
    }

    /// What will be done.
    pub const fn planned(&self) -> &Moved {
        &self.plan
    }

    /// Does it. If it fails, or dies, plan it again: it goes on.
    ///
    /// # Errors
    /// A member has lived, or joined, since it was planned: then nothing was done. A step failed:
    /// says which home, and the mend.
    pub async fn run(self) -> Result<Moved, OperatorError> {
        self.run_watched(async |_| {}).await
    }

    #[doc(hidden)]
    pub async fn run_watched(
        mut self,
        reached: impl AsyncFn(&'static str),
    ) -> Result<Moved, OperatorError> {
        if self.stage == Stage::Done {
            return Ok(self.plan);
        }
        let (from, to) = (self.from.place().to_owned(), self.to.place().to_owned());
        reached("planned").await;
        let silent = std::mem::take(&mut self.silent);
        for epoch in self.from.still_silent(self.manager, silent).await? {
            self.from.close(epoch).await?;
            reached("closed").await;
        }
        // Whoever lived until now may have recorded something since it was planned.
        let image = self.from.cargo(self.manager).await?;
        self.to.fits(self.manager, &image).await?;
        self.from.seal(self.manager, &to).await?;
        reached("sealed").await;
        self.to.begin_arrival(self.manager, &from).await?;
        reached("arriving").await;
        // Nothing is added any more.
        let image = self.from.cargo(self.manager).await?;
        self.plan.count(&image);
        for part in self.to.parts(image) {
            self.to.arrive(self.manager, &from, part).await?;
            reached("arrived").await;
        }
        self.check_seal().await?;
        self.to.end_arrival(&from).await?;
        reached("ended").await;
        Ok(self.plan)
    }

    /// A fail-over of the old home's server can lose the seal; then somebody may have gone on.
    async fn check_seal(&self) -> Result<(), OperatorError> {
        let (from, to) = (self.from.place(), self.to.place());
        let standing = self.from.standing().await?;
        if matches!(standing, Standing::Sealed(_, place) if place == one_line(to)) {
            return Ok(());
        }
        Err(failed(&format!(
            "{from}: the seal is gone, as after a fail-over, and the log may be in use there: it \
             stays there; remove what has arrived in {to}, and run this again"
        )))
    }
}

impl Moved {
    fn count(&mut self, image: &LogImage) {
        self.counts = LogCounts::of(image);
        self.doubtful_epochs = doubtful_epochs(image);
    }
}

/// Where a move stands.
async fn stage(from: &End, to: &End) -> Result<(ManagerId, Stage), OperatorError> {
    let (old, new) = (from.place(), to.place());
    let (here, there) = (from.standing().await?, to.standing().await?);
    let (manager, is_sealed) = match here {
        Standing::Empty => return Err(failed(&format!("{old}: there is no log to be moved"))),
        Standing::Here(manager) => (manager, false),
        Standing::Sealed(manager, place) if place == one_line(new) => (manager, true),
        Standing::Sealed(_, place) => {
            return Err(failed(&format!(
                "{old}: this log was moved to {place}, or is being moved there"
            )));
        }
        Standing::Arriving(_, place) => {
            return Err(failed(&format!(
                "{old}: a move from {place} to here has not ended: end that one first"
            )));
        }
    };
    match there {
        Standing::Empty if !is_sealed => Ok((manager, Stage::Whole)),
        Standing::Empty => Ok((manager, Stage::Sealed)),
        Standing::Arriving(has, place) if is_sealed && has == manager && place == one_line(old) => {
            Ok((manager, Stage::Sealed))
        }
        Standing::Here(has) if is_sealed && has == manager => {
            check_arrived(from, to, manager).await?;
            Ok((manager, Stage::Done))
        }
        Standing::Here(has) => Err(failed(&format!(
            "{new}: there is a log of manager {has} already: two logs cannot become one; move it \
             to an empty home"
        ))),
        Standing::Sealed(_, place) => Err(failed(&format!(
            "{new}: a log was here and was moved to {place}: what is left of it is of no use any \
             more; remove that folder, or drop those tables, and run this again"
        ))),
        Standing::Arriving(_, place) => Err(failed(&format!(
            "{new}: a log arrives there from {place}: end that move first"
        ))),
    }
}

/// Of the same manager, the log in the new home may still be another one, such as an older copy.
async fn check_arrived(from: &End, to: &End, manager: ManagerId) -> Result<(), OperatorError> {
    let (old, new) = (from.cargo(manager).await?, to.cargo(manager).await?);
    let is_there = |row: &OpeningRow| new.openings.iter().any(|has| has.opening == row.opening);
    let Some(missing) = old.openings.iter().find(|row| !is_there(row)) else {
        return Ok(());
    };
    let (epoch, from, to) = (missing.opening.epoch, from.place(), to.place());
    Err(failed(&format!(
        "{to}: the log of manager {manager} that is here is not the one that left {from}, for it \
         does not list epoch {epoch}: is it an older copy? Put the latest one back; if that is \
         lost, remove this one, whose branches of epoch {epoch} are nobody's, and run this again"
    )))
}

impl End {
    /// An empty home, or one that a log arrives in: there may be no folder yet.
    pub(super) fn of_new(file: &ConfigFile) -> Result<Self, OperatorError> {
        if let Some(folder) = file.log_folder() {
            refuse_other_owner(folder)?;
        }
        Self::of(file)
    }

    fn of(file: &ConfigFile) -> Result<Self, OperatorError> {
        match file.log() {
            Place::Folder(log) => Self::folder(log.clone()),
            Place::Table(place) => {
                let table = file.table_move()?;
                Ok(Self::Table {
                    place: one_line(&table.place()),
                    table,
                    is_lossless: place.is_lossless(),
                    suspect_after: place.suspect_after(),
                })
            }
        }
    }

    /// A folder has to be there, and to be this user's, whose files the application will find.
    pub(super) fn of_old(file: &ConfigFile) -> Result<Self, OperatorError> {
        if let Some(folder) = file.log_folder() {
            if !folder.is_dir() {
                let folder = folder.display();
                return Err(failed(&format!(
                    "log {folder}: there is no such folder: check the path in the config file"
                )));
            }
            refuse_other_user(folder)?;
        }
        Self::of(file)
    }

    fn folder(log: FileLog) -> Result<Self, OperatorError> {
        Ok(Self::Folder {
            place: folder_place(&log),
            folder: Arc::new(FolderMove::enter(log)?),
        })
    }

    pub(super) fn place(&self) -> &str {
        match self {
            Self::Folder { place, .. } | Self::Table { place, .. } => place,
        }
    }

    pub(super) async fn standing(&self) -> Result<Standing, OperatorError> {
        match self {
            Self::Folder { folder, .. } => on_disk(folder, FolderMove::standing).await,
            Self::Table { table, .. } => asked(table.standing()).await,
        }
    }

    pub(super) async fn close(&self, epoch: Epoch) -> Result<(), OperatorError> {
        match self {
            Self::Folder { .. } => Ok(()),
            Self::Table { table, .. } => asked(table.close(epoch)).await,
        }
    }

    pub(super) async fn seal(&self, manager: ManagerId, to: &str) -> Result<(), OperatorError> {
        match self {
            Self::Folder { folder, .. } => {
                let to = to.to_owned();
                on_disk(folder, move |folder| folder.seal(manager, &to)).await
            }
            Self::Table { table, .. } => asked(table.seal(to)).await,
        }
    }

    pub(super) async fn begin_arrival(
        &self,
        manager: ManagerId,
        from: &str,
    ) -> Result<(), OperatorError> {
        match self {
            Self::Folder { folder, .. } => {
                let from = from.to_owned();
                on_disk(folder, move |folder| folder.begin_arrival(manager, &from)).await
            }
            Self::Table { table, .. } => asked(table.begin_arrival(manager, from)).await,
        }
    }

    /// What is carried over. What its server may have lost is in doubt, there as here.
    pub(super) async fn cargo(&self, manager: ManagerId) -> Result<LogImage, OperatorError> {
        match self {
            Self::Folder { folder, .. } => {
                on_disk(folder, move |folder| folder.image(manager)).await
            }
            Self::Table {
                table, is_lossless, ..
            } => {
                let (mut image, server) = asked(table.image()).await?;
                doubt_lost(&mut image, &server, *is_lossless)?;
                Ok(image)
            }
        }
    }

    /// Whether all of it can arrive here.
    async fn fits(&self, manager: ManagerId, image: &LogImage) -> Result<(), OperatorError> {
        match self {
            Self::Folder { folder, .. } => {
                let image = image.clone();
                on_disk(folder, move |folder| folder.fits(manager, &image)).await
            }
            // A row that cannot be read there could not be mended there any more.
            Self::Table { .. } => Ok(check_rows(image)?),
        }
    }

    /// In what portions it arrives: openings first, for the rest names them.
    pub(super) fn parts(&self, mut image: LogImage) -> Vec<LogImage> {
        // What an older version, or a hand, has written may not fit everywhere.
        for row in &mut image.openings {
            row.label = fit_label(&row.label);
        }
        match self {
            Self::Folder { .. } => vec![image],
            Self::Table { .. } => {
                let openings = image.openings.chunks(PART).map(|openings| LogImage {
                    openings: openings.to_vec(),
                    ..LogImage::default()
                });
                let rows = image.rows.chunks(PART).map(|rows| LogImage {
                    rows: rows.to_vec(),
                    ..LogImage::default()
                });
                let heuristics = image.heuristics.chunks(PART).map(|heuristics| LogImage {
                    heuristics: heuristics.to_vec(),
                    ..LogImage::default()
                });
                let by_hand = image.by_hand.chunks(PART).map(|by_hand| LogImage {
                    by_hand: by_hand.to_vec(),
                    ..LogImage::default()
                });
                let ends = heuristics.chain(by_hand);
                openings.chain(rows).chain(ends).collect()
            }
        }
    }

    pub(super) async fn arrive(
        &self,
        manager: ManagerId,
        from: &str,
        part: LogImage,
    ) -> Result<(), OperatorError> {
        match self {
            Self::Folder { folder, .. } => {
                let from = from.to_owned();
                on_disk(folder, move |folder| folder.arrive(manager, &from, &part)).await
            }
            Self::Table { table, .. } => asked(table.arrive(from, &part)).await,
        }
    }

    pub(super) async fn end_arrival(&self, from: &str) -> Result<(), OperatorError> {
        match self {
            Self::Folder { folder, .. } => {
                let from = from.to_owned();
                on_disk(folder, move |folder| folder.end_arrival(&from)).await
            }
            Self::Table { table, .. } => asked(table.end_arrival(from)).await,
        }
    }
}

pub(super) async fn asked<T>(
    question: impl Future<Output = Result<T, unanimous_core::ports::TableError>>,
) -> Result<T, OperatorError> {
    match bounded(LIMIT, question).await {
        Ok(answer) => answer.map_err(of_table),
        Err(silence) => Err(failed(&format!("the decision log: {silence}"))),
    }
}

pub(super) async fn on_disk<T: Send + 'static>(
    folder: &Arc<FolderMove>,
    step: impl FnOnce(&FolderMove) -> Result<T, LogError> + Send + 'static,
) -> Result<T, OperatorError> {
    let folder = Arc::clone(folder);
    let doing = tokio::task::spawn_blocking(move || step(&folder));
    match bounded(LIMIT, doing).await {
        Ok(Ok(done)) => Ok(done?),
        Ok(Err(_)) => Err(failed("the log's folder: a step panicked, which is a bug")),
        Err(silence) => Err(failed(&format!("the log's folder: {silence}"))),
    }
}

#[cfg(test)]
#[path = "relocate_test.rs"]
mod tests;
