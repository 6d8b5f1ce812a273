//! PSBTs: filled, signed, made final, and refused.

use bitcoin::TxOut;
use bitcoin::psbt::PsbtSighashType;
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::wallet::psbt::{PsbtError, coins_of, extract, is_complete};
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
