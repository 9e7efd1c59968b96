//! What the tables say of some transactions.

use std::collections::{BTreeSet, HashMap};

use unanimous_core::ports::{Found, TableError};
use unanimous_core::xid::{Epoch, Gtrid};

use super::sql::{Tables, keys};
use super::{MysqlTable, rows};

/// One for each of these, in their order.
pub(super) async fn find_all(
    table: &MysqlTable,
    gtrids: &[Gtrid],
    forced_by: Option<Epoch>,
) -> Result<Vec<Found>, TableError> {
    if gtrids.is_empty() {
        return Ok(Vec::new());
    }
    let doing = "look decisions up";
    let tables = table.names(doing).await?;
    let statements = statements(tables, gtrids);
    let answer = table.snapshot(doing, tables, statements, forced_by).await?;
    let openings = table.openings(doing, &answer, 0)?;
    let listed = table.parsed(doing, "unanimous_decision", answer.rows(1), rows::found)?;
    let listed: HashMap<_, _> = listed.into_iter().collect();
    let noted = table.parsed(doing, "unanimous_heuristic", answer.rows(2), rows::noted)?;
    let mut ends: HashMap<Gtrid, Vec<_>> = HashMap::new();
    for end in noted {
        let of_one = ends.entry(end.gtrid).or_default();
        of_one.push((end.resource, end.end));
    }
    let found = |gtrid: &Gtrid| Found {
        identity: answer.identity.clone(),
        // The manager, or the opening of this number, may be another one.
        opening: { openings.iter() }
            .find(|row| row.opening == gtrid.opening)
            .cloned(),
        row: listed.get(gtrid).cloned(),
        heuristics: ends.get(gtrid).cloned().unwrap_or_default(),
    };
    Ok(gtrids.iter().map(found).collect())
}

fn statements(tables: &Tables, gtrids: &[Gtrid]) -> Vec<String> {
    let epochs: BTreeSet<Epoch> = gtrids.iter().map(|gtrid| gtrid.opening.epoch).collect();
    let epochs: Vec<_> = epochs.iter().map(ToString::to_string).collect();
    let keys = keys(gtrids.iter().copied());
    vec![
        format!(
            "{} WHERE o.epoch IN ({})",
            tables.columns_of_opening(),
            epochs.join(", ")
        ),
        format!(
            "SELECT gtrid, state, branches FROM {} WHERE gtrid IN ({keys})",
            tables.decision
        ),
        format!(
            "SELECT resource, ended, gtrid, NULL FROM {} WHERE gtrid IN ({keys}) ORDER BY resource",
            tables.heuristic
        ),
    ]
}
