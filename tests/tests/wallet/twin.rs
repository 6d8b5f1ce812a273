//! A wallet beside Core's own view of it: `listdescriptors` goes to a bitcoind, and after every random step both name the
//! same coins and the same balances.
//!
//! The bitcoind has no wallet: it derives the addresses, scans its own set of coins and shows its own mempool. Where
//! `KEYLESS_WALLET_BITCOIND` names one that has a wallet, a watch-only wallet there is compared too.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bitcoin::secp256k1::rand::Rng;
use bitcoin::secp256k1::rand::rngs::StdRng;
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Options, RpcClient, sat};
use serde_json::{Value, json};

use crate::{TYPES, btc, dice, length};

const DEADLINE: Duration = Duration::from_secs(60);
const SHORT_STEPS: usize = 30;
const SHORT_ADDRESSES: usize = 50;
/// Indexes derived beyond those in use.
const AHEAD: u64 = 40;
/// For what is handed out in the random steps.
const WATCHED_AHEAD: usize = 1_000;
const SCAN_EVERY: usize = 20;
const MATURE: i64 = 101;
const NOBODY: &str = "bcrt1qqyqszqgpqyqszqgpqyqszqgpqyqszqgpvxat9t";

/// A coin as both sides name it: amount in satoshi, confirmations, address.
type Coins = BTreeMap<(String, u64), (i64, i64, String)>;

/// Balances in satoshi.
#[derive(Debug, PartialEq, Eq, Default)]
struct Sums {
    trusted: i64,
    pending: i64,
    immature: i64,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn key(coin: &Value) -> (String, u64) {
    (text(&coin["txid"]), coin["vout"].as_u64().unwrap())
}

/// Core's side.
struct Twin {
    core: Daemon,
    /// Of the wallet, without private keys.
    descriptors: Vec<Value>,
    addresses: HashSet<String>,
    end: u64,
    /// A watch-only wallet of Core.
    watching: Option<Daemon>,
}

impl Twin {
    /// `last`: index up to which a watch-only wallet of Core knows addresses. Ours gives many out before the first is paid.
    fn start(peer: &Daemon, wallet: &RpcClient, last: usize) -> Self {
        let options =
            || Options::core().conf(format!("addnode=127.0.0.1:{}", peer.p2p_port)).conf("whitelist=noban@127.0.0.1");
        let core = Daemon::start_new(options());
        let listed = wallet.call("listdescriptors", json!([]));
        let descriptors = listed["descriptors"].as_array().unwrap().clone();
        assert_eq!(descriptors.len(), 8);
        let watching = std::env::var_os("KEYLESS_WALLET_BITCOIND").map(|path| {
            let node = Daemon::start_new(Options { program: Some(PathBuf::from(path)), ..options() });
            until_true("blocks", DEADLINE, || node.height() == peer.height());
            node.call("createwallet", json!(["twin", true]));
            let imports: Vec<Value> = descriptors
                .iter()
                .map(|row| {
                    json!({"desc": row["desc"], "active": row["active"], "internal": row["internal"],
                        "range": [0, last], "timestamp": 0})
                })
                .collect();
            let answers = node.call("importdescriptors", json!([imports]));
            assert!(answers.as_array().unwrap().iter().all(|answer| answer["success"] == json!(true)), "{answers}");
            node
        });
        Self { core, descriptors, addresses: HashSet::new(), end: 0, watching }
    }

    /// Derives as far as the wallet has come.
    fn follow(&mut self, wallet: &RpcClient) {
        let listed = wallet.call("listdescriptors", json!([]));
        let next = |row: &Value| row["next_index"].as_u64().unwrap();
        let wanted = listed["descriptors"].as_array().unwrap().iter().map(next).max().unwrap() + AHEAD;
        if wanted <= self.end {
            return;
        }
        let end = wanted + AHEAD;
        for row in &self.descriptors {
            let derived = self.core.call("deriveaddresses", json!([row["desc"], [self.end, end - 1]]));
            self.addresses.extend(derived.as_array().unwrap().iter().map(text));
        }
        self.end = end;
    }

    /// Coins and balances of the descriptors, by this node's chain and mempool alone.
    fn view(&self) -> (Coins, Sums) {
        let wanted: Vec<Value> =
            self.descriptors.iter().map(|row| json!({"desc": row["desc"], "range": [0, self.end - 1]})).collect();
        let scanned = self.core.call("scantxoutset", json!(["start", wanted]));
        let tip = scanned["height"].as_i64().unwrap();
        let mut coins = Coins::new();
        let mut sums = Sums::default();
        let mut immature = BTreeSet::new();
        for coin in scanned["unspents"].as_array().unwrap() {
            let depth = tip - coin["height"].as_i64().unwrap() + 1;
            let script = self.core.call("decodescript", json!([coin["scriptPubKey"]]));
            coins.insert(key(coin), (sat(&coin["amount"]), depth, text(&script["address"])));
            if coin["coinbase"] == json!(true) && depth < MATURE {
                immature.insert(key(coin));
            }
        }
        let unconfirmed = self.mempool();
        let mut trust = HashMap::new();
        for txid in unconfirmed.keys() {
            self.trusted(txid, &unconfirmed, &coins, &mut trust);
        }
        for (txid, tx) in &unconfirmed {
            for output in tx["vout"].as_array().unwrap() {
                let address = output["scriptPubKey"]["address"].as_str().unwrap_or_default().to_owned();
                if self.addresses.contains(&address) {
                    coins.insert((txid.clone(), output["n"].as_u64().unwrap()), (sat(&output["value"]), 0, address));
                }
            }
        }
        for input in unconfirmed.values().flat_map(|tx| tx["vin"].as_array().unwrap()) {
            coins.remove(&key(input));
        }
        for (coin, (amount, depth, _)) in &coins {
            let bucket = match depth {
                _ if immature.contains(coin) => &mut sums.immature,
                0 if !trust[&coin.0] => &mut sums.pending,
                _ => &mut sums.trusted,
            };
            *bucket += amount;
        }
        (coins, sums)
    }

    fn mempool(&self) -> BTreeMap<String, Value> {
        let txids = self.core.call("getrawmempool", json!([]));
        let txids = txids.as_array().unwrap().iter();
        txids.map(|txid| (text(txid), self.core.call("getrawtransaction", json!([txid, 1])))).collect()
    }

    /// Core's rule: all that it spends is ours, and confirmed or trusted in turn.
    fn trusted(
        &self,
        txid: &str,
        unconfirmed: &BTreeMap<String, Value>,
        confirmed: &Coins,
        known: &mut HashMap<String, bool>,
    ) -> bool {
        if let Some(known) = known.get(txid) {
            return *known;
        }
        let all = unconfirmed[txid]["vin"].as_array().unwrap().iter().all(|input| {
            let (parent, vout) = key(input);
            match unconfirmed.get(&parent) {
                Some(tx) => {
                    let address = tx["vout"][usize::try_from(vout).unwrap()]["scriptPubKey"]["address"].as_str();
                    address.is_some_and(|address| self.addresses.contains(address))
                        && self.trusted(&parent, unconfirmed, confirmed, known)
                }
                None => confirmed.contains_key(&(parent, vout)),
            }
        });
        known.insert(txid.to_owned(), all);
        all
    }
}

/// The wallet under test and what happens to it.
struct Scene {
    node: Daemon,
    wallet: RpcClient,
    faucet: RpcClient,
    twin: Twin,
    dice: StdRng,
    /// How often each kind of step did something.
    done: BTreeMap<&'static str, usize>,
}

impl Scene {
    /// `ahead`: scripts that are watched before their address is given out.
    fn start(ahead: usize) -> Self {
        let node =
            Daemon::start_new(Options::keyless().conf(format!("keypool={ahead}")).conf("whitelist=noban@127.0.0.1"));
        for name in ["w", "faucet"] {
            node.call("createwallet", json!([name]));
        }
        let (wallet, faucet) = (node.rpc().wallet("w"), node.rpc().wallet("faucet"));
        let to = faucet.call("getnewaddress", json!([]));
        node.call("generatetoaddress", json!([110, to]));
        let twin = Twin::start(&node, &wallet, ahead + WATCHED_AHEAD);
        Self { node, wallet, faucet, twin, dice: dice(), done: BTreeMap::new() }
    }

    fn own_address(&mut self) -> Value {
        let kind = TYPES[self.dice.gen_range(0..4)];
        self.wallet.call("getnewaddress", json!(["", kind]))
    }

    fn mine(&self, blocks: usize, to: &Value) {
        self.node.call("generatetoaddress", json!([blocks, to]));
    }

    /// Own transactions outside a block; those in the mempool, or the others.
    fn unconfirmed(&self, in_mempool: bool) -> BTreeSet<String> {
        let pool: HashSet<String> =
            self.node.call("getrawmempool", json!([])).as_array().unwrap().iter().map(text).collect();
        let rows = self.wallet.call("listtransactions", json!(["*", 200]));
        let open = rows.as_array().unwrap().iter().filter(|row| {
            row["confirmations"] == json!(0)
                && row["abandoned"] != json!(true)
                && pool.contains(row["txid"].as_str().unwrap()) == in_mempool
                && (!in_mempool || row["category"] == json!("send"))
        });
        open.map(|row| text(&row["txid"])).collect()
    }

    fn pick(&mut self, from: BTreeSet<String>) -> Option<String> {
        let all = Vec::from_iter(from);
        if all.is_empty() { None } else { Some(all[self.dice.gen_range(0..all.len())].clone()) }
    }

    fn receive(&mut self) -> bool {
        let to = self.own_address();
        let amount = self.dice.gen_range(100_000..50_000_000);
        self.faucet.call("sendtoaddress", json!([to, btc(amount)]));
        true
    }

    fn send(&mut self) -> bool {
        let balance = sat(&self.wallet.call("getbalance", json!([])));
        if balance < 300_000 {
            return false;
        }
        let to = self.faucet.call("getnewaddress", json!(["", TYPES[self.dice.gen_range(0..4)]]));
        let amount = self.dice.gen_range(10_000..balance / 2);
        let subtract = self.dice.gen_bool(0.2);
        match self.wallet.try_call("sendtoaddress", json!([to, btc(amount), "", "", subtract])) {
            Ok(_) => true,
            // Chains of unconfirmed change may be as long as they can be.
            Err(error) => {
                assert_eq!(error.code, -6, "{error}");
                false
            }
        }
    }

    fn bump(&mut self) -> bool {
        let unconfirmed = self.unconfirmed(true);
        let Some(txid) = self.pick(unconfirmed) else { return false };
        match self.wallet.try_call("bumpfee", json!([txid])) {
            Ok(_) => true,
            Err(error) => {
                // Bumped already, has descendants, or no coin is left to pay with; else it is a fault.
                assert!([-4, -8, -32601].contains(&error.code), "{error}");
                false
            }
        }
    }

    /// Replaces a payment by one back to the wallet, then gives the replaced one up.
    fn abandon(&mut self) -> bool {
        let unconfirmed = self.unconfirmed(true);
        let Some(txid) = self.pick(unconfirmed) else { return false };
        let entry = self.node.call("getmempoolentry", json!([txid]));
        if entry["descendantcount"] != json!(1) {
            return false;
        }
        let old = self.node.call("getrawtransaction", json!([txid, 1]));
        let fee = sat(&entry["fees"]["base"]);
        let paid: i64 = old["vout"].as_array().unwrap().iter().map(|output| sat(&output["value"])).sum();
        let inputs: Vec<Value> = old["vin"]
            .as_array()
            .unwrap()
            .iter()
            .map(|input| json!({"txid": input["txid"], "vout": input["vout"], "sequence": 0xffff_fffd_u32}))
            .collect();
        let raise = 20_000;
        if paid < 2 * raise {
            return false;
        }
        let to = text(&self.own_address());
        let raw = self.wallet.call("createrawtransaction", json!([inputs, [{to: btc(paid - raise)}]]));
        let signed = self.wallet.call("signrawtransactionwithwallet", json!([raw]));
        assert_eq!(signed["complete"], json!(true), "fee {fee}: {signed}");
        self.node.call("sendrawtransaction", json!([signed["hex"], 0]));
        self.wallet.call("abandontransaction", json!([txid]));
        true
    }

    fn mine_some(&mut self) -> bool {
        let to = if self.dice.gen_bool(0.3) { self.own_address() } else { json!(NOBODY) };
        let blocks = self.dice.gen_range(1..3);
        self.mine(blocks, &to);
        true
    }

    fn reorganise(&mut self) -> bool {
        let depth = self.dice.gen_range(1..4);
        let height = self.node.height() - depth + 1;
        let hash = self.node.call("getblockhash", json!([height]));
        self.node.call("invalidateblock", json!([hash]));
        let blocks = usize::try_from(depth).unwrap() + 1;
        // Another payee than before, so that the blocks are not those that were taken away.
        let to = self.faucet.call("getnewaddress", json!([]));
        // An empty branch now and then, so that what was mined stays out for a while.
        if self.dice.gen_bool(0.3) {
            for _ in 0..blocks {
                self.node.call("generateblock", json!([to, []]));
            }
        } else {
            self.mine(blocks, &to);
        }
        true
    }

    fn step(&mut self) {
        let (name, did) = match self.dice.gen_range(0..100) {
            0..25 => ("receive", self.receive()),
            25..52 => ("send", self.send()),
            52..62 => ("bump", self.bump()),
            62..72 => ("abandon", self.abandon()),
            72..90 => ("mine", self.mine_some()),
            _ => ("reorganise", self.reorganise()),
        };
        *self.done.entry(name).or_default() += usize::from(did);
    }

    /// What a reorganisation threw out for good spends its coins until its owner gives it up, as in Core.
    fn give_up_what_is_out(&self) {
        for txid in self.unconfirmed(false) {
            // One that was given up with its parent is not eligible any more.
            if self.wallet.try_call("abandontransaction", json!([txid])).is_ok()
                && let Some(watching) = &self.twin.watching
            {
                let _ = watching.rpc().wallet("twin").try_call("abandontransaction", json!([txid]));
            }
        }
    }

    fn same_mempool(&self, other: &Daemon) {
        let start = Instant::now();
        until_true("the same chain and mempool", DEADLINE, || {
            let late = start.elapsed() > DEADLINE / 2;
            if late {
                eprintln!("{} here, {} there, after {:?}", self.node.best(), other.best(), self.done);
            }
            if other.best() != self.node.best() {
                return false;
            }
            let list = |node: &Daemon| -> BTreeSet<String> {
                node.call("getrawmempool", json!([])).as_array().unwrap().iter().map(text).collect()
            };
            let (mine, theirs) = (list(&self.node), list(other));
            // Relay takes its time, and a node that saw a branch without a successor gave up what was immature there:
            // what is missing is handed over.
            let hand_over = |from: &Daemon, to: &Daemon, txids: Vec<&String>| {
                for txid in txids {
                    let raw = from.rpc().try_call("getrawtransaction", json!([txid]));
                    let sent = raw.and_then(|raw| to.rpc().try_call("sendrawtransaction", json!([raw, 0])));
                    if late {
                        eprintln!("{txid} is missing in {:?}: {sent:?}", to.options.kind);
                    }
                }
            };
            hand_over(&self.node, other, mine.difference(&theirs).collect());
            hand_over(other, &self.node, theirs.difference(&mine).collect());
            mine == theirs
        });
    }

    fn coins(wallet: &RpcClient) -> Coins {
        let options = json!({"include_immature_coinbase": true});
        let listed = wallet.call("listunspent", json!([0, 9_999_999, [], true, options]));
        let coins = listed.as_array().unwrap().iter();
        coins
            .map(|coin| {
                let depth = coin["confirmations"].as_i64().unwrap();
                (key(coin), (sat(&coin["amount"]), depth, text(&coin["address"])))
            })
            .collect()
    }

    fn sums(wallet: &RpcClient) -> Sums {
        let mine = &wallet.call("getbalances", json!([]))["mine"];
        Sums {
            trusted: sat(&mine["trusted"]),
            pending: sat(&mine["untrusted_pending"]),
            immature: sat(&mine["immature"]),
        }
    }

    /// Where a wallet of Core watches too, the scan of all coins, which takes seconds, is for every twentieth step.
    fn compare(&mut self, step: usize) {
        self.same_mempool(&self.twin.core);
        self.give_up_what_is_out();
        let (coins, sums) = (Self::coins(&self.wallet), Self::sums(&self.wallet));
        if self.twin.watching.is_none() || step.is_multiple_of(SCAN_EVERY) {
            self.twin.follow(&self.wallet);
            let (seen, theirs) = self.twin.view();
            assert_eq!(coins, seen, "coins, after {:?}", self.done);
            assert_eq!(sums, theirs, "balances, after {:?}", self.done);
        }
        if let Some(watching) = &self.twin.watching {
            self.same_mempool(watching);
            let theirs = watching.rpc().wallet("twin");
            until_true("Core's wallet has seen it", DEADLINE, || Self::sums(&theirs) == sums);
            assert_eq!(Self::coins(&theirs), coins, "coins of Core's wallet, after {:?}", self.done);
        }
    }

    /// The first addresses of every chain are those that Core derives, in their order.
    fn compare_addresses(&self, count: usize) {
        for row in &self.twin.descriptors {
            let derived = self.twin.core.call("deriveaddresses", json!([row["desc"], [0, count - 1]]));
            let derived = derived.as_array().unwrap();
            if row["internal"] == json!(false) {
                let desc = text(&row["desc"]);
                let prefixes = ["pkh(", "sh(", "wpkh(", "tr("];
                let kind = TYPES[prefixes.iter().position(|prefix| desc.starts_with(prefix)).unwrap()];
                for address in derived {
                    assert_eq!(*address, self.wallet.call("getnewaddress", json!(["", kind])), "{desc}");
                }
            }
            for (index, address) in derived.iter().enumerate() {
                let info = self.wallet.call("getaddressinfo", json!([address]));
                assert_eq!(info["ismine"], json!(true), "{info}");
                assert_eq!(info["parent_desc"], row["desc"], "{info}");
                assert!(text(&info["hdkeypath"]).ends_with(&format!("/{index}")), "{info}");
                if let Some(watching) = &self.twin.watching {
                    let theirs = watching.rpc().wallet("twin").call("getaddressinfo", json!([address]));
                    for field in ["scriptPubKey", "desc", "parent_desc", "hdkeypath", "hdmasterfingerprint", "solvable"]
                    {
                        assert_eq!(info[field], theirs[field], "{field} of {address}");
                    }
                }
            }
        }
    }
}

#[test]
fn core_derives_the_same_addresses_and_sees_the_same_coins_through_random_steps() {
    let steps = length("KEYLESS_TWIN_STEPS", SHORT_STEPS);
    let addresses = length("KEYLESS_TWIN_ADDRESSES", SHORT_ADDRESSES);
    let mut scene = Scene::start(addresses);
    scene.compare_addresses(addresses);
    for step in 0..steps {
        scene.step();
        scene.compare(step);
    }
    println!("{steps} steps, of these with an effect: {:?}", scene.done);
    for kind in ["receive", "send", "mine", "reorganise"] {
        assert!(scene.done.get(kind).is_some_and(|count| *count > 0), "no {kind} in {:?}", scene.done);
    }
    scene.node.stop();
}
