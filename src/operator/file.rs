//! The TOML file that names log and resources.
//!
//! Invariant I8: no error and no `Debug` text of this module holds a value of the file, for it may
//! be a password in the wrong place. The parser's own text shows the line; so it is not used.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use unanimous_core::ports::Resource;
use unanimous_core::xid::ResourceName;

use super::adapters;
use super::error::ConfigFileError;
use super::secret::{Source, env, holds_password, with_password};
use crate::TransactionManagerBuilder;
use crate::log::FileLog;
use crate::manager::AnyResource;

/// A config file that was read and is right in itself. No password has been asked for yet.
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    log_folder: PathBuf,
    resources: BTreeMap<ResourceName, Entry>,
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigFile")
            .field("path", &self.path)
            .field("log_folder", &self.log_folder)
            .field("resources", &self.resources.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[derive(Clone)]
struct Entry {
    address: Address,
    password: Option<Source>,
    pool_size: Option<usize>,
}

#[derive(Clone)]
enum Address {
    Url(String),
    Env(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    log: LogText,
    #[serde(default)]
    resources: BTreeMap<String, ResourceText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogText {
    folder: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceText {
    url: Option<String>,
    url_env: Option<String>,
    password_env: Option<String>,
    password_file: Option<PathBuf>,
    password_command: Option<Vec<String>>,
    pool_size: Option<usize>,
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

    fn parse(path: PathBuf, text: &str) -> Result<Self, ConfigFileError> {
        let at = |place: &str, problem: &str| {
            ConfigFileError::new(format!("config file {}{place}: {problem}", path.display()))
        };
        let parsed: FileText = toml::from_str(text).map_err(|error| {
            let place = error
                .span()
                .map_or_else(String::new, |span| line_of(text, span.start));
            at(&place, &without_values(error.message()))
        })?;
        if parsed.resources.is_empty() {
            let mend = "it names no resource: add [resources.NAME] with a url";
            return Err(at("", mend));
        }
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut resources = BTreeMap::new();
        for (name, entry) in parsed.resources {
            let parsed: ResourceName = name
                .parse()
                .map_err(|error| at("", &format!("[resources.{name}]: {error}")))?;
            let entry = Entry::new(entry, &base)
                .map_err(|problem| at("", &format!("resource {name}: {problem}")))?;
            resources.insert(parsed, entry);
        }
        Ok(Self {
            log_folder: base.join(parsed.log.folder),
            path,
            resources,
        })
    }

    /// The folder of the decision log.
    pub fn log_folder(&self) -> &Path {
        &self.log_folder
    }

    /// The names of the resources, in their order.
    pub fn resource_names(&self) -> impl Iterator<Item = &ResourceName> {
        self.resources.keys()
    }

    /// Asks for the passwords and makes log and resources. Connects to nothing. Blocks while
    /// password commands run, 30 s each at most.
    ///
    /// # Errors
    /// A password cannot be had, or an address cannot be used: names the resource and the mend.
    pub fn parts(&self) -> Result<Parts, ConfigFileError> {
        let mut resources = BTreeMap::new();
        for (name, entry) in &self.resources {
            let resource = entry.build(name).map_err(|problem| {
                ConfigFileError::new(format!("config file {}: {problem}", self.path.display()))
            })?;
            resources.insert(name.clone(), resource);
        }
        Ok(Parts {
            log: FileLog::at(&self.log_folder),
            resources,
        })
    }
}

impl Entry {
    fn new(text: ResourceText, base: &Path) -> Result<Self, String> {
        let address = match (text.url, text.url_env) {
            (Some(url), None) if holds_password(&url) => {
                return Err(
                    "the url holds a password: take it out, and name password_env, \
                            password_file or password_command; or take the whole address from the \
                            environment with url_env"
                        .into(),
                );
            }
            (Some(url), None) => Address::Url(url),
            (None, Some(name)) => Address::Env(name),
            (Some(_), Some(_)) => return Err("url and url_env are both given: keep one".into()),
            (None, None) => {
                return Err(
                    "it has no address: add url, or url_env with the name of an \
                            environment variable"
                        .into(),
                );
            }
        };
        let sources = [
            text.password_env.map(Source::Env),
            text.password_file.map(|path| Source::File(base.join(path))),
            text.password_command.map(Source::Command),
        ];
        let mut sources = sources.into_iter().flatten();
        let password = sources.next();
        if sources.next().is_some() {
            return Err(
                "more than one of password_env, password_file and password_command is \
                        given: keep one"
                    .into(),
            );
        }
        Ok(Self {
            address,
            password,
            pool_size: text.pool_size,
        })
    }

    fn build(&self, name: &ResourceName) -> Result<Arc<dyn AnyResource>, String> {
        let of_resource = |problem: String| format!("resource {name}: {problem}");
        let mut url = match &self.address {
            Address::Url(url) => url.clone(),
            Address::Env(variable) => env(variable).map_err(of_resource)?,
        };
        if let Some(source) = &self.password {
            if holds_password(&url) {
                let problem = "the address from the environment holds a password, and another \
                               one is named: keep one";
                return Err(of_resource(problem.into()));
            }
            let password = source.read().map_err(of_resource)?;
            url = with_password(&url, &password).ok_or_else(|| {
                let problem = "the address names no user for the password: write user@host";
                of_resource(problem.into())
            })?;
        }
        adapters::resource(name, &url, self.pool_size)
    }
}

fn line_of(text: &str, offset: usize) -> String {
    let before = text.as_bytes().iter().take(offset);
    format!(
        ", line {}",
        before.filter(|byte| **byte == b'\n').count() + 1
    )
}

/// The parser's message without the values that it quotes.
fn without_values(message: &str) -> String {
    match (message.find('"'), message.rfind('"')) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}…{}", &message[..begin], &message[end + 1..])
        }
        _ => message.to_owned(),
    }
    .replace('\n', " ")
}

/// Log and resources of a config file, ready for a manager.
#[derive(Clone)]
pub struct Parts {
    pub(super) log: FileLog,
    pub(super) resources: BTreeMap<ResourceName, Arc<dyn AnyResource>>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("log", &self.log)
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

    /// A manager's builder with this log and these resources.
    pub fn builder(&self) -> TransactionManagerBuilder {
        let builder = crate::TransactionManager::builder().log(self.log.clone());
        let resources = self.resources.values().cloned();
        resources.fold(builder, TransactionManagerBuilder::any_resource)
    }
}
