//! Signing by every quorum, for every type of address, many inputs at once.

use std::time::Instant;

use tss_wallet::SignItem;
use tss_wallet::sign::MAX_ECDSA_ITEMS;
use tss_wallet::wallet::keychain::{AddressType, Branch};

use crate::cluster::{check, key, party, quorum, sign, sign_net, sign_params};

#[test]
fn every_pair_of_three_signs_for_every_address_type() {
    let shares = quorum(2, 3);
    for (number, pair) in [[1, 2], [1, 3], [3, 2]].into_iter().enumerate() {
        let items: Vec<SignItem> = AddressType::ALL
            .into_iter()
            .flat_map(|kind| Branch::ALL.map(|branch| key(kind, branch, 5 + number as u32)))
            .enumerate()
            .map(|(position, key)| SignItem { key, message: [position as u8 + 1; 32] })
            .collect();
        let signatures = sign(&shares, &sign_params(&pair, items.clone(), 1 + number as u8));
        assert_eq!(signatures.len(), items.len());
        items.iter().zip(&signatures).for_each(|(item, signature)| check(&shares[0], item, signature));
    }
    many_taproot_keys_of_both_parities(&shares);
    a_hundred_inputs_are_signed_in_one_ceremony(&shares);
}

fn many_taproot_keys_of_both_parities(shares: &[std::sync::Arc<tss_wallet::KeyShare>]) {
    let items: Vec<SignItem> = (0..64)
        .map(|index| SignItem { key: key(AddressType::Bech32m, Branch::External, index), message: [index as u8; 32] })
        .collect();
    let signatures = sign(shares, &sign_params(&[2, 3], items.clone(), 50));
    items.iter().zip(&signatures).for_each(|(item, signature)| check(&shares[0], item, signature));
}

fn a_hundred_inputs_are_signed_in_one_ceremony(shares: &[std::sync::Arc<tss_wallet::KeyShare>]) {
    for kind in [AddressType::Bech32, AddressType::Bech32m] {
        let items: Vec<SignItem> = (0..100)
            .map(|index| SignItem { key: key(kind, Branch::External, index), message: [index as u8 + 1; 32] })
            .collect();
        let started = Instant::now();
        let params = sign_params(&[1, 2], items.clone(), 60);
        let mut net = sign_net(shares, &params, 1);
        net.run_honestly();
        let largest = net.log.iter().map(|packet| packet.body.len()).max().unwrap();
        println!("{kind}: 100 inputs by two members on one core in {:?}, largest {largest}", started.elapsed());
        // The most items of one ceremony must fit into one envelope.
        assert!(largest / items.len() * MAX_ECDSA_ITEMS < 8 * 1024 * 1024);
        let signatures = net.nodes[&party(1)].finished().unwrap();
        items.iter().zip(&signatures).for_each(|(item, signature)| check(&shares[0], item, signature));
    }
}

#[test]
fn every_three_of_five_sign() {
    let shares = quorum(3, 5);
    let mut session = 0;
    for a in 1..=3 {
        for b in a + 1..=4 {
            for c in b + 1..=5 {
                session += 1;
                let items = [AddressType::Bech32, AddressType::Bech32m]
                    .map(|kind| SignItem { key: key(kind, Branch::Change, session), message: [session as u8; 32] });
                let signatures = sign(&shares, &sign_params(&[a, b, c], items.to_vec(), session as u8));
                items.iter().zip(&signatures).for_each(|(item, signature)| check(&shares[0], item, signature));
            }
        }
    }
    assert_eq!(session, 10);
}
