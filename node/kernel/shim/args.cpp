// Options: Core's ArgsManager with the wallet options Core's dummy wallet would hide, and Keyless's own.
//
// Defines what `dummywallet.cpp`, `bitcoind.cpp` and `init/bitcoind.cpp` define for bitcoind, so that none of those is
// linked.
#include "events.h"
#include "state.h"

#include <bitcoin-build-config.h> // IWYU pragma: keep

#include <chainparams.h>
#include <clientversion.h>
#include <common/args.h>
#include <common/init.h>
#include <common/license_info.h>
#include <common/system.h>
#include <init.h>
#include <interfaces/chain.h>
#include <interfaces/echo.h>
#include <interfaces/init.h>
#include <interfaces/mining.h>
#include <interfaces/wallet.h>
#include <logging.h>
#include <netbase.h>
#include <node/interface_ui.h>
#include <noui.h>
#include <util/fs.h>
#include <util/log.h>
#include <util/strencodings.h>
#include <util/string.h>
#include <util/threadnames.h>
#include <util/translation.h>
#include <walletinitinterface.h>

const TranslateFn G_TRANSLATION_FUN{nullptr};

namespace {

struct Option {
    const char* name;
    const char* help;
    unsigned flags;
};

constexpr unsigned ANY{ArgsManager::ALLOW_ANY};

const Option WALLET_OPTIONS[]{
    {"-addresstype", "What type of addresses to use (\"legacy\", \"p2sh-segwit\", \"bech32\", or \"bech32m\", default: \"bech32\")", ANY},
    {"-avoidpartialspends", "Group outputs by address, selecting many (possibly all) or none (default: 0)", ANY},
    {"-changetype", "What type of change to use (default: matched to the outputs of the transaction)", ANY},
    {"-consolidatefeerate=<amt>", "The maximum feerate (in BTC/kvB) at which transaction building may use more inputs than strictly necessary", ANY},
    {"-disablewallet", "Do not load any wallet, disable wallet RPC calls and open no co-signer socket", ANY},
    {"-discardfee=<amt>", "The fee rate (in BTC/kvB) that indicates your tolerance for discarding change by adding it to the fee", ANY},
    {"-fallbackfee=<amt>", "A fee rate (in BTC/kvB) that will be used when fee estimation has insufficient data. 0 to disable (default: 0)", ANY},
    {"-keypool=<n>", "Number of addresses the quorum confirms ahead, for each account and branch", ANY},
    {"-maxapsfee=<n>", "Spend up to this amount in additional (absolute) fees (in BTC) if it allows the use of partial spend avoidance", ANY},
    {"-maxtxfee=<amt>", "Maximum total fees (in BTC) to use in a single wallet transaction (default: 0.10)", ANY | ArgsManager::DEBUG_ONLY},
    {"-mintxfee=<amt>", "Fee rates (in BTC/kvB) smaller than this are considered zero fee for transaction creation (default: 0.00001)", ANY},
    {"-signer=<cmd>", "External signing tool; refused: a Keyless wallet signs by its quorum", ANY},
    {"-spendzeroconfchange", "Spend unconfirmed change when sending transactions (default: 1)", ANY},
    {"-txconfirmtarget=<n>", "If no fee is set, include enough fee so transactions begin confirmation on average within n blocks (default: 6)", ANY},
    {"-unsafesqlitesync", "Accepted for scripts written for Bitcoin Core; has no effect", ANY | ArgsManager::DEBUG_ONLY},
    {"-wallet=<path>", "Wallet to load at startup. Can be used multiple times to load multiple wallets", ANY | ArgsManager::NETWORK_ONLY},
    {"-walletbroadcast", "Make the wallet broadcast transactions (default: 1)", ANY},
    {"-walletcrosschain", "Allow reusing wallet files across chains (default: 0)", ANY | ArgsManager::DEBUG_ONLY},
    {"-walletdir=<dir>", "Specify directory to hold wallets (default: <datadir>/wallets)", ANY | ArgsManager::NETWORK_ONLY},
    {"-walletnotify=<cmd>", "Execute command when a wallet transaction changes. %s in cmd is replaced by TxID, %w by wallet name, %b by the hash of the block including the transaction, %h by its height", ANY},
    {"-walletpsbtversion=<n>", "The version of the PSBTs that wallet calls make when they name none: 2, or 0 for programs that do not read BIP370 (default: 2)", ANY},
    {"-walletrbf", "Send transactions with full-RBF opt-in enabled (RPC only, default: 1)", ANY},
    {"-walletrejectlongchains", "Wallet will not create transactions that violate mempool chain limits (default: 1)", ANY | ArgsManager::DEBUG_ONLY},
};

//! Core has these only where it is built with libzmq; here the publishers are above this crate. The last two are ours.
const Option ZMQ_OPTIONS[]{
    {"-zmqpubhashblock=<address>", "Enable publish hash block in <address>", ANY},
    {"-zmqpubhashtx=<address>", "Enable publish hash transaction in <address>", ANY},
    {"-zmqpubrawblock=<address>", "Enable publish raw block in <address>", ANY},
    {"-zmqpubrawtx=<address>", "Enable publish raw transaction in <address>", ANY},
    {"-zmqpubsequence=<address>", "Enable publish hash block and tx sequence in <address>", ANY},
    {"-zmqpubhashblockhwm=<n>", "Set publish hash block outbound message high water mark (default: 1000)", ANY},
    {"-zmqpubhashtxhwm=<n>", "Set publish hash transaction outbound message high water mark (default: 1000)", ANY},
    {"-zmqpubrawblockhwm=<n>", "Set publish raw block outbound message high water mark (default: 1000)", ANY},
    {"-zmqpubrawtxhwm=<n>", "Set publish raw transaction outbound message high water mark (default: 1000)", ANY},
    {"-zmqpubsequencehwm=<n>", "Set publish hash sequence message high water mark (default: 1000)", ANY},
    {"-zmqpubpendingapproval=<address>", "Enable publish request that begins to wait for this node's operator, as JSON, in <address>", ANY},
    {"-zmqpubpendingapprovalhwm=<n>", "Set publish pending approval outbound message high water mark (default: 1000)", ANY},
};

const Option COSIGNER_OPTIONS[]{
    {"-approvalwebhook=<url>", "Post each request that begins to wait for this node's operator, as JSON, to this http:// address. Not encrypted: name a service of this machine, or of a network that you trust", ANY},
    {"-cosigner=<peerid>[@multiaddr]", "Allow this co-signer, and dial it at the address if one is given. Can be used multiple times. Wallets are made with all of these and this node", ANY | ArgsManager::NETWORK_ONLY},
    {"-cosignerbind=<multiaddr>", "Listen for co-signers here. Can be used multiple times (default: /ip4/0.0.0.0/tcp/<P2P port + 3>)", ANY | ArgsManager::NETWORK_ONLY},
    {"-cosignerdiscovery=<list>", "How to find co-signers: a comma-separated list of static, mdns, dht (default: static,mdns). Discovery yields addresses, never authority", ANY},
    {"-devquorum=<t/n>", "Embed n co-signers, t of which sign, in this process: for development, refused on main (default on regtest when no -cosigner is given: 2/3)", ANY | ArgsManager::NETWORK_ONLY},
    {"-experimental=<what>", "Agree to use what has had no outside review. Can be used multiple times; 'tss' is needed to make a wallet on main", ANY},
    {"-printcosignerid", "Print the PeerId of this node as a co-signer, make its identity if there is none, and exit", ANY},
    {"-refreshinterval=<secs>", "Deal the shares of every wallet again when this much time has passed since it was last done; 0 never does (default: 0)", ANY},
    {"-repairshares", "Have a share that has become stale, because its member slept through a change of shares, repaired without a command (default: 1)", ANY},
    {"-signingtimeout=<secs>", "How long a signing may take without human approval (default: 10)", ANY},
    {"-threshold=<n>", "How many members a new wallet needs to sign (default: more than half)", ANY | ArgsManager::NETWORK_ONLY},
};

class KeylessWalletInit final : public WalletInitInterface
{
public:
    bool HasWalletSupport() const override { return true; }

    void AddWalletOptions(ArgsManager& args) const override
    {
        for (const Option& option : WALLET_OPTIONS) {
            const bool debug{(option.flags & ArgsManager::DEBUG_ONLY) != 0};
            args.AddArg(option.name, option.help, option.flags, debug ? OptionsCategory::WALLET_DEBUG_TEST : OptionsCategory::WALLET);
        }
        for (const Option& option : COSIGNER_OPTIONS) args.AddArg(option.name, option.help, option.flags, OptionsCategory::WALLET);
    }

    bool ParameterInteraction() const override
    {
        if (gArgs.GetBoolArg("-disablewallet", false)) {
            for (const std::string& wallet : gArgs.GetArgs("-wallet")) LogInfo("parameter interaction: -disablewallet -> ignoring -wallet=%s", wallet);
            return true;
        }
        if (gArgs.GetBoolArg("-blocksonly", false) && gArgs.SoftSetBoolArg("-walletbroadcast", false)) {
            LogInfo("parameter interaction: -blocksonly=1 -> setting -walletbroadcast=0");
        }
        return true;
    }

    //! Wallets are made above this crate.
    void Construct(node::NodeContext&) const override {}
};

} // namespace

const WalletInitInterface& g_wallet_init_interface = KeylessWalletInit();

namespace interfaces {
std::unique_ptr<WalletLoader> MakeWalletLoader(Chain&, ArgsManager&)
{
    throw std::logic_error("Core's wallet is not part of this node");
}
} // namespace interfaces

namespace keyless {
namespace {

void Collect(const std::string& message)
{
    State& state{TheState()};
    const std::lock_guard lock{state.messages_mutex};
    state.errors.push_back(message);
}

//! Core prints what it has to say (noui), and Rust gets the same text.
void CollectMessages()
{
    uiInterface.ThreadSafeMessageBox.connect([](const bilingual_str& message, unsigned int style) {
        if (style & CClientUIInterface::ICON_ERROR) Collect(message.original);
    });
    uiInterface.ThreadSafeQuestion.connect([](const bilingual_str&, const std::string& message, unsigned int) {
        Collect(message);
        return false;
    });
}

bool ParseAll(std::vector<const char*>& argv)
{
    SetupServerArgs(gArgs);
    for (const Option& option : ZMQ_OPTIONS) gArgs.AddArg(option.name, option.help, option.flags, OptionsCategory::ZMQ);
    std::string error;
    if (!gArgs.ParseParameters(static_cast<int>(argv.size()), argv.data(), error)) {
        return InitError(Untranslated(strprintf("Error parsing command line arguments: %s", error)));
    }
    if (auto failure{common::InitConfig(gArgs)}) return InitError(failure->message, failure->details);
    for (size_t i{1}; i < argv.size(); ++i) {
        if (!IsSwitchChar(argv[i][0])) {
            return InitError(Untranslated(strprintf("Command line contains unexpected token '%s', see bitcoind -h for a list of options.", argv[i])));
        }
    }
    return true;
}

std::string PathOf(int which)
{
    switch (which) {
    case 0: return fs::PathToString(gArgs.GetDataDirNet());
    case 1: return fs::PathToString(gArgs.GetDataDirBase());
    case 2: return fs::PathToString(gArgs.GetBlocksDirPath());
    case 3: return fs::PathToString(gArgs.GetConfigFilePath());
    case 4: return fs::PathToString(LogInstance().m_file_path);
    case 5: return fs::PathToString(AbsPathForConfigVal(gArgs, gArgs.GetPathArg("-pid", "bitcoind.pid")));
    }
    throw Refused{"no such path"};
}

} // namespace

State& TheState()
{
    static State* const state{new State};
    return *state;
}

void ThrowErrors(const std::string& fallback)
{
    State& state{TheState()};
    const std::lock_guard lock{state.messages_mutex};
    std::string all{util::Join(state.errors, "\n")};
    state.errors.clear();
    throw Refused{all.empty() ? fallback : all};
}

} // namespace keyless

using namespace keyless;

void kl_free(kl_buf buffer) { std::free(buffer.data); }

kl_buf kl_args_parse(kl_in argv)
{
    return Answer([&](Writer&) {
        SetupEnvironment();
        noui_connect();
        CollectMessages();
        util::ThreadSetInternalName("init");
        const std::string joined{Text(argv)};
        std::vector<const char*> pointers;
        for (size_t at{0}; at < joined.size(); at += std::strlen(joined.c_str() + at) + 1) pointers.push_back(joined.c_str() + at);
        if (!ParseAll(pointers)) ThrowErrors("options were refused");
        // Only now: the context looks at nothing before, and a second parse would find it there.
        InitContext(TheState().node);
    });
}

kl_buf kl_args_help(kl_in program)
{
    return Answer([&](Writer& out) {
        const std::string name{Text(program)};
        std::string text{"Keyless daemon version " + FormatFullVersion() + " " + name + "\n"};
        if (gArgs.GetBoolArg("-version", false)) {
            text += FormatParagraph(LicenseInfo());
        } else {
            text += "\nA Bitcoin full node whose wallet holds no private key: a quorum of co-signers signs.\n"
                    "It validates, relays and serves JSON-RPC as Bitcoin Core does, with Bitcoin Core's own code.\n\n"
                    "Usage: " + name + " [options]\n\n";
            text += gArgs.GetHelpMessage();
        }
        out.text(text);
    });
}

kl_buf kl_args_get(kl_in name)
{
    return Answer([&](Writer& out) {
        const auto value{gArgs.GetArg(Text(name))};
        out.boolean(value.has_value());
        if (value) out.text(*value);
    });
}

kl_buf kl_args_get_all(kl_in name)
{
    return Answer([&](Writer& out) {
        const auto values{gArgs.GetArgs(Text(name))};
        out.u32(static_cast<uint32_t>(values.size()));
        for (const std::string& value : values) out.text(value);
    });
}

kl_buf kl_args_get_bool(kl_in name, int fallback)
{
    return Answer([&](Writer& out) { out.boolean(gArgs.GetBoolArg(Text(name), fallback != 0)); });
}

kl_buf kl_args_get_int(kl_in name)
{
    return Answer([&](Writer& out) {
        const auto value{gArgs.GetIntArg(Text(name))};
        out.boolean(value.has_value());
        if (value) out.i64(*value);
    });
}

kl_buf kl_args_is_set(kl_in name)
{
    return Answer([&](Writer& out) { out.boolean(gArgs.IsArgSet(Text(name))); });
}

kl_buf kl_args_is_negated(kl_in name)
{
    return Answer([&](Writer& out) { out.boolean(gArgs.IsArgNegated(Text(name))); });
}

kl_buf kl_args_soft_set(kl_in name, kl_in value)
{
    return Answer([&](Writer& out) { out.boolean(gArgs.SoftSetArg(Text(name), Text(value))); });
}

kl_buf kl_args_force_set(kl_in name, kl_in value)
{
    return Answer([&](Writer&) { gArgs.ForceSetArg(Text(name), Text(value)); });
}

//! An IPv4 or IPv6 address with a port, in every form Core reads without asking a resolver (`127.1`, `[::1]:8333`).
kl_buf kl_args_numeric_address(kl_in text, uint16_t default_port)
{
    return Answer([&](Writer& out) {
        const auto found{Lookup(Text(text), default_port, /*fAllowLookup=*/false)};
        const bool numeric{found && (found->IsIPv4() || found->IsIPv6())};
        out.boolean(numeric);
        if (numeric) out.text(found->ToStringAddrPort());
    });
}

//! Whether browsers and others never connect to a port, so that hardly any peer will.
kl_buf kl_args_bad_port(uint16_t port)
{
    return Answer([&](Writer& out) { out.boolean(IsBadPort(port)); });
}

kl_buf kl_args_path(int which)
{
    return Answer([&](Writer& out) { out.text(PathOf(which)); });
}

kl_buf kl_args_chain()
{
    return Answer([&](Writer& out) { out.text(gArgs.GetChainTypeString()); });
}

kl_buf kl_settings_read(kl_in name)
{
    return Answer([&](Writer& out) {
        const common::SettingsValue value{gArgs.GetPersistentSetting(Text(name))};
        out.boolean(!value.isNull());
        if (!value.isNull()) out.text(value.write());
    });
}

kl_buf kl_settings_write(kl_in name, kl_in json)
{
    return Answer([&](Writer&) {
        common::SettingsValue value;
        if (!value.read(Text(json))) throw Refused{"settings.json: not JSON"};
        gArgs.LockSettings([&](common::Settings& settings) {
            if (value.isNull()) {
                settings.rw_settings.erase(Text(name));
            } else {
                settings.rw_settings[Text(name)] = value;
            }
        });
        std::vector<std::string> errors;
        // -nosettings: there is no file to write to, and the change lasts as long as the process.
        if (gArgs.GetSettingsPath() && !gArgs.WriteSettingsFile(&errors)) throw Refused{util::Join(errors, "\n")};
    });
}

kl_buf kl_init_error(kl_in text)
{
    return Answer([&](Writer&) {
        InitError(Untranslated(Text(text)));
        State& state{TheState()};
        const std::lock_guard lock{state.messages_mutex};
        state.errors.clear(); // the caller knows this one
    });
}

kl_buf kl_init_warning(kl_in text)
{
    return Answer([&](Writer&) { InitWarning(Untranslated(Text(text))); });
}
