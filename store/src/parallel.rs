//! Many small requests at once: calls that block, on a few threads.

use std::panic::resume_unwind;
use std::thread;

/// Threads of one call.
const THREADS_MAX: usize = 8;
/// Fewer items than this per thread are not worth one.
const ITEMS_PER_THREAD_MIN: usize = 4;

/// Applies `act` to all of `items`, in no particular order; results are in the items' order.
///
/// # Errors
/// One of those that `act` returned. Some items were then left out.
pub fn map<T: Sync, R: Send, E: Send>(
    items: &[T],
    act: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = (items.len() / ITEMS_PER_THREAD_MIN).clamp(1, THREADS_MAX);
    let run = |part: &[T]| part.iter().map(&act).collect::<Result<Vec<R>, E>>();
    let mut parts = items.chunks(items.len().div_ceil(threads).max(1));
    let own = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let run = &run;
        let workers: Vec<_> = parts
            .map(|part| {
                let worker = thread::Builder::new().name("lsvd-ask".to_owned());
                (part, worker.spawn_scoped(scope, move || run(part)))
            })
            .collect();
        let mut results = run(own);
        for (part, worker) in workers {
            let more = match worker {
                Ok(worker) => worker.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // No thread to be had: then by this one.
                Err(_) => run(part),
            };
            if let Ok(results) = &mut results {
                match more {
                    Ok(more) => results.extend(more),
                    Err(error) => return Err(error),
                }
            }
        }
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_items() {
        for count in [0, 1, 3, 4, 9, 31, 32, 33, 100, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let doubled = map(&items, |n| Ok::<_, ()>(n * 2)).unwrap();
            assert!(doubled.iter().copied().eq((0..count).map(|n| n * 2)), "{count}");
        }
    }

    #[test]
    fn an_error_of_any_item_is_returned() {
        let items: Vec<usize> = (0..100).collect();
        for bad in [0, 50, 99] {
            let fail = |n: &usize| if *n == bad { Err(*n) } else { Ok(()) };
            assert_eq!(map(&items, fail).unwrap_err(), bad);
        }
    }
}
