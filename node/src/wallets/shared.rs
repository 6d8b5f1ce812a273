//! What a wallet tells the other members of its quorum, and what it takes from them.

use bitcoin::{OutPoint, Script, Transaction};
use tss_wallet::wallet::keychain::{Branch, KeyId};

use super::loaded::{Keys, Loaded, Quorum};
use crate::quorum::sharing::{self, AddressLabel};

impl Loaded {
    /// Asks the other members what was said while this wallet was closed.
    pub(super) fn ask_news(&self) {
        if let Some(Keys { holding, quorum: Quorum::Network(core) }) = self.keys() {
            sharing::ask(&core, &holding);
        }
    }

    /// Tells the other members of a transaction that is in the mempool.
    pub(super) fn announce(&self, tx: &Transaction) {
        if let Some(Keys { holding, quorum: Quorum::Network(core) }) = self.keys() {
            sharing::announce(&core, &holding, tx);
        }
    }

    /// The transaction that spends a coin and may still confirm.
    pub(super) fn spender(&self, coin: &OutPoint) -> Option<Transaction> {
        let wallet = self.wallet();
        let spender = wallet.ledger().spenders(*coin).find(|record| record.is_live())?;
        Some(spender.tx.as_ref().clone())
    }

    /// Transactions in the mempool, in the order in which they came.
    pub(super) fn unconfirmed(&self) -> Vec<Transaction> {
        let wallet = self.wallet();
        wallet
            .ledger()
            .ordered()
            .filter(|record| record.in_mempool())
            .map(|record| record.tx.as_ref().clone())
            .collect()
    }

    /// What receiving addresses are called.
    pub(super) fn labels(&self) -> Vec<AddressLabel> {
        let wallet = self.wallet();
        let named = wallet.address_book().labelled().filter_map(|(script, entry)| {
            let key = wallet.key_info(script)?.id;
            Some(AddressLabel { key, label: entry.label.clone().filter(|_| is_receiving(key))? })
        });
        named.collect()
    }

    /// Another member says what addresses are called. With `fill`, what has a label here keeps it.
    pub(super) fn labelled(&self, labels: &[AddressLabel], fill: bool) {
        let mut wallet = self.wallet();
        for AddressLabel { key, label } in labels.iter().filter(|label| is_receiving(label.key)) {
            if let Err(error) = wallet.label_key(*key, label, !fill) {
                tracing::error!(wallet = self.name, %error, "another member's label could not be noted");
                return;
            }
        }
    }

    /// Tells the other members what an address of this wallet is called.
    pub(super) fn share_label(&self, script: &Script, label: &str) {
        let Some(Keys { holding, quorum: Quorum::Network(core) }) = self.keys() else { return };
        let Some(key) = self.wallet().key_info(script).map(|info| info.id) else { return };
        if is_receiving(key) {
            sharing::label(&core, &holding, AddressLabel { key, label: label.to_owned() });
        }
    }
}

fn is_receiving(key: KeyId) -> bool {
    key.chain.branch == Branch::External
}
