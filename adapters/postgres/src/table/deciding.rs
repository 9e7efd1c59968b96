//! Decisions, in one round trip of four statements where none of their rows is there already.
//!
//! Such a row is not answered by the insert. The rows that were not are decided once more, in a
//! transaction of their own that also reads them: the first one has put nothing there of them, so
//! to ask again is to ask first. What the first has put there is committed, and stands, whatever
//! the second answers: an error of that may say *not sent* or *refused* only if the first has put
//! nothing at all.

use std::borrow::Cow;

use unanimous_core::ports::{
    Decided, DecisionRow, EpochSlot, RowAnswer, RowState, ServerIdentity, TableError,
    TableErrorKind,
};

use super::Table;
use super::rows::Rows;
use super::sql::{self, Durability, transaction};

const ASKED: &str = "cannot record decisions";

impl Table {
    /// See [`DecisionTable::decide`](unanimous_core::ports::DecisionTable::decide).
    pub(super) async fn decide_rows(
        &self,
        at: EpochSlot,
        home: Option<&ServerIdentity>,
        rows: &[DecisionRow],
    ) -> Result<Decided, TableError> {
        if rows.is_empty() {
            return self.decide_and_read(at, home, rows).await;
        }
        let statements = sql::put(at, rows);
        let (identity, answer) = self.ask_home(home, rows, statements).await?;
        if !is_home(home, &identity) {
            return self.standing_elsewhere(identity, &answer, rows);
        }
        let is_put = answer.put(rows);
        let is_put = is_put.map_err(|words| self.error(TableErrorKind::Lost, ASKED, words))?;
        let left = rows.iter().zip(&is_put).filter(|(_, is_put)| !**is_put);
        let left: Vec<_> = left.map(|(row, _)| row.clone()).collect();
        if left.len() == rows.len() {
            return self.decide_and_read(at, home, rows).await;
        }
        let put = Decided {
            identity,
            answers: vec![RowAnswer::Stands(RowState::Pending); rows.len()],
            is_released: false,
        };
        if left.is_empty() {
            return Ok(put);
        }
        let rest = self.decide_and_read(at, home, &left).await;
        let rest = rest.map_err(|error| {
            TableError::new(TableErrorKind::Lost, error.to_string()).with_source(error)
        })?;
        if rest.identity != put.identity {
            let words = "the server became another one while it was asked";
            return Err(self.error(TableErrorKind::Lost, ASKED, words));
        }
        let mut others = rest.answers.into_iter();
        let answer = |(is_put, stands)| if is_put { Some(stands) } else { others.next() };
        let answers = is_put.into_iter().zip(put.answers);
        Ok(Decided {
            identity: put.identity,
            answers: answers.filter_map(answer).collect(),
            is_released: rest.is_released,
        })
    }

    /// The same, and what stands of the rows that are there already. Says why a slot is not open.
    async fn decide_and_read(
        &self,
        at: EpochSlot,
        home: Option<&ServerIdentity>,
        rows: &[DecisionRow],
    ) -> Result<Decided, TableError> {
        let (identity, answer) = self.ask_home(home, rows, sql::decide(at, rows)).await?;
        if !is_home(home, &identity) {
            return self.standing_elsewhere(identity, &answer, rows);
        }
        // What cannot be understood is there all the same, unless no slot was.
        let kind = if answer.has_slot() {
            TableErrorKind::Lost
        } else {
            TableErrorKind::Unfit
        };
        let decided = answer.decided(identity, rows);
        decided.map_err(|words| self.error(kind, ASKED, words))
    }

    /// Asks `statements` of the server that may decide, and of another one what stands.
    ///
    /// Not sent a second time from here: what a first attempt has put there may be deleted by then,
    /// and that no row is there tells only a first attempt anything.
    async fn ask_home(
        &self,
        home: Option<&ServerIdentity>,
        rows: &[DecisionRow],
        statements: Vec<String>,
    ) -> Result<(ServerIdentity, Rows), TableError> {
        let statements = transaction(Durability::Forced, statements);
        let elsewhere = || transaction(Durability::Forced, sql::decided(rows));
        // A session is on one server: see `session`.
        self.run_with(ASKED, false, |identity| {
            if is_home(home, identity) {
                Cow::Borrowed(statements.as_slice())
            } else {
                elsewhere().into()
            }
        })
        .await
    }

    fn standing_elsewhere(
        &self,
        identity: ServerIdentity,
        answer: &Rows,
        rows: &[DecisionRow],
    ) -> Result<Decided, TableError> {
        let standing = answer.forced();
        let standing = standing.and_then(|()| answer.standing(identity, rows));
        standing.map_err(|words| self.error(TableErrorKind::Lost, ASKED, words))
    }
}

fn is_home(home: Option<&ServerIdentity>, identity: &ServerIdentity) -> bool {
    home.is_none_or(|home| home == identity)
}
