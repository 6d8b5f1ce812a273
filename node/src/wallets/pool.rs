//! The pool of addresses that the quorum confirmed: filled ahead, and when it is empty.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::Address;
use keyless_rpc::error::{RpcError, code};
use tss_wallet::wallet::addresses::AddressError;
use tss_wallet::wallet::keychain::{AddressType, Branch, ChainId};

use super::loaded::{Loaded, storage_error};
use crate::quorum::{QuorumError, lease};

/// Leased of each chain when a wallet is made: enough to begin with, and quick.
const FIRST_LEASE: u32 = 10;

/// Scripts derived while the wallet is held.
const WATCHED_AT_ONCE: usize = 50;

/// Core's code and text for a pool that cannot be filled, with the reason.
fn ran_out(error: &QuorumError) -> RpcError {
    let text = format!("Error: Keypool ran out, please call keypoolrefill first ({error})");
    RpcError::new(code::RPC_WALLET_KEYPOOL_RAN_OUT, text)
}

impl Loaded {
    /// Leases until each chain has `size` addresses ready. Blocks.
    pub(super) fn fill(&self, chains: impl IntoIterator<Item = ChainId>, size: u32) -> Result<(), RpcError> {
        let keys = self.signing_keys()?;
        let _one_at_a_time = self.leasing.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<(ChainId, u32)> = {
            let wallet = self.wallet();
            chains
                .into_iter()
                .filter_map(|chain| {
                    let missing = size.saturating_sub(wallet.pool_available(chain));
                    (missing > 0).then_some((chain, missing))
                })
                .collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let ranges = lease::lease(keys.quorum.core(), &keys.holding, &missing).map_err(|error| ran_out(&error))?;
        let leased: Vec<_> = ranges
            .into_iter()
            .map(|range| (range.chain, range.first..range.first.saturating_add(range.count)))
            .collect();
        self.wallet().pools_confirmed(&leased).map_err(storage_error)
    }

    /// A first few addresses of every chain.
    pub(super) fn first_fill(&self) -> Result<(), RpcError> {
        self.fill(ChainId::all(), FIRST_LEASE.min(self.options.leased))
    }

    /// Watches the rest of the look-ahead. Blocks; others get at the wallet meanwhile.
    pub(super) fn watch_ahead(&self) {
        loop {
            let done = self.wallet().top_up(WATCHED_AT_ONCE);
            if done || self.closed.load(Ordering::Relaxed) {
                break;
            }
        }
    }

    /// The same in the background. Ends by itself, when the wallet is closed at the latest.
    pub(super) fn watch_ahead_soon(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.watch_ahead());
    }

    /// Fills the pool in the background when it is half empty.
    pub(super) fn refill_soon(self: &Arc<Self>) {
        let target = self.options.leased;
        if self.keys().is_none() {
            return;
        }
        let low = {
            let wallet = self.wallet();
            ChainId::all().any(|chain| wallet.pool_available(chain) < target.div_ceil(2))
        };
        if !low || self.closed.load(Ordering::Relaxed) || self.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        // Ends by itself: a lease has deadlines. The thread is the pool's, nobody needs its result.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = this.fill(ChainId::all(), target) {
                tracing::warn!(wallet = this.name, error = error.message, "the address pool could not be filled");
            }
            this.refilling.store(false, Ordering::Release);
        });
    }

    /// Waits for the end of a refill of a wallet that is closed. Blocks.
    pub(super) fn await_refill(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.refilling.load(Ordering::Acquire) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn with_pool<T>(
        self: &Arc<Self>,
        chain: ChainId,
        mut take: impl FnMut(&mut tss_wallet::wallet::Wallet) -> Result<T, AddressError>,
    ) -> Result<T, RpcError> {
        for _ in 0..3 {
            let taken = take(&mut self.wallet());
            match taken {
                Ok(taken) => {
                    self.refill_soon();
                    return Ok(taken);
                }
                Err(AddressError::PoolEmpty(_)) => self.fill([chain], self.options.leased.max(1))?,
                Err(AddressError::Storage(error)) => return Err(storage_error(error)),
                Err(error) => return Err(RpcError::new(code::RPC_WALLET_KEYPOOL_RAN_OUT, error.to_string())),
            }
        }
        Err(RpcError::new(code::RPC_WALLET_KEYPOOL_RAN_OUT, AddressError::PoolEmpty(chain).to_string()))
    }

    /// Hands out a receiving address. Blocks where the pool is empty.
    pub(super) fn take_address(self: &Arc<Self>, label: &str, kind: AddressType) -> Result<Address, RpcError> {
        if self.keys().is_none() {
            return self.take_imported(kind, false, Some(label));
        }
        let chain = ChainId::new(kind, Branch::External);
        let reserved = self.with_pool(chain, |wallet| wallet.new_address(label, kind))?;
        self.share_label(&reserved.key.script, label);
        Ok(reserved.address)
    }

    /// Hands out a change address.
    pub(super) fn take_change_address(self: &Arc<Self>, kind: AddressType) -> Result<Address, RpcError> {
        if self.keys().is_none() {
            return self.take_imported(kind, true, None);
        }
        let chain = ChainId::new(kind, Branch::Change);
        self.with_pool(chain, |wallet| wallet.change_address(kind)).map(|reserved| reserved.address)
    }

    /// The next address of an active descriptor that was imported.
    fn take_imported(&self, kind: AddressType, change: bool, label: Option<&str>) -> Result<Address, RpcError> {
        let taken = self.wallet().take_imported(kind, change, label).map_err(storage_error)?;
        let address = taken.and_then(|script| Address::from_script(&script, self.chain.network()).ok());
        address
            .ok_or_else(|| RpcError::new(code::RPC_WALLET_KEYPOOL_RAN_OUT, AddressError::NoAddresses(kind).to_string()))
    }

    /// Makes sure that a change address of a type is ready, if that can be.
    pub(super) fn ensure_change(&self, kind: AddressType) -> Result<(), RpcError> {
        let chain = ChainId::new(kind, Branch::Change);
        if self.keys().is_none() || self.wallet().pool_available(chain) > 0 {
            return Ok(());
        }
        self.fill([chain], self.options.leased.max(1))
    }
}
