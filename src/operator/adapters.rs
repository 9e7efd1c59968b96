//! From an address to a resource, by its scheme. The one place of the runtime that names databases:
//! whoever writes an address into a file names one.

use std::sync::Arc;

use unanimous_core::xid::ResourceName;

use crate::manager::AnyResource;

/// The resource at this address. Does not connect.
///
/// # Errors
/// The address cannot be used: why, without its password, and what to write.
pub(super) fn resource(
    name: &ResourceName,
    url: &str,
    pool_size: Option<usize>,
) -> Result<Arc<dyn AnyResource>, String> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme {
        "postgres" | "postgresql" => postgres(name, url, pool_size),
        "mysql" => mysql(name, url, pool_size),
        _ => Err(format!(
            "resource {name}: the address cannot be read: write \
             postgres://user@host:5432/database or, for MySQL and MariaDB, \
             mysql://user@host:3306/database"
        )),
    }
}

#[cfg(feature = "postgres")]
fn postgres(
    name: &ResourceName,
    url: &str,
    pool_size: Option<usize>,
) -> Result<Arc<dyn AnyResource>, String> {
    let mut builder = crate::postgres::Postgres::builder(name.as_str(), url);
    if let Some(size) = pool_size {
        builder = builder.pool_size(size);
    }
    match builder.build() {
        Ok(resource) => Ok(Arc::new(resource)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(feature = "mysql")]
fn mysql(
    name: &ResourceName,
    url: &str,
    pool_size: Option<usize>,
) -> Result<Arc<dyn AnyResource>, String> {
    let mut builder = crate::mysql::Mysql::builder(name.as_str(), url);
    if let Some(size) = pool_size {
        builder = builder.pool_size(size);
    }
    match builder.build() {
        Ok(resource) => Ok(Arc::new(resource)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(not(feature = "postgres"))]
fn postgres(
    name: &ResourceName,
    _url: &str,
    _pool_size: Option<usize>,
) -> Result<Arc<dyn AnyResource>, String> {
    Err(not_built_in(name, "postgres"))
}

#[cfg(not(feature = "mysql"))]
fn mysql(
    name: &ResourceName,
    _url: &str,
    _pool_size: Option<usize>,
) -> Result<Arc<dyn AnyResource>, String> {
    Err(not_built_in(name, "mysql"))
}

#[cfg(not(all(feature = "postgres", feature = "mysql")))]
fn not_built_in(name: &ResourceName, feature: &str) -> String {
    format!("resource {name}: this program was built without the feature `{feature}` of unanimous")
}
