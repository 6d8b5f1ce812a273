//! What RPC asks of the set of wallets.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bitcoin::Network;
use keyless_p2p::cosigners::{Carrier, fingerprint};
use keyless_rpc::wallet::backend::{
    BackupCheck, Cosigner, CosignerInfo, CreateWallet, Loaded as LoadedName, Redealt, Result, WalletHandle,
    WalletOnDisk, Wallets,
};

use super::{WalletManager, locked};
use crate::quorum::wire::PROTOCOL_VERSION;
use crate::wallets::handle::{Handle, blocking};
use crate::wallets::{info, names};

#[async_trait]
impl Wallets for WalletManager {
    fn network(&self) -> Network {
        self.chain.network()
    }

    async fn create(&self, request: CreateWallet) -> Result<LoadedName> {
        let this = self.arc()?;
        blocking(move || this.create_now(&request)).await
    }

    async fn load(&self, name: &str, load_on_startup: Option<bool>) -> Result<LoadedName> {
        let (this, name) = (self.arc()?, name.to_owned());
        blocking(move || {
            let mut loaded = this.load_now(&name)?;
            this.set_startup(&name, load_on_startup, &mut loaded.warnings);
            Ok(loaded)
        })
        .await
    }

    async fn unload(&self, name: &str, load_on_startup: Option<bool>) -> Result<LoadedName> {
        let (this, name) = (self.arc()?, name.to_owned());
        blocking(move || {
            this.unload_now(&name)?;
            let mut unloaded = LoadedName { name: name.clone(), warnings: Vec::new() };
            this.set_startup(&name, load_on_startup, &mut unloaded.warnings);
            Ok(unloaded)
        })
        .await
    }

    async fn restore(&self, name: &str, file: &Path, load_on_startup: Option<bool>, force: bool) -> Result<LoadedName> {
        let (this, name, file) = (self.arc()?, name.to_owned(), file.to_owned());
        blocking(move || {
            let mut loaded = this.restore_now(&name, &file, force)?;
            this.set_startup(&name, load_on_startup, &mut loaded.warnings);
            Ok(loaded)
        })
        .await
    }

    fn list(&self) -> Vec<String> {
        locked(&self.loaded).iter().map(|wallet| wallet.name.clone()).collect()
    }

    async fn list_dir(&self) -> Result<Vec<WalletOnDisk>> {
        let this = self.arc()?;
        blocking(move || {
            let names = names::list(this.options.wallets_dir());
            Ok(names.into_iter().map(|name| WalletOnDisk { name, warnings: Vec::new() }).collect())
        })
        .await
    }

    fn get(&self, name: &str) -> Option<Arc<dyn WalletHandle>> {
        self.loaded(name).map(|wallet| Arc::new(Handle(wallet)) as Arc<dyn WalletHandle>)
    }

    async fn repair_share(&self, name: &str) -> Result<Redealt> {
        let (this, name) = (self.arc()?, name.to_owned());
        blocking(move || this.repair(&name)).await
    }

    async fn verify_backup(&self, file: &Path, passphrase: Option<&str>) -> Result<BackupCheck> {
        let (this, file, passphrase) = (self.arc()?, file.to_owned(), passphrase.map(str::to_owned));
        blocking(move || this.check_backup(&file, passphrase.as_deref())).await
    }

    async fn delete_share(&self, name: &str, force: bool) -> Result<()> {
        let (this, name) = (self.arc()?, name.to_owned());
        blocking(move || this.delete_now(&name, force)).await
    }

    fn cosigner_info(&self) -> Result<CosignerInfo> {
        let identity = &self.options.identity;
        let peer = identity.peer_id();
        let addresses = self.network.get().map(|network| network.listen_addresses()).unwrap_or_default();
        Ok(CosignerInfo {
            peerid: peer.to_string(),
            fingerprint: fingerprint(identity.public_key()),
            addresses: addresses.iter().map(|address| format!("{address}/p2p/{peer}")).collect(),
            protocol_version: PROTOCOL_VERSION,
            network: self.chain.network().to_core_arg().to_owned(),
        })
    }

    async fn cosigners(&self) -> Result<Vec<Cosigner>> {
        Ok(self.core.get().map(|core| info::cosigners(core)).unwrap_or_default())
    }
}
