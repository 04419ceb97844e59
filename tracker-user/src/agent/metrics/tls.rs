//! TLS for metrics: a certificate and its key from files, as rustls wants them.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rustls::{
    CertificateError, RootCertStore, ServerConfig,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate},
};

use crate::{
    agent::secret_file,
    model::{
        error::{Context, Error, Result},
        failure::Failure,
    },
};

/// Where a certificate and its key are.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The certificate, and those of intermediate authorities after it, in PEM.
    pub certificate: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
}

/// A certificate that can be served.
#[derive(Debug)]
pub struct Certificate {
    /// What handshakes go by.
    pub config: Arc<ServerConfig>,
    /// From when on it is valid, where that is in the future.
    pub not_before: Option<Timestamp>,
    chain: Vec<CertificateDer<'static>>,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    ///
    /// Where one cannot be read, others may read the key, it is not the certificate's, or the certificate has expired.
    pub fn read(files: &CertificateFiles) -> Result<Self> {
        Self::read_from(files).map_err(|error| Failure::BadInput(format!("{error:#}")).into())
    }

    fn read_from(CertificateFiles { certificate, key }: &CertificateFiles) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let (chain, not_before) = read_chain(certificate, &provider)
            .with_context(|| format!("the certificate in {}", certificate.display()))?;
        let secret = read_key(key).with_context(|| format!("the key in {}", key.display()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), secret)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => Error::text(format!(
                    "the key in {} is not that of the first certificate in {}",
                    key.display(),
                    certificate.display()
                )),
                error => Error::text(format!("the key in {}: {error}", key.display())),
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Scrapes are seconds apart: nothing is kept for the next one, which sees a renewed certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), not_before, chain })
    }

    /// This one, if it is valid already.
    ///
    /// # Errors
    ///
    /// Where it is not.
    pub fn valid(self) -> Result<Self> {
        match self.not_before {
            Some(not_before) => Err(Error::text(format!("it is not valid before {not_before}"))),
            None => Ok(self),
        }
    }

    /// Whether another one is the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

/// Reads certificates; and from when on the first is valid, where that is in the future.
fn read_chain(
    path: &Path,
    provider: &CryptoProvider,
) -> Result<(Vec<CertificateDer<'static>>, Option<Timestamp>)> {
    let mut text = Vec::new();
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::text("this is no file"));
    }
    file.take(MOST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(Error::text(format!("{MOST} bytes are at most")));
    }
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>()?;
    let first = chain.first().context("there is none: PEM has `-----BEGIN CERTIFICATE-----`")?;
    let not_before = check_validity(first, provider)?;
    Ok((chain, not_before))
}

/// Refuses a certificate that has expired, and returns from when on it is valid, where that is in the future.
fn check_validity(
    certificate: &CertificateDer<'_>,
    provider: &CryptoProvider,
) -> Result<Option<Timestamp>> {
    let certificate = ParsedCertificate::try_from(certificate)?;
    // Who has signed it is its readers' business. Its dates are looked at first.
    let verified = verify_server_cert_signed_by_trust_anchor(
        &certificate,
        &RootCertStore::empty(),
        &[],
        UnixTime::now(),
        provider.signature_verification_algorithms.all,
    );
    match verified {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) => Err(Error::text(format!("it has expired at {}", date(not_after)?))),
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before,
            ..
        })) => Ok(Some(date(not_before)?)),
        _ => Ok(None),
    }
}

fn date(time: UnixTime) -> Result<Timestamp> {
    Ok(Timestamp::from_second(i64::try_from(time.as_secs())?)?)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = secret_file::read(path, MOST, "make another one, because this one may be known")?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let is_encrypted = text.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED);
        if is_encrypted {
            Error::text("it is encrypted, and nobody is there to type a passphrase: `openssl pkey -in FILE -out FILE`")
        } else {
            Error::text(error.to_string())
        }
    })
}

/// Bytes that a file has at most.
const MOST: u64 = 262_144;

/// In the first line of a key with a passphrase, or in the second of an older form.
const ENCRYPTED: &[u8] = b"ENCRYPTED";
