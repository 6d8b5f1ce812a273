//! What the configuration says about wallets: `-wallet`, `-walletdir`, fees, address types, the co-signers.
//!
//! Names, defaults and texts are Core's (`wallet/init.cpp`, `wallet/load.cpp`, `wallet/wallet.cpp`).

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bitcoin::{Amount, Denomination, Network};
use keyless_kernel::Args;
use keyless_p2p::cosigners::{Identity, public_key_of};
use keyless_rpc::wallet::backend::PsbtVersion;
use tss_wallet::MemberId;
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::wallet::spend::fees::FeeRate;
use tss_wallet::wallet::spend::mempool::ChainLimits;

use super::container::Place;
use crate::alerts::Alerts;
use crate::cosigner_options::CosignerOptions;
use crate::quorum::devquorum::Devquorum;
use crate::quorum::holding;

/// Core's defaults, in satoshi a kvB.
const DEFAULT_MIN_FEE: FeeRate = FeeRate(1_000);
const DEFAULT_MIN_RELAY_FEE: FeeRate = FeeRate(100);
const REGTEST_FALLBACK_FEE: FeeRate = FeeRate(20_000);
const DEFAULT_DISCARD_FEE: FeeRate = FeeRate(10_000);
const DEFAULT_CONSOLIDATE_FEE: FeeRate = FeeRate(10_000);
const DEFAULT_MAX_TX_FEE: Amount = Amount::from_sat(10_000_000);
/// Above these Core warns.
const HIGH_TX_FEE_PER_KVB: u64 = 1_000_000;
const HIGH_APS_FEE: Amount = Amount::from_sat(10_000);
const HIGH_MAX_TX_FEE: Amount = Amount::ONE_BTC;
const MIN_FEE_HIGH: &str =
    "-mintxfee is set very high! This is the minimum transaction fee you pay on every transaction.";
const APS_FEE_HIGH: &str = "-maxapsfee is set very high! This is the maximum transaction fee you pay (in addition to the \
    normal fee) to prioritize partial spend avoidance over regular coin selection.";
const FALLBACK_FEE_HIGH: &str = "-fallbackfee is set very high! This is the transaction fee you may pay when fee \
    estimates are not available.";
const DISCARD_FEE_HIGH: &str = "-discardfee is set very high! This is the transaction fee you may discard if change is \
    smaller than dust at this level";
const MAX_TX_FEE_HIGH: &str = "-maxtxfee is set very high! Fees this large could be paid on a single transaction.";
const MIN_RELAY_FEE_HIGH: &str =
    "-minrelaytxfee is set very high! The wallet will avoid paying less than the minimum relay fee.";
const WALLETRBF_DEPRECATED: &str = "-walletrbf is deprecated and will be fully removed in the next release.";
const DEFAULT_CONFIRM_TARGET: u32 = 6;
const DEFAULT_KEYPOOL: u32 = 1_000;
/// Addresses of each chain that are leased ahead unless `-keypool` says otherwise.
const DEFAULT_LEASED: u32 = 20;
const MAX_KEYPOOL: i64 = 10_000;

/// What all wallets of this node are told.
#[derive(Debug, Clone)]
pub struct WalletOptions {
    pub wallets_dir: PathBuf,
    /// Takes its place while it does not exist, as in Core; none where `-walletdir` names it.
    pub wallets_fallback: Option<PathBuf>,
    /// Holds the node's seal key and identity.
    pub keyless_dir: PathBuf,
    /// `-wallet`: to be loaded at start.
    pub load: Vec<String>,
    /// The wallet without a name is loaded because no list says which are.
    pub unnamed_by_default: bool,
    /// `-keypool`: scripts watched ahead.
    pub keypool: u32,
    /// Addresses of each chain leased ahead.
    pub leased: u32,
    pub address_type: AddressType,
    pub change_type: Option<AddressType>,
    pub signal_rbf: bool,
    /// `-walletpsbtversion`: for calls that name none.
    pub psbt_version: PsbtVersion,
    /// `-walletrejectlongchains`, `-limitancestorcount`, `-limitdescendantcount`.
    pub chain_limits: ChainLimits,
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
    /// Where the operator hears of what waits for approval.
    pub alerts: Alerts,
    /// What Core says of these options each time it opens a wallet, and only then.
    pub warnings: Vec<String>,
}

impl WalletOptions {
    /// Reads all options; the error is a text for the user.
    pub fn read(args: &Args, cosigning: &CosignerOptions) -> Result<Self, String> {
        let net_dir = args.datadir_net();
        let (wallets_dir, wallets_fallback) = wallets_dir(args)?;
        let base = wallets_fallback.as_deref().filter(|_| !wallets_dir.is_dir()).unwrap_or(&wallets_dir);
        let load = to_load(args, base);
        let keypool = args.get_int("-keypool").map(|size| size.clamp(1, MAX_KEYPOOL));
        let keypool = keypool.and_then(|size| u32::try_from(size).ok());
        // On regtest there is never enough data for an estimate, and no money to lose. Whoever wrote a configuration
        // knows Core's defaults, and gets them.
        let unconfigured = args.chain() == Network::Regtest && !args.config_file().exists();
        let default_fee = if unconfigured { REGTEST_FALLBACK_FEE } else { FeeRate(0) };
        let fallback_fee = fee_option(args, "-fallbackfee", default_fee)?;
        if unconfigured && !args.is_set("-fallbackfee") {
            tracing::info!(
                "-fallbackfee is {fallback_fee} unless it is set, on regtest without a configuration file only"
            );
        }
        let min_fee = fee_option(args, "-mintxfee", DEFAULT_MIN_FEE)?;
        let discard_fee = fee_option(args, "-discardfee", DEFAULT_DISCARD_FEE)?;
        let min_relay_fee = fee_option(args, "-minrelaytxfee", DEFAULT_MIN_RELAY_FEE)?;
        let max_tx_fee = max_tx_fee(args, min_relay_fee)?;
        let max_aps_fee = max_aps_fee(args)?;
        let high = |rate: FeeRate| rate.0 > HIGH_TX_FEE_PER_KVB;
        let said = [
            (high(min_fee), MIN_FEE_HIGH),
            (max_aps_fee.is_some_and(|fee| fee > HIGH_APS_FEE), APS_FEE_HIGH),
            (high(fallback_fee), FALLBACK_FEE_HIGH),
            (high(discard_fee), DISCARD_FEE_HIGH),
            (max_tx_fee > HIGH_MAX_TX_FEE, MAX_TX_FEE_HIGH),
            (high(min_relay_fee), MIN_RELAY_FEE_HIGH),
            (args.is_set("-walletrbf"), WALLETRBF_DEPRECATED),
        ];
        let warnings = said.into_iter().filter(|(said, _)| *said).map(|(_, text)| text.to_owned()).collect();
        if args.get_bool("-blocksonly", false) && args.soft_set("-walletbroadcast", "0") {
            tracing::info!("parameter interaction: -blocksonly=1 -> setting -walletbroadcast=0");
        }
        let target = args.get_int("-txconfirmtarget").and_then(|target| u32::try_from(target).ok());
        Ok(Self {
            wallets_dir,
            wallets_fallback,
            keyless_dir: net_dir.join("indexes").join("keyless"),
            unnamed_by_default: !args.is_set("-wallet") && !load.is_empty(),
            load,
            keypool: keypool.unwrap_or(DEFAULT_KEYPOOL),
            leased: keypool.unwrap_or(DEFAULT_LEASED),
            address_type: address_type(args, "-addresstype")?.unwrap_or(AddressType::Bech32),
            change_type: address_type(args, "-changetype")?,
            signal_rbf: args.get_bool("-walletrbf", true),
            psbt_version: psbt_version(args)?,
            chain_limits: chain_limits(args),
            notify: args.get("-walletnotify").filter(|command| !command.is_empty()),
            broadcast: args.get_bool("-walletbroadcast", true),
            spend_zero_conf_change: args.get_bool("-spendzeroconfchange", true),
            avoid_partial_spends: args.get_bool("-avoidpartialspends", false),
            confirm_target: target.unwrap_or(DEFAULT_CONFIRM_TARGET),
            fallback_fee: (fallback_fee.0 > 0).then_some(fallback_fee),
            min_fee,
            discard_fee,
            consolidate_fee: fee_option(args, "-consolidatefeerate", DEFAULT_CONSOLIDATE_FEE)?,
            dust_relay_fee: fee_option(args, "-dustrelayfee", FeeRate(3_000))?,
            max_tx_fee,
            max_aps_fee,
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
            alerts: Alerts::default(),
            warnings,
        })
    }

    /// Where wallets lie now.
    pub fn wallets_dir(&self) -> &Path {
        self.wallets_fallback.as_deref().filter(|_| !self.wallets_dir.is_dir()).unwrap_or(&self.wallets_dir)
    }

    pub(super) fn place(&self, name: &str) -> Place {
        Place::of(self.wallets_dir(), name)
    }

    pub fn wallet_dir(&self, name: &str) -> PathBuf {
        self.place(name).dir
    }
}

fn chain_limits(args: &Args) -> ChainLimits {
    let default = ChainLimits::default();
    let count = |name: &str| args.get_int(name).and_then(|count| u64::try_from(count).ok());
    ChainLimits {
        ancestors: count("-limitancestorcount").unwrap_or(default.ancestors),
        descendants: count("-limitdescendantcount").unwrap_or(default.descendants),
        reject: args.get_bool("-walletrejectlongchains", true),
    }
}

fn cosigners(cosigning: &CosignerOptions) -> Vec<MemberId> {
    let members = cosigning.network.iter().flat_map(|network| &network.members);
    members.filter_map(|member| public_key_of(&member.peer).map(MemberId)).collect()
}

fn wallets_dir(args: &Args) -> Result<(PathBuf, Option<PathBuf>), String> {
    let Some(text) = args.get("-walletdir").filter(|text| !text.is_empty()) else {
        return Ok((args.datadir_net().join("wallets"), Some(args.datadir_net())));
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
    Ok((dir, None))
}

/// The wallets to be loaded at start, each once; those that are not there are named and left out.
fn to_load(args: &Args, wallets: &Path) -> Vec<String> {
    if args.is_negated("-wallet") {
        return Vec::new();
    }
    if !args.is_set("-wallet") {
        // The wallet without a name, if there is one, is loaded unless others are named.
        let unnamed = Place::of(wallets, "");
        return if unnamed.is_packed() || holding::is_complete(&unnamed.dir) {
            vec![String::new()]
        } else {
            Vec::new()
        };
    }
    let mut names: Vec<String> = Vec::new();
    for name in args.get_all("-wallet") {
        let path = wallets.join(&name);
        if names.contains(&name) {
            args.init_warning(&format!("Ignoring duplicate -wallet {name}."));
        } else if path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            args.init_warning(&format!(
                "Skipping -wallet path that doesn't exist. Failed to load database path '{}'. Path does not exist.",
                path.display()
            ));
        } else {
            names.push(name);
        }
    }
    names
}

fn psbt_version(args: &Args) -> Result<PsbtVersion, String> {
    let Some(text) = args.get("-walletpsbtversion") else { return Ok(PsbtVersion::default()) };
    let version = text.parse().ok().and_then(PsbtVersion::numbered);
    version.ok_or_else(|| format!("Invalid -walletpsbtversion value '{text}': use 0 or 2"))
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
    amount_option(args, "-maxapsfee").map(|fee| Some(fee.unwrap_or(Amount::ZERO)))
}

fn max_tx_fee(args: &Args, min_relay_fee: FeeRate) -> Result<Amount, String> {
    let Some(fee) = amount_option(args, "-maxtxfee")? else { return Ok(DEFAULT_MAX_TX_FEE) };
    if fee.to_sat() < min_relay_fee.0 {
        return Err(format!(
            "Invalid amount for -maxtxfee=<amount>: '{}' (must be at least the minrelay fee of {}.{:08} BTC/kvB to \
             prevent stuck transactions)",
            args.get("-maxtxfee").unwrap_or_default(),
            min_relay_fee.0 / Amount::ONE_BTC.to_sat(),
            min_relay_fee.0 % Amount::ONE_BTC.to_sat()
        ));
    }
    Ok(fee)
}

fn address_type(args: &Args, name: &str) -> Result<Option<AddressType>, String> {
    let Some(text) = args.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let kind = if name == "-changetype" { "change" } else { "address" };
    AddressType::from_str(&text).map(Some).map_err(|_| format!("Unknown {kind} type '{text}'"))
}
