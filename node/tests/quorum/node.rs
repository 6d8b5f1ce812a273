//! Nodes of a test: a wallet manager each, over one chain, and over one hub where they form a quorum.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Amount, ScriptBuf, Txid};
use keyless_node::alerts::Alerts;
use keyless_node::quorum::devquorum::Devquorum;
use keyless_node::wallets::{ChainView, WalletManager, WalletOptions};
use keyless_p2p::cosigners::Identity;
use keyless_p2p::cosigners::memory::Hub;
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::{
    CreateWallet, PsbtVersion, Recipient, SendNote, SpendRequest, WalletHandle, Wallets,
};
use tempfile::TempDir;
use tss_wallet::MemberId;
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::wallet::spend::fees::FeeRate;
use tss_wallet::wallet::spend::mempool::ChainLimits;

use crate::chain::FakeChain;

pub fn options(dir: &Path, identity: Identity) -> WalletOptions {
    WalletOptions {
        wallets_dir: dir.join("wallets"),
        wallets_fallback: None,
        unnamed_by_default: false,
        keyless_dir: dir.join("indexes/keyless"),
        load: Vec::new(),
        keypool: 20,
        leased: 5,
        address_type: AddressType::Bech32,
        change_type: None,
        signal_rbf: true,
        psbt_version: PsbtVersion::default(),
        chain_limits: ChainLimits::default(),
        notify: None,
        broadcast: true,
        spend_zero_conf_change: true,
        avoid_partial_spends: false,
        confirm_target: 6,
        fallback_fee: Some(FeeRate(20_000)),
        min_fee: FeeRate(100),
        discard_fee: FeeRate(10_000),
        consolidate_fee: FeeRate(10_000),
        dust_relay_fee: FeeRate(3_000),
        max_tx_fee: Amount::from_sat(10_000_000),
        max_aps_fee: Some(Amount::ZERO),
        identity,
        cosigners: Vec::new(),
        networked: false,
        threshold: None,
        devquorum: None,
        signing_timeout: Duration::from_secs(10),
        experimental_tss: false,
        refresh_interval: None,
        repair_shares: true,
        alerts: Alerts::default(),
        warnings: Vec::new(),
    }
}

/// One node.
pub struct Node {
    pub manager: Arc<WalletManager>,
    pub options: WalletOptions,
    pub dir: TempDir,
}

impl Node {
    /// A node with embedded co-signers.
    pub fn embedded(chain: &Arc<FakeChain>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path(), Identity::generate());
        options.devquorum = Some(Devquorum::default());
        Self::start(chain, dir, options, None)
    }

    pub fn start(chain: &Arc<FakeChain>, dir: TempDir, options: WalletOptions, hub: Option<&Hub>) -> Self {
        let view: Arc<dyn ChainView> = chain.clone();
        let manager = WalletManager::new(options.clone(), view, tokio::runtime::Handle::current()).unwrap();
        let carrier = hub.map(|hub| {
            let (carrier, events) = hub.member(options.identity.peer_id());
            (Arc::new(carrier) as _, events)
        });
        let feed = tokio::task::block_in_place(|| manager.start_over(carrier)).unwrap();
        chain.attach(feed);
        Self { manager, options, dir }
    }

    /// Ends the node and starts it again on its directory, with its wallets of before.
    pub async fn restart(self, chain: &Arc<FakeChain>, hub: Option<&Hub>) -> Self {
        let Self { manager, mut options, dir } = self;
        options.load = manager.list();
        if let Some(hub) = hub {
            hub.detach(&options.identity.peer_id());
        }
        manager.shutdown().await;
        drop(manager);
        Self::start(chain, dir, options, hub)
    }

    pub async fn create(&self, name: &str) -> Result<(), RpcError> {
        let request = CreateWallet { name: name.to_owned(), ..CreateWallet::default() };
        self.manager.create(request).await.map(|_| ())
    }

    pub fn wallet(&self, name: &str) -> Arc<dyn WalletHandle> {
        self.manager.get(name).unwrap_or_else(|| panic!("wallet {name} is not loaded"))
    }

    pub async fn balance(&self, name: &str) -> Amount {
        let wallet = self.wallet(name);
        wallet.synced().await.unwrap();
        let mut balance = Amount::ZERO;
        wallet.read(&mut |ledger| balance = ledger.balances(0, false, true).trusted);
        balance
    }
}

/// A quorum of nodes over one hub.
pub struct Cluster {
    pub chain: Arc<FakeChain>,
    pub hub: Hub,
    pub nodes: Vec<Node>,
}

impl Cluster {
    pub fn new(count: usize) -> Self {
        Self::over(FakeChain::new(), count)
    }

    pub fn over(chain: FakeChain, count: usize) -> Self {
        Self::with(chain, count, |_| {})
    }

    pub fn with(chain: FakeChain, count: usize, change: impl Fn(&mut WalletOptions)) -> Self {
        let chain = Arc::new(chain);
        let hub = Hub::new();
        let identities: Vec<Identity> = (0..count).map(|_| Identity::generate()).collect();
        let nodes = identities
            .iter()
            .map(|identity| {
                let dir = tempfile::tempdir().unwrap();
                let mut options = options(dir.path(), identity.clone());
                options.networked = true;
                change(&mut options);
                options.cosigners = identities
                    .iter()
                    .filter(|other| other.public_key() != identity.public_key())
                    .map(|other| MemberId(other.public_key()))
                    .collect();
                Node::start(&chain, dir, options, Some(&hub))
            })
            .collect();
        Self { chain, hub, nodes }
    }

    pub async fn shutdown(self) {
        for node in &self.nodes {
            node.manager.shutdown().await;
        }
    }
}

/// Mines to an address of each type, and 100 blocks on top.
pub async fn fund(chain: &FakeChain, wallet: &Arc<dyn WalletHandle>) {
    for kind in AddressType::ALL {
        let address = wallet.new_address("", kind).await.unwrap();
        chain.mine(&address.script_pubkey());
    }
    let nowhere = ScriptBuf::new_op_return([]);
    for _ in 0..100 {
        chain.mine(&nowhere);
    }
    wallet.synced().await.unwrap();
}

pub fn payment(script: ScriptBuf, amount: Amount) -> SpendRequest {
    SpendRequest { recipients: vec![Recipient { script, amount, subtract_fee: false }], ..SpendRequest::default() }
}

pub async fn send(wallet: &Arc<dyn WalletHandle>, amount: Amount) -> Result<Txid, RpcError> {
    let script = ScriptBuf::new_p2wpkh(&bitcoin::WPubkeyHash::from_raw_hash(bitcoin::hashes::Hash::all_zeros()));
    Ok(wallet.send(&payment(script, amount), &SendNote::default()).await?.txid)
}
