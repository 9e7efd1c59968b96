//! `docker/order-service`: two instances of the example on a shared log, before the databases of
//! `docker/compose.yaml`. Nothing here can start them; what would go wrong first is looked at.

use std::time::Duration;

use unanimous::Config;

use super::*;

const INSTANCES: [&str; 2] = ["blue", "green"];

fn service_compose() -> Yaml<'static> {
    read_compose("order-service/compose.yaml")
}

fn node<'y>(compose: &'y Yaml<'static>, service: &str) -> &'y Yaml<'static> {
    get(get(compose, "services"), service)
}

#[test]
fn the_databases_of_the_order_service_are_those_of_the_compose_file() {
    let (all, own) = (compose(), service_compose());
    for name in ["postgres", "mysql"] {
        let (theirs, ours) = (node(&all, name), node(&own, name));
        for key in ["image", "command", "environment", "healthcheck"] {
            assert_eq!(get(theirs, key), get(ours, key), "{name}: {key}");
        }
        let volumes = list(get(ours, "volumes")).into_iter();
        let volumes: Vec<_> = volumes.map(|v| v.replace("../", "./")).collect();
        assert_eq!(list(get(theirs, "volumes")), volumes, "{name}");
        assert!(ours.as_mapping_get("ports").is_none(), "{name}");
        get(get(&own, "volumes"), name);
    }
}

#[test]
fn two_instances_of_the_order_service_differ_in_name_and_port_and_have_no_disk() {
    let compose = service_compose();
    let mut ports = BTreeSet::new();
    for name in INSTANCES {
        let instance = node(&compose, name);
        let environment = get(instance, "environment");
        assert_eq!(text(get(environment, "INSTANCE")), name);
        for (variable, scheme, host, kind) in [
            ("UNANIMOUS_PG_URL", "postgres", "postgres", Kind::Postgres15),
            ("UNANIMOUS_MYSQL_URL", "mysql", "mysql", Kind::Mysql),
        ] {
            let port = kind.port_inside();
            let url = format!("{scheme}://{APP_USER}:{APP_PASSWORD}@{host}:{port}/{APP_DATABASE}");
            assert_eq!(text(get(environment, variable)), url, "{name}");
            let waits = get(get(instance, "depends_on"), host);
            assert_eq!(text(get(waits, "condition")), "service_healthy", "{name}");
        }
        assert!(instance.as_mapping_get("volumes").is_none(), "{name}");
        let [port] = list(get(instance, "ports"))[..] else {
            panic!("{name}: not one port");
        };
        let variable = format!("ORDER_SERVICE_PORT_{}", name.to_uppercase());
        assert!(
            port.starts_with(&format!("127.0.0.1:${{{variable}-")),
            "{port}"
        );
        assert!(port.ends_with(":8080"), "{port}");
        ports.insert(port);
        let check = list(get(get(instance, "healthcheck"), "test"));
        assert_eq!(check, ["CMD", "order_service", "health", "127.0.0.1:8080"]);
    }
    assert_eq!(ports.len(), INSTANCES.len(), "{ports:?}");
}

/// What is killed earlier than that loses nothing, but leaves work to the others.
#[test]
fn an_instance_is_given_the_time_that_a_shutdown_takes() {
    let compose = service_compose();
    let config = Config::default();
    let shutdown = config.drain_timeout + config.start_timeout + config.drain_timeout;
    for name in INSTANCES {
        let grace = text(get(node(&compose, name), "stop_grace_period"));
        let seconds = grace.strip_suffix('s').and_then(|grace| grace.parse().ok());
        let grace = Duration::from_secs(seconds.expect("seconds"));
        assert!(
            grace > shutdown,
            "{name}: {grace:?}, and {shutdown:?} may be needed"
        );
    }
}

#[test]
fn the_image_of_the_order_service_is_built_from_the_example_and_runs_it_as_nobody() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compose = service_compose();
    let of = |name| get(node(&compose, name), "build");
    assert_eq!(of(INSTANCES[0]), of(INSTANCES[1]));
    let place = folder()
        .join("order-service")
        .join(text(get(of("blue"), "context")));
    let place = place.canonicalize().expect("the context");
    assert_eq!(place, root.canonicalize().expect("the root"));
    let file = place.join(text(get(of("blue"), "dockerfile")));
    let file = fs::read_to_string(file).expect("the Dockerfile");
    assert!(!file.contains("VOLUME"), "{file}");
    let file = parse_dockerfile(&file).expect("it is a Dockerfile");
    let stages: Vec<_> = file.stages().collect();
    let [build, last] = &stages[..] else {
        panic!("{} stages", stages.len());
    };
    let tool = fs::read_to_string(folder().join("Dockerfile")).expect("docker/Dockerfile");
    for stage in [build, last] {
        let image = &stage.from.image.value;
        assert!(
            tool.contains(&format!("FROM {image}")),
            "{image} is not that of the tool"
        );
    }
    let cargo = "cargo build --locked --release --package unanimous --example order_service";
    let builds = |one: &Instruction<'_>| {
        let Instruction::Run(run) = one else {
            return false;
        };
        format!("{:?}", run.arguments).contains(cargo)
    };
    assert!(build.instructions.iter().any(builds));
    assert!(root.join("examples/order_service/main.rs").is_file());
    let (copied, to) = copies(last);
    assert_eq!(copied[0].1, "/build/target/release/examples/order_service");
    assert_eq!(to, ["/usr/local/bin/order_service"]);
    let is_user = |one: &Instruction<'_>| {
        let Instruction::User(user) = one else {
            return false;
        };
        user.arguments.value == "65534:65534"
    };
    assert!(last.instructions.iter().any(is_user), "runs as root");
    let is_exec = |one: &Instruction<'_>| {
        matches!(one, Instruction::Entrypoint(start)
            if matches!(&start.arguments, Command::Exec(words)
                if words.value[0].value == "order_service"))
    };
    assert!(
        last.instructions.iter().any(is_exec),
        "a shell would keep SIGTERM from it"
    );
}

/// The manifest of `docs/kubernetes.md` runs the same image in the same way.
#[test]
fn the_manifest_for_kubernetes_gives_a_pod_what_the_compose_file_gives_an_instance() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/kubernetes.md")).expect("the page");
    let manifest = page
        .split("```yaml")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let manifest: &'static str = Box::leak(manifest.expect("a manifest").to_owned().into());
    let documents = Yaml::load_from_str(manifest).expect("it is YAML");
    let [deployment, budget] = &documents[..] else {
        panic!("{} documents", documents.len());
    };
    assert_eq!(text(get(deployment, "kind")), "Deployment");
    assert_eq!(text(get(budget, "kind")), "PodDisruptionBudget");
    let spec = get(deployment, "spec");
    let kept = number(get(get(budget, "spec"), "minAvailable"));
    assert!((1..number(get(spec, "replicas"))).contains(&kept), "{kept}");

    let pod = get(get(spec, "template"), "spec");
    let containers = get(pod, "containers").as_vec().expect("a list");
    let container = &containers[0];
    let pause = get(
        get(get(get(container, "lifecycle"), "preStop"), "sleep"),
        "seconds",
    );
    let grace = number(get(pod, "terminationGracePeriodSeconds")) - number(pause);
    let config = Config::default();
    let shutdown = config.drain_timeout + config.start_timeout + config.drain_timeout;
    assert!(Duration::from_secs(grace) > shutdown, "{grace} s");
    assert!(pod.as_mapping_get("volumes").is_none(), "no disk");

    let dockerfile = folder().join("order-service/Dockerfile");
    let dockerfile = fs::read_to_string(dockerfile).expect("the Dockerfile");
    let args = format!("CMD {:?}", list(get(container, "args")));
    assert!(dockerfile.contains(&args), "{args}");
    let variables = get(container, "env").as_vec().expect("a list");
    let variables: BTreeSet<_> = variables.iter().map(|one| text(get(one, "name"))).collect();
    let compose = service_compose();
    let known = get(node(&compose, "blue"), "environment");
    let known = known.as_mapping().expect("a table").keys().map(text);
    assert_eq!(variables, known.collect());
    let service = fs::read_to_string(root.join("examples/order_service/main.rs"));
    let service = service.expect("the example");
    for probe in ["readinessProbe", "livenessProbe"] {
        let path = text(get(get(get(container, probe), "httpGet"), "path"));
        assert!(service.contains(&format!(".route({path:?}, ")), "{path}");
    }
}

fn number(node: &Yaml<'static>) -> u64 {
    let number = node.as_integer().and_then(|n| u64::try_from(n).ok());
    number.unwrap_or_else(|| panic!("not a number: {node:?}"))
}
