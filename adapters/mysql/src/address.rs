//! Reading an address: what is said of encryption is taken out of it, the rest is the driver's.
//!
//! No text that leaves this file holds a password (I8): an address that cannot be read is
//! described, never repeated, because a misplaced `@` or `?` makes a piece of the password look
//! like a parameter.

use mysql_async::{Opts, UrlError};
use percent_encoding::percent_decode_str;

use crate::tls::{Tls, TlsMode};

/// The parameters that are read here: MySQL's names, and those of the driver.
const PARAMETERS: [&str; 8] = [
    "ssl-mode",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "require_ssl",
    "verify_ca",
    "verify_identity",
    "built_in_roots",
];

/// An address that could be read.
pub(crate) struct Address {
    /// Without a word about encryption.
    pub(crate) opts: Opts,
    /// What it says of encryption, if it says anything.
    pub(crate) tls: Option<Tls>,
}

/// Reads an address.
///
/// # Errors
/// It cannot be used: says why, without repeating it.
pub(crate) fn read(url: &str) -> Result<Address, String> {
    // As the driver splits it: a query begins with the first `?`, a fragment with the first `#`.
    let end = url.find('#').unwrap_or(url.len());
    let (base, query) = match url[..end].split_once('?') {
        Some((base, query)) => (base, query),
        None => (&url[..end], ""),
    };
    let mut said = Said::default();
    let mut left = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if !said.takes(pair)? {
            left.push(pair);
        }
    }
    let mut rest = base.to_owned();
    if !left.is_empty() {
        rest = rest + "?" + &left.join("&");
    }
    let opts = Opts::from_url(&(rest + &url[end..])).map_err(|error| describe(&error))?;
    Ok(Address {
        opts,
        tls: said.tls()?,
    })
}

/// The values of [`PARAMETERS`], in their order.
#[derive(Default)]
struct Said([Option<String>; PARAMETERS.len()]);

impl Said {
    /// Takes the pair if it is one of ours.
    fn takes(&mut self, pair: &str) -> Result<bool, String> {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(place) = PARAMETERS.iter().position(|name| *name == key) else {
            return Ok(false);
        };
        let name = PARAMETERS[place];
        // Not as in a form: a `+` in the name of a file is one.
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| format!("the value of {name} in the address is not UTF-8"))?;
        if self.0[place].replace(value.into_owned()).is_some() {
            return Err(format!(
                "the address gives {name} twice: leave one of them out"
            ));
        }
        Ok(true)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let place = PARAMETERS.iter().position(|listed| *listed == name)?;
        self.0[place].as_deref()
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        match self.value(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(format!("{name} in the address is true or false")),
        }
    }

    fn tls(&self) -> Result<Option<Tls>, String> {
        if self.0.iter().all(Option::is_none) {
            return Ok(None);
        }
        let built_in = self.flag("built_in_roots")?;
        let mode = self.mode()?;
        let mut tls = Tls::new(mode);
        if let Some(path) = self.value("ssl-ca") {
            tls = tls.ca_file(path);
        }
        // The driver trusts them unless it is told otherwise; where an authority is named, that
        // one alone is meant.
        let by_driver = self.value("require_ssl").is_some() && self.value("ssl-ca").is_none();
        let verifies = matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyIdentity);
        if built_in.unwrap_or(by_driver && verifies) {
            tls = tls.built_in_roots();
        }
        match (self.value("ssl-cert"), self.value("ssl-key")) {
            (Some(certificate), Some(key)) => tls = tls.identity_files(certificate, key),
            (None, None) => {}
            (Some(_), None) => return Err("ssl-cert needs ssl-key=FILE beside it".to_owned()),
            (None, Some(_)) => return Err("ssl-key needs ssl-cert=FILE beside it".to_owned()),
        }
        Ok(Some(tls))
    }

    fn mode(&self) -> Result<TlsMode, String> {
        let required = self.flag("require_ssl")?;
        let (ca, identity) = (self.flag("verify_ca")?, self.flag("verify_identity")?);
        if let Some(mode) = self.value("ssl-mode") {
            if required.or(ca).or(identity).is_some() {
                return Err(
                    "the address gives ssl-mode beside require_ssl, verify_ca or \
                            verify_identity: leave these out, ssl-mode says it all"
                        .to_owned(),
                );
            }
            return mode
                .parse()
                .map_err(|error: crate::BuildError| error.to_string());
        }
        match required {
            Some(false) => Ok(TlsMode::Disabled),
            Some(true) if ca == Some(false) => Ok(TlsMode::Required),
            Some(true) if identity == Some(false) => Ok(TlsMode::VerifyCa),
            Some(true) => Ok(TlsMode::VerifyIdentity),
            None if ca.or(identity).is_some() => Err(
                "verify_ca and verify_identity say how to look at a certificate, and nothing asks \
                 for one: write ssl-mode=VERIFY_IDENTITY in their place"
                    .to_owned(),
            ),
            // As for MySQL's own clients: who names an authority wants it to be looked at.
            None if self.value("ssl-ca").is_some() => Ok(TlsMode::VerifyCa),
            None if self.value("built_in_roots") == Some("true") => Ok(TlsMode::VerifyIdentity),
            None => Ok(TlsMode::Preferred),
        }
    }
}

/// What is wrong with an address, without repeating any part of it that could be a secret.
fn describe(error: &UrlError) -> String {
    let is_word =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    match error {
        UrlError::InvalidParamValue { param, .. } if is_word(param) => {
            format!("the value of parameter {param} in the address cannot be used")
        }
        UrlError::InvalidPoolConstraints { .. } => {
            "leave the pool's size out of the address and use pool_size".to_owned()
        }
        UrlError::UnsupportedScheme { .. } => {
            "the address must begin with mysql://, for MariaDB, too".to_owned()
        }
        UrlError::FeatureRequired { .. }
        | UrlError::InvalidParamValue { .. }
        | UrlError::UnknownParameter { .. } => {
            "the address has a parameter that is not known: in a user name or password, write %40 \
             for @, %3F for ?, %2F for /, %3A for : and %23 for #"
                .to_owned()
        }
        UrlError::Invalid | UrlError::Parse(_) => {
            "the address cannot be read: write mysql://user:password@host:port/database, and in a \
             user name or password %40 for @, %3F for ?, %2F for /, %3A for : and %23 for #"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(query: &str) -> Option<TlsMode> {
        let address = read(&format!("mysql://app@host/db?{query}")).unwrap();
        assert!(address.opts.ssl_opts().is_none());
        address.tls.map(|tls| tls.mode())
    }

    fn error(query: &str) -> String {
        match read(&format!("mysql://app@host/db?{query}")) {
            Ok(_) => panic!("{query} was taken"),
            Err(error) => error,
        }
    }

    #[test]
    fn mysqls_parameters_and_the_drivers_mean_what_they_mean_there() {
        for (query, expected) in [
            ("", None),
            ("ssl-mode=DISABLED", Some(TlsMode::Disabled)),
            ("ssl-mode=preferred", Some(TlsMode::Preferred)),
            ("ssl-mode=Required", Some(TlsMode::Required)),
            ("ssl-mode=VERIFY_CA&ssl-ca=x", Some(TlsMode::VerifyCa)),
            (
                "ssl-ca=x&ssl-mode=verify_identity",
                Some(TlsMode::VerifyIdentity),
            ),
            ("ssl-ca=x", Some(TlsMode::VerifyCa)),
            ("built_in_roots=true", Some(TlsMode::VerifyIdentity)),
            ("ssl-cert=x&ssl-key=y", Some(TlsMode::Preferred)),
            ("require_ssl=false", Some(TlsMode::Disabled)),
            ("require_ssl=true", Some(TlsMode::VerifyIdentity)),
            (
                "require_ssl=true&verify_identity=false",
                Some(TlsMode::VerifyCa),
            ),
            ("require_ssl=true&verify_ca=false", Some(TlsMode::Required)),
            (
                "require_ssl=true&verify_ca=false&verify_identity=false&built_in_roots=false",
                Some(TlsMode::Required),
            ),
        ] {
            assert_eq!(mode(query), expected, "{query}");
        }
    }

    #[test]
    fn contradictions_are_refused_with_the_mend() {
        for (query, mend) in [
            ("ssl-mode=REQUIRED&require_ssl=true", "ssl-mode says it all"),
            (
                "ssl-mode=VERIFY_CA&verify_ca=true&ssl-ca=x",
                "ssl-mode says it all",
            ),
            ("verify_ca=true", "ssl-mode=VERIFY_IDENTITY"),
            ("ssl-mode=ON", "one of DISABLED"),
            ("ssl-mode=", "one of DISABLED"),
            ("ssl-ca=x&ssl-ca=y", "twice"),
            ("ssl-cert=x", "ssl-key=FILE"),
            ("ssl-key=x", "ssl-cert=FILE"),
            ("require_ssl=yes", "true or false"),
            ("ssl-ca=%FF", "not UTF-8"),
        ] {
            let text = error(query);
            assert!(text.contains(mend), "{query}: {text}");
        }
        // These are seen when the description is put together.
        for (query, mend) in [
            ("ssl-mode=REQUIRED&ssl-ca=x", "VERIFY_IDENTITY or VERIFY_CA"),
            ("ssl-mode=DISABLED&ssl-ca=x", "VERIFY_IDENTITY or VERIFY_CA"),
            ("ssl-mode=VERIFY_CA", "give ssl-ca=FILE"),
            ("require_ssl=true&built_in_roots=false", "give ssl-ca=FILE"),
            (
                "ssl-mode=DISABLED&ssl-cert=x&ssl-key=y",
                "leave ssl-cert and ssl-key",
            ),
        ] {
            let tls = read(&format!("mysql://app@host/db?{query}")).unwrap().tls;
            let text = tls.unwrap().read().err().unwrap();
            assert!(text.contains(mend), "{query}: {text}");
        }
    }

    #[test]
    fn i8_a_parameter_is_named_only_if_it_cannot_be_a_piece_of_a_password() {
        for (param, is_named) in [
            ("prefer_socket", true),
            ("wait", true),
            ("", false),
            ("s3cret", false),
            ("Secret", false),
            ("a-b", false),
        ] {
            let (param, value) = (param.to_owned(), "s3cret".to_owned());
            let start = format!("the value of parameter {param} in");
            let text = describe(&UrlError::InvalidParamValue { param, value });
            assert_eq!(text.starts_with(&start), is_named, "{text}");
            assert!(
                is_named || text.contains("parameter that is not known"),
                "{text}"
            );
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn values_are_decoded_and_the_rest_is_left_to_the_driver() {
        let url =
            "mysql://a%40b:p%3Fq@host:7/d%62?stmt_cache_size=3&ssl-ca=%2Fno%20such%2Fc%2B+.pem";
        let address = read(url).unwrap();
        assert_eq!(address.opts.user(), Some("a@b"));
        assert_eq!(address.opts.pass(), Some("p?q"));
        assert_eq!(address.opts.stmt_cache_size(), 3);
        assert_eq!(address.opts.db_name(), Some("db"));
        let text = address.tls.unwrap().read().err().unwrap();
        assert!(
            text.starts_with("ssl-ca: /no such/c++.pem cannot be read: "),
            "{text}"
        );
    }
}
