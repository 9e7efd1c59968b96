//! Makes the tables of a decision log, or says what would.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{LogError, TableErrorKind};
use unanimous_core::xid::ManagerId;

use super::error::OperatorError;
use super::file::ConfigFile;
use super::place::Home;
use super::shared::{failed, of_table};
use crate::bounded::bounded;
use crate::log::TableLog;

/// How long one question to the database may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The tables of a decision log, which are there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Initialised {
    /// Where they are.
    pub place: String,
    /// Whose log it is.
    pub manager: String,
    /// They were made just now; else they were there.
    pub made: bool,
}

impl Initialised {
    /// Makes what is missing. Changes nothing that is there.
    ///
    /// # Errors
    /// The log is in a folder; the database cannot be reached, or refuses.
    pub async fn run(file: &ConfigFile) -> Result<Self, OperatorError> {
        let table = table_log(file)?.table();
        let ask = async {
            let made = match table.check().await {
                Err(error) if error.kind() == TableErrorKind::Missing => {
                    table.init(random()?).await.map_err(of_table)?;
                    true
                }
                Ok(_) | Err(_) => false,
            };
            let state = table.check().await.map_err(of_table)?;
            Ok(Self {
                place: table.place(),
                manager: state.manager.to_string(),
                made,
            })
        };
        bounded(LIMIT, ask)
            .await
            .unwrap_or_else(|silence| Err(failed(&format!("{}: {silence}", table.place()))))
    }

    /// What makes the tables, as a person runs it, with an id for a new manager in it. Connects to
    /// nothing.
    ///
    /// # Errors
    /// The log is in a folder, or its database cannot be named.
    pub fn ddl(file: &ConfigFile) -> Result<String, OperatorError> {
        Ok(table_log(file)?.table().ddl(random()?))
    }
}

fn table_log(file: &ConfigFile) -> Result<TableLog, OperatorError> {
    match file.home()? {
        Home::Table(log) => Ok(log),
        Home::Folder(log) => Err(failed(&format!(
            "log {}: a log in a folder needs no preparation: the application makes it at its first \
             start",
            log.folder().display()
        ))),
    }
}

fn random() -> Result<ManagerId, OperatorError> {
    let mut bytes = [0; 10];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(ManagerId::from_bytes(bytes)),
        Err(error) => Err(OperatorError::Log(
            LogError::new("the operating system gives no random bits").with_source(error),
        )),
    }
}
