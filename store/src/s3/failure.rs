//! What went wrong, and what that means: wait and try again, or tell the user what to change.
//!
//! | what came | what it becomes |
//! |---|---|
//! | 404 for an object, 412, a range past the end | the calls themselves: `NotFound`, `Precondition`, … |
//! | no connection, no or half an answer in time | `Unavailable` |
//! | 408, 429, 5xx, `SlowDown`, `RequestTimeout`, a conflict of two writers, a full store | `Unavailable` |
//! | 501, any other 3xx and 4xx, an answer that makes no sense | `Refused`, with a hint |
//! | no credentials, a certificate that is not trusted | `Refused`, with a hint |

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::error::Later;
use crate::{Source, StoreError};

/// Longest text of a server that is repeated in a message, in characters.
const SERVER_TEXT_MAX: usize = 300;

/// Why a request did not do what it should.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server answered with an error.
    Answer(Answer),
    /// There was no answer, or only a part of it; or nobody could say who asks.
    NoAnswer(String),
    /// Asking again would not help: nothing could be asked, or the answer makes no sense.
    Wrong(String),
}

/// An answer that is an error.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    /// S3's own code; empty where the answer had no body.
    pub(super) code: String,
    /// The server's text; radosgw has none.
    message: String,
    /// The region in which the bucket is, if the server says so.
    region: Option<String>,
    /// How long the server wants to be left alone.
    retry_after: Option<Duration>,
}

/// What messages need to know about the store.
#[derive(Debug)]
pub(super) struct Place {
    /// The store's URL.
    pub(super) url: String,
    /// The bucket.
    pub(super) bucket: String,
    /// The service's address, or which region of AWS.
    pub(super) service: String,
}

/// The cause that a [`StoreError`] carries.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(String);

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if let Some(failure) = local_cause(&error) {
            return failure;
        }
        match &error {
            SdkError::ServiceError(answer) if !answer.raw().status().is_success() => {
                Failure::Answer(Answer::read(answer.err(), answer.raw()))
            }
            SdkError::ServiceError(_) | SdkError::ConstructionFailure(_) => {
                Failure::Wrong(chain(&error))
            }
            SdkError::DispatchFailure(failure) if failure.is_user() => {
                Failure::Wrong(chain(&error))
            }
            _ => Failure::NoAnswer(chain(&error)),
        }
    }
}

/// Causes on this side, which the SDK reports as if the request had failed on its way.
fn local_cause(error: &(dyn Error + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref::<CredentialsError>() {
            return Some(of_credentials(cause));
        }
        if let Some(rustls::Error::InvalidCertificate(cause)) = error.downcast_ref() {
            return Some(Failure::Wrong(format!(
                "the server's certificate is not trusted ({cause}); if it is right, name the \
                 certificate of its authority with the setting s3.ca-file"
            )));
        }
        // An I/O error passes over the error that it wraps when it is asked for its source.
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn of_credentials(error: &CredentialsError) -> Failure {
    const WHERE: &str = "they are looked for in the settings s3.access-key-id and \
        s3.secret-access-key, the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the \
        profile (s3.profile, AWS_PROFILE) in ~/.aws, and the role of the container or instance";
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            Failure::Wrong(format!("there are no credentials; {WHERE}"))
        }
        CredentialsError::InvalidConfiguration(_) => {
            Failure::Wrong(format!("bad credentials: {}; {WHERE}", chain(error)))
        }
        _ => Failure::NoAnswer(format!("cannot get credentials: {}", chain(error))),
    }
}

impl Answer {
    fn read(error: &impl ProvideErrorMetadata, raw: &HttpResponse) -> Self {
        let header = |name| raw.headers().get(name).map(shorten);
        let text = |text: Option<&str>| text.map(shorten).unwrap_or_default();
        Self {
            status: raw.status().as_u16(),
            code: text(error.code()),
            message: text(error.message()),
            region: header("x-amz-bucket-region"),
            retry_after: raw
                .headers()
                .get("retry-after")
                .and_then(|seconds| seconds.trim().parse::<u32>().ok())
                .map(|seconds| Duration::from_secs(seconds.into())),
        }
    }

    /// An error that a whole answer has for one of the keys asked about.
    pub(super) fn of_key(code: Option<&str>, message: Option<&str>) -> Self {
        let text = |text: Option<&str>| text.map(shorten).unwrap_or_default();
        Self { code: text(code), message: text(message), ..Self::default() }
    }

    /// Whether the same request may succeed later.
    fn may_pass(&self) -> bool {
        let by_code = matches!(
            self.code.as_str(),
            "SlowDown"
                | "ServiceUnavailable"
                | "InternalError"
                | "RequestTimeout"
                | "OperationAborted"
                | "ConditionalRequestConflict"
                | "RequestLimitExceeded"
                | "BandwidthLimitExceeded"
                | "TooManyRequests"
                | "TooManyRequestsException"
                | "Throttling"
                | "ThrottlingException"
                // Room can be made in a store that is full.
                | "QuotaExceeded"
                | "XMinioStorageFull"
        );
        let conflict = self.status == 409 && self.code.is_empty();
        let by_status = matches!(self.status, 408 | 429 | 500 | 502..=504 | 506..=509);
        by_code || conflict || by_status
    }

    fn hint(&self, place: &Place) -> Option<String> {
        let Place { bucket, service, .. } = place;
        let of_region = || match &self.region {
            Some(region) => {
                format!("the bucket {bucket} is in the region {region}: set s3.region to that")
            }
            None => format!(
                "the bucket {bucket} is elsewhere than at {service}: check s3.region and \
                 s3.endpoint"
            ),
        };
        Some(match (self.status, self.code.as_str()) {
            (_, "NoSuchBucket") | (404, "" | "NotFound") => format!(
                "there is no bucket {bucket} at {service}; buckets are not made here, make it \
                 first"
            ),
            (_, "RequestTimeTooSkewed") => {
                "the clocks of this machine and of the server differ too much; set this one"
                    .to_owned()
            }
            (301 | 302 | 307 | 308, _) | (_, "AuthorizationHeaderMalformed") => of_region(),
            (_, "InvalidAccessKeyId") => {
                "the server does not know this access key; check the credentials".to_owned()
            }
            (_, "SignatureDoesNotMatch") => "check the secret access key, and s3.region".to_owned(),
            (_, "ExpiredToken" | "InvalidToken") => "renew the credentials".to_owned(),
            (401 | 403, _) => format!(
                "check the credentials, and what they may do in the bucket {bucket} at {service}"
            ),
            (501, _) => {
                "the server lacks something that is needed here, such as conditional writes; use \
                 another"
                    .to_owned()
            }
            _ => return None,
        })
    }

    fn text(&self, place: &Place) -> String {
        let mut text = match self.status {
            0 => "the server says".to_owned(),
            status => format!("the server answered {status}"),
        };
        if !self.code.is_empty() {
            text = format!("{text} {}", self.code);
        }
        if !self.message.is_empty() {
            text = format!("{text}: {}", self.message);
        }
        match self.hint(place) {
            Some(hint) => format!("{text}; {hint}"),
            None => text,
        }
    }
}

impl Place {
    /// The error of `operation` on `key` (or on the prefix of a listing).
    pub(super) fn error(&self, operation: &'static str, key: &str, failure: Failure) -> StoreError {
        let (retryable, after, text) = match failure {
            Failure::Answer(answer) => (answer.may_pass(), answer.retry_after, answer.text(self)),
            Failure::NoAnswer(text) => (true, None, format!("{}: {text}", self.service)),
            Failure::Wrong(text) => (false, None, text),
        };
        let (store, key) = (self.url.clone(), key.to_owned());
        let cause: Source = Box::new(Cause(text));
        let source = match after {
            Some(after) => Box::new(Later { after, source: cause }),
            None => cause,
        };
        if retryable {
            StoreError::Unavailable { store, key, operation, source }
        } else {
            StoreError::Refused { store, key, operation, source }
        }
    }
}

/// An error and its causes in one line, each said once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// A server's words as one line of bounded length.
pub(super) fn shorten(text: impl AsRef<str>) -> String {
    let words = text.as_ref().split_whitespace().collect::<Vec<_>>().join(" ");
    let plain = words.chars().filter(|c| !c.is_control());
    plain.take(SERVER_TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            url: "s3://disks/vols".to_owned(),
            bucket: "disks".to_owned(),
            service: "http://127.0.0.1:9000".to_owned(),
        }
    }

    fn answer(status: u16, code: &str) -> Answer {
        Answer { status, code: code.to_owned(), ..Answer::default() }
    }

    #[test]
    fn what_may_pass_is_unavailable_and_the_rest_refused() {
        for (status, code) in [
            (500, ""),
            (500, "InternalError"),
            (502, ""),
            (503, "SlowDown"),
            (504, ""),
            (507, "XMinioStorageFull"),
            (429, "TooManyRequests"),
            (408, ""),
            (400, "RequestTimeout"),
            (409, "ConditionalRequestConflict"),
            (409, "OperationAborted"),
            (409, ""),
            (403, "QuotaExceeded"),
            (0, "InternalError"),
        ] {
            let error = place().error("create", "o", Failure::Answer(answer(status, code)));
            assert!(error.is_retryable(), "{error}");
        }
        for (status, code) in [
            (301, "PermanentRedirect"),
            (400, "InvalidRequest"),
            (400, ""),
            (403, ""),
            (403, "AccessDenied"),
            (404, "NoSuchBucket"),
            (405, "MethodNotAllowed"),
            (409, "BucketNotEmpty"),
            (501, "NotImplemented"),
            (505, ""),
            (0, "AccessDenied"),
        ] {
            let error = place().error("create", "o", Failure::Answer(answer(status, code)));
            assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        }
    }

    #[test]
    fn hints_name_what_to_change() {
        let wrong_region =
            Answer { region: Some("eu-west-1".to_owned()), ..answer(301, "PermanentRedirect") };
        for (answer, needle) in [
            (answer(404, "NoSuchBucket"), "no bucket disks at http://127.0.0.1:9000"),
            (answer(403, ""), "403; check the credentials"),
            (answer(403, "RequestTimeTooSkewed"), "clocks"),
            (answer(501, "NotImplemented"), "conditional writes"),
            (wrong_region, "set s3.region to that"),
            (answer(301, ""), "check s3.region and s3.endpoint"),
        ] {
            let error = place().error("create", "o", Failure::Answer(answer)).to_string();
            assert!(error.contains(needle), "{error}");
            assert!(error.starts_with("s3://disks/vols: cannot create o: "), "{error}");
        }
    }

    #[test]
    fn a_server_cannot_fill_the_log() {
        let long = "x\n\u{1b}[31m".repeat(10_000);
        let error = Answer::of_key(Some(&long), Some(&long));
        let text = error.text(&place());
        assert!(text.len() < 4 * SERVER_TEXT_MAX && !text.contains(['\n', '\u{1b}']), "{text}");
    }
}
