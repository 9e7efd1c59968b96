//! `docker/compose.yaml` is what its README and the preflights say: read by a parser of YAML, and
//! held against what each server needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use saphyr::{LoadableYamlNode, Yaml};

/// What a server has to be started with, so that no preflight objects to it.
const POSTGRES_NEEDS: &[&str] = &[
    "max_prepared_transactions=100",
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
];
const MYSQL_NEEDS: &[&str] = &[
    "--innodb-flush-log-at-trx-commit=1",
    "--sync-binlog=1",
    "--binlog-format=ROW",
];
const GRANT: &str = "./mysql/grant.sql:/docker-entrypoint-initdb.d/grant.sql:ro";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker")
}

fn compose() -> Yaml<'static> {
    let text = fs::read_to_string(folder().join("compose.yaml")).expect("docker/compose.yaml");
    let text: &'static str = Box::leak(text.into_boxed_str());
    let mut documents = Yaml::load_from_str(text).expect("compose.yaml is YAML");
    assert_eq!(documents.len(), 1, "one document");
    documents.remove(0)
}

fn get<'y>(node: &'y Yaml<'static>, key: &str) -> &'y Yaml<'static> {
    node.as_mapping_get(key)
        .unwrap_or_else(|| panic!("no `{key}` in {node:?}"))
}

fn text<'y>(node: &'y Yaml<'static>) -> &'y str {
    node.as_str()
        .unwrap_or_else(|| panic!("not text: {node:?}"))
}

fn list<'y>(node: &'y Yaml<'static>) -> Vec<&'y str> {
    let list = node.as_vec().unwrap_or_else(|| panic!("no list: {node:?}"));
    list.iter().map(text).collect()
}

struct Service<'y> {
    name: &'y str,
    image: &'y str,
    version: &'y str,
    node: &'y Yaml<'static>,
}

fn services<'y>(compose: &'y Yaml<'static>) -> Vec<Service<'y>> {
    let services = get(compose, "services").as_mapping().expect("services");
    let services = services.iter().map(|(name, node)| {
        let image = text(get(node, "image")).split_once(':');
        let (image, version) = image.expect("an image with its version");
        Service {
            name: text(name),
            image,
            version,
            node,
        }
    });
    services.collect()
}

#[test]
fn every_version_is_there_and_the_older_ones_only_with_the_profile() {
    let compose = compose();
    let (mut always, mut matrix) = (BTreeSet::new(), BTreeSet::new());
    for service in services(&compose) {
        let name = format!("{} {}", service.image, service.version);
        match service.node.as_mapping_get("profiles") {
            None => always.insert(name),
            Some(profiles) => {
                assert_eq!(list(profiles), ["matrix"], "{}", service.name);
                matrix.insert(name)
            }
        };
    }
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    assert_eq!(always, set(&["mariadb 11.8", "mysql 9", "postgres 18"]));
    let older = [
        "postgres 15",
        "postgres 16",
        "postgres 17",
        "mysql 8.0",
        "mysql 8.4",
        "mariadb 10.6",
        "mariadb 10.11",
        "mariadb 11.4",
    ];
    assert_eq!(matrix, set(&older));
}

#[test]
fn every_service_has_a_health_check_and_listens_on_this_machine_only() {
    let compose = compose();
    let mut ports = BTreeSet::new();
    for service in services(&compose) {
        let check = list(get(get(service.node, "healthcheck"), "test"));
        assert_eq!(check[0], "CMD-SHELL", "{}", service.name);
        // The images start a server without TCP first, to set it up.
        let is_by_tcp = check[1].contains("--host=127.0.0.1");
        assert!(is_by_tcp, "{}: {}", service.name, check[1]);
        for port in list(get(service.node, "ports")) {
            let parts: Vec<_> = port.split(':').collect();
            let [address, outside, inside] = parts[..] else {
                panic!("{}: {port} names no address", service.name);
            };
            assert_eq!(address, "127.0.0.1", "{}", service.name);
            let expected = match service.image {
                "postgres" => "5432",
                _ => "3306",
            };
            assert_eq!(inside, expected, "{}", service.name);
            assert!(ports.insert(outside.to_owned()), "{port} is taken twice");
        }
    }
}

#[test]
fn every_server_is_started_as_its_preflight_asks_for() {
    let compose = compose();
    for service in services(&compose) {
        let needs = match service.image {
            "postgres" => POSTGRES_NEEDS,
            "mysql" | "mariadb" => MYSQL_NEEDS,
            other => panic!("{}: what does {other} need?", service.name),
        };
        let command = list(get(service.node, "command"));
        for need in needs {
            let at = command.iter().position(|argument| argument == need);
            let at = at.unwrap_or_else(|| panic!("{}: no {need}", service.name));
            let follows_flag = need.starts_with("--") || command[at - 1] == "-c";
            assert!(follows_flag, "{}: {need} is not a setting", service.name);
        }
        let is_granted = list(get(service.node, "volumes")).contains(&GRANT);
        assert_eq!(is_granted, service.image == "mysql", "{}", service.name);
    }
    let grant = fs::read_to_string(folder().join("mysql/grant.sql")).expect("the grant");
    assert!(grant.contains("GRANT XA_RECOVER_ADMIN ON *.* TO 'app'@'%';"));
}

/// Versions 18 and newer keep their data in a folder of their own below the volume.
#[test]
fn every_server_keeps_its_data_in_a_volume_of_its_own() {
    let compose = compose();
    let declared = get(&compose, "volumes").as_mapping().expect("volumes");
    let mut names: BTreeSet<_> = declared.keys().map(text).collect();
    for service in services(&compose) {
        let data = match (service.image, service.version) {
            ("postgres", "18") => "/var/lib/postgresql",
            ("postgres", _) => "/var/lib/postgresql/data",
            _ => "/var/lib/mysql",
        };
        let volumes = list(get(service.node, "volumes"));
        let expected = format!("{}:{data}", service.name);
        assert!(volumes.contains(&expected.as_str()), "{volumes:?}");
        assert!(
            names.remove(service.name),
            "{} is not declared",
            service.name
        );
    }
    assert_eq!(names, BTreeSet::new(), "volumes without a server");
}

#[test]
fn the_readme_tells_every_address() {
    let readme = fs::read_to_string(folder().join("README.md")).expect("docker/README.md");
    let compose = compose();
    for service in services(&compose) {
        for port in list(get(service.node, "ports")) {
            let outside = port.split(':').nth(1).expect("a port");
            let scheme = if service.image == "postgres" {
                "postgres"
            } else {
                "mysql"
            };
            let address = format!("{scheme}://app:app@127.0.0.1:{outside}/app");
            assert!(readme.contains(&address), "the README lacks {address}");
        }
    }
}
