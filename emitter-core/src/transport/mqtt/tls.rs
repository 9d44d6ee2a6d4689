//! How this node knows that a broker is the one that it says it is, and the broker this node.

use std::fmt;
use std::sync::Arc;

use rumqttc::tokio_rustls::rustls::crypto::ring;
use rumqttc::tokio_rustls::rustls::pki_types::pem::PemObject;
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rumqttc::tokio_rustls::rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier, version};

use super::config::MqttConfigError;

/// Whom a connection by `mqtts://` trusts, and who this node says that it is. TLS 1.2 and 1.3; the
/// broker's host name is always checked.
///
/// ```
/// # fn config(authority: &[u8], certificate: &[u8], key: &[u8]) -> Result<(), emitter_core::transport::mqtt::MqttConfigError> {
/// use emitter_core::transport::mqtt::{MqttConfig, Tls};
///
/// // A broker whose certificate the system trusts needs nothing but the scheme.
/// let public = MqttConfig::new("mqtts://broker.example.com")?;
/// // One with an authority of your own, which knows its clients by their certificates:
/// let own = MqttConfig::new("mqtts://broker.local")?.tls(Tls::authority(authority)?.identity(certificate, key)?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tls {
    roots: Arc<RootCertStore>,
    identity: Option<Arc<Identity>>,
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Tls {
    /// Trusts the authorities that the operating system trusts, or those of the files that the
    /// environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    ///
    /// # Errors
    /// If it has none, as in a container without the package `ca-certificates`.
    pub fn system() -> Result<Self, MqttConfigError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(invalid(format_args!(
                "the operating system trusts no authority ({} errors): install `ca-certificates`, look at SSL_CERT_FILE and \
                 SSL_CERT_DIR if they are set, or give the broker's own by `Tls::authority`",
                found.errors.len()
            )));
        }
        Ok(Self { roots: Arc::new(roots), identity: None })
    }

    /// Trusts these authorities alone: one or several certificates in PEM.
    ///
    /// # Errors
    /// If there is no certificate in it, or one that is none.
    pub fn authority(pem: &[u8]) -> Result<Self, MqttConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem, "the authority")? {
            roots.add(certificate).map_err(|error| invalid(format_args!("the authority: {error}")))?;
        }
        Ok(Self { roots: Arc::new(roots), identity: None })
    }

    /// Shows the broker this certificate when it asks for one: a chain in PEM, this node's own
    /// first, and its private key in PEM (PKCS #8, PKCS #1 or SEC1).
    ///
    /// # Errors
    /// If either is missing or malformed, or they do not belong together.
    pub fn identity(self, chain: &[u8], key: &[u8]) -> Result<Self, MqttConfigError> {
        let chain = certificates(chain, "the certificate")?;
        // Its error shows nothing of the key.
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            invalid("there is no private key in PEM: PKCS #8, PKCS #1 or SEC1, without a password")
        })?;
        let identity = Some(Arc::new(Identity { chain, key }));
        let tls = Self { identity, ..self };
        tls.client().map(|_| tls)
    }

    /// As rustls wants it.
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>, MqttConfigError> {
        let builder = builder()?.with_root_certificates(Arc::clone(&self.roots));
        let Some(identity) = &self.identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
        let client = builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key());
        client.map(Arc::new).map_err(|error| invalid(format_args!("the certificate and its key: {error}")))
    }
}

/// Trusts nobody.
pub(super) fn nobody() -> Arc<ClientConfig> {
    let nobody = Tls { roots: Arc::new(RootCertStore::empty()), identity: None };
    match nobody.client() {
        Ok(client) => client,
        Err(error) => unreachable!("the provider knows both versions of TLS: {error}"),
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, MqttConfigError> {
    let versions = [&version::TLS13, &version::TLS12];
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&versions)
        .map_err(invalid)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, MqttConfigError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => {
            Err(invalid(format_args!("{what}: there is no certificate in PEM (-----BEGIN CERTIFICATE-----)")))
        }
        Err(error) => Err(invalid(format_args!("{what}: {error}"))),
    }
}

fn invalid(reason: impl fmt::Display) -> MqttConfigError {
    MqttConfigError::Invalid { field: "tls", reason: reason.to_string() }
}

impl fmt::Debug for Tls {
    /// Shows no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.roots.len())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// What to do about a failed handshake, after the words in which rustls tells of it.
pub(super) fn advice(error: &str) -> Option<&'static str> {
    [
        ("UnknownIssuer", "no authority that is trusted here vouches for the broker's certificate: give its own by `Tls::authority`"),
        ("BadSignature", "no authority that is trusted here vouches for the broker's certificate, but one has the same name: give its own by `Tls::authority`"),
        ("alert: CertificateExpired", OURS),
        ("alert: CertificateUnknown", OURS),
        ("alert: BadCertificate", OURS),
        ("alert: UnknownCA", OURS),
        ("not valid for any names", "the broker's certificate names no host (subjectAltName): make one that does"),
        ("not valid for name", "the broker's certificate is for another host name: use that name in the URL"),
        ("NotValidForName", "the broker's certificate is for another host name: use that name in the URL"),
        ("NotValidYet", "the broker's certificate is not valid yet, or this machine's clock is wrong"),
        ("not valid yet", "the broker's certificate is not valid yet, or this machine's clock is wrong"),
        ("CaUsedAsEndEntity", "the broker's certificate is an authority's: make one for the broker, signed by it"),
        ("expired", "the broker's certificate has expired, or this machine's clock is wrong"),
        ("Expired", "the broker's certificate has expired, or this machine's clock is wrong"),
        ("CertificateRequired", "the broker wants a certificate of this node: give one by `Tls::identity`"),
        ("InvalidContentType", "the broker does not speak TLS on this port, which is most often 8883"),
    ]
    .into_iter()
    .find_map(|(words, advice)| error.contains(words).then_some(advice))
}

const OURS: &str = "the broker refuses this node's certificate, that of `Tls::identity`";
