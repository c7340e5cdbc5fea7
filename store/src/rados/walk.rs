//! Going through the index in the order of keys.

use std::collections::VecDeque;

use super::names::{Child, Node};

/// Candidates of a listing, one after the other. Whether an object is really there is not known
/// here: its entry is older than itself, and may have outlived it.
pub(super) struct Walk<R> {
    /// Reads up to some number of entries of a node, greater than the first and beginning with
    /// the second text, in order; none if there are no more.
    read: R,
    /// Only greater keys count; every key is greater than the empty one.
    after: Vec<u8>,
    /// From the node that covers the prefix down to the one being read.
    stack: Vec<Frame>,
}

struct Frame {
    node: Node,
    filter: Vec<u8>,
    last: Vec<u8>,
    entries: VecDeque<Vec<u8>>,
}

impl<R, E> Walk<R>
where
    R: FnMut(&Node, &[u8], &[u8]) -> Result<Vec<Vec<u8>>, E>,
{
    /// Over all keys that begin with `prefix` and are greater than `after`.
    pub(super) fn new(prefix: &str, after: &str, read: R) -> Self {
        let after = after.as_bytes().to_vec();
        let (node, filter) = Node::of_prefix(prefix);
        let stack = vec![Frame::new(node, filter, &after)];
        Self { read, after, stack }
    }

    /// The next key.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, E> {
        while let Some(frame) = self.stack.last_mut() {
            let Some(entry) = frame.entries.pop_front() else {
                let page = (self.read)(&frame.node, &frame.last, &frame.filter)?;
                match page.last() {
                    // A server that goes back would be asked for ever.
                    Some(last) if *last > frame.last => {
                        frame.last.clone_from(last);
                        frame.entries = page.into();
                    }
                    _ => drop(self.stack.pop()),
                }
                continue;
            };
            match frame.node.child(&entry) {
                Some(Child::Object(key)) if key > self.after => return Ok(Some(key)),
                Some(Child::Node(node)) if self.may_hold_more(node.path()) => {
                    let frame = Frame::new(node, Vec::new(), &self.after);
                    self.stack.push(frame);
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn may_hold_more(&self, path: &[u8]) -> bool {
        path > self.after.as_slice() || self.after.starts_with(path)
    }
}

impl Frame {
    fn new(node: Node, filter: Vec<u8>, after: &[u8]) -> Self {
        let last = node.skipped_by(after);
        Self { node, filter, last, entries: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::{BTreeSet, HashMap};
    use std::convert::Infallible;

    use super::super::names::Place;
    use super::*;

    /// An index in memory, with small pages.
    #[derive(Default)]
    struct Index {
        nodes: HashMap<Node, BTreeSet<Vec<u8>>>,
        reads: Cell<usize>,
    }

    impl Index {
        fn insert(&mut self, key: &str) {
            let mut place = Some(Place::of_key(key));
            while let Some(Place { node, entry }) = place {
                place = node.place();
                self.nodes.entry(node).or_default().insert(entry);
            }
        }

        fn list(&self, prefix: &str, after: &str) -> Vec<String> {
            let mut walk = Walk::new(prefix, after, |node: &Node, after: &[u8], filter: &[u8]| {
                self.reads.set(self.reads.get() + 1);
                let entries = self.nodes.get(node).into_iter().flatten();
                let wanted = |e: &&Vec<u8>| e.as_slice() > after && e.starts_with(filter);
                Ok::<_, Infallible>(entries.filter(wanted).take(3).cloned().collect())
            });
            let next = || walk.next().unwrap().map(|key| String::from_utf8(key).unwrap());
            std::iter::from_fn(next).collect()
        }
    }

    /// Keys from few letters, so that they are beginnings of each other, with lengths around
    /// where tokens are cut.
    fn keys() -> BTreeSet<String> {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let letters = ["a", "b", "!", "*", "é", "0"];
        let mut keys = BTreeSet::new();
        while keys.len() < 2000 {
            let tokens: Vec<String> = (0..=random(3))
                .map(|_| {
                    let stem = ["", "aaaaaaaaaa", "aaaaaaaaaaa"][random(3) as usize];
                    let tail = (0..=random(3)).map(|_| letters[random(6) as usize]);
                    stem.chars().map(String::from).chain(tail.map(String::from)).collect()
                })
                .collect();
            keys.insert(tokens.join("/"));
        }
        keys
    }

    #[test]
    fn walks_agree_with_a_sorted_set_of_keys() {
        let keys = keys();
        let mut index = Index::default();
        for key in &keys {
            index.insert(key);
        }
        let prefixes = ["", "a", "aaaaaaaaaa", "aaaaaaaaaaaa", "aaaaaaaaaaaaa", "b/", "a/a", "é"];
        for prefix in prefixes.into_iter().chain(keys.iter().step_by(40).map(String::as_str)) {
            for after in [""].into_iter().chain(keys.iter().step_by(97).map(String::as_str)) {
                let expected: Vec<&String> =
                    keys.iter().filter(|k| k.starts_with(prefix) && k.as_str() > after).collect();
                assert!(
                    index.list(prefix, after).iter().eq(expected),
                    "{prefix:?} after {after:?}"
                );
            }
        }
    }

    #[test]
    fn the_end_of_a_long_stream_is_found_without_reading_it() {
        let mut index = Index::default();
        for seq in (0..200_000u64).step_by(7) {
            index.insert(&format!("data/u/o/{seq:016x}"));
        }
        let last = index.list("data/u/o/", &format!("data/u/o/{:016x}", 199_980));
        assert_eq!(last.len(), 3);
        assert!(index.reads.get() <= 4, "{}", index.reads.get());
    }
}
