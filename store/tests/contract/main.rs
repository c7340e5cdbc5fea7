//! One suite for every store: what the engine relies on, and nothing else.
//!
//! `cases` holds the suite, `backends` the stores it runs on, and here they are multiplied into
//! one test each. A backend that needs a server joins by one more function in `backends`, which
//! returns `None` and says why where there is no server; each run gets a prefix of its own, so a
//! bucket may be shared and kept. `LSVD_TEST_SCALE=50` makes 1,000 rounds of each race.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test the message of a failed unwrap is what we want"
)]

mod backends;
mod cases;

/// A store to try and the part of it that belongs to this test.
struct Fixture {
    store: std::sync::Arc<dyn lsvd_store::ObjectStore>,
    prefix: String,
    /// Removes the store's directory at the end.
    _dir: Option<tempfile::TempDir>,
}

macro_rules! suite {
    ($($backend:ident)*) => {
        $(suite! { @$backend
            one_create_wins
            creates_of_distinct_keys_all_win
            an_object_is_the_concatenation_of_its_parts
            an_object_may_be_empty
            objects_of_8_mib
            objects_appear_whole
            a_taken_key_keeps_its_object
            ranges_are_exact
            ranges_past_the_end_are_refused
            the_front_comes_with_the_size
            missing_objects_are_not_found
            replace_wants_the_right_version
            equal_content_may_be_replaced
            one_replace_wins
            head_tells_the_size
            delete_is_idempotent
            a_deleted_key_is_free
            many_are_deleted_at_once
            more_objects_than_a_page_holds
            listings_are_in_byte_order_of_whole_keys
            pages_of_any_size_make_the_whole
            prefixes_and_after_cut_exactly
            a_prefix_that_nothing_has_lists_nothing
            listings_tell_sizes
            odd_characters_in_keys_are_kept
        })*
    };
    (@$backend:ident $($case:ident)*) => {
        mod $backend {
            $(#[test]
            fn $case() {
                let fixture: Option<crate::Fixture> = crate::backends::$backend().into();
                if let Some(fixture) = fixture {
                    crate::cases::$case(&fixture);
                }
            })*
        }
    };
}

suite! { mem dir counting_mem retry_mem retry_faulty_mem faulty_dir s3 radosgw rados }
