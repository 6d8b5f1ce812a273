//! The sealed store of a share: kept, locked, moved, changed and gone wrong.

use std::path::Path;
use std::sync::Arc;

use tss_wallet::seal::{KdfParams, Protection, SealKey};
use tss_wallet::store::{Ban, Batch, ShareStoreError, Sync};
use tss_wallet::wallet::keychain::{AddressType, Branch};
use tss_wallet::{Epoch, Family, KeyShare, MemberId, ShareStore, SignItem, WalletDb};

use crate::cluster::{check, dkg_net, key, party, quorum, sign, sign_params};

fn open(path: &Path, member: MemberId) -> (Arc<WalletDb>, ShareStore) {
    let db = Arc::new(WalletDb::open(path).unwrap());
    (db.clone(), ShareStore::new(db, member))
}

fn member_of(share: &KeyShare) -> MemberId {
    *share.public().roster.member(share.me()).unwrap()
}

#[test]
fn a_share_survives_its_process_and_signs_again() {
    let shares = quorum(2, 3);
    let dir = tempfile::tempdir().unwrap();
    let seal = SealKey::load_or_create(&dir.path().join("seal.key"), &[9; 32]).unwrap();
    let mut loaded = Vec::new();
    for share in &shares {
        let path = dir.path().join(share.me().to_string());
        {
            let (_, store) = open(&path, member_of(share));
            assert!(matches!(store.unlock(&seal), Err(ShareStoreError::Missing)));
            store.put_active(share, &seal, &rand::random()).unwrap();
        }
        let (_, store) = open(&path, member_of(share));
        assert_eq!(store.public().unwrap().as_ref(), Some(&**share.public()));
        assert_eq!(store.highest_epoch().unwrap(), Some(Epoch(0)));
        loaded.push(Arc::new(store.unlock(&seal).unwrap()));
    }
    let item = SignItem { key: key(AddressType::Bech32, Branch::External, 0), message: [1; 32] };
    let signatures = sign(&loaded, &sign_params(&[1, 3], vec![item], 1));
    check(&shares[0], &item, &signatures[0]);

    a_passphrase_replaces_the_key_file(&dir.path().join("1"), &shares[0], &seal);
    changed_bytes_and_swapped_rows_are_refused(dir.path(), &shares, &seal);
    bans_are_durable(&dir.path().join("3"), &shares[2]);
}

fn a_passphrase_replaces_the_key_file(path: &Path, share: &KeyShare, file: &SealKey) {
    let (_, store) = open(path, member_of(share));
    let params = KdfParams { memory_kib: 64, passes: 1, lanes: 1, salt: [3; 16] };
    let passphrase = SealKey::from_passphrase(b"correct horse", params).unwrap();
    store.reseal(file, &passphrase, rand::random).unwrap();
    assert!(matches!(store.unlock(file), Err(ShareStoreError::Seal(_))));
    let Protection::Passphrase(stored) = store.protection().unwrap() else { panic!("sealed by a passphrase") };
    let again = SealKey::from_passphrase(b"correct horse", stored).unwrap();
    assert_eq!(store.unlock(&again).unwrap().me(), share.me());
    let wrong = SealKey::from_passphrase(b"incorrect horse", stored).unwrap();
    assert!(matches!(store.unlock(&wrong), Err(ShareStoreError::Seal(_))));
    assert!(store.public().unwrap().is_some(), "a locked wallet knows its addresses");
    store.reseal(&again, file, rand::random).unwrap();
    store.unlock(file).unwrap();
}

/// `contrib/long flips` takes 10,000 bits of each row.
fn changed_bytes_and_swapped_rows_are_refused(dir: &Path, shares: &[Arc<KeyShare>], seal: &SealKey) {
    let (db, store) = open(&dir.join("2"), member_of(&shares[1]));
    let flips: usize = std::env::var("KEYLESS_FLIPS").ok().map_or(400, |text| text.parse().unwrap());
    for row in [&b"active/share"[..], b"active/public"] {
        let good = db.get(Family::Share, row).unwrap().unwrap();
        let put = |bytes: &[u8]| {
            let mut batch = Batch::new();
            batch.put(Family::Share, row, bytes);
            db.write(&batch, Sync::No).unwrap();
        };
        let step = (good.len() * 8 / flips).max(1);
        println!("one bit of each {step} of {} bytes", good.len());
        for bit in (0..good.len() * 8).step_by(step) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            put(&bad);
            assert!(store.unlock(seal).is_err(), "bit {bit}");
        }
        put(&good[..good.len() - 1]);
        assert!(store.unlock(seal).is_err());
        put(&good);
        store.unlock(seal).unwrap();
    }
    // Another member's sealed row, with the same public keys and the same key file.
    let (other, _) = open(&dir.join("3"), member_of(&shares[2]));
    let foreign = other.get(Family::Share, b"active/share").unwrap().unwrap();
    let mut batch = Batch::new();
    batch.put(Family::Share, b"active/share".as_slice(), foreign);
    db.write(&batch, Sync::No).unwrap();
    assert!(matches!(store.unlock(seal), Err(ShareStoreError::Seal(_))));
}

fn bans_are_durable(path: &Path, share: &KeyShare) {
    let member = *share.public().roster.member(party(1)).unwrap();
    let ban = Ban { member, epoch: Epoch(0), time_seconds: 1_700_000_000, reason: "a check".to_owned() };
    {
        let (_, store) = open(path, member_of(share));
        assert!(store.banned_parties(share.public()).unwrap().is_empty());
        store.ban(&ban).unwrap();
        store.ban(&Ban { reason: "again".to_owned(), ..ban.clone() }).unwrap();
    }
    let (_, store) = open(path, member_of(share));
    assert_eq!(store.bans().unwrap().get(&member), Some(&ban));
    assert_eq!(store.banned_parties(share.public()).unwrap().into_iter().collect::<Vec<_>>(), [party(1)]);
    store.lift_ban(&member).unwrap();
    assert!(store.bans().unwrap().is_empty());
}

#[test]
fn a_pending_share_waits_and_becomes_active() {
    let mut net = dkg_net(2, 2, 4);
    net.run(|packet| if packet.body[0] == 8 && packet.from == party(1) { Vec::new() } else { vec![packet] });
    let full = net.nodes[&party(1)].finished().unwrap().public().certificate.clone();
    let pending = net.nodes[&party(2)].pending().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let seal = SealKey::load_or_create(&dir.path().join("seal.key"), &[9; 32]).unwrap();
    let (_, store) = open(&dir.path().join("db"), member_of(pending));
    store.put_pending(pending, &seal, &rand::random()).unwrap();
    assert!(store.public().unwrap().is_none());
    assert!(matches!(store.put_active(pending, &seal, &rand::random()), Err(ShareStoreError::Certificate(_))));
    let completed = store.unlock_pending(&seal).unwrap().certified(full).unwrap();
    store.put_active(&completed, &seal, &rand::random()).unwrap();
    assert!(store.pending().unwrap().is_none());
    store.unlock(&seal).unwrap();
}
