//! The crash matrix: every named point × every fault × every mix of databases × the pass on which
//! the fault strikes, on real servers.
//!
//! `cargo xtask crash` runs it: a sample, or `--full` all of it. What a cell is, and which cells
//! can mean nothing, is in `cell`; what the application does around the point in `story`; what
//! strikes there in `strike`; what must be true afterwards in `judge`. Where the decisions are in a
//! table, the cells are in `home`, and those with two members in `members`.

mod app;
mod asks;
mod cell;
mod home;
mod judge;
mod meddler;
mod members;
mod report;
mod rows;
mod run;
mod story;
mod strike;
mod tricks;
mod victim;
mod workplace;

use std::collections::BTreeSet;

use self::cell::{Cell, catalogue};

#[test]
fn the_catalogue_has_at_least_40_points_and_no_name_twice() {
    let names = catalogue();
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    assert!(names.len() >= 40, "{}", names.len());
}

#[test]
fn every_point_has_a_cell_and_every_cell_one_name() {
    let (cells, dropped) = Cell::all();
    let reached: BTreeSet<_> = cells.iter().map(|cell| cell.point).collect();
    let all: BTreeSet<_> = catalogue().into_iter().collect();
    assert_eq!(reached, all);
    let names: BTreeSet<_> = cells.iter().map(Cell::name).collect();
    assert_eq!(names.len(), cells.len());
    for cell in &cells {
        assert_eq!(Cell::parse(&cell.name()).as_ref(), Some(cell));
    }
    assert!(dropped.iter().all(|(_, why)| !why.is_empty()));
}
