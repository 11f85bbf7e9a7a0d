//! This file settles claims within a batch: who loses to whom, and what all of them together come to.

use std::collections::HashMap;
use std::sync::Arc;

use super::append::{Append, Fault, InFlight, Lineage, Verdict};
use crate::aggregate::Claim;
use crate::store::{ClaimChanges, SharedStore, StoreError};
use crate::stream::StreamId;

/// Which of these claims are held; nobody but this journal changes them.
pub(super) async fn held_among(store: &SharedStore, claims: &[Claim]) -> Result<Vec<Claim>, StoreError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let holders = store.claim_holders(claims).await?;
    Ok(holders.into_iter().map(|(claim, _)| claim).collect())
}

/// Appends that were set aside, each with its fault. They are in flight until it is known what became of the winners.
pub(super) struct Losers {
    appends: InFlight,
    faults: Vec<Fault>,
}

impl Losers {
    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Hands back each with what `settled` makes of its fault.
    pub(super) fn hand_back(mut self, settled: impl Fn(Fault) -> Fault) {
        let appends = self.appends.0.drain(..);
        appends.zip(self.faults.drain(..)).for_each(|(append, fault)| append.hand_back(settled(fault)));
    }
}

/// Takes out whoever claims what another in the same batch has claimed before, and whoever asked to be aborted, with
/// all that was decided upon them. They are answered only when the winners are durable.
pub(super) fn set_losers_aside(part: &mut InFlight) -> Losers {
    let mut losers = Losers { appends: part.split_off(part.0.len()), faults: Vec::new() };
    let is_plain = |append: &Append| append.claims.take.is_empty() && append.claims.release.is_empty();
    if part.0.iter().all(|append| is_plain(append) && !matches!(append.verdict, Verdict::Abort(_))) {
        return losers;
    }
    let mut holders: HashMap<Claim, Option<StreamId>> = HashMap::new();
    let mut fallen: Vec<*const Lineage> = Vec::new();
    for append in std::mem::take(&mut part.0) {
        let lineage = Arc::as_ptr(&append.lineage);
        let taken = append.claims.take.iter().find(|claim| {
            !append.claims.release.contains(claim)
                && matches!(holders.get(*claim), Some(Some(holder)) if *holder != append.stream)
        });
        let fault = match (&append.verdict, taken) {
            _ if fallen.contains(&lineage) => Fault::Cut,
            (Verdict::Abort(what), _) => Fault::Aborted(what.clone()),
            (_, Some(claim)) => Fault::ClaimRefused(claim.clone()),
            _ => {
                append.claims.release.iter().for_each(|claim| drop(holders.insert(claim.clone(), None)));
                let taker = || Some(append.stream.clone());
                append.claims.take.iter().for_each(|claim| drop(holders.insert(claim.clone(), taker())));
                part.0.push(append);
                continue;
            }
        };
        fallen.push(lineage);
        losers.appends.0.push(append);
        losers.faults.push(fault);
    }
    losers
}

/// Hands back whoever needs one of these claims, which the store says are held. Whoever takes one behind its release
/// in the same batch stays. Returns the claims that are released.
pub(super) fn refuse_claims(part: &mut InFlight, taken: &[Claim]) -> Vec<Claim> {
    let before = part.0.len();
    let mut released: Vec<Claim> = Vec::new();
    part.hand_back_where(|append| {
        let held = append.claims.take.iter().find(|claim| taken.contains(claim) && !released.contains(claim));
        if held.is_none() {
            released.extend(append.claims.release.iter().cloned());
        }
        held.map(|claim| Fault::ClaimRefused(claim.clone()))
    });
    if part.0.len() == before {
        // Nobody is at fault, which the store cannot mean; decide all of them again rather than turn in a circle.
        part.hand_back_where(|_| Some(Fault::Cut));
    }
    released
}

/// Folds the claim operations, in order, to one net operation a claim; second, those that net to nothing.
pub(super) fn net_claims(appends: &[Append]) -> (ClaimChanges, Vec<Claim>) {
    #[derive(Default)]
    struct Net {
        before: Option<StreamId>,
        after: Option<StreamId>,
        touched: bool,
    }
    let mut order = Vec::new();
    let mut nets: HashMap<&Claim, Net> = HashMap::new();
    for append in appends {
        let releases = append.claims.release.iter().map(|claim| (claim, false));
        let takes = append.claims.take.iter().map(|claim| (claim, true));
        for (claim, take) in releases.chain(takes) {
            let net = nets.entry(claim).or_insert_with(|| {
                order.push(claim);
                Net::default()
            });
            if !net.touched && !take {
                net.before = Some(append.stream.clone());
            }
            net.touched = true;
            net.after = take.then(|| append.stream.clone());
        }
    }
    let (mut changes, mut must_be_free) = (ClaimChanges::default(), Vec::new());
    for claim in order {
        let net = nets.remove(claim).expect("every claim in the order was folded");
        match (net.before, net.after) {
            (None, Some(to)) => changes.take.push((claim.clone(), to)),
            (Some(from), None) => changes.release.push((claim.clone(), from)),
            (Some(from), Some(to)) if from != to => changes.transfer.push((claim.clone(), from, to)),
            (None, None) => must_be_free.push(claim.clone()),
            (Some(_), Some(_)) => {}
        }
    }
    (changes, must_be_free)
}
