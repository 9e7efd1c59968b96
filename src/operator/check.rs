//! Checks, before anything happens: the log's folder and every server.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::client::Client;
use super::file::{ConfigFile, Parts};
use crate::bounded::bounded;
use crate::log::{FileLog, LogContents};
use crate::preflight;

/// How long one server's check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// What the checks found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Checked {
    /// The decision log.
    pub log: CheckedLog,
    /// By resource, in the order of their names.
    pub resources: Vec<CheckedResource>,
}

/// What the log's folder looks like. It was only read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckedLog {
    /// Where it is.
    pub folder: String,
    /// What is wrong with it, and what to do.
    pub problem: Option<String>,
    /// There is a log; else the application will make it at its first start.
    pub exists: bool,
    /// An application holds it and answers on its control socket.
    pub has_application: bool,
    /// How often it has been opened, as far as it remembers.
    pub openings: usize,
    /// Decisions that are not completed.
    pub pending: usize,
    /// Branches that ended against the decision. A person has to look.
    pub heuristics: usize,
}

/// What a server's check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckedResource {
    /// Which.
    pub resource: String,
    /// Who the server is.
    pub server: Option<String>,
    /// What is wrong, and the setting or statement that mends it.
    pub problem: Option<String>,
}

impl Checked {
    /// Everything is fit.
    pub fn is_fit(&self) -> bool {
        let mut resources = self.resources.iter();
        self.log.problem.is_none() && resources.all(|checked| checked.problem.is_none())
    }
}

impl Checked {
    /// Looks at the log's folder and asks every server, in parallel. `parts` are those of `file`.
    pub async fn run(file: &ConfigFile, parts: &Parts) -> Self {
        let mut checks = JoinSet::new();
        for (name, resource) in parts.resources.clone() {
            checks.spawn(async move {
                let checked = bounded(CHECK_LIMIT, resource.preflight()).await;
                let (server, problem) = match checked {
                    Ok(Ok(preflight)) => {
                        let problem = preflight::objection(&name, &preflight);
                        (
                            Some(preflight.server),
                            problem.map(|error| error.to_string()),
                        )
                    }
                    Ok(Err(error)) => (None, Some(error.to_string())),
                    Err(silence) => (None, Some(format!("resource {name}: {silence}"))),
                };
                let resource = name.to_string();
                CheckedResource {
                    resource,
                    server,
                    problem,
                }
            });
        }
        let log = CheckedLog::look(file.log_folder()).await;
        let mut resources = checks.join_all().await;
        resources.sort_by(|a, b| a.resource.cmp(&b.resource));
        Self { log, resources }
    }
}

impl CheckedLog {
    async fn look(folder: &Path) -> Self {
        let mut checked = Self {
            folder: folder.display().to_string(),
            problem: None,
            exists: false,
            has_application: false,
            openings: 0,
            pending: 0,
            heuristics: 0,
        };
        if is_to_be_made(folder) {
            let parent = folder.parent().filter(|path| !path.as_os_str().is_empty());
            if !parent.unwrap_or(Path::new(".")).is_dir() {
                let folder = &checked.folder;
                checked.problem = Some(format!(
                    "log {folder}: the folder that it should be made in does not exist: make that, \
                     or correct the path"
                ));
            }
            return checked;
        }
        match Client::find(folder).await {
            Ok(client) => checked.has_application = client.is_some(),
            Err(error) => checked.problem = Some(error.to_string()),
        }
        match FileLog::at(folder).inspect() {
            Ok(contents) => checked.count(&contents),
            Err(error) => checked.problem = Some(error.to_string()),
        }
        checked
    }

    fn count(&mut self, contents: &LogContents) {
        self.exists = true;
        self.openings = contents.openings.len();
        self.pending = contents.pending.len();
        self.heuristics = contents.heuristics.len();
    }
}

/// Nothing is there, or an empty folder.
fn is_to_be_made(folder: &Path) -> bool {
    match folder.read_dir() {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
