//! From options to a client: where the service is, who asks, and what the SDK must not do itself.
//!
//! What is not given comes from the SDK's own chain: variables (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
//! `AWS_ENDPOINT_URL_S3`, …), the profile files, the role of the container or of the instance.
//! The SDK tries nothing again: one call of the store is one request.

use std::path::Path;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_types::service_config::ServiceConfigKey;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::endpoint::Endpoint;
use crate::{S3Options, Timeouts};

/// Where a service that has regions in name only is told to be.
const REGION_OF_NO_IMPORTANCE: &str = "us-east-1";

/// Largest file of certificates that is read.
const CA_FILE_BYTES_MAX: u64 = 16 << 20;

/// A client and where it goes.
pub(super) struct Connection {
    pub(super) client: Client,
    /// Where the service is, if it is not AWS itself.
    pub(super) endpoint: Option<Endpoint>,
    pub(super) region: String,
}

/// Builds the client. Nothing is sent to the service; only where the region is given nowhere and
/// there is no endpoint, the instance is asked for it.
///
/// # Errors
/// What is wrong with the options.
pub(super) async fn connect(options: &S3Options, timeouts: Timeouts) -> Result<Connection, String> {
    let given = options.endpoint.as_deref().map(Endpoint::parse).transpose()?;
    let http = http_client(options, given.as_ref())?;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(timeouts.connect)
        .disable_read_timeout()
        .disable_operation_timeout()
        .disable_operation_attempt_timeout()
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(endpoint) = &given {
        loader = loader.endpoint_url(endpoint.url());
    }
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    let config = with_region(with_credentials(loader, options)?, options).load().await;

    let endpoint = match given {
        Some(endpoint) => Some(endpoint),
        None => configured_endpoint(&config).as_deref().map(Endpoint::parse).transpose()?,
    };
    let region = match (config.region(), &endpoint) {
        (Some(region), _) => region.clone(),
        (None, Some(_)) => Region::from_static(REGION_OF_NO_IMPORTANCE),
        (None, None) => {
            return Err("the region is not known: set it with the setting s3.region, or \
                        AWS_REGION, or in the profile; for a service other than AWS set \
                        s3.endpoint"
                .to_owned());
        }
    };
    let service = Builder::from(&config)
        .region(region.clone())
        .force_path_style(options.path_style.unwrap_or(endpoint.is_some()))
        // Most services other than AWS know neither checksums in trailers nor those in headers.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    let client = Client::from_conf(service.build());
    Ok(Connection { client, endpoint, region: region.as_ref().to_owned() })
}

fn with_credentials(loader: ConfigLoader, options: &S3Options) -> Result<ConfigLoader, String> {
    match (&options.access_key_id, &options.secret_access_key) {
        (Some(id), Some(secret)) => {
            let keys = Credentials::new(id, secret, None, None, "lsvd settings");
            Ok(loader.credentials_provider(keys))
        }
        (None, None) => Ok(loader),
        (Some(_), None) => Err("there is an access-key-id but no secret-access-key".to_owned()),
        (None, Some(_)) => Err("there is a secret-access-key but no access-key-id".to_owned()),
    }
}

/// A service of one's own mostly has no regions worth a name, so the instance is not asked there:
/// outside AWS that takes seconds.
fn with_region(loader: ConfigLoader, options: &S3Options) -> ConfigLoader {
    if let Some(region) = &options.region {
        return loader.region(Region::new(region.clone()));
    }
    if options.endpoint.is_none() {
        return loader;
    }
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &options.profile {
        profile = profile.profile_name(name);
    }
    let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(profile.build())
        .or_else(Region::from_static(REGION_OF_NO_IMPORTANCE));
    loader.region(chain)
}

/// The endpoint that the SDK takes from variables or profiles, by its own rules.
fn configured_endpoint(config: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build();
    let of_service = || config.service_config()?.load_config(key.ok()?);
    of_service().or_else(|| config.endpoint_url().map(str::to_owned))
}

fn http_client(
    options: &S3Options,
    endpoint: Option<&Endpoint>,
) -> Result<SharedHttpClient, String> {
    // Without TLS and without anybody to ask for credentials there is nothing to verify, and a
    // machine need not have the system's certificates.
    let needs_tls = !endpoint.is_some_and(Endpoint::is_plain) || options.access_key_id.is_none();
    let mut trusted = TrustStore::empty().with_native_roots(needs_tls);
    if let Some(path) = &options.ca_file {
        trusted = trusted.with_pem_certificate(certificates(path)?);
    }
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|error| format!("cannot set up TLS: {error}"))?;
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https())
}

/// The content of a file of certificates, checked: the HTTP client panics at a bad one.
fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let cannot_read = |error: std::io::Error| format!("cannot read the ca-file {shown}: {error}");
    let size = std::fs::metadata(path).map_err(cannot_read)?.len();
    if size > CA_FILE_BYTES_MAX {
        return Err(format!(
            "the ca-file {shown} is {size} bytes; that is no list of certificates"
        ));
    }
    let pem = std::fs::read(path).map_err(cannot_read)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let bad = |error: &dyn std::fmt::Display| {
            format!("the ca-file {shown} holds a bad certificate: {error}")
        };
        let certificate = certificate.map_err(|error| bad(&error))?;
        roots.add(certificate).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(format!("the ca-file {shown} holds no PEM certificate"));
    }
    Ok(pem)
}
