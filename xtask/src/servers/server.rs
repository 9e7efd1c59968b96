//! A server of one's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use super::{
    Address, Error, Kind, Programs, find,
    folder::{Folder, Port},
    guard::{FirstSignal, Guard},
    launch::{Running, Stage, tail},
    mysql, postgres,
    user::ServerUser,
};

/// How often a start is repeated with another port.
const PORT_TRIES: u32 = 5;

/// What a server prints when its port is taken, in the C locale.
const PORT_TAKEN: &str = "Address already in use";

/// Settings on top of the usual ones; of two settings of the same name the later one counts.
#[derive(Clone, Debug, Default)]
pub struct Options {
    args: Vec<String>,
}

impl Options {
    /// The usual settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds arguments of the server program: `["-c", "max_prepared_transactions=0"]` for
    /// PostgreSQL, `["--log-bin=binlog", "--server-id=1"]` for MySQL and MariaDB.
    #[must_use]
    pub fn args<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The arguments as lines, for a program whose settings are a file.
    pub(super) fn lines(&self) -> String {
        self.args.join("\n")
    }
}

/// A running server (or one that was killed and may be restarted).
///
/// Dropping it kills the server and removes its data.
#[derive(Debug)]
pub struct Server {
    programs: Programs,
    options: Options,
    // The order of the fields is the order of the end: the process, its guard, the folder when
    // nothing runs in it any more, and the port when nobody listens on it.
    running: Option<Running>,
    guard: Guard,
    folder: Folder,
    port: Port,
}

impl Server {
    /// Makes and starts a server, and returns when it lets clients in.
    ///
    /// # Errors
    /// When the server cannot be had, or does not start.
    pub fn start(kind: Kind, options: &Options) -> Result<Self, Error> {
        Self::start_from(find(kind)?, options)
    }

    /// The same with given programs.
    ///
    /// # Errors
    /// When the server does not start.
    pub fn start_from(programs: Programs, options: &Options) -> Result<Self, Error> {
        let mut server = Self::create(programs, options)?;
        let Self {
            programs,
            folder,
            guard,
            ..
        } = &mut server;
        if programs.kind().is_postgres() {
            postgres::initialise(programs, folder, guard)?;
            server.launch_on_some_port(&[])?;
        } else {
            mysql::initialise(programs, folder, guard)?;
            let init_file = mysql::init_file(programs.kind(), folder)?;
            server.launch_on_some_port(&[format!("--init-file={}", init_file.display())])?;
            // It holds passwords, and has done its work.
            fs::remove_file(&init_file).map_err(Error::io("remove", &init_file))?;
        }
        Ok(server)
    }

    /// A server without data and without a process.
    fn create(programs: Programs, options: &Options) -> Result<Self, Error> {
        let folder = Folder::create(ServerUser::choose()?)?;
        let guard = Guard::start(folder.path())?;
        let port = Port::reserve()?;
        Ok(Self {
            programs,
            options: options.clone(),
            port,
            running: None,
            guard,
            folder,
        })
    }

    /// The kind of server.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.programs.kind()
    }

    /// The programs it was made from.
    #[must_use]
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The address for the unprivileged user `app`.
    ///
    /// A MySQL client may go on to the server's socket by itself; where the way over the network
    /// matters, as with a proxy in between, turn that off (`prefer_socket`).
    #[must_use]
    pub fn url(&self) -> String {
        Address::on(self.kind(), self.port()).url
    }

    /// The address for the administrator (`postgres` or `root`), to the database `app`.
    #[must_use]
    pub fn admin_url(&self) -> String {
        Address::on(self.kind(), self.port()).admin_url
    }

    /// The port on 127.0.0.1; it stays the same over restarts.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.number
    }

    /// The process of the server. After [`Self::kill`] the number of the killed one is gone.
    ///
    /// # Panics
    /// When the server does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running_or_panic().id().pid
    }

    /// The folder of the server's data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.data()
    }

    /// The folder of the server's sockets: PostgreSQL's are named after the port, the others'
    /// is called `sock`.
    #[must_use]
    pub fn sockets(&self) -> PathBuf {
        self.folder.sockets()
    }

    /// What the server has logged since its first start.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read(self.folder.log()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Whether the server's process runs; a paused one does.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(Running::is_alive)
    }

    /// Kills every process of the server at once, as a crash does. Its data stays.
    pub fn kill(&mut self) {
        // Dropping a `Running` is what kills it.
        drop(self.running.take());
        if self.kind().is_postgres() {
            postgres::forget_process(&self.folder.data());
        } else {
            mysql::forget_process(&self.folder.sockets());
        }
    }

    /// Stops every process of the server where it stands: its connections stay open and silent.
    ///
    /// # Panics
    /// When the server does not run.
    pub fn pause(&self) {
        self.running_or_panic().pause();
    }

    /// Lets a paused server go on.
    ///
    /// # Panics
    /// When the server does not run.
    pub fn resume(&self) {
        self.running_or_panic().resume();
    }

    /// Starts the server again with the same data on the same port: after a kill, or, if it still
    /// runs, after a clean stop.
    ///
    /// # Errors
    /// When the server does not come up. It may be restarted again, with other options for example.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.shut_down();
        self.launch(&[])
    }

    /// The same with other settings, which stay until they are replaced.
    ///
    /// # Errors
    /// When the server does not come up. It may be restarted again, with other options for example.
    pub fn restart_with(&mut self, options: &Options) -> Result<(), Error> {
        self.options = options.clone();
        self.restart()
    }

    /// Stops the server cleanly and keeps its data for [`Self::restart`].
    pub fn shut_down(&mut self) {
        // Fast for PostgreSQL: clients are thrown out, transactions rolled back, all is flushed.
        let signal = if self.kind().is_postgres() {
            Signal::INT
        } else {
            Signal::TERM
        };
        if let Some(running) = self.running.take() {
            running.stop(signal);
        }
    }

    /// Stops the server cleanly and removes its data.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn running_or_panic(&self) -> &Running {
        self.running
            .as_ref()
            .expect("the server runs: it was not killed, or was restarted since")
    }

    /// Starts the server, with another port if somebody else took ours meanwhile.
    fn launch_on_some_port(&mut self, first_args: &[String]) -> Result<(), Error> {
        for _ in 1..PORT_TRIES {
            match self.launch(first_args) {
                Err(Error::NotReady { log, .. }) if log.contains(PORT_TAKEN) => {}
                result => return result,
            }
            self.port = Port::reserve()?;
        }
        self.launch(first_args)
    }

    fn launch(&mut self, first_args: &[String]) -> Result<(), Error> {
        let name = self.programs.release().to_owned();
        let log = self.folder.log();
        let mut command = self.command(first_args)?;
        let stage = Stage::Server(if self.kind().is_postgres() {
            FirstSignal::Quit
        } else {
            FirstSignal::Kill
        });
        let mut running =
            Running::spawn(&mut command, &name, stage, &self.folder, &mut self.guard)?;
        let (port, data, pid) = (self.port.number, self.folder.data(), running.id().pid);
        let is_postgres = self.kind().is_postgres();
        running.wait_ready(&name, &log, || {
            if is_postgres {
                postgres::is_ready(&data, pid)
            } else {
                mysql::is_ready(port)
            }
        })?;
        self.running = Some(running);
        Ok(())
    }

    fn command(&self, first_args: &[String]) -> Result<Command, Error> {
        let args = [first_args, &self.options.args].concat();
        let (programs, folder, port) = (&self.programs, &self.folder, self.port.number);
        if self.kind().is_postgres() {
            Ok(postgres::server(programs, folder, port, &args))
        } else {
            mysql::server(programs, folder, port, &args)
        }
    }

    /// The end of the server's log, for messages of tests.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.folder.log())
    }

    /// The server's own folder; everything in it goes with the server.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes and starts a hot standby of a PostgreSQL server. It has the same settings, follows by
/// streaming, and returns when it lets readers in.
///
/// # Errors
/// When the server is no PostgreSQL or does not run, or when the standby does not start.
pub fn standby_of(primary: &Server) -> Result<Server, Error> {
    if !primary.kind().is_postgres() {
        let kind = primary.kind().name();
        return Err(Error::program(
            kind,
            "only a PostgreSQL server can have a standby here",
        ));
    }
    let mut standby = Server::create(primary.programs.clone(), &primary.options)?;
    let Server {
        programs,
        folder,
        guard,
        ..
    } = &mut standby;
    postgres::copy_from(primary.port(), programs, folder, guard)?;
    standby.launch_on_some_port(&[])?;
    Ok(standby)
}
