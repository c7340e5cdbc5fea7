//! Where the index has which name: a shallow tree of nodes, each a RADOS object with entries in
//! its omap.
//!
//! ```text
//!   node ""            volumes/   data/
//!   node "volumes/"    alpha   my-web-serve*          a name of more than 12 bytes is cut in two
//!   node "volumes/my-web-serve"       r   r-2
//!   node "data/<uuid>/o/"             000000000000*   000000000001*
//!   node "data/<uuid>/o/000000000000"    0001   0002   ...   ffff
//! ```
//! A key is cut after each slash into *tokens*. A node whose path is empty or ends with a slash
//! holds tokens of up to [`TOKEN_MAX`] bytes; of longer ones it holds the first bytes and a `*`,
//! and what follows these is in a node of its own. So no omap grows beyond what Ceph likes
//! (200,000 keys): one of a stream of numbered objects holds 65,536.
//!
//! An entry that ends with a slash leads to a node, too; any other is an object. In every node
//! the order of entries is the order of the keys below them: no entry's keys lie between those
//! of another.

/// Longest token that a directory's node holds whole.
const TOKEN_MAX: usize = 12;
/// Ends the entry of a cut token, which is the only kind longer than [`TOKEN_MAX`].
const CUT: u8 = b'*';

/// The path of a node: a leading part of all keys below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node(Vec<u8>);

/// What an entry of a node stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Child {
    /// An object, by its key.
    Object(Vec<u8>),
    /// All keys that begin with the node's path.
    Node(Node),
}

/// The place of a key or of a node: a node and an entry there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: Node,
    pub(super) entry: Vec<u8>,
}

impl Place {
    /// Where the key of an object stands.
    pub(super) fn of_key(key: &str) -> Self {
        Self::of_path(key.as_bytes())
    }

    /// `path` is a key, or the path of a directory's node.
    fn of_path(path: &[u8]) -> Self {
        let (dir, token) = split_token(path);
        let cut = if token.len() > TOKEN_MAX { dir + TOKEN_MAX } else { dir };
        Self { node: Node(path[..cut].to_vec()), entry: path[cut..].to_vec() }
    }
}

impl Node {
    pub(super) fn path(&self) -> &[u8] {
        &self.0
    }

    fn is_directory(&self) -> bool {
        matches!(self.0.last(), None | Some(b'/'))
    }

    /// Where this node stands in another; `None` for the topmost.
    pub(super) fn place(&self) -> Option<Place> {
        if self.0.is_empty() {
            return None;
        }
        if self.is_directory() {
            return Some(Place::of_path(&self.0));
        }
        let (dir, token) = split_token(&self.0);
        let entry = [token, &[CUT]].concat();
        Some(Place { node: Node(self.0[..dir].to_vec()), entry })
    }

    /// The node that all keys with `prefix` are in or below, and what their entries there begin
    /// with.
    pub(super) fn of_prefix(prefix: &str) -> (Self, Vec<u8>) {
        let place = Place::of_path_unfinished(prefix.as_bytes());
        (place.node, place.entry)
    }

    /// What `entry` of this node stands for; `None` if it is none that this program writes.
    pub(super) fn child(&self, entry: &[u8]) -> Option<Child> {
        let is_cut = self.is_directory() && entry.len() == TOKEN_MAX + 1;
        let path = |entry: &[u8]| [self.path(), entry].concat();
        match entry {
            [] => None,
            [token @ .., CUT] if is_cut => Some(Child::Node(Node(path(token)))),
            _ if self.is_directory() && entry.len() > TOKEN_MAX => None,
            [.., b'/'] => Some(Child::Node(Node(path(entry)))),
            _ => Some(Child::Object(path(entry))),
        }
    }

    /// An entry such that no key greater than `after` is at it or at one before it.
    pub(super) fn skipped_by(&self, after: &[u8]) -> Vec<u8> {
        let Some(rest) = after.strip_prefix(self.path()) else { return Vec::new() };
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let end = if self.is_directory() { end.min(TOKEN_MAX) } else { end };
        rest[..end].to_vec()
    }
}

impl Place {
    /// As [`Place::of_path`], but the last token may go on.
    fn of_path_unfinished(prefix: &[u8]) -> Self {
        let dir = prefix.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let cut = if prefix.len() - dir > TOKEN_MAX { dir + TOKEN_MAX } else { dir };
        Self { node: Node(prefix[..cut].to_vec()), entry: prefix[cut..].to_vec() }
    }
}

/// Where the last token of `path` begins, and that token, with its slash if it has one.
fn split_token(path: &[u8]) -> (usize, &[u8]) {
    let body = path.strip_suffix(b"/").unwrap_or(path);
    let start = body.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    (start, &path[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(node: &str, entry: &str) -> Place {
        Place { node: Node(node.into()), entry: entry.into() }
    }

    #[test]
    fn names_of_a_volume_have_their_places() {
        assert_eq!(Place::of_key("volumes/alpha"), place("volumes/", "alpha"));
        assert_eq!(Place::of_key("volumes/my-web-server"), place("volumes/my-web-serve", "r"));
        let object = Place::of_key("data/u/o/000000000001ffff");
        assert_eq!(object, place("data/u/o/000000000001", "ffff"));
        let above = object.node.place().unwrap();
        assert_eq!(above, place("data/u/o/", "000000000001*"));
        let above = above.node.place().unwrap();
        assert_eq!(above, place("data/u/", "o/"));
        assert_eq!(above.node.place().unwrap(), place("data/", "u/"));
        assert_eq!(Node("data/".into()).place().unwrap(), place("", "data/"));
        assert_eq!(Node(Vec::new()).place(), None);
    }

    #[test]
    fn every_way_up_leads_down_again() {
        let keys = [
            "a",
            "a/b",
            "123456789012",
            "1234567890123",
            "12345678901/x",
            "123456789012/x",
            "1234567890123/x",
            "volumes/éééééééééé",
            "data/0b51d3a8-6a40-4a6f-9d0e-3c1f5c8f7a11/o/00000000000000ff",
            "x*/y*",
            "12345678901*",
            "123456789012*",
        ];
        for key in keys {
            let mut place = Place::of_key(key);
            let mut child = Child::Object(key.into());
            loop {
                assert_eq!(place.node.child(&place.entry), Some(child), "{key}: {place:?}");
                let Some(above) = place.node.place() else { break };
                assert!(above.node.path().len() < place.node.path().len(), "{key}");
                child = Child::Node(place.node);
                place = above;
            }
        }
    }

    #[test]
    fn foreign_entries_are_nothing() {
        for entry in ["", "0123456789abcdef", "0123456789abc", "0123456789abcde/"] {
            assert_eq!(Node(b"d/".to_vec()).child(entry.as_bytes()), None, "{entry}");
        }
    }
}
