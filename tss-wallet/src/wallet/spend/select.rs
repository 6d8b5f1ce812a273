//! Choosing coins: branch and bound for a selection without change, a random draw, the fewest coins; the least wasteful.
//!
//! `bdk_coin_select` searches, by a metric of ours in whole satoshi. Coins are taken in tiers (well confirmed, confirmed, own unconfirmed change, unsafe)
//! and, where that is possible, from one address type alone. Source: Core's `AutomaticCoinSelection`, Murch's waste
//! metric.

use bdk_coin_select::float::Ordf32;
use bdk_coin_select::{BnbMetric, Candidate, CoinSelector};
use bitcoin::OutPoint;
use rand::RngCore;
use rand::seq::SliceRandom;

use crate::wallet::keychain::AddressType;

/// Rounds of branch and bound; each costs a few microseconds for a wallet of a few hundred coins.
const MAX_ROUNDS: usize = 500;
/// Above this many coins the search is left out: a round's cost grows with the number of coins.
const MAX_BNB_COINS: usize = 500;
/// What a random draw leaves for change, so that change is of use: Core's `CHANGE_LOWER`.
const CHANGE_LOWER_SAT: i64 = 50_000;

/// Coins that are spent together or not at all.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub outpoints: Vec<OutPoint>,
    pub value: i64,
    pub weight: u64,
    /// Fees of its inputs at the rate of this transaction, and at the long-term rate.
    pub fee: i64,
    pub long_term_fee: i64,
    pub segwit: bool,
    pub address_type: AddressType,
    /// The fewest confirmations of any, and of any that others paid.
    pub depth_own: u32,
    pub depth_others: u32,
    pub safe: bool,
    /// The rest of a script's coins beside groups that are full: spent last.
    pub partial: bool,
}

/// What a selection must reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aim {
    /// Effective value to reach (value, where recipients pay the fee).
    pub target: i64,
    /// Whether recipients pay the fee.
    pub subtract_fee: bool,
    pub change_fee: i64,
    pub cost_of_change: i64,
    pub min_viable_change: i64,
    pub max_input_weight: u64,
}

impl Aim {
    fn worth(&self, group: &Group) -> i64 {
        if self.subtract_fee { group.value } else { group.value - group.fee }
    }

    /// What the excess of a selection becomes: change, or nothing when it is too small for it.
    pub fn change_of(&self, excess: i64) -> i64 {
        let change = if self.subtract_fee { excess } else { excess - self.change_fee };
        if change < self.min_viable_change { 0 } else { change }
    }

    fn waste(&self, chosen: &[&Group]) -> i64 {
        let worth: i64 = chosen.iter().map(|group| self.worth(group)).sum();
        let timing: i64 = chosen.iter().map(|group| group.fee - group.long_term_fee).sum();
        let excess = worth - self.target;
        timing + if self.change_of(excess) > 0 { self.cost_of_change } else { excess }
    }

    fn reached(&self, chosen: &[&Group]) -> bool {
        chosen.iter().map(|group| self.worth(group)).sum::<i64>() >= self.target
    }

    fn fits(&self, chosen: &[&Group]) -> bool {
        chosen.iter().map(|group| group.weight).sum::<u64>() <= self.max_input_weight
    }
}

/// Why no coins were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSelection {
    NotEnough,
    TooHeavy,
}

/// Chooses among groups, tier by tier.
pub(super) fn choose(
    groups: &[Group],
    aim: &Aim,
    include_unsafe: bool,
    rng: &mut dyn RngCore,
) -> Result<Vec<OutPoint>, NoSelection> {
    let confirmed = |others: u32| {
        move |group: &&Group| group.depth_own >= 1 && group.depth_others >= others && group.safe && !group.partial
    };
    let tiers: [(Vec<&Group>, bool); 5] = [
        (groups.iter().filter(confirmed(6)).collect(), false),
        (groups.iter().filter(confirmed(1)).collect(), true),
        (groups.iter().filter(|group| group.safe && !group.partial).collect(), true),
        (groups.iter().filter(|group| group.safe).collect(), true),
        (if include_unsafe { groups.iter().collect() } else { Vec::new() }, true),
    ];
    let mut heavy = false;
    for (tier, mixed) in tiers {
        let worthy: Vec<&Group> = tier.into_iter().filter(|group| aim.worth(group) > 0).collect();
        if worthy.iter().map(|group| aim.worth(group)).sum::<i64>() < aim.target {
            continue;
        }
        let mut best: Option<(i64, Vec<&Group>)> = None;
        for address_type in AddressType::ALL {
            let of_type: Vec<&Group> =
                worthy.iter().copied().filter(|group| group.address_type == address_type).collect();
            consider(&of_type, aim, rng, &mut best, &mut heavy);
        }
        if best.is_none() && mixed {
            consider(&worthy, aim, rng, &mut best, &mut heavy);
        }
        if let Some((_, chosen)) = best {
            return Ok(chosen.iter().flat_map(|group| group.outpoints.iter().copied()).collect());
        }
    }
    Err(if heavy { NoSelection::TooHeavy } else { NoSelection::NotEnough })
}

/// Tries both ways on one set of groups and keeps the less wasteful selection.
fn consider<'a>(
    groups: &[&'a Group],
    aim: &Aim,
    rng: &mut dyn RngCore,
    best: &mut Option<(i64, Vec<&'a Group>)>,
    heavy: &mut bool,
) {
    if !aim.reached(groups) {
        return;
    }
    let found = [branch_and_bound(groups, aim), Some(random_draw(groups, aim, rng)), Some(largest_first(groups, aim))];
    for chosen in found.into_iter().flatten() {
        if !aim.reached(&chosen) {
            continue;
        }
        if !aim.fits(&chosen) {
            *heavy = true;
            continue;
        }
        let waste = aim.waste(&chosen);
        if best.as_ref().is_none_or(|(least, _)| waste < *least) {
            *best = Some((waste, chosen));
        }
    }
}

/// Waste of a selection that needs no change, in whole satoshi. (The metrics that come with `bdk_coin_select` count fees
/// in single-precision floats and assert on what rounding breaks.)
struct Changeless<'g> {
    groups: &'g [&'g Group],
    aim: &'g Aim,
}

impl Changeless<'_> {
    fn sums(&self, indices: impl Iterator<Item = usize>) -> (i64, i64) {
        indices.filter_map(|index| self.groups.get(index)).fold((0, 0), |(worth, timing), group| {
            (worth + self.aim.worth(group), timing + group.fee - group.long_term_fee)
        })
    }

    fn over(&self, worth: i64) -> bool {
        self.aim.change_of(worth - self.aim.target) > 0
    }
}

/// Only to compare selections; the search orders by it.
fn comparable(waste: i64) -> Ordf32 {
    Ordf32(waste as f32)
}

impl BnbMetric for Changeless<'_> {
    fn score(&mut self, selector: &CoinSelector<'_>) -> Option<Ordf32> {
        let (worth, timing) = self.sums(selector.selected_indices().iter().copied());
        let excess = worth - self.aim.target;
        (excess >= 0 && !self.over(worth)).then(|| comparable(timing + excess))
    }

    fn bound(&mut self, selector: &CoinSelector<'_>) -> Option<Ordf32> {
        let (worth, timing) = self.sums(selector.selected_indices().iter().copied());
        if self.over(worth) {
            return None;
        }
        let (more, later) = self.sums(selector.unselected_indices());
        (worth + more >= self.aim.target).then(|| comparable(timing + later.min(0)))
    }
}

fn branch_and_bound<'a>(groups: &[&'a Group], aim: &Aim) -> Option<Vec<&'a Group>> {
    if groups.len() > MAX_BNB_COINS {
        return None;
    }
    let mut order: Vec<&Group> = groups.to_vec();
    order.sort_by_key(|group| std::cmp::Reverse(aim.worth(group)));
    let candidates: Vec<Candidate> = order
        .iter()
        .map(|group| Candidate {
            value: u64::try_from(group.value).unwrap_or(0),
            weight: group.weight,
            input_count: group.outpoints.len(),
            is_segwit: group.segwit,
        })
        .collect();
    let mut selector = CoinSelector::new(&candidates);
    selector.run_bnb(Changeless { groups: &order, aim }, MAX_ROUNDS).ok()?;
    Some(selector.selected_indices().iter().filter_map(|index| order.get(*index).copied()).collect())
}

/// Coins in random order until the target and a change worth having are reached, or the target alone.
fn random_draw<'a>(groups: &[&'a Group], aim: &Aim, rng: &mut dyn RngCore) -> Vec<&'a Group> {
    let mut order: Vec<&Group> = groups.to_vec();
    order.shuffle(rng);
    let wanted = aim.target + aim.change_fee + CHANGE_LOWER_SAT;
    let mut chosen = Vec::new();
    let mut worth = 0;
    for group in order {
        if worth >= wanted {
            break;
        }
        worth += aim.worth(group);
        chosen.push(group);
    }
    chosen
}

/// The fewest coins, for when the others are too heavy.
fn largest_first<'a>(groups: &[&'a Group], aim: &Aim) -> Vec<&'a Group> {
    let mut order: Vec<&Group> = groups.to_vec();
    order.sort_by_key(|group| std::cmp::Reverse(aim.worth(group)));
    let mut chosen = Vec::new();
    let mut worth = 0;
    for group in order {
        if worth >= aim.target {
            break;
        }
        worth += aim.worth(group);
        chosen.push(group);
    }
    chosen
}
