//! Putting a payment together: coins, fee, change, the unsigned transaction.
//!
//! [`Wallet::create_transaction`] follows Core's `CreateTransactionInternal` step by step and refuses in Core's words.
//! Fee rates are resolved by the caller, who knows the mempool; randomness is handed in. The draft is not a promise:
//! claim its inputs before it is signed.

mod error;
pub mod fees;
pub mod mempool;
mod params;
mod select;

use std::collections::{BTreeMap, HashMap, HashSet};

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Weight};
use rand::seq::SliceRandom;
use rand::{Rng, RngCore};

pub use self::error::SpendError;
use self::error::{MAX_STANDARD_WEIGHT, MIN_STANDARD_WEIGHT};
use self::fees::{dust_threshold, input_weight, is_dust, output_size, signed_weight, vbytes};
pub use self::params::{ChangeSpec, Draft, DraftInput, PresetInput, Recipient, SpendParams};
use self::select::{Aim, Choice, Group, NoSelection, Surroundings};
use super::Wallet;
use super::addresses::AddressError;
use super::coins::{Coin, CoinFilter};
use super::keychain::imported::{ScriptId, Spending};
use super::keychain::{AddressType, Branch, ChainId, KeyId};
use super::record::TRUC_VERSION;

/// Size of an input that spends change, where the change script is not ours.
const FOREIGN_CHANGE_SPEND_VBYTES: u64 = 91;
/// Coins of one script that are spent together at most.
const MAX_GROUP_COINS: usize = 100;
/// The heaviest transaction of version 3 that spends an unconfirmed one.
const TRUC_CHILD_MAX_WEIGHT: u64 = 4_000;

fn sats(amount: Amount) -> i64 {
    i64::try_from(amount.to_sat()).unwrap_or(i64::MAX)
}

fn amount(sats: i64) -> Amount {
    Amount::from_sat(u64::try_from(sats).unwrap_or(0))
}

/// A coin that will be spent, with its cost.
#[derive(Debug, Clone)]
struct Input {
    prevout: TxOut,
    key: Option<KeyId>,
    weight: u64,
    segwit: bool,
    sequence: Option<Sequence>,
    /// What its unconfirmed ancestors lack.
    bump: i64,
}

/// The inputs of a payment.
struct Chosen {
    inputs: Vec<(OutPoint, Input)>,
    /// What they count too much for ancestors that they share.
    discount: i64,
}

/// The change script and what it costs; the address is taken from the pool only when it is used.
struct ChangePlan {
    script: ScriptBuf,
    fresh: Option<ChainId>,
    /// The type of the active descriptor it comes from, in a wallet without a quorum.
    imported: Option<AddressType>,
    missing: Option<AddressError>,
    min_viable: i64,
    fee: i64,
    cost: i64,
    output_vbytes: u64,
}

impl Wallet {
    /// Core's choice of the type of change.
    pub fn change_type(&self, params: &SpendParams) -> AddressType {
        if let Some(chosen) = params.change.address_type {
            return chosen;
        }
        if params.default_address_type == AddressType::Legacy {
            return AddressType::Legacy;
        }
        let types: Vec<_> =
            params.recipients.iter().filter_map(|recipient| AddressType::of_script(&recipient.script)).collect();
        let order = [AddressType::Bech32m, AddressType::Bech32, AddressType::P2shSegwit, AddressType::Legacy];
        let mut possible = order.into_iter().filter(|kind| self.hands_out(*kind, true));
        possible
            .clone()
            .find(|kind| types.contains(kind))
            .or_else(|| possible.find(|kind| matches!(kind, AddressType::Bech32m | AddressType::Bech32)))
            .unwrap_or(params.default_address_type)
    }

    /// Funds a payment. Takes a change address from the confirmed pool when change is needed.
    pub fn create_transaction(&mut self, params: &SpendParams, rng: &mut dyn RngCore) -> Result<Draft, SpendError> {
        let (recipients_sum, subtract) = check_recipients(params)?;
        let change = self.plan_change(params);
        // Version, lock time, one byte each for the count of inputs and the witness marker, the outputs.
        let outputs: u64 = params.recipients.iter().map(|recipient| output_size(&recipient.script)).sum();
        let count = if params.recipients.len() < 253 { 1 } else { 3 };
        let no_inputs_vbytes = 10 + count + outputs;
        let max_weight = params.max_tx_weight.unwrap_or(MAX_STANDARD_WEIGHT);
        if !(MIN_STANDARD_WEIGHT..=MAX_STANDARD_WEIGHT).contains(&max_weight) {
            return Err(SpendError::WeightLimit);
        }
        if no_inputs_vbytes * 4 >= max_weight {
            return Err(SpendError::NoRoomForInputs);
        }
        let not_input_fees = if subtract > 0 { Amount::ZERO } else { params.fee_rate.fee(no_inputs_vbytes) };
        let target = recipients_sum.checked_add(not_input_fees).ok_or(SpendError::AmountOutOfRange)?;
        if target == Amount::ZERO && params.inputs.is_empty() {
            return Err(SpendError::Nothing);
        }
        let aim = Aim {
            target: sats(target),
            subtract_fee: subtract > 0,
            change_fee: change.fee,
            cost_of_change: change.cost,
            min_viable_change: change.min_viable,
            max_input_weight: max_weight.saturating_sub(no_inputs_vbytes * 4),
            change_weight: change.output_vbytes * 4,
            max_child_weight: (params.version == TRUC_VERSION)
                .then(|| max_weight.min(TRUC_CHILD_MAX_WEIGHT).saturating_sub(no_inputs_vbytes * 4)),
        };
        let room = max_weight.saturating_sub(no_inputs_vbytes * 4);
        let chosen = self.choose_inputs(params, &aim, sats(recipients_sum), rng).map_err(|error| match error {
            SpendError::InputsTooHeavy if room < change.output_vbytes * 4 => SpendError::NoRoomForChange,
            other => other,
        })?;
        self.assemble(params, &aim, change, chosen, subtract, max_weight, rng)
    }

    fn plan_change(&self, params: &SpendParams) -> ChangePlan {
        let mut imported = None;
        let (script, fresh, missing) = match &params.change.script {
            Some(script) => (script.clone(), None, None),
            None if self.keys.is_watching() => {
                let kind = self.change_type(params);
                match self.peek_imported(kind, true) {
                    Some(script) => {
                        imported = Some(kind);
                        (script, None, None)
                    }
                    None => (ScriptBuf::new(), None, Some(AddressError::NoAddresses(kind))),
                }
            }
            None => {
                let chain = ChainId::new(self.change_type(params), Branch::Change);
                let key = (self.pool.available(chain) > 0)
                    .then(|| self.keys.derive(KeyId { chain, index: self.pool.next_index(chain) }))
                    .flatten();
                match key {
                    Some(key) => (key.script, Some(chain), None),
                    None => (ScriptBuf::new(), None, Some(AddressError::PoolEmpty(chain))),
                }
            }
        };
        let ours = fresh
            .map(|chain| input_weight(chain.address_type))
            .or_else(|| self.keys.spending(&script).map(|spending| spending.weight));
        let spend_vbytes = ours.map_or(FOREIGN_CHANGE_SPEND_VBYTES, vbytes);
        let output_vbytes = output_size(&script);
        let fee = sats(params.fee_rate.fee(output_vbytes));
        let spend_fee = sats(params.discard_rate.fee(spend_vbytes));
        let dust = sats(dust_threshold(&script, params.discard_rate));
        ChangePlan {
            script,
            fresh,
            imported,
            missing,
            min_viable: dust.max(spend_fee + 1),
            fee,
            cost: fee + spend_fee,
            output_vbytes,
        }
    }

    fn preset(&self, params: &SpendParams) -> Result<Vec<(OutPoint, Input)>, SpendError> {
        let mut found = Vec::with_capacity(params.inputs.len());
        let outpoints: Vec<OutPoint> = params.inputs.iter().map(|preset| preset.outpoint).collect();
        let bumps = params.mempool.bump_fees(&outpoints, params.fee_rate);
        let mut seen = HashSet::new();
        // A coin that is named twice is spent once.
        for (preset, bump) in params.inputs.iter().zip(bumps).filter(|(preset, _)| seen.insert(preset.outpoint)) {
            let known = self.keys.scripts().txout(preset.outpoint).map(|(id, _)| *id);
            let own = known.and_then(|_| self.output(preset.outpoint).cloned());
            let parent = self.ledger.get(&preset.outpoint.txid).filter(|_| own.is_some());
            if let Some(parent) = parent.filter(|parent| self.ledger.depth(parent) == 0) {
                let theirs = parent.tx.version.0;
                if theirs == TRUC_VERSION && params.version != TRUC_VERSION {
                    return Err(SpendError::TrucInput(params.version));
                }
                if theirs != TRUC_VERSION && params.version == TRUC_VERSION {
                    return Err(SpendError::InputForTruc(theirs));
                }
            }
            let key = known.filter(|_| own.is_some()).and_then(key_of);
            let prevout = own.or_else(|| preset.prevout.clone()).ok_or(match preset.sequence {
                Some(_) => SpendError::InputNotFound(preset.outpoint),
                None => SpendError::PresetNotFound(preset.outpoint),
            })?;
            let spending = self.keys.spending(&prevout.script_pubkey);
            let spending = spending.or_else(|| params.solving.spending(&prevout.script_pubkey));
            let taproot = prevout.script_pubkey.is_p2tr().then(|| input_weight(AddressType::Bech32m));
            let weight = preset.weight.map(Weight::to_wu).or(spending.map(|spending| spending.weight)).or(taproot);
            let weight = weight.ok_or(SpendError::InputNotSolvable(preset.outpoint))?;
            let segwit = spending.map_or(prevout.script_pubkey.is_witness_program(), |spending| spending.segwit);
            let input = Input { prevout, key, weight, segwit, sequence: preset.sequence, bump: sats(bump) };
            found.push((preset.outpoint, input));
        }
        Ok(found)
    }

    /// Preset inputs in their order, then what was chosen, shuffled.
    fn choose_inputs(
        &self,
        params: &SpendParams,
        aim: &Aim,
        recipients_sum: i64,
        rng: &mut dyn RngCore,
    ) -> Result<Chosen, SpendError> {
        let cost = |input: &Input| sats(params.fee_rate.fee(vbytes(input.weight))) + input.bump;
        let mut chosen = self.preset(params)?;
        let value: i64 = chosen.iter().map(|(_, input)| sats(input.prevout.value)).sum();
        let fees: i64 = chosen.iter().map(|(_, input)| cost(input)).sum();
        let preset_worth = if aim.subtract_fee { value } else { value - fees };
        let missing = aim.target - preset_worth;
        if !params.add_inputs && missing > 0 {
            return Err(SpendError::PresetTooSmall);
        }
        if missing <= 0 && !chosen.is_empty() {
            return Ok(Chosen { inputs: chosen, discount: 0 });
        }
        let filter = CoinFilter {
            min_depth: params.min_conf,
            max_depth: params.max_conf,
            only_safe: !params.include_unsafe,
            avoid_used: params.avoid_reuse,
            skip_claimed: true,
            for_version: Some(params.version),
            ..CoinFilter::default()
        };
        let coins: Vec<Coin> = self
            .unspent(&filter)
            .into_iter()
            .filter(|coin| !params.inputs.iter().any(|preset| preset.outpoint == coin.outpoint))
            .filter(|coin| {
                let third = || params.mempool.chain_of(&coin.outpoint.txid).ancestors > 1;
                coin.depth > 0 || params.version != TRUC_VERSION || !third()
            })
            .collect();
        let unconfirmed: Vec<OutPoint> =
            coins.iter().filter(|coin| coin.depth == 0).map(|coin| coin.outpoint).collect();
        let bumps = params.mempool.bump_fees(&unconfirmed, params.fee_rate);
        let bumps: HashMap<OutPoint, i64> = unconfirmed.into_iter().zip(bumps.into_iter().map(sats)).collect();
        let together = params.avoid_partial_spends || (params.avoid_reuse && self.meta.avoid_reuse);
        let groups = group_coins(&coins, params, together, &bumps);
        let rest = Aim { target: missing, ..*aim };
        let around = Surroundings {
            mempool: params.mempool.as_ref(),
            rate: params.fee_rate,
            limits: params.chain_limits,
            zero_conf_change: self.options.spend_zero_conf_change,
            include_unsafe: params.include_unsafe,
        };
        let poor = || {
            let total = value + coins.iter().map(|coin| sats(coin.output.value)).sum::<i64>();
            let worth = preset_worth + groups.iter().map(|group| group.value - group.fee).sum::<i64>();
            if !aim.subtract_fee && total >= recipients_sum && worth < aim.target {
                SpendError::FeeExceedsBalance(amount(aim.target - recipients_sum))
            } else {
                SpendError::InsufficientFunds
            }
        };
        let available: i64 =
            groups.iter().map(|group| if aim.subtract_fee { group.value } else { group.value - group.fee }).sum();
        if missing > available {
            return Err(poor());
        }
        let picked = select::choose(&groups, &rest, &around, rng).map_err(|reason| match reason {
            NoSelection::TooHeavy => SpendError::InputsTooHeavy,
            NoSelection::LongChains => SpendError::ChainTooLong,
            NoSelection::EnormousCluster => SpendError::EnormousCluster,
            NoSelection::NotEnough => poor(),
        })?;
        let Choice { outpoints: picked, discount } = picked;
        let mut by_outpoint: BTreeMap<OutPoint, Coin> = coins.into_iter().map(|coin| (coin.outpoint, coin)).collect();
        let mut added: Vec<(OutPoint, Input)> = picked
            .into_iter()
            .filter_map(|outpoint| by_outpoint.remove(&outpoint))
            .map(|coin| {
                let spending = coin.spending.ok_or(SpendError::Unsolvable)?;
                let input = Input {
                    prevout: coin.output,
                    key: key_of(coin.key),
                    weight: spending.weight,
                    segwit: spending.segwit,
                    sequence: None,
                    bump: bumps.get(&coin.outpoint).copied().unwrap_or(0),
                };
                Ok((coin.outpoint, input))
            })
            .collect::<Result<_, SpendError>>()?;
        let weight: u64 = chosen.iter().chain(&added).map(|(_, input)| input.weight).sum();
        if !chosen.is_empty() && weight > aim.max_input_weight {
            return Err(SpendError::CombinationTooHeavy);
        }
        added.shuffle(rng);
        chosen.append(&mut added);
        Ok(Chosen { inputs: chosen, discount })
    }

    #[allow(clippy::too_many_arguments)] // The steps of one computation; they share no state of their own.
    fn assemble(
        &mut self,
        params: &SpendParams,
        aim: &Aim,
        change: ChangePlan,
        chosen: Chosen,
        subtract: i64,
        max_weight: u64,
        rng: &mut dyn RngCore,
    ) -> Result<Draft, SpendError> {
        let Chosen { inputs: chosen, discount } = chosen;
        let bump = chosen.iter().map(|(_, input)| input.bump).sum::<i64>() - discount;
        let selected: i64 = chosen.iter().map(|(_, input)| sats(input.prevout.value)).sum();
        let input_fees: i64 = chosen.iter().map(|(_, input)| sats(params.fee_rate.fee(vbytes(input.weight)))).sum();
        let worth = if aim.subtract_fee { selected } else { selected - input_fees - bump };
        let mut outputs: Vec<TxOut> = params
            .recipients
            .iter()
            .map(|recipient| TxOut { value: recipient.amount, script_pubkey: recipient.script.clone() })
            .collect();
        let change_amount = aim.change_of(worth - aim.target);
        let mut position = None;
        if change_amount > 0 {
            let at = params.change.position.unwrap_or_else(|| rng.gen_range(0..=outputs.len()));
            if at > outputs.len() {
                return Err(SpendError::ChangePosition);
            }
            outputs.insert(at, TxOut { value: amount(change_amount), script_pubkey: change.script.clone() });
            position = Some(at);
        }
        let mut tx = unsigned(params, &chosen, outputs, rng);
        let sizes: Vec<(u64, bool)> = chosen.iter().map(|(_, input)| (input.weight, input.segwit)).collect();
        let weight = signed_weight(&tx, &sizes);
        let needed = sats(params.fee_rate.fee(vbytes(weight))) + bump;
        let fee = settle_fee(&mut tx, params, selected, needed, position, subtract)?;
        if let Some(error) = change.missing.filter(|_| change_amount > 0) {
            return Err(SpendError::NoChangeAddress(error));
        }
        if weight > max_weight {
            return Err(if params.max_tx_weight.is_some() { SpendError::InputsTooHeavy } else { SpendError::TooLarge });
        }
        if fee > params.max_tx_fee {
            return Err(SpendError::MaxFeeExceeded);
        }
        if params.chain_limits.reject && !params.mempool.fits_limits(&tx) {
            return Err(SpendError::ClusterLimit);
        }
        let reserved = match (position, change.fresh) {
            (Some(_), Some(chain)) => {
                Some(self.change_address(chain.address_type).map_err(SpendError::NoChangeAddress)?)
            }
            _ => None,
        };
        if let Some(kind) = change.imported.filter(|_| position.is_some()) {
            let taken = self.take_imported(kind, true, None).map_err(AddressError::Storage);
            taken.map_err(SpendError::NoChangeAddress)?;
        }
        let inputs = chosen
            .into_iter()
            .map(|(outpoint, input)| DraftInput { outpoint, prevout: input.prevout, key: input.key })
            .collect();
        Ok(Draft { tx, fee, change_position: position, inputs, change: reserved })
    }
}

fn key_of(id: ScriptId) -> Option<KeyId> {
    match id {
        ScriptId::Key(key) => Some(key),
        ScriptId::Imported { .. } => None,
    }
}

/// The sum of what is to be paid, and how many recipients pay the fee.
fn check_recipients(params: &SpendParams) -> Result<(Amount, i64), SpendError> {
    if params.recipients.is_empty() {
        return Err(SpendError::NoRecipient);
    }
    let mut sum = Amount::ZERO;
    let mut subtract = 0;
    for recipient in &params.recipients {
        let output = TxOut { value: recipient.amount, script_pubkey: recipient.script.clone() };
        if is_dust(&output, params.dust_relay_rate) {
            return Err(SpendError::AmountTooSmall);
        }
        sum = sum
            .checked_add(recipient.amount)
            .filter(|sum| *sum <= Amount::MAX_MONEY)
            .ok_or(SpendError::InsufficientFunds)?;
        subtract += i64::from(recipient.subtract_fee);
    }
    Ok((sum, subtract))
}

/// Coins as they are chosen: one by one, or all of a script together.
fn group_coins(coins: &[Coin], params: &SpendParams, together: bool, bumps: &HashMap<OutPoint, i64>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut open: BTreeMap<&ScriptBuf, usize> = BTreeMap::new();
    let mut count: BTreeMap<&ScriptBuf, usize> = BTreeMap::new();
    for coin in coins {
        let one = group_of(coin, params, bumps);
        let place = open.get(&coin.output.script_pubkey).copied().filter(|_| together);
        let group =
            place.and_then(|place| groups.get_mut(place)).filter(|group| group.outpoints.len() < MAX_GROUP_COINS);
        if let Some(group) = group {
            group.join(one);
            continue;
        }
        open.insert(&coin.output.script_pubkey, groups.len());
        groups.push(one);
        if together {
            *count.entry(&coin.output.script_pubkey).or_insert(0) += 1;
        }
    }
    for (_, place) in open.iter().filter(|(script, _)| count.get(*script).is_some_and(|count| *count > 1)) {
        if let Some(group) = groups.get_mut(*place) {
            group.partial = true;
        }
    }
    groups
}

/// A group of one coin.
fn group_of(coin: &Coin, params: &SpendParams, bumps: &HashMap<OutPoint, i64>) -> Group {
    // Without knowing how it is spent a coin costs nothing here; the transaction's size cannot be told then.
    let spending = coin.spending.unwrap_or(Spending {
        weight: 0,
        segwit: false,
        address_type: AddressType::of_script(&coin.output.script_pubkey).unwrap_or(AddressType::Legacy),
    });
    let chain = if coin.depth == 0 { params.mempool.chain_of(&coin.outpoint.txid) } else { Default::default() };
    let bump = bumps.get(&coin.outpoint).copied().unwrap_or(0);
    Group {
        outpoints: vec![coin.outpoint],
        value: sats(coin.output.value),
        weight: spending.weight,
        fee: sats(params.fee_rate.fee(vbytes(spending.weight))) + bump,
        long_term_fee: sats(params.long_term_rate.fee(vbytes(spending.weight))),
        bump,
        unconfirmed: if coin.depth == 0 { vec![coin.outpoint] } else { Vec::new() },
        segwit: spending.segwit,
        address_type: spending.address_type,
        depth: coin.depth,
        from_me: coin.from_me,
        ancestors: chain.ancestors,
        cluster: chain.cluster,
        partial: false,
    }
}

fn unsigned(
    params: &SpendParams,
    chosen: &[(OutPoint, Input)],
    outputs: Vec<TxOut>,
    rng: &mut dyn RngCore,
) -> Transaction {
    let default_sequence = if params.rbf { Sequence::ENABLE_RBF_NO_LOCKTIME } else { Sequence::ENABLE_LOCKTIME_NO_RBF };
    let inputs = chosen
        .iter()
        .map(|(outpoint, input)| TxIn {
            previous_output: *outpoint,
            sequence: input.sequence.unwrap_or(default_sequence),
            ..TxIn::default()
        })
        .collect();
    // A sequence or a lock time of the caller's leaves no room for ours.
    let preset = chosen.iter().any(|(_, input)| input.sequence.is_some());
    let lock_time = match (params.lock_time, params.anti_fee_sniping) {
        (Some(lock_time), _) => lock_time,
        (None, Some(height)) if !preset => {
            let back = if rng.gen_range(0..10) == 0 { rng.gen_range(0..100) } else { 0 };
            LockTime::from_height(height.saturating_sub(back)).unwrap_or(LockTime::ZERO)
        }
        (None, _) => LockTime::ZERO,
    };
    Transaction { version: Version(params.version), lock_time, input: inputs, output: outputs }
}

/// Makes the fee right: what is over goes to change, what is missing comes from the recipients who pay it.
fn settle_fee(
    tx: &mut Transaction,
    params: &SpendParams,
    selected: i64,
    needed: i64,
    change: Option<usize>,
    subtract: i64,
) -> Result<Amount, SpendError> {
    let paid = |tx: &Transaction| tx.output.iter().map(|output| sats(output.value)).sum::<i64>();
    let current = selected - paid(tx);
    if let Some(output) = change.and_then(|at| tx.output.get_mut(at)).filter(|_| needed < current) {
        output.value += amount(current - needed);
    }
    let to_reduce = needed - (selected - paid(tx));
    let mut first = true;
    let places = (0..tx.output.len()).filter(|at| Some(*at) != change);
    for (at, recipient) in places.zip(&params.recipients).filter(|(_, recipient)| recipient.subtract_fee) {
        let Some(output) = tx.output.get_mut(at) else { continue };
        // Equal shares; the first takes what does not divide.
        let share = to_reduce.div_euclid(subtract) + if first { to_reduce.rem_euclid(subtract) } else { 0 };
        first = false;
        let left = sats(recipient.amount) - share;
        if left < 0 {
            return Err(SpendError::TooSmallForFee);
        }
        output.value = amount(left);
        if is_dust(output, params.dust_relay_rate) {
            return Err(SpendError::TooSmallAfterFee);
        }
    }
    let fee = selected - paid(tx);
    if fee < needed {
        return Err(SpendError::InsufficientFunds);
    }
    Ok(amount(fee))
}
