//! PSBTs: filled, signed, made final, and refused.

use bitcoin::absolute::LockTime;
use bitcoin::psbt::{Input, PsbtSighashType};
use bitcoin::secp256k1::{PublicKey, SECP256K1, SecretKey};
use bitcoin::sighash::SighashCache;
use bitcoin::transaction::Version;
use bitcoin::{Amount, EcdsaSighashType, ScriptBuf, Transaction, TxIn, TxOut};
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::wallet::psbt::{PsbtError, coins_of, extract, is_complete, shared_sighash};
use tss_wallet::wallet::signing::SighashChoice;

use crate::support::{BTC, Scene, nowhere, scripts_hold, to};

fn draft_psbt(scene: &mut Scene, kind: AddressType) -> (bitcoin::Psbt, Vec<TxOut>) {
    scene.fund(kind, &[3 * BTC]);
    let draft = scene.pay(&to(&[(nowhere(9), BTC)]));
    let psbt = scene.wallet.make_psbt(draft.tx).unwrap();
    (psbt, draft.inputs.into_iter().map(|input| input.prevout).collect())
}

#[test]
fn each_address_type_goes_from_filled_to_final() {
    for kind in AddressType::ALL {
        let mut scene = Scene::new();
        let (mut psbt, coins) = draft_psbt(&mut scene, kind);
        scene.wallet.fill_psbt(&mut psbt, true).unwrap();
        let input = &psbt.inputs[0];
        assert_eq!(input.non_witness_utxo.is_some(), kind != AddressType::Bech32m, "{kind}");
        assert_eq!(input.witness_utxo.is_some(), kind != AddressType::Legacy, "{kind}");
        assert_eq!(input.redeem_script.is_some(), kind == AddressType::P2shSegwit, "{kind}");
        assert_eq!(input.bip32_derivation.len(), usize::from(kind != AddressType::Bech32m), "{kind}");
        assert_eq!(input.tap_key_origins.len(), usize::from(kind == AddressType::Bech32m), "{kind}");
        let origins =
            psbt.outputs.iter().filter(|out| !out.bip32_derivation.is_empty() || !out.tap_key_origins.is_empty());
        assert_eq!(origins.count(), 1, "{kind}: change is described");
        let items = scene.wallet.psbt_items(&mut psbt, None).unwrap();
        let signatures = scene.key.sign(&items);
        let mut partial = psbt.clone();
        scene.wallet.apply_psbt(&mut partial, &items, &signatures, false).unwrap();
        assert!(!is_complete(&partial));
        assert!(scene.wallet.psbt_items(&mut partial, None).unwrap().is_empty());
        scene.wallet.finalize_psbt(&mut partial).unwrap();
        scene.wallet.apply_psbt(&mut psbt, &items, &signatures, true).unwrap();
        assert_eq!(extract(&partial), extract(&psbt));
        let tx = extract(&psbt).unwrap();
        assert_eq!(scripts_hold(&tx, &coins), Ok(()), "{kind}");
        let back = bitcoin::Psbt::deserialize(&psbt.serialize()).unwrap();
        assert_eq!(back, psbt);
    }
}

#[test]
fn key_origins_are_left_out_when_not_wanted() {
    for kind in AddressType::ALL {
        let mut scene = Scene::new();
        let (mut psbt, _) = draft_psbt(&mut scene, kind);
        scene.wallet.fill_psbt(&mut psbt, false).unwrap();
        assert!(psbt.inputs[0].bip32_derivation.is_empty() && psbt.inputs[0].tap_key_origins.is_empty());
        assert!(psbt.outputs.iter().all(|output| output.bip32_derivation.is_empty()));
    }
}

#[test]
fn every_sighash_type_is_signed_and_noted() {
    for kind in AddressType::ALL {
        for byte in [0, 1, 2, 3, 0x81, 0x82, 0x83] {
            let mut scene = Scene::new();
            let (mut psbt, coins) = draft_psbt(&mut scene, kind);
            scene.wallet.fill_psbt(&mut psbt, true).unwrap();
            let choice = SighashChoice::new(byte).unwrap();
            let items = scene.wallet.psbt_items(&mut psbt, Some(choice)).unwrap();
            let noted = psbt.inputs[0].sighash_type.map(PsbtSighashType::to_u32);
            let usual = if kind == AddressType::Bech32m { byte == 0 } else { byte <= 1 };
            assert_eq!(noted, (!usual).then_some(u32::from(byte)), "{kind} {byte:#x}");
            let signatures = scene.key.sign(&items);
            scene.wallet.apply_psbt(&mut psbt, &items, &signatures, true).unwrap();
            assert_eq!(scripts_hold(&extract(&psbt).unwrap(), &coins), Ok(()), "{kind} {byte:#x}");
        }
    }
}

#[test]
fn a_sighash_type_that_contradicts_the_psbt_is_refused() {
    let mut scene = Scene::new();
    let (mut psbt, _) = draft_psbt(&mut scene, AddressType::Bech32);
    scene.wallet.fill_psbt(&mut psbt, true).unwrap();
    psbt.inputs[0].sighash_type = Some(PsbtSighashType::from_u32(2));
    let error = scene.wallet.psbt_items(&mut psbt, None).unwrap_err();
    assert_eq!(error.to_string(), "Specified sighash value does not match value stored in PSBT");
    assert_eq!(scene.wallet.psbt_items(&mut psbt, SighashChoice::new(2).ok()).unwrap().len(), 1);
}

#[test]
fn a_previous_transaction_that_is_another_is_refused() {
    let mut scene = Scene::new();
    let (mut psbt, _) = draft_psbt(&mut scene, AddressType::Bech32);
    psbt.inputs[0].non_witness_utxo = Some(scene.foreign(&[(nowhere(1), BTC)]));
    assert_eq!(scene.wallet.fill_psbt(&mut psbt, true), Err(PsbtError::MissingInputs));
    assert_eq!(coins_of(&psbt), Err(PsbtError::MissingInputs));
}

#[test]
fn a_legacy_input_is_not_signed_on_a_claimed_value() {
    let mut scene = Scene::new();
    let (mut psbt, coins) = draft_psbt(&mut scene, AddressType::Legacy);
    psbt.inputs[0].witness_utxo = Some(coins[0].clone());
    assert!(scene.wallet.psbt_items(&mut psbt, None).unwrap().is_empty());
}

/// Two wallets hold one key each of a shared script.
#[test]
fn a_key_of_ours_in_a_shared_script_signs_its_part() {
    use bitcoin::opcodes::all::{OP_CHECKMULTISIG, OP_PUSHNUM_2};
    use bitcoin::script::Builder;
    for shape in ["p2wsh", "p2sh-p2wsh", "p2sh"] {
        let mut scene = Scene::new();
        let mine = scene.wallet.new_address("", AddressType::Bech32).unwrap().key;
        let other = crate::support::PlainKey::new(8);
        let theirs = other.key(&mine.path);
        let script = Builder::new()
            .push_opcode(OP_PUSHNUM_2)
            .push_slice(mine.public_key.serialize())
            .push_slice(theirs.public_key().serialize())
            .push_opcode(OP_PUSHNUM_2)
            .push_opcode(OP_CHECKMULTISIG)
            .into_script();
        let (output, redeem) = match shape {
            "p2wsh" => (script.to_p2wsh(), None),
            "p2sh-p2wsh" => (script.to_p2wsh().to_p2sh(), Some(script.to_p2wsh())),
            _ => (script.to_p2sh(), Some(script.clone())),
        };
        let parent = scene.foreign(&[(output, BTC)]);
        let coin = bitcoin::OutPoint::new(parent.compute_txid(), 0);
        let spend = crate::support::transaction(&[coin], &[(nowhere(1), BTC / 2)]);
        let mut psbt = scene.wallet.make_psbt(spend).unwrap();
        let input = &mut psbt.inputs[0];
        input.non_witness_utxo = Some(parent.clone());
        input.redeem_script = redeem;
        input.witness_script = (shape != "p2sh").then(|| script.clone());
        input.bip32_derivation.insert(mine.public_key, (mine.fingerprint, mine.path.clone()));
        let items = scene.wallet.psbt_items(&mut psbt, None).unwrap();
        assert_eq!(items.len(), 1, "{shape}");
        let signatures = scene.key.sign(&items);
        scene.wallet.apply_psbt(&mut psbt, &items, &signatures, true).unwrap();
        assert!(!is_complete(&psbt), "{shape}");
        let message = bitcoin::secp256k1::Message::from_digest(items[0].message);
        let second = secp256k1::SECP256K1.sign_ecdsa(&message, &theirs.secret_key());
        psbt.inputs[0]
            .partial_sigs
            .insert(bitcoin::PublicKey::new(theirs.public_key()), bitcoin::ecdsa::Signature::sighash_all(second));
        miniscript::psbt::PsbtExt::finalize_mut(&mut psbt, secp256k1::SECP256K1).unwrap();
        assert_eq!(scripts_hold(&extract(&psbt).unwrap(), &parent.output), Ok(()), "{shape}");
    }
}

#[test]
fn a_shared_script_is_signed_for_only_if_the_coin_commits_to_it_and_it_names_the_key() {
    let [ours, theirs, other] =
        [1_u8, 2, 3].map(|byte| SecretKey::from_slice(&[byte; 32]).unwrap().public_key(SECP256K1));
    let script = |keys: [PublicKey; 2]| {
        let mut script = bitcoin::script::Builder::new().push_int(2);
        for key in keys {
            script = script.push_key(&bitcoin::PublicKey::new(key));
        }
        script.push_int(2).push_opcode(bitcoin::opcodes::all::OP_CHECKMULTISIG).into_script()
    };
    let (named, unnamed) = (script([ours, theirs]), script([other, theirs]));
    let tx = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn::default()],
        output: vec![TxOut { value: Amount::from_sat(1), script_pubkey: ScriptBuf::new() }],
    };
    let sign = |shown: Input, coin: ScriptBuf| {
        let coin = TxOut { value: Amount::from_sat(1_000), script_pubkey: coin };
        let mut cache = SighashCache::new(&tx);
        let all = EcdsaSighashType::All;
        shared_sighash(&shown, 0, &coin, &mut cache, all, &ours)
    };
    let witness = |script: &ScriptBuf| Input { witness_script: Some(script.clone()), ..Default::default() };
    let redeem = |script: &ScriptBuf| Input { redeem_script: Some(script.clone()), ..Default::default() };
    let wrapped = Input { redeem_script: Some(named.to_p2wsh()), ..witness(&named) };
    assert!(sign(witness(&named), named.to_p2wsh()).is_some());
    assert!(sign(redeem(&named), named.to_p2sh()).is_some());
    assert_eq!(sign(wrapped, named.to_p2wsh().to_p2sh()), sign(witness(&named), named.to_p2wsh()));
    assert_ne!(sign(redeem(&named), named.to_p2sh()), sign(witness(&named), named.to_p2wsh()));
    for (shown, coin) in [
        (witness(&unnamed), unnamed.to_p2wsh()),
        (witness(&named), unnamed.to_p2wsh()),
        (redeem(&named), unnamed.to_p2sh()),
        (redeem(&named), named.clone()),
        (Input::default(), named.to_p2wsh()),
    ] {
        assert_eq!(sign(shown, coin), None);
    }
}
