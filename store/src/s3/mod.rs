//! A store in a bucket of S3, or of a service that speaks its protocol.
//!
//! ```text
//!   calling threads          S3Store                       service
//!   create ──── block_on ──> PutObject  If-None-Match: *   412 -> AlreadyExists
//!   replace                  PutObject  If-Match: "etag"   412 -> Precondition
//!   get, get_range           GetObject  Range              416 -> OutOfRange
//!   list                     ListObjectsV2  start-after
//!   delete, delete_many      DeleteObject, DeleteObjects
//! ```
//!
//! The project's only async runtime lives in here, two threads per store; callers just block.
//!
//! What to rely on, and what not:
//! * an object is one PUT, so it appears whole or not at all; the version of an object is its ETag;
//! * one call is one request, and nothing is tried again here ([`crate::RetryStore`] does that).
//!   Rare answers take more, which are counted: a range past the end, whose size is then asked for; a page of a
//!   listing that holds nothing but names that are no keys; a replace whose condition failed, to
//!   see why (radosgw says the same to a missing object, and does not know its own ETags in
//!   quotes);
//! * each request ends after [`Timeouts::request`], with `Unavailable`;
//! * opening asks the service nothing, so it works in an outage: the first call tells. A bucket is
//!   never made;
//! * the service must really check the conditions of a PUT. Not all do; whoever must know tries;
//! * where the object is missing `HEAD` has no body, so there a missing bucket looks like a
//!   missing object;
//! * over TLS bodies are not signed: TLS protects them, and it saves both sides a SHA-256. Over
//!   plain HTTP they are signed, so that the service refuses what was damaged on its way.
//!
//! What becomes of errors is in `failure`.

mod body;
mod connect;
mod endpoint;
mod failure;
mod listing;
mod location;

use std::fmt;
use std::future::Future;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use tokio::runtime::{Builder, Runtime};

use crate::parts::joined;
use crate::{
    ByteRange, Front, Key, ListPage, ObjectMeta, ObjectStore, Requests, S3Options, StoreError,
    StoreResult, Timeouts, Traffic, Version,
};
use body::{Ranged, range_header, read_front, read_range, read_whole, size_of};
use failure::{Answer, Failure, Place, shorten};
use listing::{Page, Question};
use location::Location;

/// Threads that move bytes; callers wait on their own.
const WORKERS: usize = 2;

/// Most keys that S3 takes in one listing or deletion.
const KEYS_MAX: usize = 1000;

/// Most pages without a single key that a listing goes on for.
const EMPTY_PAGES_MAX: usize = 1000;

/// An object store in a bucket.
pub struct S3Store {
    location: Location,
    identity: String,
    place: Place,
    client: Client,
    /// Whether bodies go unsigned, because TLS protects them.
    is_unsigned: bool,
    request_max: Duration,
    /// Whether the service knows its own ETags only without quotes, as radosgw.
    wants_bare_tags: AtomicBool,
    /// Requests beyond one for each call.
    further: Traffic,
    /// `None` only while dropped.
    runtime: Option<Runtime>,
}

impl S3Store {
    /// The store at `url`, `s3://bucket` or `s3://bucket/prefix`. The service is not asked
    /// anything yet.
    ///
    /// # Errors
    /// `BadUrl` where the URL or the options make no sense, `Unavailable` where this process can
    /// start no more threads, or the region was to be found out and was not, in time.
    pub fn open(url: &str, options: &S3Options, timeouts: Timeouts) -> StoreResult<Self> {
        let bad = |reason: String| StoreError::BadUrl { url: url.to_owned(), reason };
        let rest = url.strip_prefix("s3://").ok_or_else(|| bad("it is no s3:// URL".to_owned()))?;
        let location = Location::parse(rest).map_err(bad)?;
        let mut place = Place {
            url: location.url(),
            bucket: location.bucket.clone(),
            service: "AWS".to_owned(),
        };
        let unavailable =
            |place: &Place, text| Err(place.error("open", "the store", Failure::NoAnswer(text)));
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("lsvd-s3")
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return unavailable(&place, format!("no threads: {error}")),
        };
        let connecting = async {
            tokio::time::timeout(timeouts.request, connect::connect(options, timeouts)).await
        };
        let Ok(connected) = runtime.block_on(connecting) else {
            runtime.shutdown_background();
            return unavailable(&place, "finding out the region took too long".to_owned());
        };
        let connection = connected.map_err(bad)?;
        let endpoint = connection.endpoint;
        place.service = match &endpoint {
            Some(endpoint) => endpoint.url().to_owned(),
            None => format!("AWS in {}", connection.region),
        };
        let identity = match &endpoint {
            Some(endpoint) => format!("{} at {}", place.url, endpoint.identity()),
            None => place.url.clone(),
        };
        Ok(Self {
            location,
            identity,
            place,
            client: connection.client,
            is_unsigned: !endpoint.is_some_and(|endpoint| endpoint.is_plain()),
            request_max: timeouts.request,
            wants_bare_tags: AtomicBool::new(false),
            further: Traffic::default(),
            runtime: Some(runtime),
        })
    }

    /// Runs one request to its end, within the time that it may take.
    fn run<T>(&self, request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let Some(runtime) = &self.runtime else {
            return Err(Failure::Wrong("the store is closed".to_owned()));
        };
        let limited = async { tokio::time::timeout(self.request_max, request).await };
        runtime.block_on(limited).unwrap_or_else(|_| {
            let limit = self.request_max.as_secs_f32();
            Err(Failure::NoAnswer(format!("no complete answer within {limit} s")))
        })
    }

    fn put(&self, key: &Key, body: Vec<u8>) -> PutObjectFluentBuilder {
        self.client
            .put_object()
            .bucket(&self.location.bucket)
            .key(self.location.object(key))
            .content_length(body.len() as i64)
            .body(ByteStream::from(body))
    }

    fn send_put(&self, request: PutObjectFluentBuilder) -> Result<PutObjectOutput, Failure> {
        self.run(async {
            let sent = if self.is_unsigned {
                request.customize().disable_payload_signing().send().await
            } else {
                request.send().await
            };
            Ok(sent?)
        })
    }

    async fn get_object(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<GetObjectOutput, Failure> {
        let request = self.client.get_object();
        let request = request.bucket(&self.location.bucket).key(self.location.object(key));
        Ok(request.set_range(range.map(range_header)).send().await?)
    }

    /// The error of an operation on an object that should be there.
    fn of_object(&self, operation: &'static str, key: &Key, failure: Failure) -> StoreError {
        match failure {
            Failure::Answer(answer) if answer.status == 404 && answer.code != "NoSuchBucket" => {
                StoreError::not_found(&self.place.url, key)
            }
            failure => self.place.error(operation, key.as_str(), failure),
        }
    }

    /// The error of a read of `range` that, says the server, the object ends before.
    fn past_end(&self, key: &Key, size: Option<u64>, range: ByteRange) -> StoreError {
        let size = match size {
            Some(size) => size,
            None => match self.look_for_size(key) {
                Ok(size) => size,
                Err(error) => return error,
            },
        };
        if range.end() <= size {
            // Not to be taken for an object that lost its end.
            let (start, end) = (range.start(), range.end());
            let text =
                format!("it has no bytes {start}..{end} of the object, of which it has {size}");
            return self.place.error("read", key.as_str(), Failure::NoAnswer(text));
        }
        StoreError::out_of_range(&self.place.url, key, size, range)
    }

    /// The size of an object that an answer did not tell.
    fn look_for_size(&self, key: &Key) -> StoreResult<u64> {
        self.further.note_head();
        Ok(self.head(key)?.size)
    }

    fn list_page(&self, question: &Question<'_>, token: Option<String>) -> Result<Listed, Failure> {
        self.run(async {
            let start_after = question.after.filter(|_| token.is_none()).map(str::to_owned);
            let answer = self
                .client
                .list_objects_v2()
                .bucket(&self.location.bucket)
                .prefix(question.prefix)
                .set_start_after(start_after)
                .set_continuation_token(token)
                .max_keys(question.limit as i32)
                .encoding_type(EncodingType::Url)
                .send()
                .await?;
            let page = question.read(&answer)?;
            Ok(Listed { page, token: answer.next_continuation_token })
        })
    }

    fn list_all(&self, question: &Question<'_>) -> Result<ListPage, Failure> {
        let mut token = None;
        // The name after which everything new must be, once pages without keys went by.
        let mut passed: Option<String> = question.after.map(str::to_owned);
        for nth in 0..EMPTY_PAGES_MAX {
            if nth > 0 {
                self.further.note_list();
            }
            let asked = Question { after: passed.as_deref(), ..*question };
            let Listed { page, token: next } = self.list_page(&asked, token)?;
            let Page { objects, truncated, last } = page;
            if !objects.is_empty() || !truncated {
                return Ok(ListPage { objects, truncated });
            }
            if last.is_none() && next.is_none() {
                break;
            }
            passed = last.or(passed);
            token = next;
        }
        Err(Failure::Wrong("the server lists pages with nothing on them".to_owned()))
    }

    fn delete_some(&self, keys: &[Key]) -> StoreResult<()> {
        let fail = |key: &str, failure| Err(self.place.error("delete", key, failure));
        let first = keys.first().map_or("", Key::as_str);
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(self.location.object(key)).build());
        let objects = objects.collect::<Result<Vec<_>, _>>();
        let delete = objects
            .and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build());
        let delete = match delete {
            Ok(delete) => delete,
            Err(error) => return fail(first, Failure::Wrong(error.to_string())),
        };
        let request = self.client.delete_objects().bucket(&self.location.bucket).delete(delete);
        let answer = match self.run(async { Ok(request.send().await?) }) {
            Ok(answer) => answer,
            Err(failure) => return fail(first, failure),
        };
        let left = answer.errors().iter().find(|error| error.code() != Some("NoSuchKey"));
        let Some(left) = left else { return Ok(()) };
        let key = left.key().map_or_else(|| first.to_owned(), shorten);
        fail(&key, Failure::Answer(Answer::of_key(left.code(), left.message())))
    }
}

/// A page, and where the server would go on.
struct Listed {
    page: Page,
    token: Option<String>,
}

impl ObjectStore for S3Store {
    fn url(&self) -> &str {
        &self.place.url
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()> {
        // The one copy of the body: the HTTP client wants to own it.
        let request = self.put(key, joined(parts).into_owned()).if_none_match("*");
        match self.send_put(request) {
            Ok(_) => Ok(()),
            Err(Failure::Answer(Answer { status: 412, .. })) => {
                Err(StoreError::already_exists(&self.place.url, key))
            }
            Err(failure) => Err(self.place.error("create", key.as_str(), failure)),
        }
    }

    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
        let bare = self.wants_bare_tags.load(Ordering::Relaxed);
        if let Some(replaced) = self.replace_if(key, body, expected, bare)? {
            return Ok(replaced);
        }
        // The version differs, or the object is missing, which radosgw does not tell apart; or
        // the server, as radosgw again, does not know its own tag in quotes.
        let request = self.client.head_object();
        let request = request.bucket(&self.location.bucket).key(self.location.object(key));
        self.further.note_head();
        let found = self.run(async { Ok(request.send().await?.e_tag) });
        let found = found.map_err(|failure| self.of_object("replace", key, failure))?;
        let is_the_same = found.as_deref().map(without_quotes) == Some(without_quotes(&expected.0));
        if is_the_same && !bare {
            let replaced = self.replace_if(key, body, expected, true);
            self.further.note_replace(body.len() as u64, replaced.is_err());
            if let Some(replaced) = replaced? {
                self.wants_bare_tags.store(true, Ordering::Relaxed);
                return Ok(replaced);
            }
        }
        Err(StoreError::precondition(&self.place.url, key))
    }

    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
        let got = self.run(async {
            let mut answer = self.get_object(key, None).await?;
            let tag = answer.e_tag.take();
            Ok((read_whole(answer, None).await?, tag))
        });
        let (body, tag) = got.map_err(|failure| self.of_object("read", key, failure))?;
        Ok((body, self.version("read", key, tag)?))
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
        if range.is_empty() {
            // There is no way to ask for nothing, but the object must be there and reach that far.
            let size = self.head(key)?.size;
            let fits = range.end() <= size;
            return if fits { Ok(Vec::new()) } else { Err(self.past_end(key, Some(size), range)) };
        }
        let got =
            self.run(async { read_range(self.get_object(key, Some(range)).await?, range).await });
        match got {
            Ok(Ranged::Exact(body)) => Ok(body),
            Ok(Ranged::PastEnd(size)) => Err(self.past_end(key, size, range)),
            Err(Failure::Answer(Answer { status: 416, .. })) => {
                Err(self.past_end(key, None, range))
            }
            Err(failure) => Err(self.of_object("read", key, failure)),
        }
    }

    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        let Some(range) = ByteRange::new(0, limit).filter(|range| !range.is_empty()) else {
            return Ok(Front { bytes: Vec::new(), size: self.head(key)?.size });
        };
        let got =
            self.run(async { read_front(self.get_object(key, Some(range)).await?, range).await });
        match got {
            Ok((bytes, Some(size))) => Ok(Front { bytes, size }),
            Ok((bytes, None)) => Ok(Front { bytes, size: self.look_for_size(key)? }),
            // Of an object without bytes there is no first one to ask for.
            Err(Failure::Answer(Answer { status: 416, .. })) => match self.look_for_size(key)? {
                0 => Ok(Front::default()),
                size => Err(self.past_end(key, Some(size), range)),
            },
            Err(failure) => Err(self.of_object("read", key, failure)),
        }
    }

    fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
        let request = self.client.head_object();
        let request = request.bucket(&self.location.bucket).key(self.location.object(key));
        let got = self.run(async {
            let size = size_of(request.send().await?.content_length)?;
            size.ok_or_else(|| Failure::Wrong("the server tells no size".to_owned()))
        });
        let size = got.map_err(|failure| self.of_object("look at", key, failure))?;
        Ok(ObjectMeta { key: key.clone(), size })
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
        // What lies before the prefix cuts nothing off, and behind it there is nothing.
        let after = after.filter(|after| after.as_str() >= prefix);
        if after.is_some_and(|after| !after.as_str().starts_with(prefix)) {
            return Ok(ListPage::default());
        }
        let after = after.map(|after| self.location.object(after));
        let question = Question {
            store_prefix: &self.location.prefix,
            prefix: &format!("{}{prefix}", self.location.prefix),
            after: after.as_deref(),
            limit: limit.clamp(1, KEYS_MAX),
        };
        self.list_all(&question).map_err(|failure| self.place.error("list", prefix, failure))
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        let request = self.client.delete_object();
        let request = request.bucket(&self.location.bucket).key(self.location.object(key));
        let done = self.run(async { Ok(request.send().await?) });
        match done.map_err(|failure| self.of_object("delete", key, failure)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn delete_many(&self, keys: &[Key]) -> StoreResult<()> {
        keys.chunks(KEYS_MAX).try_for_each(|keys| self.delete_some(keys))
    }

    fn requests_to_delete(&self, keys: usize) -> u64 {
        keys.div_ceil(KEYS_MAX) as u64
    }

    fn further_requests(&self) -> Requests {
        self.further.requests()
    }
}

impl S3Store {
    /// One conditional PUT; `None` if the server says that the condition does not hold.
    fn replace_if(
        &self,
        key: &Key,
        body: &[u8],
        expected: &Version,
        bare: bool,
    ) -> StoreResult<Option<Version>> {
        let tag = without_quotes(&expected.0);
        let tag = if bare { tag.to_owned() } else { format!("\"{tag}\"") };
        match self.send_put(self.put(key, body.to_vec()).if_match(tag)) {
            Ok(done) => self.version("replace", key, done.e_tag).map(Some),
            Err(Failure::Answer(Answer { status: 412, .. })) => Ok(None),
            Err(failure) => Err(self.of_object("replace", key, failure)),
        }
    }

    fn version(
        &self,
        operation: &'static str,
        key: &Key,
        tag: Option<String>,
    ) -> StoreResult<Version> {
        tag.map(Version).ok_or_else(|| {
            let reason = "the server tells no ETag, without which nothing can be replaced safely";
            self.place.error(operation, key.as_str(), Failure::Wrong(reason.to_owned()))
        })
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Does not wait for a name server that hangs.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// An ETag without the quotes that most services tell it in.
fn without_quotes(tag: &str) -> &str {
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag)
}
