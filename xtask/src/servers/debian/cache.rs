//! The folder that downloaded programs are kept in, and the locks on its parts.

use std::{
    env,
    fs::{self, DirBuilder, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::servers::{
    Error,
    user::{is_reachable, is_root},
};

/// The cache folder.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
}

impl Cache {
    /// Opens the cache folder and makes it if it is not there.
    pub(super) fn open() -> Result<Self, Error> {
        let path = choose(
            is_root(),
            |name| env::var_os(name).map(PathBuf::from),
            is_reachable,
        )?;
        make_open_folder(&path)?;
        Ok(Self { path })
    }

    /// The path of a folder in the cache, whether it is there or not.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes an empty folder.
    pub(super) fn fresh_folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.folder(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        make_open_folder(&path)?;
        Ok(path)
    }

    /// Waits until nobody else works on the part with this name. The lock ends with the process.
    pub(super) fn lock(&self, name: &str) -> Result<File, Error> {
        let path = self.path.join(format!("{name}.lock"));
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }
}

/// Makes a folder with its parents; the folder itself is open to the servers' user, whatever the
/// umask is.
pub(super) fn make_open_folder(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .create(path)
        .map_err(Error::io("create", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(Error::io("open up", path))
}

/// Chooses the folder. Root's servers run as another user, who must be able to read them.
fn choose(
    is_root: bool,
    variable: impl Fn(&str) -> Option<PathBuf>,
    is_reachable: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Error> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let fits = |path: &Path| !is_root || is_reachable(path);
    if let Some(path) = variable("UNANIMOUS_CACHE").filter(|path| !path.as_os_str().is_empty()) {
        let name = path.display();
        if !path.is_absolute() {
            return Err(Error::Environment(format!(
                "UNANIMOUS_CACHE is `{name}`: set it to an absolute path"
            )));
        }
        if !fits(&path) {
            return Err(Error::Environment(format!(
                "UNANIMOUS_CACHE is `{name}`, which only root can reach; root's servers run as \
                 another user: set it to a folder that everybody can get to"
            )));
        }
        return Ok(path);
    }
    let of_user = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|path| path.join("unanimous"))
        .filter(|path| fits(path));
    match of_user {
        Some(path) => Ok(path),
        None if is_root => Ok(PathBuf::from("/var/cache/unanimous")),
        None => Err(Error::Environment(
            "there is no home for downloaded servers: set UNANIMOUS_CACHE to a folder".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> Option<PathBuf> {
        (name == "HOME").then(|| PathBuf::from("/home/ann"))
    }

    #[test]
    fn the_users_cache_is_the_usual_place() {
        let path = choose(false, home, |_| false).unwrap();
        assert_eq!(path, Path::new("/home/ann/.cache/unanimous"));
    }

    #[test]
    fn root_with_a_closed_home_uses_the_systems_cache() {
        assert_eq!(
            choose(true, home, |_| false).unwrap(),
            Path::new("/var/cache/unanimous")
        );
        let path = choose(true, home, |_| true).unwrap();
        assert_eq!(path, Path::new("/home/ann/.cache/unanimous"));
    }

    #[test]
    fn a_folder_that_was_asked_for_is_used_or_refused_but_never_replaced() {
        let asked = |name: &str| (name == "UNANIMOUS_CACHE").then(|| PathBuf::from("/c"));
        assert_eq!(choose(true, asked, |_| true).unwrap(), Path::new("/c"));
        let refusal = choose(true, asked, |_| false).unwrap_err().to_string();
        assert!(
            refusal.contains("UNANIMOUS_CACHE") && refusal.contains("/c"),
            "{refusal}"
        );
        let relative = |name: &str| (name == "UNANIMOUS_CACHE").then(|| PathBuf::from("c"));
        assert!(choose(false, relative, |_| true).is_err());
    }
}
