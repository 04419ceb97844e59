//! Who may read metrics: whoever knows the token, by TLS. Both come from files that SIGHUP has read again.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::{HeaderMap, header};
use rustls::ServerConfig;

use super::{
    address::MetricsAddress,
    options::Options,
    tls::{Certificate, CertificateFiles},
    token::Token,
};
use crate::model::{error::Result, failure::Failure};

/// What a client needs.
#[derive(Debug)]
pub struct Access {
    token: Option<(PathBuf, Mutex<Token>)>,
    certificate: Option<(CertificateFiles, Mutex<Certificate>)>,
}

impl Access {
    /// Reads the files that the options name.
    ///
    /// # Errors
    ///
    /// What is wrong with one of them, or with the options.
    pub fn read(options: &Options) -> Result<Self> {
        let token = match &options.token {
            Some(path) => Some((path.clone(), Mutex::new(Token::read(path)?))),
            None => None,
        };
        let certificate = match (&options.tls_cert, &options.tls_key) {
            (Some(certificate), Some(key)) => {
                let is_unix = matches!(options.at, Some(MetricsAddress::Unix(_)));
                let said = "a unix socket needs no TLS: leave out --metrics-tls-cert and --metrics-tls-key, or name an address with \
                            --metrics";
                if is_unix {
                    return Err(Failure::BadInput(said.to_owned()).into());
                }
                let files = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
                let certificate = Certificate::read(&files)?;
                Some((files, Mutex::new(certificate)))
            }
            _ => None,
        };
        Ok(Self { token, certificate })
    }

    /// What whoever starts an agent should know about serving at this address.
    #[must_use]
    pub fn warnings(&self, at: &MetricsAddress) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.token.is_some() && self.certificate.is_none() && at.is_remote() {
            warnings.push(format!(
                "whoever sees the traffic with {at} learns the token: add --metrics-tls-cert and --metrics-tls-key"
            ));
        }
        if let Some((files, certificate)) = &self.certificate
            && let Some(not_before) = lock(certificate).not_before
        {
            warnings.push(format!(
                "the certificate in {} is not valid before {not_before}, and clients refuse it until then",
                files.certificate.display()
            ));
        }
        warnings
    }

    /// Reads the files again, and says so where something is new. What is wrong changes nothing.
    pub fn reload(&self) {
        if let Some((path, token)) = &self.token {
            match Token::read(path) {
                Ok(new) if new == *lock(token) => {}
                Ok(new) => {
                    *lock(token) = new;
                    tracing::info!("SIGHUP: /metrics has another token");
                }
                Err(error) => {
                    tracing::error!("SIGHUP: the token of /metrics stays what it was: {error:#}");
                }
            }
        }
        if let Some((files, certificate)) = &self.certificate {
            match Certificate::read(files).and_then(Certificate::valid) {
                Ok(new) if new.is_same(&lock(certificate)) => {}
                Ok(new) => {
                    *lock(certificate) = new;
                    tracing::info!("SIGHUP: /metrics has another certificate");
                }
                Err(error) => {
                    tracing::error!(
                        "SIGHUP: the certificate of /metrics stays what it was: {error:#}"
                    );
                }
            }
        }
    }

    /// Whether a request with these headers may have everything.
    #[must_use]
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let Some((_, token)) = &self.token else { return true };
        headers.get(header::AUTHORIZATION).is_some_and(|given| lock(token).is_in(given))
    }

    /// What handshakes go by; `None` without TLS.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.certificate.as_ref().map(|(_, certificate)| Arc::clone(&lock(certificate).config))
    }

    /// How it is served, in words.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match (&self.certificate, &self.token) {
            (None, None) => "to everybody",
            (None, Some(_)) => "with a token",
            (Some(_), None) => "with TLS",
            (Some(_), Some(_)) => "with TLS and a token",
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
