//! The TOML file that names log and resources.
//!
//! Invariant I8: no error and no `Debug` text of this module holds a value of the file, for it may
//! be a password in the wrong place. The parser's own text shows the line; so it is not used.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unanimous_core::ports::{LogHome, Resource, TableMove};
use unanimous_core::xid::ResourceName;

use super::entry::Entry;
use super::error::ConfigFileError;
use super::limits::Limits;
use super::place::{Home, Place};
use super::text::{line, parse};
use crate::TransactionManagerBuilder;
use crate::manager::AnyResource;

/// A config file that was read and is right in itself. No password has been asked for yet.
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    log: Place,
    limits: Limits,
    resources: BTreeMap<ResourceName, Entry>,
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigFile")
            .field("path", &self.path)
            .field("log", &self.log.describe())
            .field("limits", &self.limits)
            .field("resources", &self.resources.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl ConfigFile {
    /// Reads the file. Relative paths in it are taken from its own folder.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, or has an unknown key or a wrong value: says where.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, ConfigFileError> {
        let path = path.into();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let path = path.display();
            ConfigFileError::new(format!("config file {path}: cannot be read: {error}"))
        })?;
        Self::parse(path, &text)
    }

    pub(super) fn parse(path: PathBuf, text: &str) -> Result<Self, ConfigFileError> {
        let at = |place: &str, problem: &str| {
            ConfigFileError::new(format!("config file {}{place}: {problem}", path.display()))
        };
        let parsed = parse(text).map_err(|(place, problem)| at(&place, &problem))?;
        if parsed.resources.is_empty() {
            let mend = "it names no resource: add [resources.NAME] with a url";
            return Err(at("", mend));
        }
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut resources = BTreeMap::new();
        for (name, entry) in parsed.resources {
            let place = line(text, name.span().start);
            let name = name.into_inner();
            let parsed: ResourceName = name
                .parse()
                .map_err(|error| at(&place, &format!("[resources.{name}]: {error}")))?;
            let entry = Entry::new(entry, &base)
                .map_err(|problem| at(&place, &format!("resource {name}: {problem}")))?;
            resources.insert(parsed, entry);
        }
        let log_line = line(text, parsed.log.span().start);
        let log = Place::new(parsed.log.into_inner(), &base, &resources)
            .map_err(|problem| at(&log_line, &format!("[log]: {problem}")))?;
        Ok(Self {
            log,
            limits: Limits::new(parsed.limits),
            path,
            resources,
        })
    }

    pub(super) const fn log(&self) -> &Place {
        &self.log
    }

    /// The folder of the decision log, if that is in a folder.
    pub fn log_folder(&self) -> Option<&Path> {
        match &self.log {
            Place::Folder(log) => Some(log.folder()),
            Place::Table(_) => None,
        }
    }

    /// Where the decision log is, for people: a folder, or the name of what holds its table.
    pub fn log_place(&self) -> String {
        self.log.describe()
    }

    /// The names of the resources, in their order.
    pub fn resource_names(&self) -> impl Iterator<Item = &ResourceName> {
        self.resources.keys()
    }

    /// Makes log and resources. Connects to nothing; passwords are asked for whenever a connection
    /// is made, so that they may change while an application runs.
    ///
    /// # Errors
    /// Addresses cannot be had from the environment, or cannot be used: names each resource and
    /// the mend.
    pub fn parts(&self) -> Result<Parts, ConfigFileError> {
        let mut resources = BTreeMap::new();
        let mut problems = Vec::new();
        for (name, built) in self.build_each() {
            match built {
                Ok(resource) => drop(resources.insert(name, resource)),
                Err(problem) => problems.push(problem),
            }
        }
        let log = match self.log.build(&resources) {
            Ok(log) if problems.is_empty() => log,
            Ok(_) | Err(None) => return Err(self.unusable(&problems)),
            Err(Some(problem)) => {
                problems.push(problem);
                return Err(self.unusable(&problems));
            }
        };
        Ok(Parts {
            log,
            limits: self.limits.clone(),
            resources,
        })
    }

    /// The log alone. Connects to nothing.
    ///
    /// # Errors
    /// Its database cannot be used: says why.
    pub(super) fn home(&self) -> Result<Home, ConfigFileError> {
        let home = self.log.build(&self.home_resource()?);
        home.map_err(|problem| self.unusable(problem.as_slice()))
    }

    /// The log's table, for a move.
    ///
    /// # Errors
    /// It is not in a table, or its database cannot be used: says why.
    pub(super) fn table_move(&self) -> Result<Arc<dyn TableMove>, ConfigFileError> {
        let resources = self.home_resource()?;
        let moves = match &self.log {
            Place::Folder(_) => Err(None),
            Place::Table(table) => table.table_move(&resources),
        };
        moves.map_err(|problem| self.unusable(problem.as_slice()))
    }

    /// The resource that the log lives in, if it lives in one.
    pub(super) fn home_resource(
        &self,
    ) -> Result<BTreeMap<ResourceName, Arc<dyn AnyResource>>, ConfigFileError> {
        let mut resources = BTreeMap::new();
        if let Place::Table(table) = &self.log
            && let Some(name) = table.resource()
            && let Some(entry) = self.resources.get(name)
        {
            let built = entry.build(name);
            let resource = built.map_err(|problem| self.unusable(&[problem]))?;
            resources.insert(name.clone(), resource);
        }
        Ok(resources)
    }

    fn unusable(&self, problems: &[String]) -> ConfigFileError {
        let (path, problems) = (self.path.display(), problems.join("; "));
        ConfigFileError::new(format!("config file {path}: {problems}"))
    }

    /// Every resource, or why there is none.
    pub(super) fn build_each(&self) -> BTreeMap<ResourceName, Built> {
        let entries = self.resources.iter();
        entries
            .map(|(name, entry)| (name.clone(), entry.build(name)))
            .collect()
    }
}

type Built = Result<Arc<dyn AnyResource>, String>;

/// Log and resources of a config file, ready for a manager.
#[derive(Clone)]
pub struct Parts {
    pub(super) log: Home,
    limits: Limits,
    resources: BTreeMap<ResourceName, Arc<dyn AnyResource>>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("log", &self.log)
            .field("limits", &self.limits)
            .field("resources", &self.resources.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl Parts {
    /// A resource by its name, to be enlisted.
    ///
    /// # Errors
    /// The file has none of this name, or one of another kind.
    pub fn resource<R: Resource>(&self, name: &str) -> Result<R, ConfigFileError> {
        let found = self.resources.iter().find(|(has, _)| has.as_str() == name);
        let Some((_, resource)) = found else {
            let names: Vec<_> = self.resources.keys().map(ResourceName::as_str).collect();
            return Err(ConfigFileError::new(format!(
                "the config file names no resource {name}: it has {}",
                names.join(", ")
            )));
        };
        let resource: &dyn Any = &**resource;
        resource.downcast_ref::<R>().cloned().ok_or_else(|| {
            ConfigFileError::new(format!(
                "resource {name} is not a {}: correct its address in the config file",
                std::any::type_name::<R>()
            ))
        })
    }

    /// A manager's builder with this log, these limits and these resources.
    pub fn builder(&self) -> TransactionManagerBuilder {
        let builder = crate::TransactionManager::builder();
        let builder = match self.log.clone() {
            Home::Folder(log) => builder.log(log),
            Home::Table(log) => builder.log(log),
        };
        self.configured(builder)
    }

    /// The same with the log opened in another way.
    pub(super) fn builder_with(&self, log: impl LogHome) -> TransactionManagerBuilder {
        self.configured(crate::TransactionManager::builder().log(log))
    }

    fn configured(&self, builder: TransactionManagerBuilder) -> TransactionManagerBuilder {
        let limits = self.limits.clone();
        let builder = builder.config(|config| limits.apply(config));
        let resources = self.resources.values().cloned();
        resources.fold(builder, TransactionManagerBuilder::any_resource)
    }
}
