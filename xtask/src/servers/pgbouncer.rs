//! A connection pooler in front of a PostgreSQL server, in transaction mode.

use std::net::TcpStream;

use super::{
    ADMIN_PASSWORD, APP_DATABASE, APP_PASSWORD, APP_USER, Error, Options, Server, debian,
    folder::{Folder, Port},
    guard::{FirstSignal, Guard},
    launch::{Running, Stage, command},
    postgres,
    user::ServerUser,
};

/// A running pgbouncer. Dropping it kills it.
#[derive(Debug)]
pub struct PgBouncer {
    // In the order of the end, as with a server.
    _running: Running,
    _guard: Guard,
    _folder: Folder,
    port: Port,
}

impl PgBouncer {
    /// Starts a pgbouncer in front of a server. The arguments of `options` are lines of its
    /// settings, such as `default_pool_size = 2`.
    ///
    /// # Errors
    /// When the server is no PostgreSQL, or pgbouncer cannot be had or does not start.
    pub fn start(server: &Server, options: &Options) -> Result<Self, Error> {
        if !server.kind().is_postgres() {
            let kind = server.kind().name();
            return Err(Error::program(
                "pgbouncer",
                format!("it cannot stand before {kind}"),
            ));
        }
        let program = debian::pgbouncer()?;
        let folder = Folder::create(ServerUser::choose()?)?;
        let mut guard = Guard::start(folder.path())?;
        let port = Port::reserve()?;
        let settings = settings(server.port(), &port, &folder, options)?;
        let settings = folder.write("pgbouncer.ini", &settings)?;
        let mut command = command(&program, &folder);
        command.arg(settings);
        let log = folder.log();
        let stage = Stage::Server(FirstSignal::Kill);
        let mut running = Running::spawn(&mut command, "pgbouncer", stage, &folder, &mut guard)?;
        let number = port.number;
        let is_ready = || TcpStream::connect(("127.0.0.1", number)).is_ok();
        running.wait_ready("pgbouncer", &log, is_ready)?;
        Ok(Self {
            port,
            _running: running,
            _guard: guard,
            _folder: folder,
        })
    }

    /// The address for the unprivileged user `app`.
    #[must_use]
    pub fn url(&self) -> String {
        let port = self.port.number;
        format!("postgres://{APP_USER}:{APP_PASSWORD}@127.0.0.1:{port}/{APP_DATABASE}")
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.number
    }
}

fn settings(
    server_port: u16,
    port: &Port,
    folder: &Folder,
    options: &Options,
) -> Result<String, Error> {
    let admin = postgres::ADMIN_USER;
    let users = format!("\"{APP_USER}\" \"{APP_PASSWORD}\"\n\"{admin}\" \"{ADMIN_PASSWORD}\"\n");
    let users = folder.write("users.txt", &users)?;
    let (port, users, lines) = (port.number, users.display(), options.lines());
    Ok(format!(
        "[databases]\n\
         * = host=127.0.0.1 port={server_port}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = scram-sha-256\n\
         auth_file = {users}\n\
         pool_mode = transaction\n\
         {lines}\n"
    ))
}
