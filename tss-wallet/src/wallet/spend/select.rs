//! Choosing coins: branch and bound for a selection without change, the smallest coin that is enough, a random draw, the
//! fewest coins; the least wasteful of these.
//!
//! `bdk_coin_select` searches, by a metric of ours in whole satoshi. Coins are taken in tiers (well confirmed, confirmed,
//! own unconfirmed change with few relatives, with more, unsafe) and, where that is possible, from one address type
//! alone. Coins whose unconfirmed ancestors pay too little cost what those lack. Source: Core's
//! `AutomaticCoinSelection`, Murch's waste metric.

use bdk_coin_select::float::Ordf32;
use bdk_coin_select::{BnbMetric, Candidate, CoinSelector};
use bitcoin::OutPoint;
use rand::RngCore;
use rand::seq::SliceRandom;

use super::fees::FeeRate;
use super::mempool::{ChainLimits, MempoolView};
use super::sats;
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
    /// What the unconfirmed ancestors of its coins lack, in `fee` already, and the coins it concerns.
    pub bump: i64,
    pub unconfirmed: Vec<OutPoint>,
    pub segwit: bool,
    pub address_type: AddressType,
    /// The fewest confirmations of any; whether all are from this wallet.
    pub depth: u32,
    pub from_me: bool,
    /// Unconfirmed ancestors that a spender would come to have: the sum, where some may be shared.
    pub ancestors: u64,
    /// The greatest cluster of any.
    pub cluster: u64,
    /// The rest of a script's coins beside groups that are full: spent last.
    pub partial: bool,
}

impl Group {
    /// Takes the coins of another in.
    pub fn join(&mut self, other: Group) {
        self.outpoints.extend(other.outpoints);
        self.unconfirmed.extend(other.unconfirmed);
        self.value += other.value;
        self.weight += other.weight;
        self.fee += other.fee;
        self.long_term_fee += other.long_term_fee;
        self.bump += other.bump;
        self.depth = self.depth.min(other.depth);
        self.from_me &= other.from_me;
        self.ancestors += other.ancestors;
        self.cluster = self.cluster.max(other.cluster);
    }
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
    /// Weight that inputs may have beside the other parts, change not counted.
    pub max_input_weight: u64,
    pub change_weight: u64,
    /// The same where an unconfirmed coin of version 3 is spent.
    pub max_child_weight: Option<u64>,
}

/// Which groups may be spent: Core's `CoinEligibilityFilter`.
#[derive(Debug, Clone, Copy)]
struct Tier {
    own: u32,
    others: u32,
    ancestors: u64,
    cluster: u64,
    partial: bool,
    /// Coins of several address types, if one alone does not do.
    mixed: bool,
}

impl Tier {
    const fn confirmed(own: u32, others: u32, mixed: bool) -> Self {
        Self { own, others, ancestors: 0, cluster: 0, partial: false, mixed }
    }

    const fn unconfirmed(ancestors: u64, cluster: u64) -> Self {
        Self { own: 0, others: 1, ancestors, cluster, partial: false, mixed: true }
    }

    fn admits(&self, group: &Group) -> bool {
        group.depth >= if group.from_me { self.own } else { self.others }
            && group.ancestors <= self.ancestors
            && group.cluster <= self.cluster
            && (self.partial || !group.partial)
    }
}

/// From the most careful to the least.
fn tiers(limits: ChainLimits, zero_conf_change: bool, include_unsafe: bool) -> Vec<Tier> {
    let mut tiers = vec![Tier::confirmed(1, 6, false), Tier::confirmed(1, 1, true)];
    if !zero_conf_change {
        return tiers;
    }
    let (ancestors, cluster) = (limits.ancestors.max(1), limits.descendants.max(1));
    tiers.push(Tier::unconfirmed(2, 2));
    tiers.push(Tier::unconfirmed((ancestors / 3).min(4), (cluster / 3).min(4)));
    tiers.push(Tier::unconfirmed(ancestors / 2, cluster / 2));
    tiers.push(Tier { partial: true, ..Tier::unconfirmed(ancestors - 1, cluster - 1) });
    if include_unsafe {
        tiers.push(Tier { others: 0, partial: true, ..Tier::unconfirmed(ancestors - 1, cluster - 1) });
    }
    if !limits.reject {
        tiers.push(Tier { partial: true, ..Tier::unconfirmed(u64::MAX, u64::MAX) });
    }
    tiers
}

/// What was chosen.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub outpoints: Vec<OutPoint>,
    /// What its groups count too much for ancestors they share.
    pub discount: i64,
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

    fn waste(&self, chosen: &[&Group], discount: i64) -> i64 {
        let worth: i64 = chosen.iter().map(|group| self.worth(group)).sum();
        let timing: i64 = chosen.iter().map(|group| group.fee - group.long_term_fee).sum::<i64>() - discount;
        let excess = worth - self.target + if self.subtract_fee { 0 } else { discount };
        timing + if self.change_of(excess) > 0 { self.cost_of_change } else { excess }
    }

    fn reached(&self, chosen: &[&Group]) -> bool {
        chosen.iter().map(|group| self.worth(group)).sum::<i64>() >= self.target
    }

    /// Whether a selection is light enough; one that needs no change has more room.
    fn fits(&self, chosen: &[&Group], changeless: bool) -> bool {
        let room = self.max_input_weight.saturating_sub(if changeless { 0 } else { self.change_weight });
        chosen.iter().map(|group| group.weight).sum::<u64>() <= room
    }
}

/// Why no coins were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSelection {
    NotEnough,
    TooHeavy,
    /// Only chains too long for the mempool are left.
    LongChains,
    EnormousCluster,
}

/// What is known of the mempool while coins are chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'m> {
    pub mempool: &'m dyn MempoolView,
    pub rate: FeeRate,
    pub limits: ChainLimits,
    pub zero_conf_change: bool,
    pub include_unsafe: bool,
}

impl Surroundings<'_> {
    /// What the groups count too much for ancestors that they share.
    fn discount(&self, chosen: &[&Group]) -> Result<i64, NoSelection> {
        let apart: i64 = chosen.iter().map(|group| group.bump).sum();
        if apart == 0 {
            return Ok(0);
        }
        let coins: Vec<OutPoint> = chosen.iter().flat_map(|group| group.unconfirmed.iter().copied()).collect();
        let together = self.mempool.combined_bump_fee(&coins, self.rate).ok_or(NoSelection::EnormousCluster)?;
        Ok((apart - sats(together)).max(0))
    }
}

/// Chooses among groups, tier by tier.
pub(super) fn choose(
    groups: &[Group],
    aim: &Aim,
    around: &Surroundings<'_>,
    rng: &mut dyn RngCore,
) -> Result<Choice, NoSelection> {
    let tiers = tiers(around.limits, around.zero_conf_change, around.include_unsafe);
    refuse_long_chains(groups, aim, &tiers, around.limits)?;
    let mut refusal = None;
    for tier in tiers {
        let admitted: Vec<&Group> =
            groups.iter().filter(|group| tier.admits(group)).filter(|group| aim.worth(group) > 0).collect();
        let child = aim.max_child_weight.filter(|_| tier.own == 0 || tier.others == 0);
        let aim = Aim { max_input_weight: child.unwrap_or(aim.max_input_weight), ..*aim };
        let mut best: Option<Best> = None;
        for address_type in AddressType::ALL {
            let of_type: Vec<&Group> =
                admitted.iter().copied().filter(|group| group.address_type == address_type).collect();
            consider(&of_type, &aim, around, rng, &mut best, &mut refusal);
        }
        if best.is_none() && tier.mixed {
            consider(&admitted, &aim, around, rng, &mut best, &mut refusal);
        }
        if let Some(best) = best {
            let outpoints = best.chosen.iter().flat_map(|group| group.outpoints.iter().copied()).collect();
            return Ok(Choice { outpoints, discount: best.discount });
        }
    }
    Err(refusal.unwrap_or(NoSelection::NotEnough))
}

/// Groups that no tier admits do not count; where those in long chains would have sufficed, that is the reason.
fn refuse_long_chains(groups: &[Group], aim: &Aim, tiers: &[Tier], limits: ChainLimits) -> Result<(), NoSelection> {
    let (mut left, mut long) = (0, 0);
    for group in groups {
        if tiers.iter().any(|tier| tier.admits(group)) {
            left += aim.worth(group);
        } else if group.ancestors >= limits.ancestors.max(1) || group.cluster >= limits.descendants.max(1) {
            long += aim.worth(group);
        }
    }
    if left >= aim.target {
        Ok(())
    } else if left + long > aim.target {
        Err(NoSelection::LongChains)
    } else {
        Err(NoSelection::NotEnough)
    }
}

/// The least wasteful selection so far.
struct Best<'a> {
    waste: i64,
    discount: i64,
    chosen: Vec<&'a Group>,
}

/// Tries every way on one set of groups and keeps the least wasteful selection.
fn consider<'a>(
    groups: &[&'a Group],
    aim: &Aim,
    around: &Surroundings<'_>,
    rng: &mut dyn RngCore,
    best: &mut Option<Best<'a>>,
    refusal: &mut Option<NoSelection>,
) {
    if !aim.reached(groups) {
        return;
    }
    // What bears the fee has no use for a selection without change.
    let exact = if aim.subtract_fee { None } else { branch_and_bound(groups, aim) };
    let found = [
        exact.map(|chosen| (chosen, true)),
        // Before the draw: of equally wasteful ones the first is kept, and great coins stay whole.
        smallest_enough(groups, aim).map(|group| (vec![group], false)),
        Some((random_draw(groups, aim, rng), false)),
        Some((largest_first(groups, aim), false)),
    ];
    for (chosen, changeless) in found.into_iter().flatten() {
        if !aim.reached(&chosen) {
            continue;
        }
        if !aim.fits(&chosen, changeless) {
            refusal.get_or_insert(NoSelection::TooHeavy);
            continue;
        }
        let discount = match around.discount(&chosen) {
            Ok(discount) => discount,
            Err(reason) => {
                refusal.get_or_insert(reason);
                continue;
            }
        };
        let waste = aim.waste(&chosen, discount);
        let better = best.as_ref().is_none_or(|least| {
            waste < least.waste || (waste == least.waste && inputs(&chosen) > inputs(&least.chosen))
        });
        if better {
            *best = Some(Best { waste, discount, chosen });
        }
    }
}

fn inputs(chosen: &[&Group]) -> usize {
    chosen.iter().map(|group| group.outpoints.len()).sum()
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
    // A coin that alone leaves change is in no selection without: mostly none is left to search.
    let small = |group: &&Group| aim.change_of(aim.worth(group) - aim.target) == 0;
    let mut order: Vec<&Group> = groups.iter().copied().filter(small).collect();
    if order.len() > MAX_BNB_COINS || !aim.reached(&order) {
        return None;
    }
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

/// What is to be reached with a change worth having.
fn with_change(aim: &Aim) -> i64 {
    aim.target + aim.change_fee + CHANGE_LOWER_SAT
}

/// The least valuable that is enough alone, as Core's knapsack solver prefers it.
fn smallest_enough<'a>(groups: &[&'a Group], aim: &Aim) -> Option<&'a Group> {
    let wanted = with_change(aim);
    groups.iter().copied().filter(|group| aim.worth(group) >= wanted).min_by_key(|group| aim.worth(group))
}

/// Coins in random order until the target and a change worth having are reached; where they become too heavy, the least
/// valuable go.
fn random_draw<'a>(groups: &[&'a Group], aim: &Aim, rng: &mut dyn RngCore) -> Vec<&'a Group> {
    let mut order: Vec<&Group> = groups.to_vec();
    order.shuffle(rng);
    let wanted = with_change(aim);
    let room = aim.max_input_weight.saturating_sub(aim.change_weight);
    let mut chosen: Vec<&Group> = Vec::new();
    let (mut worth, mut weight) = (0, 0);
    for group in order {
        if worth >= wanted {
            break;
        }
        worth += aim.worth(group);
        weight += group.weight;
        let at = chosen.partition_point(|other| aim.worth(other) > aim.worth(group));
        chosen.insert(at, group);
        while weight > room
            && let Some(least) = chosen.pop()
        {
            worth -= aim.worth(least);
            weight -= least.weight;
        }
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
