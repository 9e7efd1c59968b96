//! What a refused connection or login means, and its mend.

use mysql_async::{DriverError, Error};
use unanimous_core::ports::Problem;

use super::server_code;
use crate::route::tls_error;

const SECURE_TRANSPORT_REQUIRED: u16 = 3159;

/// Whether a server that refuses a connection may mend itself.
pub(crate) fn connect(error: &Error) -> Problem {
    match connect_failure(error) {
        Some((problem, _)) => problem,
        None => Problem::Unavailable,
    }
}

/// What to do about a refused connection, as the end of a sentence; empty if the error says it all.
pub(crate) fn mend_of_connect(error: &Error) -> String {
    match connect_failure(error) {
        Some((_, mend)) => format!("; {mend}"),
        None => String::new(),
    }
}

/// What is told of a connection that the server refused neither for its login nor for want of
/// room, as far as is known: without the server's words, which may quote what it was sent.
pub(crate) fn of_setup(error: &Error) -> Option<String> {
    // 1053, 1158 to 1161: the server is shutting down, or the connection broke.
    let passes_by = |code: &u16| matches!(code, 1053 | 1158..=1161);
    let code = server_code(error).filter(|code| !passes_by(code))?;
    connect_failure(error)
        .is_none()
        .then(|| format!("failed with error {code}"))
}

/// What is told of a session that could not be wiped: the set-up SQL runs again then.
pub(crate) fn without_words(error: &Error) -> String {
    match error {
        Error::Server(server) => format!("error {}", server.code),
        Error::Driver(_) | Error::Io(_) | Error::Other(_) | Error::Url(_) => error.to_string(),
    }
}

fn connect_failure(error: &Error) -> Option<(Problem, &'static str)> {
    if let Error::Driver(DriverError::NoClientSslFlagFromServer) = error {
        let mend = "the server offers no encryption: give it ssl_cert and ssl_key, or write \
                    ssl-mode=PREFERRED or DISABLED";
        return Some((Problem::Unfit, mend));
    }
    if let Some(error) = tls_error(error) {
        return mend_of_tls(error).map(|mend| (Problem::Unfit, mend));
    }
    match server_code(error)? {
        1044 => Some((
            Problem::Unfit,
            "the account has no privilege in this database: check the database in the address, or \
             grant one",
        )),
        1045 | 1698 => Some((
            Problem::Unfit,
            "check user and password of the address, and whether the account has to show a \
             certificate (ssl-cert, ssl-key) or to encrypt (ssl-mode)",
        )),
        1049 => Some((
            Problem::Unfit,
            "check the database in the address, or create it",
        )),
        1130 => Some((
            Problem::Unfit,
            "the server has no account for the host from which this came: create one for it",
        )),
        1129 => Some((
            Problem::Unavailable,
            "the server has locked this host out after failed connections: FLUSH HOSTS, or \
             TRUNCATE TABLE performance_schema.host_cache",
        )),
        1040 => Some((
            Problem::Unavailable,
            "the server has no connection left: raise max_connections, or lower pool_size here or \
             elsewhere",
        )),
        1203 | 1226 => Some((
            Problem::Unavailable,
            "the account has used up what it may use: raise max_user_connections or the limits of \
             the account (ALTER USER … WITH MAX_USER_CONNECTIONS), or lower pool_size",
        )),
        3118 | 4151 => Some((
            Problem::Unfit,
            "the account is locked: ALTER USER … ACCOUNT UNLOCK",
        )),
        1862 | 1820 => Some((
            Problem::Unfit,
            "the account's password has expired: ALTER USER … IDENTIFIED BY …",
        )),
        SECURE_TRANSPORT_REQUIRED => Some((
            Problem::Unfit,
            "the server takes encrypted connections only: write ssl-mode=REQUIRED, or better \
             VERIFY_IDENTITY with ssl-ca",
        )),
        1251 => Some((
            Problem::Unfit,
            "the account's way to log in is not one of the driver's: use caching_sha2_password",
        )),
        _ => None,
    }
}

/// What mends an error that comes back at every attempt, if this is one.
fn mend_of_tls(error: &rustls::Error) -> Option<&'static str> {
    use rustls::AlertDescription as Alert;
    use rustls::Error::{AlertReceived, InvalidCertificate, PeerIncompatible};
    if let InvalidCertificate(reason) = error {
        return Some(mend_of_certificate(reason));
    }
    let is_disagreement = matches!(
        error,
        PeerIncompatible(_) | AlertReceived(Alert::HandshakeFailure | Alert::ProtocolVersion)
    );
    // Anything else may be a line that was cut, or a server that is going down.
    is_disagreement.then_some(
        "the server and this program cannot agree on an encryption: the server has to offer TLS \
         1.2 or 1.3; ssl-mode=DISABLED goes without",
    )
}

fn mend_of_certificate(reason: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError as Certificate;
    let is_name = matches!(
        reason,
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }
    );
    let is_too_old = matches!(
        reason,
        Certificate::Expired | Certificate::ExpiredContext { .. }
    );
    let is_too_new = matches!(
        reason,
        Certificate::NotValidYet | Certificate::NotValidYetContext { .. }
    );
    if *reason == Certificate::UnknownIssuer {
        "the server's certificate is not signed by whom ssl-ca names: is it the right server, and \
         the right file?"
    } else if is_name {
        "the server's certificate is not for the host of the address: use a name that it has, have \
         one made that names the host (subjectAltName), or write ssl-mode=VERIFY_CA, for which any \
         name will do"
    } else if is_too_old {
        "have a new certificate made for the server, or check the clock of this machine"
    } else if is_too_new {
        "check the clock of this machine and of the one that made the certificate"
    } else {
        "have a certificate made for the server that an authority in ssl-ca has signed"
    }
}
