//! Raw transactions and messages.

use std::collections::BTreeMap;

use bitcoin::sign_message::{MessageSignature, signed_msg_hash};
use bitcoin::{OutPoint, Transaction, TxOut};
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::wallet::message::{MessageError, encode_message_signature};
use tss_wallet::wallet::signing::{
    GroupSignature, PrevCoin, RawSigned, SighashChoice, SignatureError, apply_signatures,
};

use crate::support::{BTC, Scene, input_holds, nowhere, scripts_hold, to, transaction};

fn check(tx: &Transaction, index: usize, coin: &TxOut, coins: Option<&[TxOut]>) -> Result<(), String> {
    input_holds(tx, index, coin, coins.unwrap_or_default())
}

fn known(tx: &Transaction, vout: u32) -> (OutPoint, PrevCoin) {
    let output = &tx.output[usize::try_from(vout).unwrap()];
    let coin = PrevCoin { script: output.script_pubkey.clone(), amount: Some(output.value) };
    (OutPoint::new(tx.compute_txid(), vout), coin)
}

fn sign(scene: &Scene, tx: Transaction, coins: &BTreeMap<OutPoint, PrevCoin>, byte: u8) -> RawSigned {
    let raw = scene.wallet.raw_signing(tx, coins, SighashChoice::new(byte).unwrap(), &check);
    let signatures = scene.key.sign(raw.items());
    raw.finish(&signatures, &check).unwrap()
}

#[test]
fn a_raw_transaction_is_signed_for_every_type_and_sighash() {
    for byte in [0, 1, 2, 3, 0x81, 0x82, 0x83] {
        let mut scene = Scene::new();
        let outputs: Vec<_> = AddressType::ALL.into_iter().map(|kind| (scene.address(kind), BTC)).collect();
        let parent = scene.foreign(&outputs);
        let coins: BTreeMap<_, _> = (0..4).map(|vout| known(&parent, vout)).collect();
        let spent: Vec<OutPoint> = coins.keys().copied().collect();
        let outputs: Vec<_> = (0..4).map(|salt| (nowhere(salt), BTC / 2)).collect();
        let signed = sign(&scene, transaction(&spent, &outputs), &coins, byte);
        assert!(signed.complete(), "{byte:#x}: {:?}", signed.errors);
        let coins: Vec<TxOut> = parent.output.clone();
        assert_eq!(scripts_hold(&signed.tx, &coins), Ok(()), "{byte:#x}");
    }
}

#[test]
fn single_without_its_output_stays_unsigned() {
    let mut scene = Scene::new();
    let (one, two) = (scene.address(AddressType::Bech32), scene.address(AddressType::Bech32));
    let parent = scene.foreign(&[(one, BTC), (two, BTC)]);
    let coins: BTreeMap<_, _> = (0..2).map(|vout| known(&parent, vout)).collect();
    let spent: Vec<OutPoint> = coins.keys().copied().collect();
    let signed = sign(&scene, transaction(&spent, &[(nowhere(1), BTC)]), &coins, 3);
    assert_eq!(signed.errors.len(), 1);
    assert_eq!(signed.errors[0].input, 1);
}

#[test]
fn each_input_says_what_it_lacks() {
    let mut scene = Scene::new();
    let ours = scene.address(AddressType::Bech32);
    let legacy = bitcoin::ScriptBuf::new_p2pkh(&bitcoin::hashes::Hash::hash(&[3]));
    let parent = scene.foreign(&[(ours, BTC), (nowhere(5), BTC), (legacy, BTC)]);
    let mut coins: BTreeMap<_, _> = (0..3).map(|vout| known(&parent, vout)).collect();
    let mut spent: Vec<OutPoint> = coins.keys().copied().collect();
    spent.push(OutPoint::new(nowhere_txid(), 0));
    let tx = transaction(&spent, &[(nowhere(1), BTC)]);
    let texts =
        |signed: &RawSigned| signed.errors.iter().map(|error| (error.input, error.text.clone())).collect::<Vec<_>>();
    let signed = sign(&scene, tx.clone(), &coins, 0);
    let expected = [
        // The word of the interpreter that checks scripts here; of a node it is Core's.
        (1, "unexpected end of stack"),
        (2, "Unable to sign input, invalid stack size (possibly missing key)"),
        (3, "Input not found or already spent"),
    ];
    assert_eq!(texts(&signed), expected.map(|(input, text)| (input, text.to_owned())));
    coins.get_mut(&spent[0]).unwrap().amount = None;
    let signed = sign(&scene, tx, &coins, 0);
    assert_eq!(texts(&signed)[0], (0, "Missing amount".to_owned()));
}

fn nowhere_txid() -> bitcoin::Txid {
    bitcoin::hashes::Hash::hash(&[1, 2, 3])
}

#[test]
fn a_taproot_input_waits_until_every_coin_is_known() {
    let mut scene = Scene::new();
    let ours = scene.address(AddressType::Bech32m);
    let parent = scene.foreign(&[(ours, BTC)]);
    let coins: BTreeMap<_, _> = [known(&parent, 0)].into();
    let spent = [OutPoint::new(parent.compute_txid(), 0), OutPoint::new(nowhere_txid(), 0)];
    let signed = sign(&scene, transaction(&spent, &[(nowhere(1), BTC)]), &coins, 0);
    assert_eq!(signed.errors.len(), 2);
}

#[test]
fn an_input_that_is_complete_is_not_signed_again() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[2 * BTC]);
    let draft = scene.pay(&to(&[(nowhere(1), BTC)]));
    let tx = scene.signed(&draft);
    let coins = draft
        .inputs
        .iter()
        .map(|input| {
            (
                input.outpoint,
                PrevCoin { script: input.prevout.script_pubkey.clone(), amount: Some(input.prevout.value) },
            )
        })
        .collect();
    let raw = scene.wallet.raw_signing(tx.clone(), &coins, SighashChoice::DEFAULT, &check);
    assert!(raw.items().is_empty());
    let signed = raw.finish(&[], &check).unwrap();
    assert!(signed.complete());
    assert_eq!(signed.tx, tx);
}

#[test]
fn a_wrong_signature_is_refused_and_named() {
    for kind in AddressType::ALL {
        let mut scene = Scene::new();
        scene.fund(kind, &[BTC, BTC]);
        let mut tx = scene.pay(&to(&[(nowhere(1), BTC + BTC / 2)])).tx;
        let items = scene.wallet.signing_items(&tx, SighashChoice::DEFAULT).unwrap();
        let mut signatures = scene.key.sign(&items);
        assert_eq!(
            apply_signatures(&mut tx, &items, &signatures[..1]),
            Err(SignatureError::Count { wanted: 2, got: 1 })
        );
        signatures.swap(0, 1);
        assert_eq!(apply_signatures(&mut tx, &items, &signatures), Err(SignatureError::Invalid { input: 0 }));
        assert!(tx.input.iter().all(|input| input.script_sig.is_empty() && input.witness.is_empty()));
    }
}

#[test]
fn a_message_is_signed_for_a_legacy_address_and_no_other() {
    let mut scene = Scene::new();
    let address = scene.wallet.new_address("", AddressType::Legacy).unwrap();
    let item = scene.wallet.message_item(&address.key.script, "hello").unwrap();
    let [GroupSignature::Ecdsa(signature)] = scene.key.sign(std::slice::from_ref(&item))[..] else { panic!("schnorr") };
    let text = encode_message_signature(&item, &signature).unwrap();
    let signature = MessageSignature::from_base64(&text).unwrap();
    let secp = bitcoin::secp256k1::Secp256k1::verification_only();
    assert_eq!(signature.is_signed_by_address(&secp, &address.address, signed_msg_hash("hello")), Ok(true));
    let segwit = scene.address(AddressType::Bech32);
    assert_eq!(scene.wallet.message_item(&segwit, "x"), Err(MessageError::NotAKey));
    let stranger = bitcoin::ScriptBuf::new_p2pkh(&bitcoin::hashes::Hash::hash(&[9]));
    assert_eq!(scene.wallet.message_item(&stranger, "x"), Err(MessageError::NotOurs));
}
