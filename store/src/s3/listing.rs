//! A page of a listing, of which nothing is believed: neither order nor prefix nor its end.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

use super::body::size_of;
use super::failure::Failure;
use crate::{Key, ObjectMeta};

/// What was asked for.
pub(super) struct Question<'a> {
    /// What stands before the store's keys in the bucket.
    pub(super) store_prefix: &'a str,
    /// What the names in the bucket begin with, `store_prefix` included.
    pub(super) prefix: &'a str,
    /// The name in the bucket after which the page begins.
    pub(super) after: Option<&'a str>,
    /// Most objects on the page.
    pub(super) limit: usize,
}

/// A checked page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) objects: Vec<ObjectMeta>,
    /// Whether there may be more.
    pub(super) truncated: bool,
    /// The last name in the bucket that the page went by, also one that is no key.
    pub(super) last: Option<String>,
}

impl Question<'_> {
    /// Checks the answer.
    ///
    /// Names that cannot be keys (`dir/`, as some programs make them) are left out.
    ///
    /// # Errors
    /// It is not the answer to this question.
    pub(super) fn read(&self, answer: &ListObjectsV2Output) -> Result<Page, Failure> {
        let encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let mut page =
            Page { truncated: answer.is_truncated().unwrap_or(false), ..Page::default() };
        for object in answer.contents() {
            if page.objects.len() == self.limit {
                page.truncated = true;
                break;
            }
            let told = object.key().ok_or_else(|| wrong("an object without a name"))?;
            let name = if encoded { decode(told)? } else { told.to_owned() };
            if !name.starts_with(self.prefix) {
                return Err(wrong(&format!(
                    "{name:?}, which does not begin with {:?}",
                    self.prefix
                )));
            }
            let before = page.last.as_deref().or(self.after);
            if let Some(before) = before
                && name.as_str() <= before
            {
                return Err(wrong(&format!("{name:?} after {before:?}, which is not their order")));
            }
            match Key::new(name.strip_prefix(self.store_prefix).unwrap_or_default()) {
                Ok(key) => {
                    let size = size_of(object.size())?;
                    let size = size.ok_or_else(|| wrong("an object without a size"))?;
                    page.objects.push(ObjectMeta { key, size });
                }
                Err(error) => log::debug!("left out of a listing: {error}"),
            }
            page.last = Some(name);
        }
        Ok(page)
    }
}

/// Undoes `encoding-type=url`, where a plus is a space.
fn decode(text: &str) -> Result<String, Failure> {
    let spaced = text.replace('+', " ");
    let bytes = percent_decode_str(&spaced).decode_utf8();
    bytes.map(|name| name.into_owned()).map_err(|_| wrong("a name that is not UTF-8"))
}

fn wrong(what: &str) -> Failure {
    Failure::Wrong(format!("the server lists {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::types::Object;

    fn answer(names: &[&str], encoded: bool) -> ListObjectsV2Output {
        let object = |name: &&str| Object::builder().key(*name).size(3).build();
        ListObjectsV2Output::builder()
            .set_contents(Some(names.iter().map(object).collect()))
            .set_encoding_type(encoded.then_some(EncodingType::Url))
            .is_truncated(true)
            .build()
    }

    fn question() -> Question<'static> {
        Question { store_prefix: "vols/", prefix: "vols/a", after: Some("vols/ab"), limit: 3 }
    }

    fn keys(page: &Page) -> Vec<&str> {
        page.objects.iter().map(|object| object.key.as_str()).collect()
    }

    #[test]
    fn keys_lose_the_stores_prefix() {
        let page = question().read(&answer(&["vols/ab/x", "vols/ac"], false)).unwrap();
        assert_eq!(keys(&page), ["ab/x", "ac"]);
        assert!(page.truncated && page.last.as_deref() == Some("vols/ac"));
        assert_eq!(page.objects[0].size, 3);
    }

    #[test]
    fn encoded_names_are_decoded_only_where_the_server_says_so() {
        let names = ["vols%2Fac+d", "vols/ac%2Bd", "vols/%C3%A4"];
        let question = Question { prefix: "vols/", ..question() };
        let page = question.read(&answer(&names, true)).unwrap();
        assert_eq!(keys(&page), ["ac d", "ac+d", "ä"]);
        let page = question.read(&answer(&["vols/ac%2Bd"], false)).unwrap();
        assert_eq!(keys(&page), ["ac%2Bd"]);
        assert!(question.read(&answer(&["vols/b%FF"], true)).is_err());
    }

    #[test]
    fn names_that_are_no_keys_are_passed_by() {
        let page = question().read(&answer(&["vols/ac/", "vols/ac//x"], false)).unwrap();
        assert!(page.objects.is_empty());
        assert_eq!(page.last.as_deref(), Some("vols/ac//x"));
    }

    #[test]
    fn a_server_that_sends_more_than_asked_for_is_cut_short() {
        let names = ["vols/ac", "vols/ad", "vols/ae", "vols/af"];
        let page = question().read(&answer(&names, false)).unwrap();
        assert_eq!((keys(&page).len(), page.last.as_deref()), (3, Some("vols/ae")));
        assert!(page.truncated);
    }

    #[test]
    fn lies_are_refused() {
        for names in [
            &["vols/ad", "vols/ac"][..],
            &["vols/ac", "vols/ac"],
            &["vols/ab"],
            &["vols/aa"],
            &["vols/b"],
            &["other/ac"],
        ] {
            let failure = question().read(&answer(names, false)).unwrap_err();
            assert!(matches!(failure, Failure::Wrong(_)), "{names:?}: {failure:?}");
        }
        let unnamed = ListObjectsV2Output::builder().contents(Object::builder().build()).build();
        assert!(question().read(&unnamed).is_err());
        let negative = Object::builder().key("vols/ac").size(-1).build();
        let negative = ListObjectsV2Output::builder().contents(negative).build();
        assert!(question().read(&negative).is_err());
    }
}
