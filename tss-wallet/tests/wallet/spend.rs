//! Payments: what they cost, what comes back, and why they are refused.

use std::sync::Arc;

use bitcoin::absolute::LockTime;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxOut, Txid, Weight};
use rand::{Rng, SeedableRng};
use tss_wallet::wallet::ClaimError;
use tss_wallet::wallet::keychain::{AddressType, Branch};
use tss_wallet::wallet::locks::ClaimId;
use tss_wallet::wallet::spend::fees::{FeeRate, dust_threshold};
use tss_wallet::wallet::spend::mempool::{Chain, ChainLimits, MempoolView};
use tss_wallet::wallet::spend::{ChangeSpec, Draft, PresetInput, SpendError, SpendParams};

use crate::support::{BTC, Scene, chain, nowhere, scripts_hold, to};

fn coins_of(draft: &Draft) -> Vec<TxOut> {
    draft.inputs.iter().map(|input| input.prevout.clone()).collect()
}

fn refused(scene: &mut Scene, params: &SpendParams) -> String {
    scene.wallet.create_transaction(params, &mut scene.rng).unwrap_err().to_string()
}

fn sum(outputs: &[TxOut]) -> u64 {
    outputs.iter().map(|output| output.value.to_sat()).sum()
}

fn preset(outpoint: OutPoint) -> PresetInput {
    PresetInput { outpoint, sequence: None, weight: None, prevout: None }
}

#[test]
fn each_address_type_is_spent_at_no_less_than_the_rate() {
    for kind in AddressType::ALL {
        let mut scene = Scene::new();
        scene.fund(kind, &[3 * BTC, 2 * BTC]);
        let draft = scene.pay(&to(&[(nowhere(9), 4 * BTC)]));
        let tx = scene.signed(&draft);
        assert_eq!(scripts_hold(&tx, &coins_of(&draft)), Ok(()), "{kind}");
        let vsize = u64::try_from(tx.vsize()).unwrap();
        let asked = FeeRate(2_000).fee(vsize);
        assert!(draft.fee >= asked && draft.fee.to_sat() <= asked.to_sat() + 4, "{kind}: {} for {asked}", draft.fee);
        assert_eq!(sum(&coins_of(&draft)), sum(&tx.output) + draft.fee.to_sat());
        assert!(tx.input.iter().all(|input| input.sequence == Sequence(0xffff_fffd)));
    }
}

#[test]
fn change_takes_the_type_of_the_recipient_and_a_fresh_address() {
    for kind in AddressType::ALL {
        let mut scene = Scene::new();
        scene.fund(AddressType::Bech32, &[3 * BTC]);
        let recipient = Scene::new().address(kind);
        let draft = scene.pay(&to(&[(recipient, BTC)]));
        let change = draft.change.unwrap();
        assert_eq!((change.key.address_type(), change.key.branch(), change.key.index()), (kind, Branch::Change, 0));
        let position = draft.change_position.unwrap();
        assert_eq!(draft.tx.output[position].script_pubkey, change.key.script);
    }
}

#[test]
fn change_below_dust_goes_to_fee() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[BTC]);
    let draft = scene.pay(&to(&[(nowhere(9), BTC - 400)]));
    assert_eq!((draft.change_position, draft.fee.to_sat()), (None, 400));
    assert!(draft.change.is_none());
    assert_eq!(scene.wallet.pool_available(chain(AddressType::Bech32, Branch::Change)), 50);
}

#[test]
fn recipients_who_pay_the_fee_share_it_and_the_first_takes_the_rest() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[10 * BTC]);
    let mut params = to(&[(nowhere(1), BTC), (nowhere(2), BTC), (nowhere(3), BTC)]);
    for recipient in &mut params.recipients {
        recipient.subtract_fee = true;
    }
    let draft = scene.pay(&params);
    let paid =
        |salt: u8| draft.tx.output.iter().find(|output| output.script_pubkey == nowhere(salt)).unwrap().value.to_sat();
    let fee = draft.fee.to_sat();
    assert_eq!([paid(1), paid(2), paid(3)], [BTC - fee / 3 - fee % 3, BTC - fee / 3, BTC - fee / 3]);
    let mut all = to(&[(nowhere(1), 10 * BTC)]);
    all.recipients[0].subtract_fee = true;
    let draft = scene.pay(&all);
    assert_eq!((draft.change_position, sum(&draft.tx.output)), (None, 10 * BTC - draft.fee.to_sat()));
    let mut tiny = to(&[(nowhere(1), 300)]);
    tiny.recipients[0].subtract_fee = true;
    tiny.fee_rate = FeeRate(10_000);
    assert_eq!(refused(&mut scene, &tiny), "The transaction amount is too small to pay the fee");
    tiny.recipients[0].amount = Amount::from_sat(1_600);
    assert_eq!(
        refused(&mut scene, &tiny),
        "The transaction amount is too small to send after the fee has been deducted"
    );
}

#[test]
fn refusals_are_in_cores_words() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[BTC]);
    let cases: Vec<(SpendParams, &str)> = vec![
        (to(&[]), "Transaction must have at least one recipient"),
        (to(&[(nowhere(1), 293)]), "Transaction amount too small"),
        (to(&[(nowhere(1), 2 * BTC)]), "Insufficient funds"),
        (to(&[(nowhere(1), BTC)]), "The total exceeds your balance when the 0.00000084 transaction fee is included."),
        (
            SpendParams { fee_rate: FeeRate(100_000_000), ..to(&[(nowhere(1), BTC / 10)]) },
            "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)",
        ),
        (
            SpendParams {
                change: ChangeSpec { position: Some(2), ..ChangeSpec::default() },
                ..to(&[(nowhere(1), BTC / 10)])
            },
            "Transaction change output index out of range",
        ),
        (
            SpendParams { inputs: vec![preset(OutPoint::null())], ..to(&[(nowhere(1), BTC / 10)]) },
            "Not found pre-selected input COutPoint(0000000000, 4294967295)",
        ),
        (
            SpendParams {
                inputs: vec![PresetInput { sequence: Some(Sequence::MAX), ..preset(OutPoint::null()) }],
                ..to(&[(nowhere(1), BTC / 10)])
            },
            "Unable to find UTXO for external input",
        ),
        (
            SpendParams { max_tx_weight: Some(10), ..to(&[(nowhere(1), BTC / 10)]) },
            "Maximum transaction weight must be between 260 and 400000",
        ),
    ];
    for (params, text) in cases {
        assert_eq!(refused(&mut scene, &params), text);
    }
}

#[test]
fn preset_inputs_come_first_and_alone_when_nothing_may_be_added() {
    let mut scene = Scene::new();
    let coins = scene.fund(AddressType::Bech32, &[BTC, 2 * BTC, 3 * BTC]);
    let mut params = to(&[(nowhere(1), BTC / 2)]);
    params.inputs = vec![preset(coins[1]), preset(coins[0])];
    params.add_inputs = false;
    let draft = scene.pay(&params);
    assert_eq!(draft.outpoints(), [coins[1], coins[0]]);
    params.recipients[0].amount = Amount::from_sat(3 * BTC);
    assert!(refused(&mut scene, &params).starts_with("The preselected coins total amount does not cover"));
    params.add_inputs = true;
    let draft = scene.pay(&params);
    assert_eq!(draft.outpoints(), [coins[1], coins[0], coins[2]]);
}

#[test]
fn an_external_input_needs_its_weight() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[BTC]);
    let foreign = scene.foreign(&[(nowhere(5), BTC)]);
    let mut params = to(&[(nowhere(1), BTC / 2 + BTC)]);
    params.inputs = vec![PresetInput {
        prevout: Some(foreign.output[0].clone()),
        ..preset(OutPoint::new(foreign.compute_txid(), 0))
    }];
    assert!(refused(&mut scene, &params).starts_with("Not solvable pre-selected input COutPoint("));
    params.inputs[0].weight = Some(Weight::from_wu(272));
    let draft = scene.pay(&params);
    assert_eq!(draft.inputs.iter().filter(|input| input.key.is_none()).count(), 1);
    assert_eq!(draft.inputs.len(), 2);
}

#[test]
fn locked_and_claimed_coins_are_not_chosen() {
    let mut scene = Scene::new();
    let coins = scene.fund(AddressType::Bech32, &[BTC, BTC]);
    scene.wallet.lock_coin(coins[0], true).unwrap();
    assert_eq!(scene.pay(&to(&[(nowhere(1), BTC / 2)])).outpoints(), [coins[1]]);
    scene.wallet.claim(&[coins[1]], ClaimId([1; 32])).unwrap();
    assert_eq!(refused(&mut scene, &to(&[(nowhere(1), BTC / 2)])), "Insufficient funds");
    let rival = scene.wallet.claim(&[coins[1]], ClaimId([2; 32]));
    assert!(matches!(rival, Err(ClaimError::Claimed(_))));
    let again = scene.reopened();
    assert!(again.locks().is_locked(coins[0]) && again.locks().is_claimed(coins[1]));
    scene.wallet.release(ClaimId([1; 32])).unwrap();
    scene.wallet.unlock_all_coins().unwrap();
    assert_eq!(scene.wallet.locks().locked().count(), 0);
    scene.pay(&to(&[(nowhere(1), BTC + BTC / 2)]));
}

#[test]
fn spending_a_locked_coin_unlocks_it() {
    let mut scene = Scene::new();
    let coins = scene.fund(AddressType::Bech32, &[BTC]);
    scene.wallet.lock_coin(coins[0], true).unwrap();
    let params = SpendParams { inputs: vec![preset(coins[0])], ..to(&[(nowhere(1), BTC / 2)]) };
    let draft = scene.pay(&params);
    let tx = scene.signed(&draft);
    scene.wallet.commit_transaction(&tx, Default::default(), scene.now).unwrap();
    assert!(!scene.wallet.locks().is_locked(coins[0]));
}

#[test]
fn an_empty_change_pool_matters_only_when_there_is_change() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[BTC, 2 * BTC]);
    while scene.wallet.change_address(AddressType::Bech32).is_ok() {}
    let text = refused(&mut scene, &to(&[(nowhere(1), BTC / 2)]));
    assert_eq!(
        text,
        "Transaction needs a change address, but we can't generate it. Error: Keypool ran out, please call \
         keypoolrefill first"
    );
    let draft = scene.pay(&to(&[(nowhere(1), BTC - 400)]));
    assert_eq!(draft.change_position, None);
    let own: ScriptBuf = nowhere(77);
    let params = SpendParams {
        change: ChangeSpec { script: Some(own.clone()), ..ChangeSpec::default() },
        ..to(&[(nowhere(1), BTC / 2)])
    };
    let draft = scene.pay(&params);
    assert_eq!(draft.tx.output[draft.change_position.unwrap()].script_pubkey, own);
}

#[test]
fn lock_time_discourages_fee_sniping_unless_the_caller_sets_one() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[BTC]);
    let mut exact = 0;
    for _ in 0..50 {
        let params = SpendParams { anti_fee_sniping: Some(500), ..to(&[(nowhere(1), BTC / 2)]) };
        let draft = scene.pay(&params);
        scene.wallet.return_change_address(&draft.change.unwrap()).unwrap();
        let LockTime::Blocks(height) = draft.tx.lock_time else { panic!("a time") };
        let height = height.to_consensus_u32();
        assert!((401..=500).contains(&height));
        exact += usize::from(height == 500);
    }
    assert!(exact > 30);
    let params = SpendParams {
        anti_fee_sniping: Some(500),
        lock_time: Some(LockTime::from_consensus(7)),
        rbf: false,
        ..to(&[(nowhere(1), BTC / 2)])
    };
    let draft = scene.pay(&params);
    assert_eq!(draft.tx.lock_time.to_consensus_u32(), 7);
    assert_eq!(draft.tx.input[0].sequence, Sequence(0xffff_fffe));
}

#[test]
fn coins_of_one_type_are_preferred_to_a_mixture() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[BTC, BTC]);
    scene.fund(AddressType::Bech32m, &[BTC, BTC]);
    for _ in 0..20 {
        let draft = scene.pay(&to(&[(nowhere(1), BTC + BTC / 2)]));
        let kinds: Vec<_> = draft.inputs.iter().map(|input| input.key.unwrap().chain.address_type).collect();
        assert!(kinds.iter().all(|kind| *kind == kinds[0]), "{kinds:?}");
    }
    assert_eq!(scene.pay(&to(&[(nowhere(1), 3 * BTC)])).inputs.len(), 4);
}

#[test]
fn a_small_payment_leaves_great_coins_whole() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[BTC, BTC / 2, 3 * BTC, BTC]);
    for _ in 0..20 {
        let draft = scene.pay(&to(&[(nowhere(1), BTC / 5)]));
        let spent: Vec<u64> = draft.inputs.iter().map(|input| input.prevout.value.to_sat()).collect();
        assert_eq!(spent, [BTC / 2]);
    }
}

#[test]
fn unconfirmed_coins_of_others_are_spent_only_when_asked_for() {
    let mut scene = Scene::new();
    let script = scene.address(AddressType::Bech32);
    let tx = scene.foreign(&[(script, BTC)]);
    scene.hear(&tx);
    let mut params = to(&[(nowhere(1), BTC / 2)]);
    assert_eq!(refused(&mut scene, &params), "Insufficient funds");
    params.include_unsafe = true;
    assert_eq!(scene.pay(&params).inputs.len(), 1);
}

#[test]
fn dust_is_cores_for_each_type() {
    let mut scene = Scene::new();
    let rate = FeeRate(3_000);
    let expected = [
        (AddressType::Legacy, 546),
        (AddressType::P2shSegwit, 540),
        (AddressType::Bech32, 294),
        (AddressType::Bech32m, 330),
    ];
    for (kind, sats) in expected {
        let script = scene.address(kind);
        assert_eq!(dust_threshold(&script, rate).to_sat(), sats, "{kind}");
        assert_eq!(dust_threshold(&script, rate), script.minimal_non_dust());
    }
}

#[test]
fn amounts_add_up_to_the_satoshi_for_any_coins_and_payments() {
    for seed in 0..60 {
        let mut scene = Scene::new();
        scene.rng = rand::rngs::StdRng::seed_from_u64(seed);
        let kind = AddressType::ALL[scene.rng.gen_range(0..4)];
        let amounts: Vec<u64> = (0..scene.rng.gen_range(1..30)).map(|_| scene.rng.gen_range(2_000..BTC)).collect();
        scene.fund(kind, &amounts);
        scene.fund(AddressType::Bech32m, &amounts[..amounts.len() / 2]);
        for _ in 0..8 {
            let total = scene.trusted();
            let mut params = to(&[]);
            params.fee_rate = FeeRate(scene.rng.gen_range(1_000..60_000));
            for salt in 0..scene.rng.gen_range(1..4) {
                let amount = Amount::from_sat(scene.rng.gen_range(1_000..total / 2));
                let subtract_fee = scene.rng.gen_bool(0.3);
                params.recipients.push(tss_wallet::wallet::spend::Recipient {
                    script: nowhere(salt),
                    amount,
                    subtract_fee,
                });
            }
            let draft = match scene.wallet.create_transaction(&params, &mut scene.rng) {
                Ok(draft) => draft,
                Err(
                    SpendError::InsufficientFunds
                    | SpendError::FeeExceedsBalance(_)
                    | SpendError::TooSmallForFee
                    | SpendError::TooSmallAfterFee,
                ) => continue,
                Err(other) => panic!("seed {seed}: {other}"),
            };
            let tx = scene.signed(&draft);
            assert_eq!(scripts_hold(&tx, &coins_of(&draft)), Ok(()), "seed {seed}");
            assert_eq!(sum(&coins_of(&draft)), sum(&tx.output) + draft.fee.to_sat(), "seed {seed}");
            let vsize = u64::try_from(tx.vsize()).unwrap();
            assert!(draft.fee >= params.fee_rate.fee(vsize), "seed {seed}: below the rate");
            let unpaid = params.recipients.iter().all(|recipient| !recipient.subtract_fee);
            if unpaid {
                for recipient in &params.recipients {
                    assert!(
                        tx.output
                            .iter()
                            .any(|output| output.value == recipient.amount && output.script_pubkey == recipient.script)
                    );
                }
            }
            for output in &tx.output {
                assert!(output.value >= dust_threshold(&output.script_pubkey, FeeRate(3_000)), "seed {seed}: dust");
            }
        }
    }
}

/// A mempool in which every coin's ancestors lack as much, counted once where coins are spent together.
#[derive(Debug)]
struct Crowded {
    lack: u64,
    chain: Chain,
    fits: bool,
}

impl MempoolView for Crowded {
    fn chain_of(&self, _: &Txid) -> Chain {
        self.chain
    }

    fn bump_fees(&self, coins: &[OutPoint], _: FeeRate) -> Vec<Amount> {
        vec![Amount::from_sat(self.lack); coins.len()]
    }

    fn combined_bump_fee(&self, coins: &[OutPoint], _: FeeRate) -> Option<Amount> {
        Some(if coins.is_empty() { Amount::ZERO } else { Amount::from_sat(self.lack) })
    }

    fn fits_limits(&self, _: &Transaction) -> bool {
        self.fits
    }
}

fn crowded(params: SpendParams, lack: u64, ancestors: u64, fits: bool) -> SpendParams {
    let chain = Chain { ancestors, cluster: ancestors };
    SpendParams { mempool: Arc::new(Crowded { lack, chain, fits }), ..params }
}

#[test]
fn coins_behind_poor_ancestors_cost_what_those_lack_and_once() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[4 * BTC]);
    for _ in 0..2 {
        let tx = scene.send(BTC / 2);
        scene.hear(&tx);
    }
    let plain = scene.pay(&to(&[(nowhere(9), BTC)]));
    assert!(plain.inputs.iter().all(|input| input.key.is_some()));
    let lacking = scene.pay(&crowded(to(&[(nowhere(9), BTC)]), 7_000, 2, true));
    assert_eq!(lacking.inputs.len(), plain.inputs.len());
    assert_eq!(lacking.fee, plain.fee + Amount::from_sat(7_000));
    let all: Vec<OutPoint> = lacking.outpoints();
    let preset = SpendParams { inputs: all.iter().map(|coin| preset(*coin)).collect(), ..to(&[(nowhere(9), BTC)]) };
    let preset = scene.pay(&crowded(preset, 7_000, 2, true));
    assert_eq!(preset.fee, lacking.fee, "coins that were named cost it too");
}

#[test]
fn chains_too_long_for_the_mempool_are_refused() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[4 * BTC]);
    let tx = scene.send(BTC / 2);
    scene.hear(&tx);
    let long = crowded(to(&[(nowhere(9), BTC)]), 0, 25, true);
    assert!(
        refused(&mut scene, &long).starts_with("Unconfirmed UTXOs are available, but spending them creates a chain")
    );
    let limits = ChainLimits { reject: false, ..ChainLimits::default() };
    scene.pay(&SpendParams { chain_limits: limits, ..long });
    let full = crowded(to(&[(nowhere(9), BTC)]), 0, 2, false);
    assert_eq!(refused(&mut scene, &full), "too many unconfirmed transactions in cluster");
}
