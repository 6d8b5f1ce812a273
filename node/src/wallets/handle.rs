//! One loaded wallet as RPC sees it. Whatever waits runs on a blocking thread; nothing is held over an `await`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bitcoin::{Address, Amount, BlockHash, OutPoint, Psbt, Script, Transaction, Txid};
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::{
    Ancestry, BumpRequest, Bumped, Encryption, FeeChoice, FeeRate, FeeReason, Funded, Import, Imports, Ledger, PrevOut,
    ProcessedPsbt, PsbtOptions, QuorumInfo, Redealt, Rescanned, Result, Scanning, SendNote, Sent, SighashType,
    SignedTransaction, SigningSession, SpendRequest, WalletHandle, WalletSettings,
};
use tss_wallet::wallet::feed::AbandonError;
use tss_wallet::wallet::keychain::{AddressType, ChainId};
use tss_wallet::wallet::spend::fees::FeeRate as Rate;

use super::loaded::{Keys, Loaded, Quorum, storage_error};
use super::{fees, info};

/// What RPC holds of a wallet.
pub struct Handle(pub(super) Arc<Loaded>);

/// Runs blocking work and waits for it.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(RpcError::internal(format!("the wallet's work ended early: {error}"))),
    }
}

impl Handle {
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Loaded>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let loaded = Arc::clone(&self.0);
        blocking(move || work(&loaded)).await
    }
}

#[async_trait]
impl WalletHandle for Handle {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn settings(&self) -> WalletSettings {
        let devquorum = match self.0.keys() {
            Some(Keys { quorum: Quorum::Embedded(embedded), .. }) => {
                let quorum = embedded.devquorum();
                Some((u16::from(quorum.threshold), u16::from(quorum.members)))
            }
            _ => None,
        };
        let (kind, avoid_reuse) = {
            let wallet = self.0.wallet();
            (wallet.kind(), wallet.avoid_reuse())
        };
        WalletSettings {
            private_keys_enabled: !kind.watch_only,
            avoid_reuse,
            blank: kind.blank,
            keypool_size: self.0.options.keypool,
            address_type: self.0.options.address_type,
            change_type: self.0.options.change_type,
            signal_rbf: self.0.options.signal_rbf,
            max_tx_fee: self.0.options.max_tx_fee,
            dust_relay_rate: FeeRate { sat_per_kvb: self.0.options.dust_relay_fee.0 },
            psbt_version: self.0.options.psbt_version,
            devquorum,
        }
    }

    fn encryption(&self) -> Encryption {
        self.0.encryption()
    }

    fn scanning(&self) -> Option<Scanning> {
        self.0.scanning()
    }

    async fn synced(&self) -> Result<()> {
        let tip = self.0.chain.tip();
        let current = self.0.wallet().tip().is_some_and(|mine| mine.hash == tip.hash);
        if current && self.0.feed.is_settled() {
            return Ok(());
        }
        self.run(|loaded| {
            loaded.sync();
            Ok(())
        })
        .await
    }

    fn read(&self, f: &mut dyn FnMut(&dyn Ledger)) {
        f(&*self.0.wallet());
    }

    async fn new_address(&self, label: &str, address_type: AddressType) -> Result<Address> {
        let label = label.to_owned();
        self.run(move |loaded| loaded.take_address(&label, address_type)).await
    }

    async fn change_address(&self, address_type: AddressType) -> Result<Address> {
        self.run(move |loaded| loaded.take_change_address(address_type)).await
    }

    async fn set_avoid_reuse(&self, value: bool) -> Result<()> {
        self.run(move |loaded| loaded.wallet().set_avoid_reuse(value).map(|_| ()).map_err(storage_error)).await
    }

    async fn set_label(&self, script: &Script, label: &str) -> Result<()> {
        let (script, label) = (script.to_owned(), label.to_owned());
        self.run(move |loaded| {
            loaded.wallet().set_address_label(&script, &label).map_err(storage_error)?;
            loaded.share_label(&script, &label);
            Ok(())
        })
        .await
    }

    async fn keypool_refill(&self, size: Option<u32>) -> Result<()> {
        self.run(move |loaded| loaded.fill(ChainId::all(), size.unwrap_or(loaded.options.leased))).await
    }

    async fn lock_coins(&self, coins: &[OutPoint], persistent: bool) -> Result<()> {
        let coins = coins.to_vec();
        self.run(move |loaded| {
            let mut wallet = loaded.wallet();
            coins.iter().try_for_each(|coin| wallet.lock_coin(*coin, persistent)).map_err(storage_error)
        })
        .await
    }

    async fn unlock_coins(&self, coins: Option<&[OutPoint]>) -> Result<()> {
        let coins = coins.map(<[OutPoint]>::to_vec);
        self.run(move |loaded| {
            let mut wallet = loaded.wallet();
            match coins {
                None => wallet.unlock_all_coins(),
                Some(coins) => coins.iter().try_for_each(|coin| wallet.unlock_coin(*coin)),
            }
            .map_err(storage_error)
        })
        .await
    }

    async fn abandon(&self, txid: Txid) -> Result<()> {
        self.run(move |loaded| {
            loaded.wallet().abandon_transaction(txid).map_err(|error| match error {
                AbandonError::Storage(error) => storage_error(error),
                other => RpcError::invalid_address_or_key(other.to_string()),
            })
        })
        .await
    }

    async fn fee_rate(&self, fee: FeeChoice) -> Result<(FeeRate, FeeReason)> {
        self.run(move |loaded| {
            let chosen = fees::choose(&loaded.options, loaded.chain.as_ref(), fee)?;
            Ok((FeeRate { sat_per_kvb: chosen.rate.0 }, chosen.reason))
        })
        .await
    }

    async fn bump_fee(&self, coins: &[OutPoint], rate: FeeRate) -> Result<Amount> {
        let (coins, rate) = (coins.to_vec(), Rate(rate.sat_per_kvb));
        self.run(move |loaded| Ok(loaded.chain.combined_bump_fee(&coins, rate).unwrap_or_default())).await
    }

    async fn fund(&self, request: &SpendRequest) -> Result<Funded> {
        let request = request.clone();
        self.run(move |loaded| loaded.fund_request(&request)).await
    }

    async fn send(&self, request: &SpendRequest, note: &SendNote) -> Result<Sent> {
        let (request, note) = (request.clone(), note.clone());
        self.run(move |loaded| {
            let sent = loaded.send_request(&request, &note).map_err(|error| loaded.explain(error))?;
            loaded.refill_soon();
            Ok(sent)
        })
        .await
    }

    async fn send_later(&self, request: &SpendRequest, note: &SendNote) -> Result<String> {
        let (request, note) = (request.clone(), SendNote { detached: true, ..note.clone() });
        self.run(move |loaded| loaded.send_later(request, note)).await
    }

    async fn bump(&self, request: &BumpRequest, draft: bool) -> Result<Bumped> {
        let request = request.clone();
        self.run(move |loaded| {
            let bumped = loaded.bump(&request, draft).map_err(|error| loaded.explain(error))?;
            loaded.refill_soon();
            Ok(bumped)
        })
        .await
    }

    async fn commit(&self, tx: Transaction, note: &SendNote) -> Result<Txid> {
        let note = note.clone();
        self.run(move |loaded| loaded.commit_signed(&tx, &note)).await
    }

    async fn sign_transaction(
        &self,
        tx: Transaction,
        prevouts: &[PrevOut],
        sighash: SighashType,
    ) -> Result<SignedTransaction> {
        let prevouts = prevouts.to_vec();
        self.run(move |loaded| loaded.sign_raw(tx, &prevouts, sighash)).await
    }

    async fn process_psbt(&self, psbt: Psbt, options: PsbtOptions) -> Result<ProcessedPsbt> {
        self.run(move |loaded| loaded.process(psbt, options)).await
    }

    async fn sign_message(&self, script: &Script, message: &str) -> Result<String> {
        let (script, message) = (script.to_owned(), message.to_owned());
        self.run(move |loaded| loaded.sign_text(&script, &message)).await
    }

    async fn import(&self, request: Import) -> Result<Imports> {
        self.run(move |loaded| loaded.import_descriptor(request)).await
    }

    async fn rescan_from(&self, time: u64) -> Result<u64> {
        self.run(move |loaded| loaded.rescan_time(time)).await
    }

    async fn encrypt(&self, passphrase: &str) -> Result<()> {
        let passphrase = passphrase.to_owned();
        self.run(move |loaded| loaded.encrypt(&passphrase)).await
    }

    async fn unlock(&self, passphrase: &str, seconds: i64) -> Result<()> {
        let passphrase = passphrase.to_owned();
        self.run(move |loaded| loaded.unlock(&passphrase, seconds)).await
    }

    async fn lock(&self) -> Result<()> {
        self.0.lock_turn(None);
        Ok(())
    }

    async fn change_passphrase(&self, old: &str, new: &str) -> Result<()> {
        let (old, new) = (old.to_owned(), new.to_owned());
        self.run(move |loaded| loaded.change_passphrase(&old, &new)).await
    }

    async fn import_proven(&self, tx: Transaction, block: BlockHash, index: Option<u32>) -> Result<()> {
        self.run(move |loaded| loaded.import_proven(&tx, block, index)).await
    }

    async fn forget(&self, txid: Txid) -> Result<()> {
        self.run(move |loaded| {
            if loaded.wallet().remove_transaction(&txid).map_err(storage_error)? {
                return Ok(());
            }
            Err(RpcError::wallet(format!("Transaction {txid} does not belong to this wallet")))
        })
        .await
    }

    async fn export_watch_only(&self, destination: &Path) -> Result<()> {
        let destination = destination.to_owned();
        self.run(move |loaded| loaded.export(&destination)).await
    }

    async fn backup(&self, destination: &Path) -> Result<()> {
        let destination = destination.to_owned();
        self.run(move |loaded| {
            let place = loaded.options.place(&loaded.name);
            loaded.back_up(&place, &destination).map_err(|error| {
                tracing::error!(wallet = loaded.name, %error, "the wallet could not be copied");
                RpcError::wallet("Error: Wallet backup failed!")
            })
        })
        .await
    }

    async fn rescan(&self, start: u32, stop: Option<u32>) -> Result<Rescanned> {
        self.run(move |loaded| loaded.rescan_blocks(start, stop)).await
    }

    fn abort_rescan(&self) -> bool {
        let running = self.0.rescan.running.load(Ordering::Acquire);
        if running {
            self.0.rescan.abort.store(true, Ordering::Release);
        }
        running
    }

    fn ancestry(&self, txid: &Txid) -> Option<Ancestry> {
        let ancestry = self.0.chain.mempool_ancestry(txid)?;
        Some(Ancestry { count: ancestry.count, size_vbytes: ancestry.size_vbytes, fees: ancestry.fees })
    }

    async fn quorum(&self) -> Result<Option<QuorumInfo>> {
        Ok(self.0.keys().map(|keys| info::quorum(&self.0, &keys)))
    }

    async fn refresh_shares(&self) -> Result<Redealt> {
        self.run(|loaded| loaded.refresh()).await
    }

    async fn reshare(&self, threshold: u16, members: &[String]) -> Result<Redealt> {
        let members = members.to_vec();
        self.run(move |loaded| loaded.reshare(threshold, &members)).await
    }

    async fn suspend(&self, peerid: &str, reason: Option<&str>) -> Result<()> {
        let (peerid, reason) = (peerid.to_owned(), reason.map(str::to_owned));
        self.run(move |loaded| loaded.suspend(&peerid, reason.as_deref())).await
    }

    fn signing_sessions(&self) -> Vec<SigningSession> {
        let mut rows = self.0.keys().map(|keys| info::sessions(&keys)).unwrap_or_default();
        rows.extend(self.0.detached_sessions());
        rows
    }
}
