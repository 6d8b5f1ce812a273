//! No process ever holds a private key.
//!
//! Three `keylessd` make a wallet and sign with it. This test alone opens the three sealed stores, combines the shares
//! into the two group secrets, and derives the private keys of the wallet's addresses. Then it looks for all of them,
//! in several encodings, in the memory of every process (what a core dump would hold, and more: every readable
//! mapping, read while the process is stopped), in every file of every data directory, and in what RPC answers.
//! A share may be in the memory of its own member, and nowhere else in plain.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitcoin::Network;
use bitcoin::bip32::{ChainCode, ChildNumber, DerivationPath, Fingerprint, Xpriv, Xpub};
use bitcoin::key::{Keypair, PrivateKey, TapTweak};
use bitcoin::secp256k1::{SECP256K1, SecretKey};
use frost_secp256k1_tr::keys::KeyPackage;
use k256::elliptic_curve::PrimeField;
use k256::{Scalar, Secp256k1};
use keyless_tests::quorum::Discovery;
use keyless_tests::{Daemon, Quorum, RpcClient};
use serde_json::json;
use tss_wallet::keys::{GroupKey, PublicKeys};
use tss_wallet::seal::{self, SealContext, SealKey};
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::{Family, PartyIndex, ShareStore, SigningIdentity, WalletDb};

const WALLET: &str = "w";
const CANARY: &str = "label-to-be-found-7f3a90";
/// Private keys of this many addresses of each kind, receiving and change, are looked for.
const ADDRESSES: u32 = 12;
const SNAPSHOTS_WHILE_SIGNING: u32 = 6;
const PAGE: usize = 4096;
const PIECE: usize = 256 * PAGE;

/// One member's secrets, out of its sealed store.
struct Opened {
    index: PartyIndex,
    ecdsa: Scalar,
    schnorr: Scalar,
    public: PublicKeys,
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else if entry.file_name() != "LOCK" {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Opens a copy of a member's store with the keys of its node.
fn open_store(member: &Daemon) -> Opened {
    type Stored = (u8, PartyIndex, dkls23_secp256k1::protocols::Party<Secp256k1>, Vec<u8>);
    let node = member.net_dir().join("indexes/keyless");
    let seed: [u8; 32] = fs::read(node.join("identity")).unwrap().try_into().unwrap();
    let me = SigningIdentity::from_seed(&seed).member_id();
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&member.net_dir().join("wallets").join(WALLET).join("db"), copy.path());
    let db = Arc::new(WalletDb::open(copy.path()).unwrap());
    let public = ShareStore::new(Arc::clone(&db), me).public().unwrap().unwrap();
    let sealed = db.get(Family::Share, b"active/share").unwrap().unwrap();
    let kind = format!("share/{}", public.epoch);
    let context = SealContext { wallet: &public.wallet, member: &me, kind: &kind };
    let key = SealKey::load(&node.join("seal.key")).unwrap();
    let secret = seal::open(&key, &context, &sealed).unwrap();
    let (_, index, party, frost): Stored = postcard::from_bytes(&secret).unwrap();
    let frost = KeyPackage::deserialize(&frost).unwrap();
    let schnorr: [u8; 32] = frost.signing_share().serialize().try_into().unwrap();
    let schnorr = Option::<Scalar>::from(Scalar::from_repr(schnorr.into())).unwrap();
    Opened { index, ecdsa: party.poly_point, schnorr, public }
}

/// The value at 0 of the polynomial through the shares.
fn combine(shares: &[(PartyIndex, Scalar)]) -> Scalar {
    let at = |index: PartyIndex| Scalar::from(u64::from(index.get()));
    let mut secret = Scalar::ZERO;
    for (i, share) in shares {
        let mut term = *share;
        for (j, _) in shares.iter().filter(|(j, _)| j != i) {
            term = term * at(*j) * (at(*j) - at(*i)).invert().unwrap();
        }
        secret += term;
    }
    secret
}

/// The group secret, checked against the group's public key by every pair and by all three.
fn group_secret(shares: &[(PartyIndex, Scalar)], group: &GroupKey) -> SecretKey {
    let all = combine(shares);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert!(combine(&[shares[a], shares[b]]) == all, "any two shares give the same secret");
    }
    let secret = SecretKey::from_slice(&all.to_repr()).unwrap();
    assert_eq!(secret.public_key(SECP256K1), group.public_key, "the shares are of this group key");
    secret
}

/// What is looked for.
#[derive(Default)]
struct Needles {
    found_by_prefix: HashMap<Vec<u8>, Vec<usize>>,
    first_two: Vec<bool>,
    list: Vec<(String, Vec<u8>)>,
}

impl Needles {
    fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.first_two.resize(1 << 16, false);
        self.first_two[usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))] = true;
        self.found_by_prefix.entry(bytes[..8].to_vec()).or_default().push(self.list.len());
        self.list.push((name.to_owned(), bytes));
    }

    /// A scalar as bytes of both orders (big-endian on the wire, little-endian limbs in both curve libraries) and hex.
    fn add_scalar(&mut self, name: &str, scalar: &[u8; 32]) {
        let mut reversed = *scalar;
        reversed.reverse();
        for (order, bytes) in [("", scalar), (" reversed", &reversed)] {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            self.add(&format!("{name}{order}"), bytes.to_vec());
            self.add(&format!("{name}{order} as hex"), hex.clone().into_bytes());
            self.add(&format!("{name}{order} as HEX"), hex.to_uppercase().into_bytes());
        }
    }

    /// A private key with what BIP32 makes of it for an account, and its text forms.
    fn add_tree(&mut self, name: &str, secret: &SecretKey, group: &GroupKey, types: &[AddressType]) {
        self.add_scalar(name, &secret.secret_bytes());
        self.add_scalar(&format!("{name} negated"), &secret.negate().secret_bytes());
        self.add(&format!("{name} as WIF"), PrivateKey::new(*secret, Network::Regtest).to_wif().into_bytes());
        let root = Xpriv {
            network: Network::Regtest.into(),
            depth: 0,
            parent_fingerprint: Fingerprint::default(),
            child_number: ChildNumber::Normal { index: 0 },
            private_key: *secret,
            chain_code: ChainCode::from(group.chain_code),
        };
        self.add(&format!("{name} as xprv"), root.to_string().into_bytes());
        for address_type in types {
            let path = tss_wallet::keys::account_path(*address_type, Network::Regtest).unwrap();
            let account = root.derive_priv(SECP256K1, &path).unwrap();
            self.add(&format!("{name} account {path} as xprv"), account.to_string().into_bytes());
            self.add_scalar(&format!("{name} account {path}"), &account.private_key.secret_bytes());
            for (branch, index) in (0..2).flat_map(|branch| (0..ADDRESSES).map(move |index| (branch, index))) {
                let steps = [branch, index].map(|index| ChildNumber::Normal { index });
                let child = account.derive_priv(SECP256K1, &DerivationPath::from(steps.to_vec())).unwrap().private_key;
                let name = format!("{name} {path}/{branch}/{index}");
                self.add_scalar(&name, &child.secret_bytes());
                self.add_scalar(&format!("{name} negated"), &child.negate().secret_bytes());
                if *address_type == AddressType::Bech32m {
                    let tweaked = Keypair::from_secret_key(SECP256K1, &child).tap_tweak(SECP256K1, None).to_keypair();
                    self.add_scalar(&format!("{name} tweaked"), &tweaked.secret_bytes());
                }
            }
        }
    }

    /// The names of all that is in these bytes.
    fn search(&self, hay: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for (at, pair) in hay.windows(2).enumerate() {
            if !self.first_two[usize::from(u16::from_be_bytes([pair[0], pair[1]]))] {
                continue;
            }
            let Some(candidates) = hay.get(at..at + 8).and_then(|prefix| self.found_by_prefix.get(prefix)) else {
                continue;
            };
            for (name, bytes) in candidates.iter().map(|n| &self.list[*n]) {
                if hay[at..].starts_with(bytes) && !found.contains(name) {
                    found.push(name.clone());
                }
            }
        }
        found
    }
}

/// What a stopped process has in memory: every mapping that is not a plain view of a file, pages of zeros left out.
fn memory_of(pid: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut all = Vec::new();
    let mut piece = vec![0; PIECE];
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let unchanged_file = !rights.contains('w') && line.contains('/');
        if !rights.starts_with('r') || unchanged_file || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut at = start;
        while at < end {
            let wanted = PIECE.min(usize::try_from(end - at).unwrap());
            let Ok(read @ 1..) = memory.read_at(&mut piece[..wanted], at) else { break };
            for page in piece[..read].chunks(PAGE) {
                if page.iter().any(|byte| *byte != 0) {
                    all.extend_from_slice(page);
                }
            }
            at += read as u64;
        }
    }
    all
}

/// The memory of all members at one moment.
fn snapshot(quorum: &Quorum) -> Vec<Vec<u8>> {
    quorum.members.iter().for_each(|member| member.signal(libc::SIGSTOP));
    let all = quorum.members.iter().map(|member| memory_of(member.pid())).collect();
    quorum.members.iter().for_each(|member| member.signal(libc::SIGCONT));
    all
}

fn files_below(folder: &Path, list: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, list);
        } else {
            list.push(path);
        }
    }
}

/// Everything that RPC tells about a wallet and its keys, errors included.
fn rpc_answers(member: &RpcClient) -> String {
    let wallet = member.wallet(WALLET);
    let address = wallet.call("getnewaddress", json!([CANARY, "bech32"]));
    let taproot = wallet.call("getnewaddress", json!([CANARY, "bech32m"]));
    let psbt = wallet.call("walletcreatefundedpsbt", json!([[], [{address.as_str().unwrap(): 0.1}]]))["psbt"].clone();
    let unsigned = wallet.call("listunspent", json!([]));
    let calls = [
        ("getwalletinfo", json!([])),
        ("getquoruminfo", json!([])),
        ("listdescriptors", json!([])),
        ("listdescriptors", json!([true])),
        ("getaddressinfo", json!([address])),
        ("getaddressinfo", json!([taproot])),
        ("gethdkeys", json!([])),
        ("gethdkeys", json!([{"private": true}])),
        ("dumpprivkey", json!([address])),
        ("walletprocesspsbt", json!([psbt])),
        ("listtransactions", json!(["*", 100])),
        ("listsigningsessions", json!([])),
        ("getsigningpolicy", json!([])),
        ("testsigningpolicy", json!([psbt])),
        ("listpendingapprovals", json!([])),
        ("getauditlog", json!([])),
        ("verifyauditlog", json!([])),
        ("listblame", json!([])),
        ("getcosignerinfo", json!([])),
        ("enumeratecosigners", json!([])),
        ("getrpcinfo", json!([])),
        ("logging", json!([])),
        ("help", json!([])),
    ];
    let mut text = unsigned.to_string();
    for (method, params) in calls {
        text.push_str(&format!("\n{method}: {:?}", wallet.try_call(method, params)));
    }
    text
}

#[test]
fn the_group_secret_is_in_no_store_log_answer_or_memory() {
    let quorum = Quorum::start(2, 3, Discovery::Static);

    // While the keys are made: kept until it is known what to look for.
    let maker = quorum.members[0].rpc();
    let making = std::thread::spawn(move || maker.try_call("createwallet", json!([WALLET])));
    std::thread::sleep(Duration::from_millis(900));
    let during = snapshot(&quorum);
    making.join().unwrap().unwrap();
    quorum.wait_wallet(WALLET);

    let opened: Vec<Opened> = quorum.members.iter().map(open_store).collect();
    let public = &opened[0].public;
    let shares = |of: fn(&Opened) -> Scalar| opened.iter().map(|o| (o.index, of(o))).collect::<Vec<_>>();
    let ecdsa = group_secret(&shares(|o| o.ecdsa), &public.ecdsa);
    let schnorr = group_secret(&shares(|o| o.schnorr), &public.schnorr);

    for member in &quorum.members {
        let told = member.rpc().wallet(WALLET).call("getquoruminfo", json!([]));
        for (scheme, secret) in [("ecdsa", &ecdsa), ("schnorr", &schnorr)] {
            let xpub: Xpub = told[scheme]["xpub"].as_str().unwrap().parse().unwrap();
            assert_eq!(secret.public_key(SECP256K1), xpub.public_key, "the {scheme} key that members show");
        }
    }

    let mut secrets = Needles::default();
    secrets.add_tree("ECDSA secret", &ecdsa, &public.ecdsa, &AddressType::ALL[..3]);
    secrets.add_tree("Schnorr secret", &schnorr, &public.schnorr, &AddressType::ALL[3..]);
    for (m, opened) in opened.iter().enumerate() {
        for (scheme, share) in [("ECDSA", opened.ecdsa), ("Schnorr", opened.schnorr)] {
            let bytes: [u8; 32] = share.to_repr().into();
            secrets.add_scalar(&format!("member {m}'s {scheme} share"), &bytes);
        }
    }
    let check_memory = |when: &str, memories: &[Vec<u8>], holds_share: bool| {
        for (m, memory) in memories.iter().enumerate() {
            let (own, others): (Vec<String>, Vec<String>) =
                secrets.search(memory).into_iter().partition(|name| name.starts_with(&format!("member {m}'s")));
            assert_eq!(others, Vec::<String>::new(), "in the memory of member {m}, {when}");
            // That a member's own share is found shows that the search works on what is in memory.
            for scheme in ["ECDSA", "Schnorr"].into_iter().filter(|_| holds_share) {
                assert!(own.iter().any(|name| name.contains(scheme)), "{scheme} share of {m}, {when}: {own:?}");
            }
        }
    };
    check_memory("while keys are made", &during, false);
    drop(during);
    check_memory("after keys were made", &snapshot(&quorum), true);

    // Signing, with snapshots at whatever moment they come.
    let wallet = quorum.wallet(0, WALLET);
    let to = |kind: &str| wallet.call("getnewaddress", json!([CANARY, kind]));
    let mining = to("bech32");
    quorum.members[0].call("generatetoaddress", json!([110, mining]));
    quorum.sync_blocks();
    for kind in ["legacy", "p2sh-segwit", "bech32", "bech32m"] {
        wallet.call("sendtoaddress", json!([to(kind), 5]));
    }
    quorum.members[0].call("generatetoaddress", json!([1, mining]));
    quorum.sync_blocks();
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sent = 0;
            let target = to("bech32m");
            while !stop.load(Ordering::Relaxed) {
                sent += u32::from(wallet.try_call("sendtoaddress", json!([target, "0.01"])).is_ok());
            }
            sent
        });
        for n in 0..SNAPSHOTS_WHILE_SIGNING {
            std::thread::sleep(Duration::from_millis(150 + 7 * u64::from(n)));
            let memories = snapshot(&quorum);
            check_memory("while signing", &memories, true);
        }
        stop.store(true, Ordering::Relaxed);
        sending.join().unwrap()
    });
    assert!(sent > 0, "nothing was signed meanwhile");

    quorum.members[0].call("generatetoaddress", json!([1, mining]));
    quorum.sync_blocks();

    // What RPC answers.
    let mut canary = Needles::default();
    canary.add("canary", CANARY.as_bytes().to_vec());
    for (m, member) in quorum.members.iter().enumerate() {
        let text = rpc_answers(&member.rpc());
        assert_eq!(secrets.search(text.as_bytes()), Vec::<String>::new(), "answers of member {m}");
        assert!(text.contains("tpub"), "the answers hold what is public");
        assert_eq!(canary.search(text.as_bytes()), ["canary"]);
    }
    check_memory("at the end", &snapshot(&quorum), true);

    // Every file: stores, logs, indexes, cookies, configuration.
    let mut quorum = quorum;
    for member in &mut quorum.members {
        member.stop();
    }
    canary.add("group key", public.ecdsa.public_key.serialize().to_vec());
    for (m, member) in quorum.members.iter().enumerate() {
        let mut files = Vec::new();
        files_below(member.datadir(), &mut files);
        assert!(files.iter().any(|file| file.ends_with("debug.log")));
        let mut public_things = Vec::new();
        for file in files {
            let bytes = fs::read(&file).unwrap();
            assert_eq!(secrets.search(&bytes), Vec::<String>::new(), "{}", file.display());
            public_things.extend(canary.search(&bytes));
        }
        assert!(public_things.iter().any(|name| name == "group key"), "the search reads the stores of member {m}");
    }
}
