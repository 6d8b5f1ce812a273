//! The wallet's rows of the method table: every method of Core's wallet, and ours.
//!
//! Owns names, arguments and help of the methods; their code is in the modules beside this one. What is not available
//! is listed too, with its arguments, and answers by saying so (`unavailable.rs`).

mod options;

use crate::local;
use crate::table::{Arg, Category, Kind, Method};

use super::{
    addresses, bumping, coins, descriptors, groupings, history, importing, lifecycle, locking, manage, oversight,
    policy, pruned, quorum, received, rescan, signing, spending, sweep, unavailable,
};

/// All of them; the order is of no account, `help` sorts.
pub const METHODS: &[&[Method]] = &[
    MANAGE,
    ADDRESSES,
    COINS,
    HISTORY,
    SPENDING,
    SIGNING,
    KEYS,
    COSIGNERS,
    lifecycle::METHODS,
    policy::METHODS,
    oversight::METHODS,
];

const TXID: Arg = Arg::req("txid", Kind::Hex);
const LOAD_ON_STARTUP: Arg = Arg::opt("load_on_startup", Kind::Bool);
const MINCONF: Arg = Arg::opt("minconf", Kind::Num);
const INCLUDE_WATCHONLY: Arg = Arg::opt("include_watchonly", Kind::Bool);
const INCLUDE_IMMATURE: Arg = Arg::opt("include_immature_coinbase", Kind::Bool);
const CONF_TARGET: Arg = Arg::opt("conf_target", Kind::Num);
const ESTIMATE_MODE: Arg = Arg::opt("estimate_mode", Kind::Str);
const FEE_RATE: Arg = Arg::opt("fee_rate", Kind::Amount);
const WAIT: Arg = Arg::opt("wait", Kind::Bool).ours();
const IDEMPOTENCY_KEY: Arg = Arg::opt("idempotency_key", Kind::Str).ours().text();

const MANAGE: &[Method] = &[
    Method::wallet(
        "createwallet",
        &[
            Arg::req("wallet_name", Kind::Str).text(),
            Arg::opt("disable_private_keys", Kind::Bool),
            Arg::opt("blank", Kind::Bool),
            Arg::opt("passphrase", Kind::Str).text(),
            Arg::opt("avoid_reuse", Kind::Bool),
            Arg::opt("descriptors", Kind::Bool),
            LOAD_ON_STARTUP,
            Arg::opt("external_signer", Kind::Bool),
            Arg::opt("quorum", Kind::Obj).ours().oneline("quorum"),
        ],
        "Makes a wallet and loads it. Its keys are made by the co-signers together; no one of them ever holds one.\n\
         \"quorum\" is {\"threshold\":t,\"members\":[\"peerid\",...]}: by default this node and all co-signers of the \
         configuration, and the threshold of -threshold or a majority.\n\
         Returns {\"name\":str,\"warnings\":[str,...]}, warnings only where there are some.",
        local!(manage::createwallet),
    ),
    Method::wallet(
        "loadwallet",
        &[Arg::req("filename", Kind::Str).text(), LOAD_ON_STARTUP],
        "Loads a wallet of the wallet directory. Returns {\"name\":str,\"warnings\":[str,...]}.",
        local!(manage::loadwallet),
    ),
    Method::wallet(
        "unloadwallet",
        &[Arg::opt("wallet_name", Kind::Str).text(), LOAD_ON_STARTUP],
        "Unloads the wallet of the request's path, or the one named; where both are given they must agree.",
        local!(manage::unloadwallet),
    ),
    Method::wallet("listwallets", &[], "The names of the loaded wallets.", local!(manage::listwallets)),
    Method::wallet(
        "listwalletdir",
        &[],
        "The wallets of the wallet directory, loaded or not: {\"wallets\":[{\"name\":str,\"warnings\":[]},...]}.",
        local!(manage::listwalletdir),
    ),
    Method::wallet("getwalletinfo", &[], "The state of the wallet.", local!(manage::getwalletinfo)),
    Method::wallet(
        "setwalletflag",
        &[Arg::req("flag", Kind::Str), Arg::opt("value", Kind::Bool)],
        "Changes a flag of the wallet. Only avoid_reuse can change.",
        local!(manage::setwalletflag),
    ),
    Method::wallet(
        "keypoolrefill",
        &[Arg::opt("newsize", Kind::Num)],
        "Has the quorum confirm addresses ahead, up to this many on each chain.",
        local!(addresses::keypoolrefill),
    ),
    Method::wallet(
        "rescanblockchain",
        &[Arg::opt("start_height", Kind::Num), Arg::opt("stop_height", Kind::Num)],
        "Looks for the wallet's transactions in the blocks again. Returns {\"start_height\":n,\"stop_height\":n}.",
        local!(rescan::rescanblockchain),
    ),
    Method::wallet("abortrescan", &[], "Stops a rescan under way; true if there was one.", local!(rescan::abortrescan)),
];

const ADDRESSES: &[Method] = &[
    Method::wallet(
        "getnewaddress",
        &[Arg::opt("label", Kind::Str).text(), Arg::opt("address_type", Kind::Str).text()],
        "A fresh address to be paid at, confirmed by the quorum. Types: legacy, p2sh-segwit, bech32, bech32m.",
        local!(addresses::getnewaddress),
    ),
    Method::wallet(
        "getrawchangeaddress",
        &[Arg::opt("address_type", Kind::Str)],
        "A fresh address for the change of a raw transaction, not to be given to payers.",
        local!(addresses::getrawchangeaddress),
    ),
    Method::wallet(
        "getaddressinfo",
        &[Arg::req("address", Kind::Str)],
        "What is known of an address, and what this wallet knows of it.",
        local!(addresses::getaddressinfo),
    ),
    Method::wallet(
        "setlabel",
        &[Arg::req("address", Kind::Str), Arg::req("label", Kind::Str).text()],
        "Gives an address a label.",
        local!(addresses::setlabel),
    ),
    Method::wallet(
        "listlabels",
        &[Arg::opt("purpose", Kind::Str)],
        "All labels, or those of addresses with this purpose (send, receive).",
        local!(addresses::listlabels),
    ),
    Method::wallet(
        "getaddressesbylabel",
        &[Arg::req("label", Kind::Str).text()],
        "The addresses with this label: {\"address\":{\"purpose\":str},...}.",
        local!(addresses::getaddressesbylabel),
    ),
    Method::wallet(
        "listaddressgroupings",
        &[],
        "Groups of addresses that past transactions show to be of one owner.",
        local!(groupings::listaddressgroupings),
    ),
    Method::wallet(
        "walletdisplayaddress",
        &[Arg::req("address", Kind::Str)],
        "Shows an address on a hardware signer, of which a threshold wallet has none.",
        local!(unavailable::walletdisplayaddress),
    ),
];

const COINS: &[Method] = &[
    Method::wallet(
        "getbalance",
        &[Arg::opt("dummy", Kind::Str), MINCONF, INCLUDE_WATCHONLY, Arg::opt("avoid_reuse", Kind::Bool)],
        "What the wallet can spend now.",
        local!(coins::getbalance),
    ),
    Method::wallet("getbalances", &[], "All balances, by how sure they are.", local!(coins::getbalances)),
    Method::wallet(
        "listunspent",
        &[
            MINCONF,
            Arg::opt("maxconf", Kind::Num),
            Arg::opt("addresses", Kind::Arr).oneline("[\"address\",...]"),
            Arg::opt("include_unsafe", Kind::Bool),
            Arg::opt("query_options", Kind::NamedObj).oneline("query_options").inner(options::LISTUNSPENT),
        ],
        "The coins with so many confirmations, of all addresses or those given.",
        local!(coins::listunspent),
    ),
    Method::wallet(
        "lockunspent",
        &[
            Arg::req("unlock", Kind::Bool),
            Arg::opt("transactions", Kind::Arr).oneline("[{\"txid\":\"hex\",\"vout\":n},...]"),
            Arg::opt("persistent", Kind::Bool),
        ],
        "Locks coins against being selected, or unlocks them; without coins, unlocks all.",
        local!(coins::lockunspent),
    ),
    Method::wallet(
        "listlockunspent",
        &[],
        "The locked coins: [{\"txid\":hex,\"vout\":n},...].",
        local!(coins::listlockunspent),
    ),
    Method::wallet(
        "getreceivedbyaddress",
        &[Arg::req("address", Kind::Str), MINCONF, INCLUDE_IMMATURE],
        "What an address was paid in all.",
        local!(received::getreceivedbyaddress),
    ),
    Method::wallet(
        "getreceivedbylabel",
        &[Arg::req("label", Kind::Str).text(), MINCONF, INCLUDE_IMMATURE],
        "What the addresses with a label were paid in all.",
        local!(received::getreceivedbylabel),
    ),
    Method::wallet(
        "listreceivedbyaddress",
        &[
            MINCONF,
            Arg::opt("include_empty", Kind::Bool),
            INCLUDE_WATCHONLY,
            Arg::opt("address_filter", Kind::Str),
            INCLUDE_IMMATURE,
        ],
        "What each address was paid.",
        local!(received::listreceivedbyaddress),
    ),
    Method::wallet(
        "listreceivedbylabel",
        &[MINCONF, Arg::opt("include_empty", Kind::Bool), INCLUDE_WATCHONLY, INCLUDE_IMMATURE],
        "What was paid under each label.",
        local!(received::listreceivedbylabel),
    ),
];

const HISTORY: &[Method] = &[
    Method::wallet(
        "listtransactions",
        &[
            Arg::opt("label", Kind::Str).text(),
            Arg::opt("count", Kind::Num),
            Arg::opt("skip", Kind::Num),
            INCLUDE_WATCHONLY,
        ],
        "The latest payments in and out, the newest last; with a label, those paid to its addresses.",
        local!(history::listtransactions),
    ),
    Method::wallet(
        "listsinceblock",
        &[
            Arg::opt("blockhash", Kind::Str).text(),
            Arg::opt("target_confirmations", Kind::Num),
            INCLUDE_WATCHONLY,
            Arg::opt("include_removed", Kind::Bool),
            Arg::opt("include_change", Kind::Bool),
            Arg::opt("label", Kind::Str).text(),
        ],
        "Payments since a block, those that a reorganisation removed, and the block to ask from next time.",
        local!(history::listsinceblock),
    ),
    Method::wallet(
        "gettransaction",
        &[Arg::req("txid", Kind::Str), INCLUDE_WATCHONLY, Arg::opt("verbose", Kind::Bool)],
        "One transaction of the wallet.",
        local!(history::gettransaction),
    ),
    Method::wallet(
        "abandontransaction",
        &[TXID],
        "Gives up a transaction that is in no block and not in the mempool, so that its coins can be spent again.",
        local!(history::abandontransaction),
    ),
    Method::wallet(
        "importprunedfunds",
        &[Arg::req("rawtransaction", Kind::Hex), Arg::req("txoutproof", Kind::Hex)],
        "Takes in a transaction with the proof of its block.",
        local!(pruned::importprunedfunds),
    ),
    Method::wallet(
        "removeprunedfunds",
        &[TXID],
        "Forgets a transaction that was taken in by importprunedfunds.",
        local!(pruned::removeprunedfunds),
    ),
    Method::wallet(
        "simulaterawtransaction",
        &[
            Arg::opt("rawtxs", Kind::Arr).oneline("[\"rawtx\",...]"),
            Arg::opt("options", Kind::NamedObj).inner(options::SIMULATE),
        ],
        "By how much these transactions would change the balance.",
        local!(coins::simulaterawtransaction),
    ),
];

const SPENDING: &[Method] = &[
    Method::wallet(
        "sendtoaddress",
        &[
            Arg::req("address", Kind::Str).text(),
            Arg::req("amount", Kind::Amount),
            Arg::opt("comment", Kind::Str).text(),
            Arg::opt("comment_to", Kind::Str).text(),
            Arg::opt("subtractfeefromamount", Kind::Bool),
            Arg::opt("replaceable", Kind::Bool),
            CONF_TARGET,
            ESTIMATE_MODE.text(),
            Arg::opt("avoid_reuse", Kind::Bool),
            FEE_RATE,
            Arg::opt("verbose", Kind::Bool),
            IDEMPOTENCY_KEY,
            WAIT,
        ],
        "Pays an amount to an address; the quorum signs. Returns the txid, or {\"txid\":hex,\"fee_reason\":str}.\n\
         With an idempotency_key, a repeated call returns the same txid and never pays twice. With wait=false it \
         returns {\"session\":hex} at once, which listsigningsessions follows.",
        local!(spending::sendtoaddress),
    ),
    Method::wallet(
        "sendmany",
        &[
            Arg::opt("dummy", Kind::Str).text().oneline("\"\""),
            Arg::req("amounts", Kind::Obj).oneline("{\"address\":amount,...}"),
            Arg::opt("minconf", Kind::Num),
            Arg::opt("comment", Kind::Str).text(),
            Arg::opt("subtractfeefrom", Kind::Arr).oneline("[\"address\",...]"),
            Arg::opt("replaceable", Kind::Bool),
            CONF_TARGET,
            ESTIMATE_MODE.text(),
            FEE_RATE,
            Arg::opt("verbose", Kind::Bool),
            IDEMPOTENCY_KEY,
            WAIT,
        ],
        "Pays several addresses in one transaction; the quorum signs. Returns as sendtoaddress does.",
        local!(spending::sendmany),
    ),
    Method {
        category: Category::RawTransactions,
        ..Method::wallet(
            "fundrawtransaction",
            &[
                Arg::req("hexstring", Kind::Hex),
                Arg::opt("options", Kind::NamedObj).unchecked().oneline("options").inner(options::FUNDRAWTRANSACTION),
                Arg::opt("iswitness", Kind::Bool),
            ],
            "Adds inputs, and a change output if needed, until a transaction pays for its outputs and its fee.\n\
             Returns {\"hex\":hex,\"fee\":amount,\"changepos\":n}. Nothing is signed.",
            local!(spending::fundrawtransaction),
        )
    },
    Method::wallet(
        "send",
        &[
            Arg::req("outputs", Kind::Arr).unchecked().oneline("[{\"address\":amount,...},{\"data\":\"hex\"},...]"),
            CONF_TARGET,
            ESTIMATE_MODE,
            FEE_RATE,
            Arg::opt("options", Kind::NamedObj).oneline("options").inner(options::SEND),
            Arg::opt("version", Kind::Num),
            IDEMPOTENCY_KEY,
        ],
        "Makes a transaction, has the quorum sign it and sends it, or returns it where the options say so.",
        local!(spending::send),
    ),
    Method::wallet(
        "sendall",
        &[
            Arg::req("recipients", Kind::Arr).oneline("[\"address\",{\"address\":amount,...},...]"),
            CONF_TARGET,
            ESTIMATE_MODE,
            FEE_RATE,
            Arg::opt("options", Kind::NamedObj).oneline("options").inner(options::SENDALL),
        ],
        "Spends all coins, or those given, without change.",
        local!(sweep::sendall),
    ),
    Method::wallet(
        "bumpfee",
        &[TXID, Arg::opt("options", Kind::NamedObj).oneline("options").inner(options::BUMPFEE)],
        "Replaces a transaction by one that pays more.",
        local!(bumping::bumpfee),
    ),
    Method::wallet(
        "psbtbumpfee",
        &[TXID, Arg::opt("options", Kind::NamedObj).oneline("options").inner(options::PSBTBUMPFEE)],
        "As bumpfee, but returns the replacement as a PSBT that is not signed.",
        local!(bumping::psbtbumpfee),
    ),
];

const SIGNING: &[Method] = &[
    Method::wallet(
        "signrawtransactionwithwallet",
        &[
            Arg::req("hexstring", Kind::Str),
            Arg::opt("prevtxs", Kind::Arr).oneline(
                "[{\"txid\":\"hex\",\"vout\":n,\"scriptPubKey\":\"hex\",\"redeemScript\":\"hex\",\
                 \"witnessScript\":\"hex\",\"amount\":amount},...]",
            ),
            Arg::opt("sighashtype", Kind::Str),
        ],
        "Has the quorum sign the inputs that are the wallet's. Returns {\"hex\":hex,\"complete\":bool,\"errors\":[]}.",
        local!(signing::signrawtransactionwithwallet),
    ),
    Method::wallet(
        "walletcreatefundedpsbt",
        &[
            Arg::opt("inputs", Kind::Arr).oneline("[{\"txid\":\"hex\",\"vout\":n,\"sequence\":n,\"weight\":n},...]"),
            Arg::req("outputs", Kind::Arr).unchecked().oneline("[{\"address\":amount,...},{\"data\":\"hex\"},...]"),
            Arg::opt("locktime", Kind::Num),
            Arg::opt("options", Kind::NamedObj).oneline("options").inner(options::WALLETCREATEFUNDEDPSBT),
            Arg::opt("bip32derivs", Kind::Bool),
            Arg::opt("version", Kind::Num),
            Arg::opt("psbt_version", Kind::Num),
        ],
        "Makes a transaction, funds it and returns it as a PSBT: {\"psbt\":str,\"fee\":amount,\"changepos\":n}.",
        local!(signing::walletcreatefundedpsbt),
    ),
    Method::wallet(
        "walletprocesspsbt",
        &[
            Arg::req("psbt", Kind::Str).text(),
            Arg::opt("sign", Kind::Bool),
            Arg::opt("sighashtype", Kind::Str).text(),
            Arg::opt("bip32derivs", Kind::Bool),
            Arg::opt("finalize", Kind::Bool),
        ],
        "Adds to a PSBT what the wallet knows and has the quorum sign its inputs.\n\
         Returns {\"psbt\":str,\"complete\":bool,\"hex\":hex}, hex only when complete.",
        local!(signing::walletprocesspsbt),
    ),
    Method::wallet(
        "signmessage",
        &[Arg::req("address", Kind::Str), Arg::req("message", Kind::Str).text()],
        "Has the quorum sign a message by the key of a legacy address. Returns the signature in base64.",
        local!(signing::signmessage),
    ),
];

const KEYS: &[Method] = &[
    Method::wallet(
        "listdescriptors",
        &[Arg::opt("private", Kind::Bool)],
        "The wallet's descriptors. There are no private ones to list.",
        local!(descriptors::listdescriptors),
    ),
    Method::wallet(
        "gethdkeys",
        &[Arg::opt("options", Kind::NamedObj).inner(options::GETHDKEYS)],
        "The extended public keys of the wallet and the descriptors that use them.",
        local!(descriptors::gethdkeys),
    ),
    Method::wallet(
        "importdescriptors",
        &[Arg::req("requests", Kind::Arr).oneline("requests")],
        "Watches the scripts of descriptors.",
        local!(importing::importdescriptors),
    ),
    Method::wallet(
        "createwalletdescriptor",
        &[Arg::req("type", Kind::Str), Arg::opt("options", Kind::NamedObj).inner(options::CREATEWALLETDESCRIPTOR)],
        "Adds a descriptor of a type that the wallet lacks; a threshold wallet lacks none.",
        local!(descriptors::createwalletdescriptor),
    ),
    Method::wallet(
        "addhdkey",
        &[Arg::opt("hdkey", Kind::Str)],
        "Adds a private key, which a threshold wallet never does.",
        local!(descriptors::addhdkey),
    ),
    Method::wallet(
        "exportwatchonlywallet",
        &[Arg::req("destination", Kind::Str)],
        "Writes a wallet that can watch but not sign.",
        local!(locking::exportwatchonlywallet),
    ),
    Method::wallet(
        "backupwallet",
        &[Arg::req("destination", Kind::Str).text()],
        "Writes this member's share, sealed, and the wallet's public data to a file.",
        local!(locking::backupwallet),
    ),
    Method::wallet(
        "restorewallet",
        &[
            Arg::req("wallet_name", Kind::Str).text(),
            Arg::req("backup_file", Kind::Str).text(),
            LOAD_ON_STARTUP,
            Arg::opt("force", Kind::Bool).ours(),
        ],
        "Restores a wallet from a backup and loads it. A share of an older epoch is refused while the quorum lives in a \
         later one. A share that no other member can confirm signs nothing until threshold − 1 of them have; with force \
         it does at once: for backups of one epoch on enough nodes, after everything else was lost.",
        local!(locking::restorewallet),
    ),
    Method::wallet(
        "migratewallet",
        &[
            Arg::opt("wallet_name", Kind::Str).text(),
            Arg::opt("passphrase", Kind::Str).text(),
            Arg::opt("load_wallet", Kind::Bool),
        ],
        "Turns an old wallet file into a descriptor wallet, which a threshold wallet never is.",
        local!(unavailable::migratewallet),
    ),
    Method::wallet(
        "encryptwallet",
        &[Arg::req("passphrase", Kind::Str).text()],
        "Seals this member's share with a passphrase.",
        local!(locking::encryptwallet),
    ),
    Method::wallet(
        "walletpassphrase",
        &[Arg::req("passphrase", Kind::Str).text(), Arg::req("timeout", Kind::Num)],
        "Unlocks this member's share for so many seconds.",
        local!(locking::walletpassphrase),
    ),
    Method::wallet(
        "walletpassphrasechange",
        &[Arg::req("oldpassphrase", Kind::Str).text(), Arg::req("newpassphrase", Kind::Str).text()],
        "Changes the passphrase of this member's share.",
        local!(locking::walletpassphrasechange),
    ),
    Method::wallet("walletlock", &[], "Locks this member's share.", local!(locking::walletlock)),
];

const COSIGNERS: &[Method] = &[
    Method::ours(
        "getcosignerinfo",
        &[],
        "This node as a co-signer: {\"peerid\":str,\"fingerprint\":str,\"addresses\":[str,...],\
         \"protocolversion\":n,\"network\":str}.",
        local!(quorum::getcosignerinfo),
    ),
    Method::ours(
        "enumeratecosigners",
        &[],
        "The co-signers of the allow-list, whether they are there and which wallets they share.",
        local!(quorum::enumeratecosigners),
    ),
    Method::ours(
        "getquoruminfo",
        &[],
        "The quorum of the wallet: members, threshold, epoch and public keys.",
        local!(quorum::getquoruminfo),
    ),
    Method::ours(
        "listsigningsessions",
        &[],
        "The wallet's signing sessions under way: who takes part, and for whom they wait.",
        local!(quorum::listsigningsessions),
    ),
];
