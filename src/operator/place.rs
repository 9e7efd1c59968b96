//! Where the decision log lives, as the config file says it: in a folder, in one of the resources,
//! or in a database of its own.
//!
//! Invariant I8: no error of this module holds a value of the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{DecisionTable, TableMove};
use unanimous_core::xid::ResourceName;

use super::adapters::{self, Kind};
use super::entry::Entry;
use super::text::{Limit, LogText, Number, ResourceText};
use crate::log::{FileLog, LABEL_CHARS_MAX, TableLog};
use crate::manager::AnyResource;

/// The log's one home.
#[derive(Clone)]
pub(super) enum Place {
    Folder(FileLog),
    Table(TablePlace),
}

/// A log in a table.
#[derive(Clone)]
pub(super) struct TablePlace {
    at: TableAt,
    options: TableOptions,
}

#[derive(Clone)]
enum TableAt {
    Resource(ResourceName),
    Own(Kind, Box<Entry>),
}

/// What the builder of [`TableLog`] takes; `None` is its default.
#[derive(Clone)]
struct TableOptions {
    create: Option<bool>,
    last_resource: Option<bool>,
    lossless_failover: Option<bool>,
    suspect_after: Option<Limit<100>>,
    label: Option<String>,
}

/// The home, ready to be opened.
#[derive(Debug, Clone)]
pub(super) enum Home {
    Folder(FileLog),
    Table(TableLog),
}

/// The default of [`TableLog::suspect_after`].
const SUSPECT_AFTER: Duration = Duration::from_secs(10);

impl Place {
    /// # Errors
    /// No home, more than one, or a key of another kind of home: which, and what to do.
    pub(super) fn new(
        text: LogText,
        base: &Path,
        resources: &BTreeMap<ResourceName, Entry>,
    ) -> Result<Self, String> {
        let homes = [
            ("folder", text.folder.is_some()),
            ("resource", text.resource.is_some()),
            ("[log.postgres]", text.postgres.is_some()),
            ("[log.mysql]", text.mysql.is_some()),
        ];
        let given: Vec<_> = homes.iter().filter(|home| home.1).map(|h| h.0).collect();
        match given[..] {
            [] => {
                return Err(
                    "the log has no home: add folder, or resource with the name of a resource, or \
                     a database of its own as [log.postgres] or [log.mysql] with a url"
                        .into(),
                );
            }
            [_] => {}
            _ => {
                let given = given.join(" and ");
                return Err(format!("the log has more than one home, {given}: keep one"));
            }
        }
        text.refuse_keys_of_another_home()?;
        if let Some(folder) = text.folder {
            let log = file_log(base.join(folder), text.segment_bytes, text.retain_completed);
            return Ok(Self::Folder(log));
        }
        let options = TableOptions {
            create: text.create,
            last_resource: text.last_resource,
            lossless_failover: text.lossless_failover,
            suspect_after: text.suspect_after,
            label: text.label.map(label).transpose()?,
        };
        let at = match (text.resource, text.postgres, text.mysql) {
            (Some(name), _, _) => TableAt::Resource(named(&name, resources)?),
            (None, Some(own), _) => own_entry(Kind::Postgres, own, base)?,
            (None, None, Some(own)) => own_entry(Kind::Mysql, own, base)?,
            (None, None, None) => return Err("the log has no home".into()),
        };
        Ok(Self::Table(TablePlace { at, options }))
    }

    /// The home; for a table, with the resources that could be built.
    ///
    /// # Errors
    /// Its database cannot be used: says which, and the mend. `None`: the resource that it is in
    /// cannot be built, which is told there.
    pub(super) fn build(
        &self,
        resources: &BTreeMap<ResourceName, Arc<dyn AnyResource>>,
    ) -> Result<Home, Option<String>> {
        match self {
            Self::Folder(log) => Ok(Home::Folder(log.clone())),
            Self::Table(place) => place.build(resources).map(Home::Table),
        }
    }

    /// What messages call it. No address.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Folder(log) => log.folder().display().to_string(),
            Self::Table(place) => match &place.at {
                TableAt::Resource(name) => format!("a table in resource {name}"),
                TableAt::Own(kind, _) => format!("a table in {}", section(*kind)),
            },
        }
    }
}

impl TablePlace {
    fn build(
        &self,
        resources: &BTreeMap<ResourceName, Arc<dyn AnyResource>>,
    ) -> Result<TableLog, Option<String>> {
        let table = match &self.at {
            TableAt::Resource(name) => {
                let resource = resources.get(name).ok_or(None)?;
                let (_, table) = adapters::table(&**resource)
                    .ok_or_else(|| Some(format!("resource {name} cannot hold the decision log")))?;
                table
            }
            TableAt::Own(_, _) => {
                let own = self.own_database().map_err(Some)?.ok_or(None)?;
                let (_, table) = adapters::table(&*own).ok_or(None)?;
                table
            }
        };
        Ok(self.options.apply(table))
    }

    /// The resource by which the log's own database is reached, if it has one of its own.
    pub(super) fn own_database(&self) -> Result<Option<Arc<dyn AnyResource>>, String> {
        let TableAt::Own(kind, entry) = &self.at else {
            return Ok(None);
        };
        let section = section(*kind);
        let name: ResourceName = OWN_NAME
            .parse()
            .map_err(|_| format!("{section}: its name is not valid, which is a bug"))?;
        let of_section = |problem: String| {
            let problem = problem.replace(&format!("resource {OWN_NAME}: "), "");
            format!("{section}: {problem}")
        };
        let resource = entry.build(&name).map_err(of_section)?;
        match adapters::table(&*resource) {
            Some((found, _)) if found == *kind => Ok(Some(resource)),
            Some((Kind::Postgres, _)) => Err(of_section(
                "its address is of PostgreSQL: write [log.postgres]".into(),
            )),
            Some((Kind::Mysql, _)) => Err(of_section(
                "its address is of MySQL or MariaDB: write [log.mysql]".into(),
            )),
            None => Err(of_section("it cannot hold the decision log".into())),
        }
    }

    /// The table, for a move.
    pub(super) fn table_move(
        &self,
        resources: &BTreeMap<ResourceName, Arc<dyn AnyResource>>,
    ) -> Result<Arc<dyn TableMove>, Option<String>> {
        let own = self.own_database().map_err(Some)?;
        let resource = match (&self.at, &own) {
            (TableAt::Resource(name), _) => resources.get(name).ok_or(None)?,
            (TableAt::Own(_, _), own) => own.as_ref().ok_or(None)?,
        };
        adapters::table_move(&**resource).ok_or(None)
    }

    /// The resource that it lives in.
    pub(super) fn resource(&self) -> Option<&ResourceName> {
        match &self.at {
            TableAt::Resource(name) => Some(name),
            TableAt::Own(_, _) => None,
        }
    }

    /// Missing tables are made at the first start.
    pub(super) fn is_made_at_start(&self) -> bool {
        self.options.create.unwrap_or(true)
    }

    pub(super) fn is_lossless(&self) -> bool {
        self.options.lossless_failover.unwrap_or(false)
    }

    /// After which silence members close each other.
    pub(super) fn suspect_after(&self) -> Duration {
        self.options.suspect_after.map_or(SUSPECT_AFTER, Limit::get)
    }
}

/// The name of the resource by which a log's own database is reached. Nobody enlists it.
const OWN_NAME: &str = "decision-log";

const fn section(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "[log.postgres]",
        Kind::Mysql => "[log.mysql]",
    }
}

impl TableOptions {
    fn apply(&self, table: Arc<dyn DecisionTable>) -> TableLog {
        let mut log = TableLog::over(table);
        if let Some(create) = self.create {
            log = log.create(create);
        }
        if let Some(last_resource) = self.last_resource {
            log = log.last_resource(last_resource);
        }
        if let Some(lossless) = self.lossless_failover {
            log = log.lossless_failover(lossless);
        }
        if let Some(after) = self.suspect_after {
            log = log.suspect_after(after.get());
        }
        match &self.label {
            Some(label) => log.label(label.clone()),
            None => log,
        }
    }
}

impl LogText {
    fn refuse_keys_of_another_home(&self) -> Result<(), String> {
        let of_folder = [
            ("segment_bytes", self.segment_bytes.is_some()),
            ("retain_completed", self.retain_completed.is_some()),
        ];
        let of_table = [
            ("create", self.create.is_some()),
            ("last_resource", self.last_resource.is_some()),
            ("lossless_failover", self.lossless_failover.is_some()),
            ("suspect_after", self.suspect_after.is_some()),
            ("label", self.label.is_some()),
        ];
        let (wrong, home) = if self.folder.is_some() {
            (&of_table[..], "in a table, and this one is in a folder")
        } else {
            (&of_folder[..], "in a folder, and this one is in a table")
        };
        match wrong.iter().find(|key| key.1) {
            Some((key, _)) => Err(format!("{key} is for a log {home}: remove it")),
            None => Ok(()),
        }
    }
}

fn file_log(
    folder: PathBuf,
    segment_bytes: Option<Number<65_536, 1_073_741_824>>,
    retain_completed: Option<Number<0, 10_000_000>>,
) -> FileLog {
    let mut log = FileLog::at(folder);
    if let Some(bytes) = segment_bytes {
        log = log.segment_bytes(bytes.get().into());
    }
    if let Some(count) = retain_completed {
        log = log.retain_completed(Number::into(count));
    }
    log
}

/// The value is not shown: it may be a password in the wrong place.
fn named(name: &str, resources: &BTreeMap<ResourceName, Entry>) -> Result<ResourceName, String> {
    let found = resources.keys().find(|has| has.as_str() == name);
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = resources.keys().map(ResourceName::as_str).collect();
        format!(
            "resource: there is no [resources.…] of this name: write one of {}",
            names.join(", ")
        )
    })
}

fn own_entry(kind: Kind, text: ResourceText, base: &Path) -> Result<TableAt, String> {
    let entry =
        Entry::new(text, base).map_err(|problem| format!("{}: {problem}", section(kind)))?;
    Ok(TableAt::Own(kind, Box::new(entry)))
}

fn label(label: String) -> Result<String, String> {
    let is_fit = (1..=LABEL_CHARS_MAX).contains(&label.chars().count())
        && !label.chars().any(char::is_control);
    if is_fit {
        Ok(label)
    } else {
        Err(format!(
            "label: write 1 to {LABEL_CHARS_MAX} characters, without line breaks"
        ))
    }
}
