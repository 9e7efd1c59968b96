//! The port by which a decision log is moved into a decision table, or out of it.
//!
//! A table whose log is *sealed* takes no member any more, and says where the log went; one in
//! which a log *arrives* takes none yet. Sealing and joining exclude each other: no epoch is open
//! in a sealed log, and none will be. So what [`TableMove::image`] reads of it is all there ever
//! was.
//!
//! Every method that changes something is one transaction, forced. Repeated, it answers the same,
//! but for [`end_arrival`](TableMove::end_arrival): the log is here then, and arrives no more.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use async_trait::async_trait;

use super::{
    DecisionRow, DecisionTable, HandRow, NotedEnd, OpeningRow, RowState, ServerIdentity,
    TableError, UnixTime,
};
use crate::xid::ManagerId;

/// A resource in whose database a decision log can be moved.
pub trait TableMoves {
    /// The table, which uses this resource's address, credentials and limits.
    fn table_move(&self) -> Arc<dyn TableMove>;
}

/// How a table stands to a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// There is none: no tables, or tables that no member has ever joined.
    Empty,
    /// The log is here.
    Here(ManagerId),
    /// It was sealed, to be moved to that place.
    Sealed(ManagerId, String),
    /// It arrives from that place, and is not used yet.
    Arriving(ManagerId, String),
}

/// The beginning of a place that a log arrives from if that is a file: which one follows.
pub const AN_EXPORT_OF: &str = "an export of ";

/// Why a log is not used that was sealed for this place.
pub fn went_to(place: &str) -> String {
    format!(
        "this log was moved to {place}: name that as the log's home; if the move has not ended, \
         run unanimous log move again"
    )
}

/// Why a log is not used that arrives from this place.
pub fn arrives_from(place: &str) -> String {
    if place.starts_with(AN_EXPORT_OF) {
        return format!(
            "the import of {place} has not ended: run unanimous log import again, with the same \
             file"
        );
    }
    format!("a move from {place} to here has not ended: run unanimous log move again")
}

/// A decision that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRow {
    /// The row.
    pub row: DecisionRow,
    /// What it says.
    pub state: RowState,
    /// When it was made, if that is known.
    pub decided_at: Option<UnixTime>,
}

/// All that a log holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogImage {
    /// Every opening.
    pub openings: Vec<OpeningRow>,
    /// Every decision that is kept.
    pub rows: Vec<KeptRow>,
    /// Branches that ended against the decision.
    pub heuristics: Vec<NotedEnd>,
    /// What people did, oldest first.
    pub by_hand: Vec<HandRow>,
}

/// What a move asks of a table.
#[async_trait]
pub trait TableMove: DecisionTable {
    /// How it stands. Makes nothing.
    ///
    /// # Errors
    /// See [`DecisionTable`].
    async fn standing(&self) -> Result<Standing, TableError>;

    /// Seals the log that is here, or was sealed for the same place.
    ///
    /// # Errors
    /// `Unfit` if an epoch is open, or the log is not here.
    async fn seal(&self, to: &str) -> Result<(), TableError>;

    /// All that the log holds, and the server that was asked.
    ///
    /// # Errors
    /// See [`DecisionTable`].
    async fn image(&self) -> Result<(LogImage, ServerIdentity), TableError>;

    /// Makes the tables if they are not there, and lets a log of this manager arrive in them.
    ///
    /// # Errors
    /// `Unfit` if they hold a log, or another arrives in them.
    async fn begin_arrival(&self, manager: ManagerId, from: &str) -> Result<(), TableError>;

    /// Puts this there, as far as it is not there: openings as closed ones, made on this server
    /// unless they are [doubtful](OpeningRow::is_doubtful).
    ///
    /// # Errors
    /// `Unfit` if no log arrives from that place.
    async fn arrive(&self, from: &str, part: &LogImage) -> Result<(), TableError>;

    /// From now on the log is here.
    ///
    /// # Errors
    /// `Unfit` if no log arrives from that place.
    async fn end_arrival(&self, from: &str) -> Result<(), TableError>;
}
