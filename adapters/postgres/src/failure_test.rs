//! What the driver's errors become. The driver itself makes them here: it logs in at some bytes
//! that stand for a server.

use std::error::Error;
use std::future::{Ready, ready};
use std::io;

use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{NoTlsStream, TlsConnect};
use tokio_postgres::{Config, NoTls};
use unanimous_core::ports::{BranchErrorKind, Problem};

use super::*;

const MARKER_GONE: &str =
    "unrecognized configuration parameter \"unanimous.the_marker_of_the_branch_is_gone\"";

/// Logs in at a server that says `answer` to everything, and then no more.
async fn at<T>(answer: &[u8], mode: SslMode, tls: T) -> tokio_postgres::Error
where
    T: TlsConnect<DuplexStream>,
{
    let (mut server, client) = duplex(4096);
    server.write_all(answer).await.unwrap();
    server.shutdown().await.unwrap();
    let mut config: Config = "host=db user=app".parse().unwrap();
    config.ssl_mode(mode);
    match config.connect_raw(client, tls).await {
        Ok(_) => panic!("the driver has logged in at {answer:?}"),
        Err(error) => error,
    }
}

async fn plainly(answer: &[u8]) -> tokio_postgres::Error {
    at(answer, SslMode::Disable, NoTls).await
}

/// An answer of the server's, with a detail that quotes a row.
async fn answered(severity: &str, code: &str, message: &str) -> tokio_postgres::Error {
    let fields =
        format!("S{severity}\0V{severity}\0C{code}\0M{message}\0DKey (name)=(s3cret) exists.\0\0");
    let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
    let answer = [&b"E"[..], &length, fields.as_bytes()].concat();
    plainly(&answer).await
}

async fn closed() -> tokio_postgres::Error {
    plainly(b"").await
}

async fn cut() -> tokio_postgres::Error {
    plainly(b"E\0").await
}

/// A message that has no place there: the connection lives, and the server has not spoken.
async fn odd() -> tokio_postgres::Error {
    plainly(b"Z\0\0\0\x05I").await
}

/// A handshake that fails.
struct Handshake(rustls::Error);

impl TlsConnect<DuplexStream> for Handshake {
    type Stream = NoTlsStream;
    type Error = io::Error;
    type Future = Ready<Result<NoTlsStream, io::Error>>;

    fn connect(self, _: DuplexStream) -> Self::Future {
        ready(Err(io::Error::new(io::ErrorKind::InvalidData, self.0)))
    }
}

async fn handshake(error: rustls::Error) -> tokio_postgres::Error {
    at(b"S", SslMode::Require, Handshake(error)).await
}

#[tokio::test]
async fn i3_only_severity_error_is_the_servers_word_on_the_request() {
    use Answer::{Ended, Guarded, Refused};
    for (severity, code, message, expected, is_refusal, is_of_server) in [
        ("ERROR", "23505", "double", Refused("23505"), true, true),
        ("FATAL", "57P01", "gone", Ended("57P01"), false, true),
        ("PANIC", "23505", "gone", Ended("23505"), false, true),
        ("WARNING", "23505", "odd", Ended("23505"), false, true),
        (
            "ERROR",
            "42704",
            MARKER_GONE,
            Guarded(Guard::MarkerGone),
            true,
            false,
        ),
        ("FATAL", "42704", MARKER_GONE, Ended("42704"), false, true),
    ] {
        let failure = Failure::read(answered(severity, code, message).await, None);
        assert_eq!(failure.answer(), expected);
        assert_eq!(failure.is_refusal(), is_refusal, "{failure:?}");
        assert_eq!(failure.is_of_server(), is_of_server, "{failure:?}");
        assert!(!failure.is_standby() && !failure.is_for_want_of_tls());
        assert_eq!(failure.to_string(), format!("{severity} {code}: {message}"));
    }
    for error in [closed().await, cut().await, odd().await] {
        let failure = Failure::read(error, None);
        assert_eq!(failure.answer(), Answer::Lost);
        assert!(!failure.is_refusal() && !failure.is_of_server());
    }
}

#[tokio::test]
async fn a_closed_connection_is_told_by_what_it_ended_with() {
    let (fatal, lost) = (answered("FATAL", "25P03", "idle").await, closed().await);
    let failure = Failure::read(lost, Some(Arc::new(fatal)));
    assert_eq!(failure.answer(), Answer::Ended("25P03"));
    assert_eq!(failure.to_string(), "FATAL 25P03: idle");
    let failure = Failure::read(closed().await, Some(Arc::new(cut().await)));
    assert_eq!(failure.answer(), Answer::Lost);
    assert_eq!(
        failure.to_string(),
        "error communicating with the server: bytes remaining on stream"
    );
    let refused = answered("ERROR", "23505", "double").await;
    let failure = Failure::read(refused, Some(Arc::new(closed().await)));
    assert_eq!(failure.answer(), Answer::Refused("23505"));
}

#[test]
fn a_standby_is_a_server_that_cannot_write() {
    assert!(Failure::standby().is_standby());
    assert!(!Failure::lost("", None).is_standby());
    let error = Failure::standby().into_resource(&"orders".parse().unwrap(), "cannot connect");
    assert_eq!(error.problem(), Problem::Unavailable);
}

/// What is wrong with the way to the server: a part of what mends it, or nothing if it may pass.
#[tokio::test]
async fn what_fails_at_every_attempt_to_connect_is_told_with_its_mend() {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate, PeerIncompatible};
    let mut errors = vec![
        (
            at(
                b"N",
                SslMode::Require,
                Handshake(rustls::Error::DecryptError),
            )
            .await,
            Some("turn TLS on"),
        ),
        (
            plainly(b"R\0\0\0\x08\0\0\0\x07").await,
            Some("check the address"),
        ),
        (
            plainly(b"R\0\0\0\x08\0\0\0\x03").await,
            Some("check the address"),
        ),
        (closed().await, None),
        (cut().await, None),
        (odd().await, None),
        (handshake(rustls::Error::DecryptError).await, None),
        (
            handshake(PeerIncompatible::NoCipherSuitesInCommon.into()).await,
            Some("TLS 1.2"),
        ),
    ];
    for (alert, mend) in [
        (Alert::BadCertificate, Some("ssl_ca_file")),
        (Alert::UnsupportedCertificate, Some("ssl_ca_file")),
        (Alert::CertificateRevoked, Some("ssl_ca_file")),
        (Alert::CertificateExpired, Some("ssl_ca_file")),
        (Alert::CertificateUnknown, Some("ssl_ca_file")),
        (Alert::UnknownCA, Some("ssl_ca_file")),
        (Alert::AccessDenied, Some("ssl_ca_file")),
        (Alert::DecryptError, Some("ssl_ca_file")),
        (Alert::CertificateRequired, Some("ssl_ca_file")),
        (Alert::HandshakeFailure, Some("TLS 1.2")),
        (Alert::ProtocolVersion, Some("TLS 1.2")),
        (Alert::NoApplicationProtocol, Some("TLS 1.2")),
        (Alert::InternalError, None),
    ] {
        errors.push((handshake(rustls::Error::AlertReceived(alert)).await, mend));
    }
    for (why, mend) in [
        (Certificate::UnknownIssuer, "sslrootcert"),
        (Certificate::NotValidForName, "verify-ca"),
        (Certificate::Expired, "compare the clocks"),
        (Certificate::NotValidYet, "compare the clocks"),
        (Certificate::BadEncoding, "CA:TRUE"),
    ] {
        errors.push((handshake(why.into()).await, Some(mend)));
    }
    for (error, mend) in errors {
        let text = chain(&error);
        let failure = Failure::connecting(error);
        match (mend, failure.answer()) {
            (Some(part), Answer::Unsuited(mend)) => assert!(mend.contains(part), "{text}: {mend}"),
            (None, Answer::Lost) => {}
            (_, other) => panic!("{text}: {other:?}"),
        }
        assert_eq!(failure.to_string(), text);
        let is_for_want_of_tls = text.ends_with("server does not support TLS");
        assert_eq!(failure.is_for_want_of_tls(), is_for_want_of_tls, "{text}");
    }
    // A server's word is its code, whatever its message looks like.
    let fatal = answered("FATAL", "28000", "server does not support TLS").await;
    assert_eq!(Failure::connecting(fatal).answer(), Answer::Ended("28000"));
}

#[tokio::test]
async fn the_cause_of_an_applications_error_is_the_servers_word_or_a_lost_connection() {
    for (error, expected) in [
        (answered("ERROR", "40001", "").await, Some(Cause::Conflict)),
        (answered("ERROR", "23505", "").await, Some(Cause::Refused)),
        (
            answered("ERROR", "42704", MARKER_GONE).await,
            Some(Cause::RollbackOnly),
        ),
        (
            answered("FATAL", "57P01", "").await,
            Some(Cause::Unreachable),
        ),
        (closed().await, Some(Cause::Unreachable)),
        (cut().await, Some(Cause::Unreachable)),
        (odd().await, None),
        (
            handshake(rustls::Error::DecryptError).await,
            Some(Cause::Unreachable),
        ),
        ("no_such=1".parse::<Config>().unwrap_err(), None),
    ] {
        assert_eq!(cause_of(&error), expected, "{error}");
    }
}

#[tokio::test]
async fn errors_of_the_ports_hold_the_question_the_answer_the_mend_and_the_source() {
    let orders = "orders".parse().unwrap();
    let read = |error| Failure::read(error, None);
    let failure = read(answered("ERROR", "42710", "exists").await);
    let error = failure.into_branch(Request::Prepare, &orders, "cannot prepare");
    assert_eq!(error.kind(), BranchErrorKind::DuplicateXid);
    let text = error.to_string();
    assert!(
        text.contains("cannot prepare: ERROR 42710: exists; this GID "),
        "{text}"
    );
    assert!(
        error.source().is_some() && !text.contains("s3cret"),
        "{text}"
    );
    let error = read(closed().await).into_branch(Request::Finish, &orders, "cannot commit");
    assert!(
        error
            .to_string()
            .ends_with("cannot commit: connection closed")
    );

    let error = read(answered("FATAL", "53300", "full").await).into_resource(&orders, "asked");
    assert_eq!(error.problem(), Problem::Unavailable);
    assert!(
        error
            .to_string()
            .contains("asked: FATAL 53300: full; raise max_connections")
    );
    assert!(error.source().is_some());
    let error = Failure::unsuited("no file", "give one").into_resource(&orders, "asked");
    assert_eq!(error.problem(), Problem::Unfit);
    assert!(error.to_string().ends_with("asked: no file; give one"));
    assert!(error.source().is_none());
}

#[tokio::test]
async fn i8_a_failure_without_words_keeps_the_code_alone() {
    for (error, words) in [
        (
            answered("ERROR", "42601", "near s3cret").await,
            "session_setup failed with SQLSTATE 42601",
        ),
        (
            answered("FATAL", "57P01", "near s3cret").await,
            "session_setup failed with SQLSTATE 57P01",
        ),
        (
            closed().await,
            "the connection was lost during session_setup",
        ),
    ] {
        let whole = Failure::read(error, None);
        let answer = format!("{:?}", whole.answer());
        let failure = whole.without_words("session_setup");
        assert_eq!(failure.to_string(), words);
        assert_eq!(format!("{:?}", failure.answer()), answer);
        assert!(failure.source.is_none());
    }
}
