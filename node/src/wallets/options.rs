//! What the configuration says about wallets: `-wallet`, `-walletdir`, fees, address types, the co-signers.
//!
//! Names, defaults and texts are Core's (`wallet/init.cpp`, `wallet/load.cpp`, `wallet/wallet.cpp`).

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bitcoin::{Amount, Denomination};
use keyless_kernel::Args;
use keyless_p2p::cosigners::{Identity, public_key_of};
use tss_wallet::MemberId;
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::wallet::spend::fees::FeeRate;

use crate::cosigner_options::CosignerOptions;
use crate::quorum::devquorum::Devquorum;

/// Core's defaults, in satoshi a kvB.
const DEFAULT_MIN_FEE: FeeRate = FeeRate(1_000);
const DEFAULT_DISCARD_FEE: FeeRate = FeeRate(10_000);
const DEFAULT_CONSOLIDATE_FEE: FeeRate = FeeRate(10_000);
const DEFAULT_MAX_TX_FEE: Amount = Amount::from_sat(10_000_000);
/// Above it Core warns.
const HIGH_TX_FEE_PER_KVB: u64 = 1_000_000;
const HIGH_APS_FEE: u64 = 10_000;
const DEFAULT_CONFIRM_TARGET: u32 = 6;
const DEFAULT_KEYPOOL: u32 = 1_000;
/// Addresses of each chain that are leased ahead unless `-keypool` says otherwise.
const DEFAULT_LEASED: u32 = 20;
const MAX_KEYPOOL: i64 = 10_000;

/// What all wallets of this node are told.
#[derive(Debug, Clone)]
pub struct WalletOptions {
    pub wallets_dir: PathBuf,
    /// Holds the node's seal key and identity.
    pub keyless_dir: PathBuf,
    /// `-wallet`: to be loaded at start.
    pub load: Vec<String>,
    /// `-keypool`: scripts watched ahead.
    pub keypool: u32,
    /// Addresses of each chain leased ahead.
    pub leased: u32,
    pub address_type: AddressType,
    pub change_type: Option<AddressType>,
    pub signal_rbf: bool,
    /// `-walletrejectlongchains`.
    pub reject_long_chains: bool,
    /// `-walletnotify`.
    pub notify: Option<String>,
    pub broadcast: bool,
    pub spend_zero_conf_change: bool,
    pub avoid_partial_spends: bool,
    pub confirm_target: u32,
    /// `None`: `-fallbackfee` is 0.
    pub fallback_fee: Option<FeeRate>,
    pub min_fee: FeeRate,
    pub discard_fee: FeeRate,
    pub consolidate_fee: FeeRate,
    pub dust_relay_fee: FeeRate,
    pub max_tx_fee: Amount,
    /// `-maxapsfee`: what a payment may cost more to spend all coins of an address together; `None` never to try.
    pub max_aps_fee: Option<Amount>,
    pub identity: Identity,
    /// The allow-list, from `-cosigner`.
    pub cosigners: Vec<MemberId>,
    /// A network of co-signers is configured.
    pub networked: bool,
    pub threshold: Option<u8>,
    pub devquorum: Option<Devquorum>,
    pub signing_timeout: Duration,
    pub experimental_tss: bool,
    /// `-refreshinterval`.
    pub refresh_interval: Option<Duration>,
    /// `-repairshares`.
    pub repair_shares: bool,
}

impl WalletOptions {
    /// Reads all options; the error is a text for the user.
    pub fn read(args: &Args, cosigning: &CosignerOptions) -> Result<Self, String> {
        let net_dir = args.datadir_net();
        let keypool = args.get_int("-keypool").map(|size| size.clamp(1, MAX_KEYPOOL));
        let keypool = keypool.and_then(|size| u32::try_from(size).ok());
        let fallback_fee = fee_option(args, "-fallbackfee", FeeRate(0))?;
        if fallback_fee.0 > HIGH_TX_FEE_PER_KVB {
            args.init_warning(
                "-fallbackfee is set very high! This is the transaction fee you may pay when fee estimates are not available.",
            );
        }
        let min_fee = fee_option(args, "-mintxfee", DEFAULT_MIN_FEE)?;
        if min_fee.0 > HIGH_TX_FEE_PER_KVB {
            args.init_warning(
                "-mintxfee is set very high! This is the minimum transaction fee you pay on every transaction.",
            );
        }
        if args.is_set("-walletrbf") {
            args.init_warning("-walletrbf is deprecated and will be fully removed in the next release.");
        }
        let target = args.get_int("-txconfirmtarget").and_then(|target| u32::try_from(target).ok());
        Ok(Self {
            wallets_dir: wallets_dir(args)?,
            keyless_dir: net_dir.join("indexes").join("keyless"),
            load: if args.is_negated("-wallet") { Vec::new() } else { args.get_all("-wallet") },
            keypool: keypool.unwrap_or(DEFAULT_KEYPOOL),
            leased: keypool.unwrap_or(DEFAULT_LEASED),
            address_type: address_type(args, "-addresstype")?.unwrap_or(AddressType::Bech32),
            change_type: address_type(args, "-changetype")?,
            signal_rbf: args.get_bool("-walletrbf", true),
            reject_long_chains: args.get_bool("-walletrejectlongchains", true),
            notify: args.get("-walletnotify").filter(|command| !command.is_empty()),
            broadcast: args.get_bool("-walletbroadcast", true),
            spend_zero_conf_change: args.get_bool("-spendzeroconfchange", true),
            avoid_partial_spends: args.get_bool("-avoidpartialspends", false),
            confirm_target: target.unwrap_or(DEFAULT_CONFIRM_TARGET),
            fallback_fee: (fallback_fee.0 > 0).then_some(fallback_fee),
            min_fee,
            discard_fee: fee_option(args, "-discardfee", DEFAULT_DISCARD_FEE)?,
            consolidate_fee: fee_option(args, "-consolidatefeerate", DEFAULT_CONSOLIDATE_FEE)?,
            dust_relay_fee: fee_option(args, "-dustrelayfee", FeeRate(3_000))?,
            max_tx_fee: max_tx_fee(args)?,
            max_aps_fee: max_aps_fee(args)?,
            identity: cosigning.identity.clone(),
            cosigners: cosigners(cosigning),
            networked: cosigning.network.is_some(),
            threshold: cosigning.threshold,
            devquorum: cosigning
                .dev_quorum
                .map(|quorum| Devquorum { threshold: quorum.threshold, members: quorum.members }),
            signing_timeout: cosigning.signing_timeout,
            experimental_tss: cosigning.experimental_tss,
            refresh_interval: cosigning.refresh_interval,
            repair_shares: cosigning.repair_shares,
        })
    }

    pub fn wallet_dir(&self, name: &str) -> PathBuf {
        self.wallets_dir.join(name)
    }
}

fn cosigners(cosigning: &CosignerOptions) -> Vec<MemberId> {
    let members = cosigning.network.iter().flat_map(|network| &network.members);
    members.filter_map(|member| public_key_of(&member.peer).map(MemberId)).collect()
}

fn wallets_dir(args: &Args) -> Result<PathBuf, String> {
    let Some(text) = args.get("-walletdir").filter(|text| !text.is_empty()) else {
        return Ok(args.datadir_net().join("wallets"));
    };
    let dir = PathBuf::from(&text);
    if !dir.exists() {
        return Err(format!("Specified -walletdir \"{text}\" does not exist"));
    }
    if !dir.is_dir() {
        return Err(format!("Specified -walletdir \"{text}\" is not a directory"));
    }
    if !dir.is_absolute() {
        return Err(format!("Specified -walletdir \"{text}\" is a relative path"));
    }
    Ok(dir)
}

fn amount_option(args: &Args, name: &str) -> Result<Option<Amount>, String> {
    let Some(text) = args.get(name).filter(|_| args.is_set(name)) else { return Ok(None) };
    let parsed = Amount::from_str_in(text.trim(), Denomination::Bitcoin);
    parsed.map(Some).map_err(|_| format!("Invalid amount for {name}=<amount>: '{text}'"))
}

fn fee_option(args: &Args, name: &str, default: FeeRate) -> Result<FeeRate, String> {
    Ok(amount_option(args, name)?.map_or(default, |amount| FeeRate(amount.to_sat())))
}

fn max_aps_fee(args: &Args) -> Result<Option<Amount>, String> {
    // Core takes -1 for "never".
    if args.get("-maxapsfee").is_some_and(|text| text.trim() == "-1") {
        return Ok(None);
    }
    let fee = amount_option(args, "-maxapsfee")?.unwrap_or(Amount::ZERO);
    if fee.to_sat() > HIGH_APS_FEE {
        args.init_warning(
            "-maxapsfee is set very high! This is the maximum transaction fee you pay (in addition to the normal fee) to \
             prioritize partial spend avoidance over regular coin selection.",
        );
    }
    Ok(Some(fee))
}

fn max_tx_fee(args: &Args) -> Result<Amount, String> {
    let Some(fee) = amount_option(args, "-maxtxfee")? else { return Ok(DEFAULT_MAX_TX_FEE) };
    if fee.to_sat() > 100_000_000 {
        args.init_warning("-maxtxfee is set very high! Fees this large could be paid on a single transaction.");
    }
    Ok(fee)
}

fn address_type(args: &Args, name: &str) -> Result<Option<AddressType>, String> {
    let Some(text) = args.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let kind = if name == "-changetype" { "change" } else { "address" };
    AddressType::from_str(&text).map(Some).map_err(|_| format!("Unknown {kind} type '{text}'"))
}
