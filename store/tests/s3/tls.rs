//! TLS: whom the store trusts. The certificates in `tls/` are for 127.0.0.1 and these tests only;
//! their authority's key is thrown away.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lsvd_store::{ObjectStore, S3Options, S3Store, StoreError, Timeouts};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{Reply, Server, create, is_refused};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3/tls").join(name)
}

fn server() -> Server {
    let chain = CertificateDer::pem_file_iter(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
        .unwrap();
    Server::start_tls(config, |_| Reply::new(200, &[("etag", "\"tag\"")], ""))
}

fn open(server: &Server, ca_file: Option<PathBuf>) -> Result<S3Store, StoreError> {
    let options = S3Options {
        endpoint: Some(server.url().replace("http:", "https:")),
        access_key_id: Some("id".to_owned()),
        secret_access_key: Some("secret".to_owned()),
        ca_file,
        ..S3Options::default()
    };
    S3Store::open("s3://disks", &options, Timeouts::default())
}

#[test]
fn an_unknown_certificate_is_refused_with_the_way_out() {
    let server = server();
    let error = create(&open(&server, None).unwrap()).unwrap_err();
    assert!(is_refused(&error) && error.to_string().contains("s3.ca-file"), "{error}");
    assert!(server.asked().is_empty());
}

#[test]
fn a_certificate_of_an_authority_that_is_named_is_trusted() {
    let server = server();
    let store = open(&server, Some(file("ca.pem"))).unwrap();
    create(&store).unwrap();
    let put = &server.asked()[0];
    assert_eq!(put.header("if-none-match"), Some("*"));
    // TLS protects the body, so it is not summed up once more.
    assert_eq!(put.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    assert!(store.identity().starts_with("s3://disks at 127.0.0.1:"));
}

#[test]
fn a_file_that_holds_no_certificate_is_a_mistake() {
    let server = server();
    for name in ["server.key", "missing.pem"] {
        let error = open(&server, Some(file(name))).unwrap_err();
        assert!(matches!(error, StoreError::BadUrl { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.pem");
    for text in [
        "",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&broken, text).unwrap();
        let error = open(&server, Some(broken.clone())).unwrap_err();
        assert!(error.to_string().contains("broken.pem"), "{error}");
    }
}
