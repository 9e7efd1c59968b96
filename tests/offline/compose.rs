//! `docker/` is what its README, the preflights and `cargo xtask servers` say: the compose file
//! read by a parser of YAML and the Dockerfile by one of its own, and held against what each needs.

mod order_service;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use parse_dockerfile::{Command, Instruction, Source, Stage, parse as parse_dockerfile};
use saphyr::{LoadableYamlNode, Yaml};
use xtask::servers::{
    ADMIN_PASSWORD, APP_DATABASE, APP_PASSWORD, APP_USER, Address, Kind, port_variable,
};

/// What a server has to be started with, so that no preflight objects to it.
const POSTGRES_NEEDS: &[&str] = &[
    "max_prepared_transactions=200",
    "max_connections=200",
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
];
const MYSQL_NEEDS: &[&str] = &[
    "--max-connections=200",
    "--innodb-flush-log-at-trx-commit=1",
    "--sync-binlog=1",
    "--binlog-format=ROW",
];
/// What runs once, when the data folder is new.
const POSTGRES_APP: &str = "./postgres/app.sql:/docker-entrypoint-initdb.d/app.sql:ro";
const MYSQL_GRANT: &str = "./mysql/grant.sql:/docker-entrypoint-initdb.d/grant.sql:ro";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker")
}

fn compose() -> Yaml<'static> {
    read_compose("compose.yaml")
}

fn read_compose(path: &str) -> Yaml<'static> {
    let text = fs::read_to_string(folder().join(path)).expect("the compose file");
    let text: &'static str = Box::leak(text.into_boxed_str());
    let mut documents = Yaml::load_from_str(text).expect("it is YAML");
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
        "postgres 14",
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

/// The address, the variable and its default, and the port inside.
fn port<'y>(service: &Service<'y>) -> (&'y str, &'y str, &'y str, &'y str) {
    let ports = list(get(service.node, "ports"));
    let [port] = ports[..] else {
        panic!("{}: {ports:?} is not one port", service.name);
    };
    let parts: Vec<_> = port.split(':').collect();
    let [address, outside, inside] = parts[..] else {
        panic!("{}: {port} names no address", service.name);
    };
    let outside = outside
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'));
    let chosen = outside.and_then(|outside| outside.split_once('-'));
    let (variable, default) = chosen.unwrap_or_else(|| panic!("{port} cannot be chosen"));
    (address, variable, default, inside)
}

fn is_postgres(service: &Service<'_>) -> bool {
    service.image == "postgres"
}

#[test]
fn every_service_listens_on_this_machine_only_on_a_port_that_can_be_chosen() {
    let compose = compose();
    let mut ports = BTreeSet::new();
    for service in services(&compose) {
        let (address, variable, default, inside) = port(&service);
        assert_eq!(address, "127.0.0.1", "{}", service.name);
        assert_eq!(variable, port_variable(service.name));
        let expected = if is_postgres(&service) {
            "5432"
        } else {
            "3306"
        };
        assert_eq!(inside, expected, "{}", service.name);
        assert!(ports.insert(default), "{default} is taken twice");
    }
}

#[test]
fn every_service_is_healthy_when_the_application_can_do_what_recovery_does() {
    let compose = compose();
    for service in services(&compose) {
        let check = list(get(get(service.node, "healthcheck"), "test"));
        assert_eq!(check[0], "CMD-SHELL", "{}", service.name);
        let (client, query) = match service.image {
            "postgres" => ("psql", "pg_prepared_xacts"),
            "mysql" => ("mysql", "XA RECOVER"),
            _ => ("mariadb", "XA RECOVER"),
        };
        // The images start a server without TCP first, to set it up.
        let by_tcp = format!(" {client} --host=127.0.0.1 ");
        let password = format!("={APP_PASSWORD} ");
        for part in [&by_tcp, &password, query] {
            assert!(check[1].contains(part), "{}: no {part}", service.name);
        }
        let (a, b) = if is_postgres(&service) {
            ("username", "dbname")
        } else {
            ("user", "database")
        };
        let account = format!("--{a}={APP_USER} --{b}={APP_DATABASE} ");
        assert!(
            check[1].contains(&account),
            "{}: no {account}",
            service.name
        );
    }
}

/// The accounts, passwords and database are those that tests get elsewhere, too.
#[test]
fn every_service_has_the_accounts_that_xtask_expects() {
    let compose = compose();
    let services = services(&compose);
    for service in &services {
        let environment = get(service.node, "environment")
            .as_mapping()
            .expect("a table");
        let given: BTreeSet<_> = environment
            .iter()
            .map(|(name, value)| (text(name).to_owned(), text(value)))
            .collect();
        let wanted: &[(&str, &str)] = if is_postgres(service) {
            &[("PASSWORD", ADMIN_PASSWORD), ("DB", APP_DATABASE)]
        } else {
            &[
                ("ROOT_PASSWORD", ADMIN_PASSWORD),
                ("USER", APP_USER),
                ("PASSWORD", APP_PASSWORD),
                ("DATABASE", APP_DATABASE),
            ]
        };
        let prefix = service.image.to_uppercase();
        let wanted = wanted
            .iter()
            .map(|(name, value)| (format!("{prefix}_{name}"), *value));
        assert_eq!(given, wanted.collect(), "{}", service.name);
    }
    for kind in Kind::ALL {
        let service = services
            .iter()
            .find(|service| service.name == kind.service());
        let service = service.unwrap_or_else(|| panic!("no service for {kind}"));
        let inside = port(service).3;
        assert_eq!(inside, kind.port_inside().to_string(), "{kind}");
        assert_eq!(is_postgres(service), kind.is_postgres(), "{kind}");
    }
    let app = fs::read_to_string(folder().join("postgres/app.sql")).expect("the account");
    let role = format!("CREATE ROLE {APP_USER} LOGIN PASSWORD '{APP_PASSWORD}';");
    let owner = format!("ALTER DATABASE {APP_DATABASE} OWNER TO {APP_USER};");
    assert!(app.contains(&role) && app.contains(&owner), "{app}");
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
        let has_no_binary_log = command.contains(&"--skip-log-bin");
        assert_eq!(
            has_no_binary_log,
            service.image == "mysql",
            "{}",
            service.name
        );
        let volumes = list(get(service.node, "volumes"));
        for (script, image) in [(POSTGRES_APP, "postgres"), (MYSQL_GRANT, "mysql")] {
            let is_run = volumes.contains(&script);
            assert_eq!(is_run, service.image == image, "{}", service.name);
        }
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
        let default = port(&service).2.parse().expect("a number");
        let kind = if is_postgres(&service) {
            Kind::Postgres15
        } else {
            Kind::Mysql
        };
        let address = format!("`{}`", Address::on(kind, default).url);
        assert!(readme.contains(&address), "the README lacks {address}");
    }
}

/// Nothing here can build an image; what a build would stumble over first is looked at.
#[test]
fn the_dockerfile_builds_the_tool_from_what_is_there_and_runs_it_as_nobody() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect(name);
    let file = read("docker/Dockerfile");
    let file = parse_dockerfile(&file).expect("docker/Dockerfile is a Dockerfile");
    let stages: Vec<_> = file.stages().collect();
    let [build, last] = &stages[..] else {
        panic!("{} stages", stages.len());
    };
    // Two of one Debian: the C library of the one serves what was linked with the other's.
    let manifest = read("Cargo.toml");
    let rust = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""));
    let rust = rust.expect("the oldest Rust").trim_end_matches('"');
    assert_eq!(build.from.image.value, format!("rust:{rust}-slim-bookworm"));
    assert_eq!(last.from.image.value, "debian:bookworm-slim");

    let tool = read("cli/Cargo.toml");
    for line in ["name = \"unanimous-cli\"", "[[bin]]\nname = \"unanimous\""] {
        assert!(tool.contains(line), "the tool is not called so: {line}");
    }
    let runs = |instruction: &Instruction<'_>| {
        let Instruction::Run(run) = instruction else {
            return String::new();
        };
        format!("{:?}", run.arguments)
    };
    let cargo = "cargo build --locked --release --package unanimous-cli";
    assert!(
        build
            .instructions
            .iter()
            .any(|one| runs(one).contains(cargo))
    );

    let (copied, _) = copies(build);
    assert_eq!(copied, [(None, ".".to_owned())]);
    let (copied, to) = copies(last);
    let name = build
        .from
        .as_
        .as_ref()
        .map(|(_, name)| name.value.to_string());
    assert_eq!(
        copied,
        [(name, "/build/target/release/unanimous".to_owned())]
    );
    assert_eq!(to, ["/usr/local/bin/unanimous"]);

    let mut ends = last.instructions.iter().filter_map(|instruction| {
        if let Instruction::User(user) = instruction {
            return Some(format!("USER {}", user.arguments.value));
        }
        let Instruction::Entrypoint(start) = instruction else {
            return None;
        };
        let Command::Exec(words) = &start.arguments else {
            panic!("a shell would stand between the tool and its signals");
        };
        Some(format!("ENTRYPOINT {}", words.value[0].value))
    });
    assert_eq!(ends.next().as_deref(), Some("USER 65534:65534"));
    assert_eq!(ends.next().as_deref(), Some("ENTRYPOINT unanimous"));
    assert_eq!(ends.next(), None);
}

/// What a stage copies, with the stage that it is from, and where to.
fn copies(stage: &Stage<'_, '_>) -> (Vec<(Option<String>, String)>, Vec<String>) {
    let (mut copied, mut to) = (Vec::new(), Vec::new());
    for instruction in stage.instructions {
        let Instruction::Copy(copy) = instruction else {
            continue;
        };
        let from = copy.options.iter().find(|flag| flag.name.value == "from");
        let from = from.and_then(|flag| Some(flag.value.as_ref()?.value.to_string()));
        for source in &copy.src {
            let Source::Path(source) = source else {
                panic!("a here-document");
            };
            copied.push((from.clone(), source.value.to_string()));
        }
        to.push(copy.dest.value.to_string());
    }
    (copied, to)
}

#[test]
fn a_build_of_the_image_is_given_what_cargo_needs_and_no_secret() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ignored = fs::read_to_string(root.join(".dockerignore")).expect(".dockerignore");
    let ignored: BTreeSet<_> = ignored
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let wanted = [
        ".git",
        "target",
        "target-*",
        "**/unanimous-log",
        "**/unanimous.toml",
    ];
    assert_eq!(ignored, wanted.into_iter().collect());
    assert!(root.join("Cargo.lock").is_file(), "--locked needs it");
}
