//! MySQL and MariaDB: how their data is made, how they are started, and when they are ready.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    ADMIN_PASSWORD, APP_DATABASE, APP_PASSWORD, APP_USER, Error, Kind, Programs,
    folder::Folder,
    guard::Guard,
    launch::{INPUT, command, run},
};

/// The administrator that initialisation makes.
pub(super) const ADMIN_USER: &str = "root";

/// What MariaDB's own installation script feeds to the bootstrap server, in its order.
const MARIADB_SCRIPTS: [&str; 6] = [
    "mysql_system_tables.sql",
    "mysql_performance_tables.sql",
    "mysql_system_tables_data.sql",
    "fill_help_tables.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "mysql_sys_schema.sql",
];

/// Makes the data folder. Users and the database come with the first start, see [`init_file`]:
/// initialisation cannot make users yet.
pub(super) fn initialise(
    programs: &Programs,
    folder: &Folder,
    guard: &mut Guard,
) -> Result<(), Error> {
    let mut server = base_command(programs, folder)?;
    if programs.kind() == Kind::Mysql {
        server.arg("--initialize-insecure");
        return run(&mut server, "mysqld --initialize-insecure", folder, guard);
    }
    let statements = bootstrap_statements(&share(programs)?)?;
    let statements = folder.write("setup.sql", &statements)?;
    server
        .args(["--bootstrap", "--max-allowed-packet=8M"])
        .env(INPUT, &statements);
    run(&mut server, "mariadbd --bootstrap", folder, guard)?;
    fs::remove_file(&statements).map_err(Error::io("remove", &statements))
}

fn bootstrap_statements(share: &Path) -> Result<String, Error> {
    // One statement a line, as the bootstrap server wants it.
    let mut text = "create database mysql;\nuse mysql;\nset @auth_root_socket=NULL;\n".to_owned();
    for name in MARIADB_SCRIPTS {
        let path = share.join(name);
        text += &fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    }
    Ok(text)
}

/// Writes the statements that the server runs at its first start, before it lets clients in.
///
/// They can run twice: a start that found its port taken is repeated. MariaDB has an administrator
/// for 127.0.0.1 with no password, who would be preferred to the one for every address.
pub(super) fn init_file(kind: Kind, folder: &Folder) -> Result<PathBuf, Error> {
    let mut text = format!(
        "CREATE DATABASE IF NOT EXISTS {APP_DATABASE};\n\
         CREATE USER IF NOT EXISTS '{APP_USER}'@'%' IDENTIFIED BY '{APP_PASSWORD}';\n\
         GRANT ALL ON {APP_DATABASE}.* TO '{APP_USER}'@'%';\n\
         DROP USER IF EXISTS '{ADMIN_USER}'@'127.0.0.1';\n\
         CREATE USER IF NOT EXISTS '{ADMIN_USER}'@'%' IDENTIFIED BY '{ADMIN_PASSWORD}';\n\
         GRANT ALL ON *.* TO '{ADMIN_USER}'@'%' WITH GRANT OPTION;\n\
         ALTER USER '{ADMIN_USER}'@'localhost' IDENTIFIED BY '{ADMIN_PASSWORD}';\n"
    );
    if kind == Kind::Mysql {
        // MariaDB lets everybody list prepared branches.
        text += &format!("GRANT XA_RECOVER_ADMIN ON *.* TO '{APP_USER}'@'%';\n");
    }
    folder.write("init.sql", &text)
}

/// The server itself.
pub(super) fn server(
    programs: &Programs,
    folder: &Folder,
    port: u16,
    args: &[String],
) -> Result<Command, Error> {
    let mut server = base_command(programs, folder)?;
    server
        .args([
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--skip-log-bin",
        ])
        .arg(format!("--port={port}"))
        .arg(option("--pid-file", &folder.tmp().join("pid")))
        .args(["--max-connections=200", "--table-open-cache=400"])
        // By default a year: a test that drops the table of a prepared branch shall fail, not hang.
        .arg("--lock-wait-timeout=180")
        .args([
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-doublewrite=ON",
        ]);
    if programs.kind() == Kind::Mysql {
        // A third less memory than by default.
        server.args([
            "--table-definition-cache=600",
            "--innodb-log-buffer-size=4M",
            "--performance-schema-digests-size=1000",
            "--performance-schema-error-size=100",
        ]);
    }
    server.args(args);
    Ok(server)
}

/// What initialisation and server have in common.
fn base_command(programs: &Programs, folder: &Folder) -> Result<Command, Error> {
    let base = base(programs);
    let mut server = command(programs.server(), folder);
    // Must be the first: no file of the machine's decides anything.
    server.arg("--no-defaults");
    server
        .arg(option("--basedir", &base))
        .arg(option("--lc-messages-dir", &share(programs)?))
        .arg(option("--datadir", &folder.data()))
        .arg(option("--tmpdir", &folder.tmp()))
        .arg(option("--socket", &folder.sockets().join("sock")))
        .arg("--innodb-buffer-pool-size=32M")
        // The kernel's queues for asynchronous I/O are few and shared by all servers of a machine.
        .arg("--innodb-use-native-aio=0");
    let plugins = base.join("lib/mysql/plugin");
    if plugins.is_dir() {
        server.arg(option("--plugin-dir", &plugins));
    }
    match programs.kind() {
        Kind::Mysql => {
            server.args(["--skip-mysqlx", "--secure-file-priv=NULL"]);
            server.arg("--innodb-redo-log-capacity=32M");
        }
        Kind::Mariadb | Kind::Postgres15 | Kind::PostgresNewest => {
            server.arg("--innodb-log-file-size=32M");
        }
    }
    Ok(server)
}

/// The folder above `sbin` or `bin`.
fn base(programs: &Programs) -> PathBuf {
    programs
        .folder()
        .parent()
        .unwrap_or(Path::new("/"))
        .to_path_buf()
}

/// The folder of the messages and, for MariaDB, the installation scripts.
fn share(programs: &Programs) -> Result<PathBuf, Error> {
    let share = base(programs).join("share");
    let names: &[&str] = match programs.kind() {
        Kind::Mysql => &["mysql", "mysql-9.0", "mysql-9"],
        Kind::Mariadb | Kind::Postgres15 | Kind::PostgresNewest => &["mariadb", "mysql"],
    };
    let fits = |folder: &PathBuf| folder.join("english/errmsg.sys").is_file();
    let mut folders = names
        .iter()
        .map(|name| share.join(name))
        .chain([share.clone()]);
    folders.find(fits).ok_or_else(|| {
        let name = programs.server().display().to_string();
        let share = share.display();
        Error::program(
            name,
            format!("its messages (english/errmsg.sys) are not below {share}"),
        )
    })
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// Whether the server on this port greets clients.
///
/// A greeting is a packet whose first byte, the version of the protocol, is 10; an error is 255.
pub(super) fn is_ready(port: u16) -> bool {
    greeting(port).is_ok_and(|version| version == 10)
}

fn greeting(port: u16) -> io::Result<u8> {
    let limit = Duration::from_secs(2);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut packet = [0; 5];
    stream.read_exact(&mut packet)?;
    // COM_QUIT instead of an answer: the server need not wait for the rest of the handshake.
    let _ = stream.write_all(&[1, 0, 0, 1, 1]);
    Ok(packet[4])
}

/// Removes what a killed server leaves behind; its processes have all ended.
///
/// The lock of the socket holds a process number that may by now belong to somebody else.
pub(super) fn forget_process(sockets: &Path) {
    for name in ["sock", "sock.lock"] {
        // There is none after a clean stop.
        let _ = fs::remove_file(sockets.join(name));
    }
}
