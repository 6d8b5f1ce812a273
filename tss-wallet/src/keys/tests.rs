//! Derivation must be the same thing three times over: the `bitcoin` crate's, DKLs23's, and the tree that signs.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use bitcoin::Network;
use bitcoin::bip32::ChildNumber;
use dkls23_secp256k1::protocols::derivation::DerivData;
use k256::elliptic_curve::group::GroupEncoding;
use k256::{ProjectivePoint, Scalar, Secp256k1};
use secp256k1::{PublicKey, SECP256K1, SecretKey};

use super::*;
use crate::ids::MemberId;
use crate::roster::Split;
use crate::wallet::keychain::{Branch, ChainId, KeyId};

fn keys(network: Network) -> (PublicKeys, SecretKey) {
    let secret = SecretKey::from_slice(&[0x42; 32]).unwrap();
    let group = |byte| GroupKey { public_key: PublicKey::from_secret_key(SECP256K1, &secret), chain_code: [byte; 32] };
    let members = vec![MemberId([1; 32]), MemberId([2; 32])];
    let keys = PublicKeys {
        wallet: WalletId([0; 32]),
        epoch: Epoch(0),
        network,
        roster: Roster::new(2, members, Split::Refused).unwrap(),
        absent: BTreeSet::new(),
        ecdsa: group(1),
        schnorr: group(2),
        ecdsa_shares: Vec::new(),
        schnorr_shares: Vec::new(),
        transcript: [0; 32],
        certificate: Certificate::default(),
    };
    (keys, secret)
}

#[test]
fn a_thousand_children_of_each_type_are_the_same_by_all_three_derivations() {
    let (keys, secret) = keys(Network::Regtest);
    let mut tree = KeyTree::new(&keys);
    for address_type in AddressType::ALL {
        let group = keys.group(Scheme::of(address_type));
        let scalar: Scalar = scalar_from_bytes(&secret.secret_bytes()).unwrap();
        let root = DerivData::<Secp256k1> {
            depth: 0,
            child_number: 0,
            parent_fingerprint: [0; 4],
            poly_point: scalar,
            pk: (ProjectivePoint::GENERATOR * scalar).to_affine(),
            chain_code: group.chain_code,
        };
        let account = keys.account(address_type).unwrap();
        for branch in Branch::ALL {
            let path = format!("m/{}/1/0/{}", address_type.purpose(), branch.number());
            let dkls_branch = root.derive_from_path(&path).unwrap();
            for index in 0..1000 {
                let number = |index| ChildNumber::from_normal_idx(index).unwrap();
                let bitcoin = account.xpub.derive_pub(SECP256K1, &[number(branch.number()), number(index)]).unwrap();
                let ours = tree.child(&KeyId { chain: ChainId::new(address_type, branch), index }).unwrap();
                let dkls = dkls_branch.derive_child(index).unwrap();
                assert_eq!(ours.public_key, bitcoin.public_key);
                assert_eq!(dkls.pk.to_bytes().as_slice(), bitcoin.public_key.serialize());
                assert_eq!(ours.chain_code, dkls.chain_code);
                assert_eq!(dkls.poly_point, scalar + scalar_from_bytes(&ours.tweak.secret_bytes()).unwrap());
            }
        }
    }
}

#[test]
fn hardened_indices_are_refused() {
    let (keys, _) = keys(Network::Regtest);
    let chain = ChainId::new(AddressType::Bech32, Branch::External);
    let refused = KeyTree::new(&keys).child(&KeyId { chain, index: 1 << 31 });
    assert_eq!(refused.err(), Some(DeriveError::Hardened(1 << 31)));
}

#[test]
fn the_coin_type_is_zero_on_main_alone() {
    for (network, coin) in [(Network::Bitcoin, 0), (Network::Testnet, 1), (Network::Signet, 1), (Network::Regtest, 1)] {
        let path = account_path(AddressType::Bech32m, network).unwrap().to_string();
        assert_eq!(path, format!("86/{coin}/0"));
    }
}

#[test]
fn a_certificate_needs_every_member_and_its_own_statement() {
    use crate::identity::SigningIdentity;
    let identities: Vec<SigningIdentity> = (1..=3).map(|byte| SigningIdentity::from_seed(&[byte; 32])).collect();
    let members = identities.iter().map(SigningIdentity::member_id).collect();
    let roster = Roster::new(2, members, Split::Refused).unwrap();
    let statement = [7; 32];
    let mut certificate = Certificate::default();
    for identity in &identities {
        let missing = roster.indices().find(|party| certificate.signature(*party).is_none()).unwrap();
        assert_eq!(certificate.verify(&roster, &statement), Err(CertificateError::Missing(missing)));
        let party = roster.index_of(&identity.member_id()).unwrap();
        let signature = Certificate::sign(identity, &statement);
        let other = roster.others(party).next().unwrap();
        assert_eq!(
            certificate.add(&roster, &statement, other, &signature),
            Err(CertificateError::BadSignature { culprit: other })
        );
        certificate.add(&roster, &statement, party, &signature).unwrap();
    }
    assert!(certificate.is_complete(&roster));
    certificate.verify(&roster, &statement).unwrap();
    let [one, two, three] = [1, 2, 3].map(|index| PartyIndex::new(index).unwrap());
    assert_eq!(certificate.verify(&roster, &[8; 32]), Err(CertificateError::BadSignature { culprit: one }));
    let of_two = certificate.verify_by(&roster, [one, two].into_iter(), &statement);
    assert_eq!(of_two, Err(CertificateError::Unknown(three)), "exactly those who are named");
    let outside = PartyIndex::new(4).unwrap();
    let signature = Certificate::sign(&identities[0], &statement);
    assert_eq!(certificate.add(&roster, &statement, outside, &signature), Err(CertificateError::Unknown(outside)));
}

#[test]
fn keys_are_held_by_enough_members_of_the_roster_or_refused() {
    // Shares on a line through the key: one is t = 2 of 3.
    let secret = |byte: u8| SecretKey::from_slice(&[byte; 32]).unwrap();
    let (base, slope) = (secret(5), secret(6));
    let public = |key: &SecretKey| PublicKey::from_secret_key(SECP256K1, key);
    let first = base.add_tweak(&slope.into()).unwrap();
    let second = first.add_tweak(&slope.into()).unwrap();
    let third = second.add_tweak(&slope.into()).unwrap();
    let shares: Vec<PublicKey> = [first, second, third].iter().map(public).collect();
    let identities: Vec<_> = (1..=3).map(|byte| crate::identity::SigningIdentity::from_seed(&[byte; 32])).collect();
    let members = identities.iter().map(crate::identity::SigningIdentity::member_id).collect();
    let party = |index| PartyIndex::new(index).unwrap();
    let of = |epoch: u32, absent: &[u8]| {
        let (base, _) = keys(Network::Regtest);
        let group = GroupKey { public_key: public(&secret(5)), chain_code: [1; 32] };
        let roster = Roster::new(2, Vec::clone(&members), Split::Refused).unwrap();
        let absent = absent.iter().map(|index| party(*index)).collect();
        let (ecdsa_shares, schnorr_shares) = (shares.clone(), shares.clone());
        let (epoch, certificate) = (Epoch(epoch), Certificate::default());
        let mut keys = PublicKeys {
            epoch,
            roster,
            absent,
            ecdsa: group,
            schnorr: group,
            ecdsa_shares,
            schnorr_shares,
            certificate,
            ..base
        };
        let statement = keys.statement();
        for identity in &identities {
            let party = keys.roster.index_of(&identity.member_id()).unwrap();
            if !keys.absent.contains(&party) {
                let signature = Certificate::sign(identity, &statement);
                keys.certificate.add(&keys.roster, &statement, party, &signature).unwrap();
            }
        }
        keys.verify()
    };
    let few = |holders| Err(CertificateError::TooFewHolders { holders, members: 3 });
    assert_eq!(of(0, &[]), Ok(()));
    assert_eq!(of(0, &[2]), few(2), "all hold a share of what was just made");
    assert_eq!(of(1, &[2]), Ok(()));
    assert_eq!(of(1, &[2, 3]), few(1));
    assert_eq!(of(1, &[4]), Err(CertificateError::Unknown(party(4))));
}

#[test]
fn shares_off_the_polynomial_are_noticed() {
    let secret = |byte: u8| SecretKey::from_slice(&[byte; 32]).unwrap();
    let (base, slope) = (secret(5), secret(6));
    let public = |key: &SecretKey| PublicKey::from_secret_key(SECP256K1, key);
    let mut shares = Vec::new();
    let mut at = base;
    for _ in 0..4 {
        at = at.add_tweak(&slope.into()).unwrap();
        shares.push(public(&at));
    }
    let members = (1..=4).map(|byte| MemberId([byte; 32])).collect();
    let roster = Roster::new(2, members, Split::Accepted).unwrap();
    certificate::check_shares(&roster, &shares, &public(&base)).unwrap();
    assert_eq!(certificate::check_shares(&roster, &shares, &public(&slope)), Err(CertificateError::Inconsistent));
    assert!(matches!(
        certificate::check_shares(&roster, &shares[..3], &public(&base)),
        Err(CertificateError::ShareCount { expected: 4, got: 3 })
    ));
    shares.swap(2, 3);
    assert_eq!(certificate::check_shares(&roster, &shares, &public(&base)), Err(CertificateError::Inconsistent));
}
