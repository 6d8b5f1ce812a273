//! What the co-signer asks of the wallets of its node.

use std::sync::Arc;

use bitcoin::{OutPoint, Transaction};
use tss_wallet::WalletId;

use super::{WalletManager, locked};
use crate::quorum::names::Claim;
use crate::quorum::sharing::AddressLabel;
use crate::quorum::wire::LeaseRange;
use crate::quorum::{Holding, Host};
use crate::wallets::loaded::{Keys, Quorum};

impl Host for WalletManager {
    fn wallet_left(&self, wallet: WalletId) {
        let name = locked(&self.loaded).iter().find(|loaded| loaded.is_of(wallet)).map(|loaded| loaded.name.clone());
        let Some(name) = name else { return };
        match self.unload_now(&name) {
            Ok(()) => {
                let mut warnings = Vec::new();
                self.set_startup(&name, Some(false), &mut warnings);
                tracing::info!(wallet = name, "this node has left the quorum of the wallet; it is unloaded");
            }
            Err(error) => tracing::warn!(wallet = name, error = error.message, "a wallet that was left stays loaded"),
        }
    }

    fn name_is_free(&self, name: &str) -> bool {
        !self.options.wallet_dir(name).exists() && !locked(&self.busy).contains(name)
    }

    fn wallet_made(&self, holding: &Arc<Holding>) {
        let name = holding.name().to_owned();
        let Ok(busy) = self.reserve(&name) else { return };
        let Some(core) = self.core.get() else { return };
        if self.loaded(&name).is_some() {
            return;
        }
        let keys = Keys { quorum: Quorum::Network(Arc::clone(core)), holding: Arc::clone(holding) };
        match self.open_ledger(&name, Arc::clone(holding.db()), Some(keys), None) {
            Ok(_) => {
                let mut warnings = Vec::new();
                self.set_startup(&name, Some(true), &mut warnings);
                for warning in warnings {
                    tracing::warn!(wallet = name, warning);
                }
            }
            Err(error) => tracing::error!(wallet = name, error = error.message, "a new wallet could not be loaded"),
        }
        drop(busy);
        // The others may have gone on without this node while the wallet was being opened.
        if core.holding(&holding.wallet()).is_none() && !core.is_stopping() {
            self.wallet_left(holding.wallet());
        }
    }

    fn payment(&self, wallet: WalletId, claim: &Claim) -> Option<Transaction> {
        self.of_quorum(wallet)?.claimed(claim)
    }

    fn spender(&self, wallet: WalletId, coin: &OutPoint) -> Option<Transaction> {
        self.of_quorum(wallet)?.spender(coin)
    }

    fn unconfirmed(&self, wallet: WalletId) -> Vec<Transaction> {
        self.of_quorum(wallet).map(|loaded| loaded.unconfirmed()).unwrap_or_default()
    }

    fn labels(&self, wallet: WalletId) -> Vec<AddressLabel> {
        self.of_quorum(wallet).map(|loaded| loaded.labels()).unwrap_or_default()
    }

    fn labelled(&self, wallet: WalletId, labels: &[AddressLabel], fill: bool) {
        if let Some(loaded) = self.of_quorum(wallet) {
            loaded.labelled(labels, fill);
        }
    }

    fn leased_elsewhere(&self, wallet: WalletId, ranges: &[LeaseRange]) {
        let Some(loaded) = self.of_quorum(wallet) else { return };
        for range in ranges {
            let end = range.first.saturating_add(range.count);
            if let Err(error) = loaded.wallet().leased_elsewhere(range.chain, range.first..end) {
                tracing::error!(wallet = loaded.name, %error, "another coordinator's addresses could not be noted");
            }
        }
        loaded.watch_ahead();
    }
}
