//! This file shows that a claim has one holder at most, and that claims change with their batch or not at all.

use super::StoreUnderTest;
use super::open_log::{OpenLog, ada, bob};
use crate::aggregate::Claim;
use crate::store::StoreError;
use crate::stream::StreamId;

fn name(value: &str) -> Claim {
    Claim::new("name", value)
}

/// The holder is known from the commit on, on every connection.
pub async fn a_claim_that_was_taken_has_its_holder(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    open.append(open.batch().events(&ada(), 1, 1).take(name("a"), &ada())).await;

    let held = log.open().await.claim_holders(&[name("a")]).await.expect("claims can be read");
    assert_eq!(held, [(name("a"), ada())]);
}

/// Only those that are held are in the answer.
pub async fn free_claims_have_no_holder(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().take(name("a"), &ada()).take(name("c"), &bob())).await;

    let asked = [name("a"), name("b"), name("c"), Claim::new("email", "a")];
    let mut held = open.store.claim_holders(&asked).await.expect("claims can be read");
    let none = open.store.claim_holders(&[]).await.expect("claims can be read");

    held.sort();
    assert_eq!(held, [(name("a"), ada()), (name("c"), bob())]);
    assert_eq!(none, []);
}

/// One value in two scopes is two claims.
pub async fn claims_of_two_scopes_are_apart(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    open.append(open.batch().take(name("a"), &ada()).take(Claim::new("email", "a"), &bob())).await;

    assert_eq!(open.holder(&name("a")).await, Some(ada()));
    assert_eq!(open.holder(&Claim::new("email", "a")).await, Some(bob()));
}

/// Values are compared byte for byte, as keys are.
pub async fn claims_that_look_alike_are_apart(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let values = ["ada", "Ada", "ada ", "adá", "ada\u{301}", "☂", "'a'", ""];

    let batch = values.iter().fold(open.batch(), |batch, value| batch.take(name(value), &StreamId::new("by", value)));
    open.append(batch).await;

    for value in values {
        assert_eq!(open.holder(&name(value)).await, Some(StreamId::new("by", value)), "{value:?}");
    }
}

/// The holder is told from a stream with the same text in another category.
pub async fn the_holder_keeps_its_category(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    open.append(open.batch().take(name("a"), &StreamId::new("a-b", "c"))).await;

    assert_eq!(open.holder(&name("a")).await, Some(StreamId::new("a-b", "c")));
    assert_ne!(open.holder(&name("a")).await, Some(StreamId::new("a", "b-c")));
}

/// The refusal names the claim, and the holder keeps it.
pub async fn a_claim_that_another_holds_refuses_the_batch(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().take(name("a"), &ada())).await;

    let error = open.refused(open.batch().events(&bob(), 1, 2).take(name("b"), &bob()).take(name("a"), &bob())).await;

    let StoreError::ClaimsTaken { claims } = error else { panic!("wanted ClaimsTaken, found {error:?}") };
    assert_eq!(claims, [name("a")]);
}

/// Not the first alone: the journal answers all their commands at once.
pub async fn all_taken_claims_are_named(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().take(name("a"), &ada()).take(name("c"), &ada()).take(name("e"), &ada())).await;

    let wanted = ["a", "b", "c", "d", "e"];
    let batch = wanted.iter().fold(open.batch(), |batch, value| batch.take(name(value), &bob()));
    let error = open.refused(batch).await;

    let StoreError::ClaimsTaken { mut claims } = error else { panic!("wanted ClaimsTaken, found {error:?}") };
    claims.sort();
    assert_eq!(claims, [name("a"), name("c"), name("e")]);
}

/// Released, it can be taken by anyone, the next batch included.
pub async fn a_released_claim_is_free(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().take(name("a"), &ada())).await;

    open.append(open.batch().release(name("a"), &ada())).await;
    assert_eq!(open.holder(&name("a")).await, None);

    open.append(open.batch().take(name("a"), &bob())).await;
    assert_eq!(open.holder(&name("a")).await, Some(bob()));
}

/// From one holder to the next without being free in between.
pub async fn a_transferred_claim_has_its_new_holder(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().take(name("a"), &ada())).await;

    open.append(open.batch().transfer(name("a"), &ada(), &bob())).await;

    assert_eq!(open.holder(&name("a")).await, Some(bob()));
}

/// All three operations in one batch, two transfers crossing each other.
pub async fn two_holders_swap_their_claims_in_one_batch(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().take(name("a"), &ada()).take(name("b"), &bob()).take(name("c"), &ada())).await;

    let swap = open.batch().transfer(name("a"), &ada(), &bob()).transfer(name("b"), &bob(), &ada());
    open.append(swap.release(name("c"), &ada()).take(name("d"), &ada())).await;

    let mut holders = Vec::new();
    for value in ["a", "b", "c", "d"] {
        holders.push(open.holder(&name(value)).await);
    }
    assert_eq!(holders, [Some(bob()), Some(ada()), None, Some(ada())]);
}

/// A refusal of a release or transfer is one that repeating does not help.
fn assert_not_held(error: StoreError) {
    assert!(
        matches!(error, StoreError::Conflict { .. } | StoreError::ClaimsTaken { .. }),
        "wanted Conflict or ClaimsTaken, found {error:?}"
    );
}

/// Nobody holds it.
pub async fn releasing_a_free_claim_is_refused(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    assert_not_held(open.refused(open.batch().events(&ada(), 1, 1).release(name("a"), &ada())).await);
}

/// Somebody else holds it, and goes on holding it.
pub async fn releasing_what_another_holds_is_refused(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().take(name("a"), &ada())).await;

    assert_not_held(open.refused(open.batch().events(&bob(), 1, 1).release(name("a"), &bob())).await);
}

/// Nobody holds it.
pub async fn transferring_a_free_claim_is_refused(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    assert_not_held(open.refused(open.batch().events(&ada(), 1, 1).transfer(name("a"), &ada(), &bob())).await);
}

/// Somebody else holds it, and goes on holding it.
pub async fn transferring_from_the_wrong_holder_is_refused(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let carol = StreamId::new("account", "carol");
    open.append(open.batch().take(name("a"), &ada())).await;

    assert_not_held(open.refused(open.batch().events(&bob(), 1, 1).transfer(name("a"), &bob(), &carol)).await);
}

/// The good operations of a batch fall with the bad one.
pub async fn one_bad_release_undoes_all_claims_of_its_batch(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().take(name("a"), &ada()).take(name("b"), &ada()).take(name("c"), &ada())).await;

    let good = open.batch().release(name("a"), &ada()).transfer(name("b"), &ada(), &bob()).take(name("d"), &bob());
    assert_not_held(open.refused(good.release(name("c"), &bob())).await);
}

/// 1,000 claims change hands in one batch, and are found in one question.
pub async fn a_thousand_claims_change_in_one_batch(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let all: Vec<Claim> = (0..1_000).map(|n| name(&format!("n{n}"))).collect();

    open.append(all.iter().fold(open.batch(), |batch, claim| batch.take(claim.clone(), &ada()))).await;
    let (kept, moved) = all.split_at(400);
    let batch = kept.iter().fold(open.batch(), |batch, claim| batch.release(claim.clone(), &ada()));
    open.append(moved.iter().fold(batch, |batch, claim| batch.transfer(claim.clone(), &ada(), &bob()))).await;

    let held = open.store.claim_holders(&all).await.expect("claims can be read");
    assert_eq!(held.len(), 600);
    assert!(held.iter().all(|(claim, holder)| moved.contains(claim) && *holder == bob()));
}
