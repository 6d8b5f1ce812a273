//! Client libraries that others wrote, as their users use them: fund, send, reorganise, resync.
//!
//! `bitcoincore-rpc` and `bdk_bitcoind_rpc` are linked in; `python-bitcoinrpc` runs in the environment that
//! `contrib/install-deps --tests` makes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use bdk_bitcoind_rpc::{Emitter, NO_EXPECTED_MEMPOOL_TXS};
use bdk_chain::indexed_tx_graph::IndexedTxGraph;
use bdk_chain::indexer::keychain_txout::KeychainTxOutIndex;
use bdk_chain::local_chain::LocalChain;
use bdk_chain::miniscript::{Descriptor, DescriptorPublicKey};
use bdk_chain::{Balance, CanonicalizationParams, ConfirmationBlockTime};
use bitcoin::{Address, Amount, BlockHash, Network};
use bitcoincore_rpc::json::AddressType;
use bitcoincore_rpc::{Auth, Client, RpcApi};
use keyless_tests::daemon::cache_dir;
use keyless_tests::{Daemon, Options};
use serde_json::{Value, json};

const TYPES: [AddressType; 4] =
    [AddressType::Legacy, AddressType::P2shSegwit, AddressType::Bech32, AddressType::Bech32m];
const NOBODY: &str = "bcrt1qqyqszqgpqyqszqgpqyqszqgpqyqszqgpvxat9t";

fn client(node: &Daemon, wallet: Option<&str>) -> Client {
    let path = wallet.map_or_else(String::new, |name| format!("/wallet/{name}"));
    let url = format!("http://127.0.0.1:{}{path}", node.rpc_port());
    Client::new(&url, Auth::CookieFile(node.net_dir().join(".cookie"))).unwrap()
}

fn node() -> Daemon {
    // The library's types want a field that Core shows with this alone.
    Daemon::start_new(Options::keyless().conf("deprecatedrpc=bip125").conf("keypool=50"))
}

fn nobody() -> Address {
    NOBODY.parse::<Address<_>>().unwrap().require_network(Network::Regtest).unwrap()
}

fn address(wallet: &Client, kind: AddressType) -> Address {
    wallet.get_new_address(None, Some(kind)).unwrap().require_network(Network::Regtest).unwrap()
}

fn pay(wallet: &Client, to: &Address, amount: Amount) -> bitcoin::Txid {
    wallet.send_to_address(to, amount, Some("rent"), None, None, Some(true), None, None).unwrap()
}

/// The library's reader knows BIP174 alone.
fn is_version_zero(psbt: &Value) -> bool {
    psbt.as_str().unwrap().parse::<bitcoin::Psbt>().is_ok()
}

#[test]
fn a_wallet_makes_psbts_of_the_version_that_its_node_is_told() {
    for (conf, zero) in [("walletpsbtversion=0", true), ("walletpsbtversion=2", false)] {
        let node = Daemon::start_new(Options::keyless().conf(conf));
        node.call("createwallet", json!(["w"]));
        let wallet = node.rpc().wallet("w");
        let address = wallet.call("getnewaddress", json!([]));
        node.call("generatetoaddress", json!([101, address]));
        let funded = wallet.call("walletcreatefundedpsbt", json!([[], [{NOBODY: 1}], 0, {"fee_rate": 2}]));
        assert_eq!(is_version_zero(&funded["psbt"]), zero, "{conf}");
        let named = wallet.call("walletcreatefundedpsbt", json!([[], [{NOBODY: 1}], 0, {"fee_rate": 2}, true, 2, 2]));
        assert_eq!(node.call("decodepsbt", json!([named["psbt"]]))["psbt_version"], json!(2));
        let processed = wallet.call("walletprocesspsbt", json!([funded["psbt"]]));
        assert_eq!(is_version_zero(&processed["psbt"]), zero, "it stays what it is");
        let options = json!({"psbt": true, "fee_rate": 2});
        let sent = wallet.call("send", json!([[{NOBODY: 1}], null, null, null, options]));
        assert_eq!(is_version_zero(&sent["psbt"]), zero);
        let txid = wallet.call("sendtoaddress", json!([NOBODY, 1, "", "", false, true, null, "unset", null, 2]));
        let bumped = wallet.call("psbtbumpfee", json!([txid]));
        assert_eq!(is_version_zero(&bumped["psbt"]), zero);
        let bumped = wallet.call("psbtbumpfee", json!([txid, {"psbt_version": 0}]));
        assert!(is_version_zero(&bumped["psbt"]));
    }
}

#[test]
fn bitcoincore_rpc_funds_sends_reorganises_and_rescans() {
    let node = node();
    let root = client(&node, None);
    root.create_wallet("w", None, None, None, None).unwrap();
    assert_eq!(root.list_wallets().unwrap(), ["w"]);
    let wallet = client(&node, Some("w"));
    for kind in TYPES {
        root.generate_to_address(1, &address(&wallet, kind)).unwrap();
    }
    root.generate_to_address(100, &nobody()).unwrap();
    let coins = Amount::from_int_btc(200);
    assert_eq!(wallet.get_balance(None, None).unwrap(), coins);
    assert_eq!(wallet.list_unspent(None, None, None, None, None).unwrap().len(), 4);

    let txid = pay(&wallet, &nobody(), Amount::from_int_btc(120));
    let sent = wallet.get_transaction(&txid, None).unwrap();
    assert_eq!(sent.amount.to_sat(), -12_000_000_000);
    let fee = sent.fee.unwrap().unsigned_abs();
    let tip = root.generate_to_address(1, &nobody()).unwrap()[0];
    assert_eq!(wallet.get_transaction(&txid, None).unwrap().info.confirmations, 1);
    let left = coins - Amount::from_int_btc(120) - fee;
    assert_eq!(wallet.get_balance(None, None).unwrap(), left);

    // A PSBT made, signed and finished by the library's calls.
    let outputs = HashMap::from([(nobody().to_string(), Amount::from_int_btc(1))]);
    let funded = wallet.wallet_create_funded_psbt(&[], &outputs, None, None, None).unwrap();
    let signed = wallet.wallet_process_psbt(&funded.psbt, None, None, None).unwrap();
    let raw = wallet.finalize_psbt(&signed.psbt, None).unwrap().hex.unwrap();
    let second = root.send_raw_transaction(&raw).unwrap();

    root.invalidate_block(&tip).unwrap();
    assert_eq!(wallet.get_transaction(&txid, None).unwrap().info.confirmations, 0);
    root.reconsider_block(&tip).unwrap();
    let since = wallet.list_since_block(Some(&tip), None, None, None).unwrap();
    assert!(since.transactions.iter().any(|entry| entry.info.txid == second));
    assert!(since.transactions.iter().all(|entry| entry.info.txid != txid));
    root.generate_to_address(1, &nobody()).unwrap();

    let rescanned = wallet.rescan_blockchain(Some(0), None).unwrap();
    assert_eq!(rescanned, (0, Some(106)));
    let unspent = wallet.list_unspent(None, None, None, None, None).unwrap();
    let sum: Amount = unspent.iter().map(|coin| coin.amount).sum();
    assert_eq!(sum, left - Amount::from_int_btc(1) - funded.fee);
    let seen = wallet.list_transactions(None, Some(100), None, None).unwrap();
    assert_eq!(seen.iter().filter(|entry| entry.info.txid == txid).count(), 1);
}

type Graph = IndexedTxGraph<ConfirmationBlockTime, KeychainTxOutIndex<usize>>;

/// A wallet of BDK that watches ours through the node.
struct Bdk<'a> {
    chain: LocalChain,
    graph: Graph,
    emitter: Emitter<&'a Client>,
}

impl<'a> Bdk<'a> {
    fn new(root: &'a Client, wallet: &Client) -> Self {
        let listed: Value = wallet.call("listdescriptors", &[]).unwrap();
        let mut index = KeychainTxOutIndex::new(100, false);
        for (keychain, row) in listed["descriptors"].as_array().unwrap().iter().enumerate() {
            let descriptor: Descriptor<DescriptorPublicKey> = row["desc"].as_str().unwrap().parse().unwrap();
            assert!(index.insert_descriptor(keychain, descriptor).unwrap());
        }
        let genesis: BlockHash = root.get_block_hash(0).unwrap();
        let (chain, _) = LocalChain::from_genesis_hash(genesis);
        let emitter = Emitter::new(root, chain.tip(), 0, NO_EXPECTED_MEMPOOL_TXS);
        Self { chain, graph: Graph::new(index), emitter }
    }

    fn sync(&mut self) {
        while let Some(event) = self.emitter.next_block().unwrap() {
            let height = event.block_height();
            self.chain.apply_update(event.checkpoint).unwrap();
            let _ = self.graph.apply_block_relevant(&event.block, height);
        }
        let mempool = self.emitter.mempool().unwrap();
        let _ = self.graph.batch_insert_relevant_unconfirmed(mempool.update);
        let _ = self.graph.batch_insert_relevant_evicted_at(mempool.evicted);
    }

    fn balance(&self) -> Balance {
        let outpoints = self.graph.index.outpoints().iter().cloned();
        let params = CanonicalizationParams::default();
        self.graph.graph().balance(&self.chain, self.chain.tip().block_id(), params, outpoints, |_, _| true)
    }
}

/// What BDK finds is what the wallet says.
fn same(bdk: &mut Bdk<'_>, wallet: &Client) {
    bdk.sync();
    let theirs = bdk.balance();
    let ours: Value = wallet.call("getbalances", &[]).unwrap();
    let sat = |field: &str| keyless_tests::sat(&ours["mine"][field]) as u64;
    assert_eq!(theirs.immature.to_sat(), sat("immature"));
    let spendable = theirs.confirmed + theirs.trusted_pending + theirs.untrusted_pending;
    assert_eq!(spendable.to_sat(), sat("trusted") + sat("untrusted_pending"));
}

#[test]
fn bdk_follows_the_wallet_through_the_node() {
    let node = node();
    let root = client(&node, None);
    root.create_wallet("w", None, None, None, None).unwrap();
    let wallet = client(&node, Some("w"));
    let mut bdk = Bdk::new(&root, &wallet);
    for kind in TYPES {
        root.generate_to_address(1, &address(&wallet, kind)).unwrap();
    }
    same(&mut bdk, &wallet);
    root.generate_to_address(101, &nobody()).unwrap();
    same(&mut bdk, &wallet);
    assert_eq!(bdk.balance().confirmed, Amount::from_int_btc(200));

    let own = address(&wallet, AddressType::Bech32m);
    pay(&wallet, &nobody(), Amount::from_int_btc(70));
    pay(&wallet, &own, Amount::from_int_btc(3));
    same(&mut bdk, &wallet);
    let mined = root.generate_to_address(3, &nobody()).unwrap();
    same(&mut bdk, &wallet);
    root.invalidate_block(&mined[0]).unwrap();
    // Not the blocks that were taken away: they pay to another.
    root.generate_to_address(4, &address(&wallet, AddressType::Legacy)).unwrap();
    same(&mut bdk, &wallet);
    // From nothing again.
    let mut fresh = Bdk::new(&root, &wallet);
    same(&mut fresh, &wallet);
    assert_eq!(fresh.balance(), bdk.balance());
}

/// The interpreter that has the library: named by the environment, else where `contrib/install-deps` puts it.
fn python() -> PathBuf {
    let path = std::env::var_os("KEYLESS_PYTHON").map_or_else(|| cache_dir().join("venv/bin/python"), PathBuf::from);
    assert!(path.exists(), "{} is missing: run contrib/install-deps --tests", path.display());
    path
}

#[test]
fn python_bitcoinrpc_funds_sends_reorganises_and_resyncs() {
    let node = node();
    node.call("createwallet", json!(["w"]));
    let cookie = std::fs::read_to_string(node.net_dir().join(".cookie")).unwrap();
    let output = Command::new(python())
        .args(["-c", include_str!("../../python/wallet.py")])
        .arg(format!("http://{}@127.0.0.1:{}", cookie.trim(), node.rpc_port()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("ok\n"), "{text}");
}
