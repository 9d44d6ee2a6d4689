//! Waiting for a condition, instead of for a while.

use std::panic::Location;
use std::time::Duration;

/// How long a condition may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until the condition holds.
///
/// # Panics
/// At the caller's line, if it does not hold within 30 s.
#[track_caller]
pub fn eventually(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let holds = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(LIMIT, holds).await.is_ok();
        assert!(in_time, "what {caller} waits for did not happen within {LIMIT:?}");
    }
}
