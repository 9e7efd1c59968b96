//! What of a log in a table can be carried to another home.

use std::collections::BTreeSet;

use unanimous_core::ports::{LogImage, OpeningRow, RowState, ServerIdentity};
use unanimous_core::xid::{Epoch, Gtrid};

use super::error::OperatorError;
use super::shared::failed;
use crate::log::fit_label;

/// What an older version, or a hand, has written as a label may not fit everywhere.
pub(super) fn fit_labels(image: &mut LogImage) {
    for row in &mut image.openings {
        row.label = fit_label(&row.label);
    }
}

/// Openings that were made on another server than the one that answers now may have lost decisions
/// since. Without them their branches are of no listed opening, and are left to a person.
pub(super) fn without_lost(
    mut image: LogImage,
    server: &ServerIdentity,
    place: &str,
) -> Result<(LogImage, BTreeSet<Epoch>), OperatorError> {
    let is_elsewhere = |row: &&OpeningRow| row.identity != *server && !row.is_doubtful();
    let elsewhere = image.openings.iter().filter(is_elsewhere);
    let lost: BTreeSet<Epoch> = elsewhere.map(|row| row.opening.epoch).collect();
    let is_lost = |gtrid: &Gtrid| lost.contains(&gtrid.opening.epoch);
    let mut pending = image.rows.iter();
    if let Some(kept) =
        pending.find(|kept| kept.state == RowState::Pending && is_lost(&kept.row.gtrid))
    {
        return Err(failed(&format!(
            "{place}: {} is decided and not completed, and its epoch was opened on another server: \
             run unanimous recover first, until nothing is in doubt",
            kept.row.gtrid
        )));
    }
    image.rows.retain(|kept| !is_lost(&kept.row.gtrid));
    image.heuristics.retain(|noted| !is_lost(&noted.gtrid));
    image
        .openings
        .retain(|row| !lost.contains(&row.opening.epoch));
    if image.openings.is_empty() {
        return Err(failed(&format!(
            "{place}: every opening was made on another server than the one that answers: if its \
             fail-over lost nothing, say so by lossless_failover = true"
        )));
    }
    Ok((image, lost))
}
