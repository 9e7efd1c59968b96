//! The shared servers from `docker/compose.yaml`, where a container engine answers.
//!
//! * Nothing waits for an engine that is not there: everything that is asked before the servers are
//!   brought up has [`PATIENCE`] together.
//! * Each run is a project of its own, on ports that the engine chooses, so that runs beside each
//!   other share nothing.
//! * The project is taken down, with its data, at the end and after a failure; if the owner dies,
//!   by its guard.

use std::{
    ffi::{OsStr, OsString},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Address, Error, Kind,
    guard::{FirstSignal, Guard},
    launch::{GATE, INPUT},
    process::{ProcessId, wait_until},
    programs::Choice,
};

/// How long an engine may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the servers may take until they are healthy; the images are there by then.
const HEALTHY_WITHIN: &str = "300";

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/compose.yaml");

/// The variable by which the compose file lets this service's port be chosen: set to nothing, by
/// the engine.
#[must_use]
pub fn port_variable(service: &str) -> String {
    let service = service.to_uppercase().replace('-', "_");
    format!("UNANIMOUS_PORT_{service}")
}

/// Servers in containers. Dropping it takes them down.
#[derive(Debug)]
pub struct Containers {
    project: Project,
    // Let go only after the project was taken down.
    guard: Guard,
    addresses: Vec<(Kind, Address)>,
}

impl Containers {
    /// Brings up servers of these kinds, if the environment allows it and an engine answers. If
    /// not, or if they do not come up, says why and gives `None`: there are other ways.
    ///
    /// # Errors
    /// Where the environment asks for containers and nothing else, and they cannot be had.
    pub fn for_shared_set(kinds: &[Kind]) -> Result<Option<Self>, Error> {
        let choice = Choice::from_env()?;
        match choice {
            Choice::Machine | Choice::Download => return Ok(None),
            Choice::Any | Choice::Compose => {}
        }
        let result = Engine::find("docker".into()).and_then(|engine| Self::up(engine, kinds));
        match result {
            Ok(containers) => Ok(Some(containers)),
            Err(error) if choice == Choice::Compose => Err(error),
            Err(error) => {
                eprintln!("servers: not from containers: {error}");
                Ok(None)
            }
        }
    }

    /// Brings servers up and waits until they are healthy.
    fn up(engine: Engine, kinds: &[Kind]) -> Result<Self, Error> {
        let project = Project::new(engine);
        let down = project.words(DOWN);
        let guard = Guard::start_with(down.iter().map(OsString::as_os_str))?;
        let mut containers = Self {
            project,
            guard,
            addresses: Vec::new(),
        };
        let mut child = containers.project.bring_up(kinds, &mut containers.guard)?;
        let status = child.wait().map_err(cannot_start)?;
        if !status.success() {
            let reason = format!("{status}; what it said is above");
            return Err(Error::program("docker compose up", reason));
        }
        for &kind in kinds {
            let port = containers.project.port_of(kind)?;
            containers.addresses.push((kind, Address::on(kind, port)));
        }
        Ok(containers)
    }

    /// Where the servers are.
    #[must_use]
    pub fn addresses(&self) -> &[(Kind, Address)] {
        &self.addresses
    }

    /// The name of the project, under which the engine lists the containers.
    #[must_use]
    pub fn project(&self) -> &str {
        &self.project.name
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if let Err(error) = self.project.take_down() {
            eprintln!("servers: {error}");
        }
    }
}

const DOWN: [&str; 5] = ["down", "--volumes", "--remove-orphans", "--timeout", "0"];

/// One run's containers, networks and volumes, whether they are there yet or not.
#[derive(Debug)]
struct Project {
    engine: Engine,
    name: String,
}

impl Project {
    fn new(engine: Engine) -> Self {
        let name = format!("unanimous-{}", ProcessId::current());
        Self { engine, name }
    }

    /// A command of compose, program first. The profile makes the older servers known to all of
    /// them; only those that are named are brought up.
    fn words<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
        let own = ["compose", "--file", FILE, "--project-name", &self.name];
        let mut words = vec![self.engine.program.clone()];
        words.extend(
            own.into_iter()
                .chain(["--profile", "matrix"])
                .map(OsString::from),
        );
        words.extend(args.into_iter().map(OsString::from));
        words
    }

    /// Begins to bring the servers up. As with servers from programs, nothing begins before the
    /// guard knows it.
    fn bring_up(&self, kinds: &[Kind], guard: &mut Guard) -> Result<Child, Error> {
        let services = kinds.iter().map(|kind| kind.service());
        let up = ["up", "--detach", "--wait", "--wait-timeout", HEALTHY_WITHIN];
        let mut command = Command::new("sh");
        command.args(["-c", GATE, "gate"]);
        command.args(self.words(up.into_iter().chain(services)));
        command.env_remove(INPUT);
        for kind in kinds {
            command.env(port_variable(kind.service()), "");
        }
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(cannot_start)?;
        let pid = child.id();
        // Not yet waited for, the child keeps its number even if it has ended already.
        let id = ProcessId::of(pid).unwrap_or(ProcessId { pid, started: 0 });
        let gate = child.stdin.take();
        // Without its word, the child ends by itself.
        guard.watch(id, FirstSignal::Kill)?;
        if let Some(mut gate) = gate {
            gate.write_all(b"go\n").map_err(cannot_start)?;
        }
        Ok(child)
    }

    fn command(&self, args: &[&str]) -> Command {
        let words = self.words(args.iter().copied());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }

    /// The port on this machine that leads to the server.
    fn port_of(&self, kind: Kind) -> Result<u16, Error> {
        let (service, inside) = (kind.service(), kind.port_inside().to_string());
        let mut command = self.command(&["port", service, &inside]);
        let answer = command.output().map_err(cannot_start)?;
        let said = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        let port = said
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        let Some(port) = port.filter(|_| answer.status.success()) else {
            let errors = String::from_utf8_lossy(&answer.stderr);
            let reason = format!("no port of {service}: {} {said} {errors}", answer.status);
            return Err(Error::program("docker compose port", reason));
        };
        // An engine may be on another machine.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => Ok(port),
            Err(error) => Err(Error::program(
                "docker",
                format!("{service} is up and not to be reached at {address}: {error}"),
            )),
        }
    }

    fn take_down(&self) -> Result<(), Error> {
        let answer = self.command(&DOWN).output().map_err(cannot_start)?;
        if answer.status.success() {
            return Ok(());
        }
        let (name, status) = (&self.name, answer.status);
        let said = String::from_utf8_lossy(&answer.stderr);
        let mend = format!("`docker compose --project-name {name} down --volumes` takes it down");
        let reason = format!("project {name}: {status}: {said}{mend}");
        Err(Error::program("docker compose down", reason))
    }
}

/// A client whose engine has answered.
#[derive(Debug)]
struct Engine {
    program: OsString,
}

impl Engine {
    /// The client is often there without an engine, or without compose.
    fn find(program: OsString) -> Result<Self, Error> {
        let end = Instant::now() + PATIENCE;
        ask(&program, &["info", "--format", "{{.ServerVersion}}"], end)?;
        ask(&program, &["compose", "version", "--short"], end)?;
        Ok(Self { program })
    }
}

/// Asks a question that has an answer, and waits for it until `end`.
fn ask(program: &OsStr, args: &[&str], end: Instant) -> Result<(), Error> {
    let name = || format!("docker {}", args[0]);
    let mut child = Command::new(program)
        .args(args)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Error::program(name(), error.to_string()))?;
    let left = end.saturating_duration_since(Instant::now());
    let is_over = wait_until(left, || !matches!(child.try_wait(), Ok(None)));
    if !is_over {
        if let Some(id) = ProcessId::of(child.id()) {
            id.kill_tree();
        }
        // It was killed: there is nothing to wait for but its number.
        let _ = child.wait();
        let reason = format!("no answer within {} s", PATIENCE.as_secs());
        return Err(Error::program(name(), reason));
    }
    let said = read(child.stdout.take());
    match child.wait() {
        Ok(status) if status.success() && !said.is_empty() => Ok(()),
        Ok(status) => {
            let errors = read(child.stderr.take());
            let first = errors.lines().next().unwrap_or("it says nothing");
            Err(Error::program(name(), format!("{status}: {first}")))
        }
        Err(error) => Err(Error::program(name(), error.to_string())),
    }
}

/// What a process that has ended has said.
fn read(pipe: Option<impl Read>) -> String {
    let mut said = Vec::new();
    // Half an answer is as good as none.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut said));
    String::from_utf8_lossy(&said).trim().to_owned()
}

fn cannot_start(error: std::io::Error) -> Error {
    Error::program("docker compose", error.to_string())
}

#[cfg(test)]
#[path = "compose_test.rs"]
mod tests;
