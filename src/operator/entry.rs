//! One resource of the config file: where it is, who logs in there, and how it behaves.
//!
//! Invariant I8: no error of this module holds a value of the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use unanimous_core::xid::ResourceName;

use super::adapters;
use super::secret::{Source, env, holds_password, names_user};
use super::text::{IsolationText, Limit, ResourceText};
use crate::manager::AnyResource;

/// A resource as the file describes it; nothing was asked for yet.
#[derive(Clone)]
pub(super) struct Entry {
    login: Login,
    /// What recovery logs in with, if not as the application does.
    recovery: Option<Login>,
    tuning: Tuning,
}

#[derive(Clone)]
struct Login {
    address: Address,
    password: Option<Source>,
}

#[derive(Clone)]
enum Address {
    Url(String),
    Env(String),
}

/// What a resource's builder takes beside addresses and passwords; `None` is the adapter's default.
#[allow(dead_code, reason = "without any database built in, nobody takes it")]
#[derive(Clone)]
pub(super) struct Tuning {
    pub(super) pool_size: Option<usize>,
    pub(super) pool_timeout: Option<Duration>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) isolation: Option<IsolationText>,
    pub(super) session_setup: Option<String>,
    pub(super) recovery_sessions: Option<usize>,
    pub(super) vanished_after: Option<Duration>,
    pub(super) application_name: Option<String>,
}

/// An address, and where its password comes from if not from the address.
#[allow(dead_code, reason = "without any database built in, nobody takes it")]
pub(super) struct Credentials {
    pub(super) url: String,
    pub(super) password: Option<Source>,
}

/// The keys of one login as they are written, to be named in errors.
struct Keys {
    url: &'static str,
    url_env: &'static str,
    passwords: &'static str,
    password_env: &'static str,
}

const LOGIN: Keys = Keys {
    url: "url",
    url_env: "url_env",
    passwords: "password_env, password_file and password_command",
    password_env: "password_env",
};

const RECOVERY: Keys = Keys {
    url: "recovery_url",
    url_env: "recovery_url_env",
    passwords: "recovery_password_env, recovery_password_file and recovery_password_command",
    password_env: "recovery_password_env",
};

struct LoginText {
    url: Option<String>,
    url_env: Option<String>,
    password_env: Option<String>,
    password_file: Option<PathBuf>,
    password_command: Option<Vec<String>>,
}

impl Entry {
    /// # Errors
    /// Something is missing, or given twice: which, and what to do.
    pub(super) fn new(text: ResourceText, base: &Path) -> Result<Self, String> {
        let login = LoginText {
            url: text.url,
            url_env: text.url_env,
            password_env: text.password_env,
            password_file: text.password_file,
            password_command: text.password_command,
        };
        let recovery = LoginText {
            url: text.recovery_url,
            url_env: text.recovery_url_env,
            password_env: text.recovery_password_env,
            password_file: text.recovery_password_file,
            password_command: text.recovery_password_command,
        };
        let Some(login) = login.read(&LOGIN, base)? else {
            let mend = "add url, or url_env with the name of an environment variable";
            return Err(format!("it has no address: {mend}"));
        };
        Ok(Self {
            login,
            recovery: recovery.read(&RECOVERY, base)?,
            tuning: Tuning {
                pool_size: text.pool_size.map(Into::into),
                pool_timeout: text.pool_timeout.map(Limit::get),
                connect_timeout: text.connect_timeout.map(Limit::get),
                isolation: text.isolation,
                session_setup: text.session_setup,
                recovery_sessions: text.recovery_sessions.map(Into::into),
                vanished_after: text.vanished_after.map(Limit::get),
                application_name: text.application_name,
            },
        })
    }

    /// The resource. Connects to nothing, and asks for no password but one that is part of an
    /// address from the environment.
    ///
    /// # Errors
    /// An address cannot be had or used: names the resource and the mend.
    pub(super) fn build(&self, name: &ResourceName) -> Result<Arc<dyn AnyResource>, String> {
        let of_resource = |problem: String| format!("resource {name}: {problem}");
        let login = self.login.credentials(&LOGIN).map_err(of_resource)?;
        let recovery = match &self.recovery {
            Some(login) => Some(login.credentials(&RECOVERY).map_err(of_resource)?),
            None => None,
        };
        adapters::resource(name, login, recovery, self.tuning.clone())
    }
}

impl LoginText {
    /// `None` if nothing is given.
    fn read(self, keys: &Keys, base: &Path) -> Result<Option<Login>, String> {
        let Keys { url, url_env, .. } = keys;
        let sources = [
            self.password_env.map(Source::Env),
            self.password_file.map(|path| Source::File(base.join(path))),
            self.password_command.map(Source::Command),
        ];
        let mut sources = sources.into_iter().flatten();
        let password = sources.next();
        if sources.next().is_some() {
            let passwords = keys.passwords;
            return Err(format!("more than one of {passwords} is given: keep one"));
        }
        let address = match (self.url, self.url_env) {
            (Some(given), None) if holds_password(&given) => {
                let keys = keys.passwords.replace(" and ", " or ");
                return Err(format!(
                    "the {url} holds a password: take it out, and name {keys}; or take the whole \
                     address from the environment with {url_env}"
                ));
            }
            (Some(given), None) => {
                if password.is_some() && !names_user(&given) {
                    return Err(no_user(url));
                }
                Address::Url(given)
            }
            (None, Some(name)) => Address::Env(name),
            (Some(_), Some(_)) => {
                return Err(format!("{url} and {url_env} are both given: keep one"));
            }
            (None, None) if password.is_some() => {
                let password = keys.password_env;
                return Err(format!(
                    "it has a password (such as {password}) and no address for it: add {url} or \
                     {url_env}"
                ));
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Login { address, password }))
    }
}

impl Login {
    fn credentials(&self, keys: &Keys) -> Result<Credentials, String> {
        let url = match &self.address {
            Address::Url(url) => url.clone(),
            Address::Env(variable) => env(variable)?,
        };
        if self.password.is_some() && holds_password(&url) {
            let (url_env, passwords) = (keys.url_env, keys.passwords);
            return Err(format!(
                "the address from {url_env} holds a password, and one of {passwords} is given, \
                 too: keep one"
            ));
        }
        if self.password.is_some() && !names_user(&url) {
            return Err(no_user(keys.url_env));
        }
        let password = self.password.clone();
        Ok(Credentials { url, password })
    }
}

fn no_user(url: &str) -> String {
    format!("the {url} names no user for the password: write user@host")
}
