//! An address as text: libpq's parameters of TLS are taken out, the rest is the driver's.
//!
//! The driver knows three of libpq's six modes and none of its files, and refuses a text with a
//! parameter that it does not know. So the text is cut in the way in which the driver cuts it.
//!
//! Invariant I8: no error of this module holds a piece of the text.

use tokio_postgres::Config;
use tokio_postgres::config::SslNegotiation;

use crate::tls::{Tls, TlsMode};

/// Why an address cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It cannot be read.
    Text,
    /// What it says about TLS cannot be; says what to write.
    Tls(&'static str),
}

/// Reads an address, and what it says about TLS, if it says anything.
pub(crate) fn read(text: &str) -> Result<(Config, Option<Tls>), Wrong> {
    let mut said = Said::default();
    let rest = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        take_from_url(text, &mut said)?
    } else {
        take_from_pairs(text, &mut said)?
    };
    // The driver's error may quote a piece of a password that was not encoded.
    let mut config: Config = rest.parse().map_err(|_| Wrong::Text)?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Wrong::Text);
    }
    let tls = said.tls()?;
    if said.is_direct()? {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    Ok((config, tls))
}

/// The parameters that are not the driver's.
#[derive(Debug, Default)]
struct Said {
    mode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    negotiation: Option<String>,
}

impl Said {
    /// The place of a parameter, if it is one of these.
    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        match name {
            "sslmode" => Some(&mut self.mode),
            "sslrootcert" => Some(&mut self.root),
            "sslcert" => Some(&mut self.certificate),
            "sslkey" => Some(&mut self.key),
            "sslnegotiation" => Some(&mut self.negotiation),
            _ => None,
        }
    }

    fn is_direct(&self) -> Result<bool, Wrong> {
        match self.negotiation.as_deref() {
            None | Some("postgres") => Ok(false),
            Some("direct") => Ok(true),
            Some(_) => Err(Wrong::Tls("sslnegotiation is postgres or direct")),
        }
    }

    fn tls(&self) -> Result<Option<Tls>, Wrong> {
        let system = self.root.as_deref() == Some("system");
        let mode = match self.mode.as_deref() {
            Some(word) => Some(TlsMode::parse(word).ok_or(Wrong::Tls(
                "sslmode is disable, allow, prefer, require, verify-ca or verify-full",
            ))?),
            None if system => Some(TlsMode::VerifyFull),
            None => None,
        };
        let silent = mode.is_none()
            && self.root.is_none()
            && self.certificate.is_none()
            && self.key.is_none();
        if silent {
            return Ok(None);
        }
        let mut tls = Tls::new(mode.unwrap_or(TlsMode::Prefer));
        tls = match &self.root {
            Some(_) if system => tls.system_roots(),
            Some(path) => tls.root_file(path),
            None => tls,
        };
        tls = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => tls.identity_files(certificate, key),
            (None, None) => tls,
            (Some(_), None) => return Err(Wrong::Tls("sslcert needs sslkey, the file of its key")),
            (None, Some(_)) => return Err(Wrong::Tls("sslkey needs sslcert, its certificate")),
        };
        tls.check().map_err(Wrong::Tls)?;
        Ok(Some(tls))
    }
}

/// The driver takes everything up to the first `@` for user and password, so a `?` there begins
/// nothing.
fn take_from_url(text: &str, said: &mut Said) -> Result<String, Wrong> {
    let after_user = text.find('@').map_or(0, |at| at + 1);
    let question = text[after_user..].find('?');
    let end = question.map_or(text.len(), |question| after_user + question);
    // A second `@` is one of the password that was not encoded: what is between the two would be
    // taken for the host, and shown.
    if text[after_user..end].contains('@') {
        return Err(Wrong::Text);
    }
    let Some(question) = question else {
        return Ok(text.to_owned());
    };
    let (front, parameters) = text.split_at(after_user + question);
    let mut kept = Vec::new();
    let mut left = &parameters[1..];
    while !left.is_empty() {
        let (name, after) = left.split_once('=').ok_or(Wrong::Text)?;
        let (value, next) = after.split_once('&').unwrap_or((after, ""));
        match said.place(&decode(name)?) {
            Some(place) => *place = Some(decode(value)?),
            None => kept.push(format!("{name}={value}")),
        }
        left = next;
    }
    if kept.is_empty() {
        Ok(front.to_owned())
    } else {
        Ok(format!("{front}?{}", kept.join("&")))
    }
}

fn decode(text: &str) -> Result<String, Wrong> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let [first, rest @ ..] = left {
        left = rest;
        let encoded = match (first, rest) {
            (b'%', [high, low, after @ ..]) => hex(*high, *low).map(|byte| (byte, after)),
            _ => None,
        };
        match encoded {
            Some((byte, after)) => {
                bytes.push(byte);
                left = after;
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).map_err(|_| Wrong::Text)
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// `name = value` with white space around; a value may stand in quotes, and `\` takes the next
/// character as it is.
fn take_from_pairs(text: &str, said: &mut Said) -> Result<String, Wrong> {
    let mut kept = String::new();
    let mut left = text.trim_start();
    while !left.is_empty() {
        let begin = left;
        let name_end = left
            .find(|c: char| c.is_whitespace() || c == '=')
            .ok_or(Wrong::Text)?;
        let name = &left[..name_end];
        let value = left[name_end..].trim_start();
        let value = value.strip_prefix('=').ok_or(Wrong::Text)?.trim_start();
        let (value, after) = take_value(value)?;
        match said.place(name) {
            Some(place) => *place = Some(value),
            None => {
                kept.push_str(&begin[..begin.len() - after.len()]);
                kept.push(' ');
            }
        }
        left = after.trim_start();
    }
    Ok(kept)
}

fn take_value(text: &str) -> Result<(String, &str), Wrong> {
    let (body, quoted) = match text.strip_prefix('\'') {
        Some(body) => (body, true),
        None => (text, false),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        if quoted && character == '\'' {
            return Ok((value, &body[at + 1..]));
        }
        if !quoted && character.is_whitespace() {
            return Ok((value, &body[at..]));
        }
        if character == '\\' {
            value.extend(characters.next().map(|(_, taken)| taken));
        } else {
            value.push(character);
        }
    }
    if quoted || value.is_empty() {
        return Err(Wrong::Text);
    }
    Ok((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(text: &str) -> String {
        let (_, tls) = read(text).unwrap();
        tls.map_or_else(|| "nothing".to_owned(), |tls| format!("{tls:?}"))
    }

    #[test]
    fn parameters_of_tls_are_taken_out_wherever_they_stand() {
        let url = "postgres://app:p%40s?s@db:5433/shop?sslrootcert=%2Fa%20b%2Fca.pem\
            &options=-c%20x%3Dy&sslmode=verify-full&sslcert=/c.pem&sslkey=/k.pem&connect_timeout=3";
        let pairs = "host=db port = 5433 user=app password='p@s?s' dbname=shop \
            sslrootcert='/a b/ca.pem' options='-c x=y' sslmode=verify-full sslcert=/c.pem \
            sslkey = /k.pem connect_timeout=3";
        for text in [url, pairs] {
            let (config, tls) = read(text).unwrap();
            assert_eq!(config.get_password(), Some(b"p@s?s".as_slice()));
            assert_eq!(config.get_ports(), [5433]);
            assert_eq!(config.get_options(), Some("-c x=y"));
            assert!(config.get_connect_timeout().is_some());
            let text = format!("{:?}", tls.unwrap());
            assert!(text.contains("verify-full"), "{text}");
            assert!(text.contains("/a b/ca.pem"), "{text}");
            assert!(text.contains("/c.pem"), "{text}");
        }
    }

    #[test]
    fn what_is_not_said_stays_open() {
        for text in [
            "postgres://app@db/shop",
            "postgresql://db/shop?connect_timeout=3",
            "host=db",
        ] {
            assert_eq!(tls(text), "nothing");
        }
        assert!(tls("host=db sslrootcert=system").contains("verify-full"));
        assert!(tls("host=db sslrootcert=/ca.pem").contains("prefer"));
        for mode in ["disable", "allow", "prefer", "require", "verify-full"] {
            let text = tls(&format!("postgres://db/shop?sslmode={mode}"));
            assert!(text.contains(&format!("\"{mode}\"")), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_write() {
        for (parameters, word) in [
            ("sslmode=on", "verify-full"),
            ("sslmode=VERIFY-FULL", "verify-full"),
            ("sslmode=verify-ca", "sslrootcert"),
            ("sslmode=require&sslrootcert=system", "verify-full"),
            ("sslmode=require&sslcert=/c", "sslkey"),
            ("sslmode=require&sslkey=/c", "sslcert"),
            ("sslnegotiation=never", "direct"),
        ] {
            let pairs = format!("host=db {}", parameters.replace('&', " "));
            let url = format!("postgres://db/shop?{parameters}");
            for text in [url, pairs] {
                match read(&text) {
                    Err(Wrong::Tls(rule)) => assert!(rule.contains(word), "{text}: {rule}"),
                    other => panic!("{text}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in [
            "",
            "s3cret",
            "host",
            "host=",
            "host='db",
            "host=db sslmode",
            "host=db sslmode='require",
            "host=db sslcert=",
            "port=5432",
            "postgres:///shop",
            "postgres://db/shop?sslmode",
            "postgres://db/shop?sslmode=%FF",
            "postgres://db/shop?no_such=1",
            "mysql://db/shop",
        ] {
            assert_eq!(read(text).unwrap_err(), Wrong::Text, "{text}");
        }
    }
}
