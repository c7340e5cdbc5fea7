//! Requests to the store as people pay for them.

use lsvd_store::Requests;

/// How many requests of each class, and their bytes.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RequestStats {
    /// Objects created or replaced.
    pub put: u64,
    /// Objects read, whole or in part.
    pub get: u64,
    /// Questions for an object's size.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// Deletions; one request may delete many objects.
    pub delete: u64,
    /// Those of all these that the store failed or refused.
    pub errors: u64,
    /// Bytes of objects sent.
    pub sent_bytes: u64,
    /// Bytes of objects received.
    pub received_bytes: u64,
    /// For each GiB that programs wrote; absent while they wrote nothing.
    pub per_gib_written: Option<PerGib>,
}

/// What writing one GiB costs.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PerGib {
    /// Objects created or replaced.
    pub put: f64,
    /// Objects read, whole or in part.
    pub get: f64,
    /// All requests.
    pub requests: f64,
    /// Bytes of objects sent.
    pub sent_bytes: u64,
}

impl RequestStats {
    /// Of `requests`, while programs wrote `written` bytes.
    pub fn new(requests: &Requests, written: u64) -> Self {
        let [put, get, head, list, delete] = requests.classes().map(|(_, class)| class.requests);
        let total = requests.total();
        let per_gib_written = (written > 0).then(|| {
            let per_gib = |n: u64| n as f64 * (1_u64 << 30) as f64 / written as f64;
            let rounded = |n: u64| (per_gib(n) * 10.0).round() / 10.0;
            PerGib {
                put: rounded(put),
                get: rounded(get),
                requests: rounded(total.requests),
                sent_bytes: per_gib(total.bytes_up) as u64,
            }
        });
        Self {
            put,
            get,
            head,
            list,
            delete,
            errors: total.errors,
            sent_bytes: total.bytes_up,
            received_bytes: total.bytes_down,
            per_gib_written,
        }
    }
}

impl std::fmt::Display for RequestStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { put, get, head, list, delete, .. } = self;
        let (up, down) = (self.sent_bytes, self.received_bytes);
        write!(f, "{put} PUT, {get} GET, {head} HEAD, {list} LIST, {delete} DELETE, ")?;
        write!(f, "{up} bytes sent, {down} received")
    }
}
