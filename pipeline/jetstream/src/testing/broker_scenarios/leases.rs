//! Leases: one owner holds a lease, renews it, gives it back or lets it lapse.
#![expect(clippy::unwrap_used, reason = "a scenario is a test: what it unwraps is what it asserts")]

use std::time::Duration;

use super::{Ground, eventually};
use crate::broker::Broker;

/// Long enough not to lapse while a scenario runs.
const LONG: Duration = Duration::from_secs(120);

/// One owner holds a lease and keeps it by renewing it; others get it when it is given back.
pub async fn lease_has_one_owner_until_given_back<G: Ground>(ground: &mut G) {
    let (first, second) = (ground.connect().await, ground.connect().await);
    assert!(first.hold_lease("lease-0", "first", LONG).await.unwrap());
    assert!(!second.hold_lease("lease-0", "second", LONG).await.unwrap());
    assert!(second.hold_lease("lease-1", "second", LONG).await.unwrap(), "another key is another lease");
    for _ in 0..3 {
        assert!(first.hold_lease("lease-0", "first", LONG).await.unwrap());
    }
    second.release_lease("lease-0", "second").await.unwrap();
    assert!(!second.hold_lease("lease-0", "second", LONG).await.unwrap(), "it was not theirs to give back");
    let owner = async || second.lease_owner("lease-0").await.unwrap();
    assert_eq!(owner().await.as_deref(), Some("first"));
    first.release_lease("lease-0", "first").await.unwrap();
    assert_eq!(owner().await, None);
    assert!(second.hold_lease("lease-0", "second", LONG).await.unwrap());
    assert!(!first.hold_lease("lease-0", "first", LONG).await.unwrap());
}

/// The same owner on a new connection still holds it, because the owner is the name and not the connection.
pub async fn lease_belongs_to_a_name<G: Ground>(ground: &mut G) {
    assert!(ground.connect().await.hold_lease("lease-0", "first", LONG).await.unwrap());
    assert!(ground.connect().await.hold_lease("lease-0", "first", LONG).await.unwrap());
}

/// A lease that is not renewed becomes free.
pub async fn lease_lapses<G: Ground>(ground: &mut G) {
    let (first, second) = (ground.connect().await, ground.connect().await);
    assert!(first.hold_lease("lease-0", "first", Duration::from_secs(1)).await.unwrap());
    eventually("the lapse of the lease", || async {
        second.hold_lease("lease-0", "second", LONG).await.unwrap()
    })
    .await;
    assert!(!first.hold_lease("lease-0", "first", LONG).await.unwrap());
}

/// If the owner is no longer connected, nobody has to wait until its lease lapses, and a waiter is told soon.
pub async fn lease_of_a_process_that_is_gone_is_free<G: Ground>(ground: &mut G) {
    let (first, second) = (ground.connect().await, ground.connect().await);
    assert!(first.hold_lease("lease-0", "first", LONG).await.unwrap());
    for _ in 0..3 {
        assert!(!second.hold_lease("lease-0", "second", LONG).await.unwrap(), "its owner is there");
    }
    let waiting = tokio::spawn(async move {
        while !second.hold_lease("lease-0", "second", LONG).await.unwrap() {
            second.lease_freed("lease-0", LONG).await;
        }
        second
    });
    ground.kill(first).await;
    let second = tokio::time::timeout(super::PATIENCE, waiting).await.unwrap().unwrap();
    let third = ground.connect().await;
    assert!(!third.hold_lease("lease-0", "third", LONG).await.unwrap(), "its new owner is there");
    assert_eq!(second.lease_owner("lease-0").await.unwrap().as_deref(), Some("second"));
}

/// An owner that has reconnected counts as present again.
pub async fn owner_of_a_lease_is_there_after_a_restart_of_the_server<G: Ground>(ground: &mut G) {
    let (first, second) = (ground.connect().await, ground.connect().await);
    assert!(first.hold_lease("lease-0", "first", LONG).await.unwrap());
    ground.restart().await;
    eventually("the lease is renewed", || async {
        first.hold_lease("lease-0", "first", LONG).await.is_ok_and(|held| held)
    })
    .await;
    assert!(!second.hold_lease("lease-0", "second", LONG).await.unwrap());
}

/// A process that waits for a lease is told when it is given back, long before its own time-out.
pub async fn waiting_for_a_lease_ends_when_it_is_given_back<G: Ground>(ground: &mut G) {
    let (first, second) = (ground.connect().await, ground.connect().await);
    assert!(first.hold_lease("lease-0", "first", LONG).await.unwrap());
    let waiting = tokio::spawn(async move {
        loop {
            if second.hold_lease("lease-0", "second", LONG).await.unwrap() {
                return;
            }
            second.lease_freed("lease-0", Duration::from_secs(1)).await;
        }
    });
    first.release_lease("lease-0", "first").await.unwrap();
    tokio::time::timeout(super::PATIENCE, waiting).await.unwrap().unwrap();
}
