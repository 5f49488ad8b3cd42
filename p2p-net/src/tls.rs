//! TLS 1.3 for the data plane: libp2p certificates on both ends, pinned to the expected node,
//! AES-GCM before ChaCha20.
//!
//! `libp2p-tls` makes and reads the certificates; its configurations are not used because they
//! prefer ChaCha20, which costs 1.6 times the processor time on machines with AES instructions.
//! Invariant: no connection exists whose far end did not prove the key that names it.

use std::sync::Arc;

use libp2p_tls::certificate;
use p2p_core::NodeId;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme,
};

use crate::identity::{Identity, node_of};

/// Not that of libp2p's own connections, so that the planes cannot be confused.
const ALPN: &[u8] = b"shoal-data/1";

/// Connections that are opened to see how fast they are, and carry nothing of any build.
const MEASURE_ALPN: &[u8] = b"shoal-measure/1";

/// A node's certificate, from which its client and server configurations are made.
#[derive(Clone, Debug)]
pub(crate) struct TlsIdentity {
    certified: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    /// What connections that this node opens are for.
    client_alpn: &'static [u8],
}

impl TlsIdentity {
    /// A fresh certificate signed by the node's key.
    pub(crate) fn new(identity: &Identity) -> Result<Self, rustls::Error> {
        let general = |error: &dyn core::fmt::Display| rustls::Error::General(error.to_string());
        let generated = certificate::generate(identity.keypair());
        let (certificate, key): (_, PrivateKeyDer<'static>) =
            generated.map_err(|error| general(&error))?;
        let signer = aws_lc_rs::sign::any_ecdsa_type(&key)?;
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(vec![certificate], signer)),
            provider: Arc::new(provider),
            client_alpn: ALPN,
        })
    }

    /// The same node, for connections that only measure.
    pub(crate) fn for_measuring(self) -> Self {
        Self { client_alpn: MEASURE_ALPN, ..self }
    }

    /// Accepts any node that proves its key; the caller reads who it is with [`remote_node`].
    pub(crate) fn quic_server_config(&self) -> Result<QuicServerConfig, rustls::Error> {
        to_quic(QuicServerConfig::try_from(self.server_config()?))
    }

    /// Accepts nobody but `expected`.
    pub(crate) fn quic_client_config(
        &self,
        expected: NodeId,
    ) -> Result<QuicClientConfig, rustls::Error> {
        to_quic(QuicClientConfig::try_from(self.client_config(expected)?))
    }

    /// Accepts any node that proves its key; the caller reads who it is with [`remote_node_of`].
    pub(crate) fn tcp_server_config(&self) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
        self.server_config().map(Arc::new)
    }

    /// Accepts nobody but `expected`.
    pub(crate) fn tcp_client_config(
        &self,
        expected: NodeId,
    ) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
        self.client_config(expected).map(Arc::new)
    }

    fn server_config(&self) -> Result<rustls::ServerConfig, rustls::Error> {
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier { expected: None }))
            .with_cert_resolver(Arc::new(Resolver(self.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec(), MEASURE_ALPN.to_vec()];
        // Nobody resumes: each connection proves both keys anew.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn client_config(&self, expected: NodeId) -> Result<rustls::ClientConfig, rustls::Error> {
        let verifier = Arc::new(Verifier { expected: Some(expected) });
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(Resolver(self.certified.clone())));
        config.alpn_protocols = vec![self.client_alpn.to_vec()];
        Ok(config)
    }
}

fn to_quic<C>(
    config: Result<C, quinn::crypto::rustls::NoInitialCipherSuite>,
) -> Result<C, rustls::Error> {
    config.map_err(|error| rustls::Error::General(error.to_string()))
}

/// Whether the node that opened the connection wants to measure it.
pub(crate) fn is_measuring(connection: &quinn::Connection) -> bool {
    let data = connection.handshake_data();
    let data = data.and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| is_measuring_by(data.protocol.as_deref()))
}

/// The same of the protocol that a handshake led to.
pub(crate) fn is_measuring_by(protocol: Option<&[u8]>) -> bool {
    protocol == Some(MEASURE_ALPN)
}

/// The node at the far end of a QUIC connection, as its certificate proves.
pub(crate) fn remote_node(connection: &quinn::Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    remote_node_of(&identity)
}

/// The node that proved itself with these certificates.
pub(crate) fn remote_node_of(certificates: &[CertificateDer<'_>]) -> Option<NodeId> {
    node_of_certificate(certificates.first()?)
}

fn node_of_certificate(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = certificate::parse(certificate).ok()?;
    node_of(&parsed.peer_id())
}

/// rustls refuses libp2p's certificates (a critical extension that it does not know) wherever it
/// looks into them itself; a resolver is the one way that does not.
#[derive(Debug)]
struct Resolver(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Resolver {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[derive(Debug)]
struct Verifier {
    expected: Option<NodeId>,
}

impl Verifier {
    /// One certificate, self-signed, that names an ed25519 key: the expected one if there is one.
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        let refused =
            || rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if !intermediates.is_empty() {
            return Err(refused());
        }
        let node = node_of_certificate(end_entity).ok_or_else(refused)?;
        if self.expected.is_some_and(|expected| expected != node) {
            return Err(refused());
        }
        Ok(())
    }

    fn check_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(
            signed.scheme,
            message,
            signed.signature(),
        )?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn no_tls12() -> rustls::Error {
        rustls::Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic)
    }

    fn schemes() -> Vec<SignatureScheme> {
        // What `certificate::generate` signs with.
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}
