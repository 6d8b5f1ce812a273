//! Raw transactions, PSBTs, mining and utilities: rows that Core's handlers answer.

use super::{json, line, text};
use crate::table::{Category, Method};

pub static METHODS: &[Method] = &[
    Method::kernel("abortprivatebroadcast", Category::RawTransactions, &[text("id")]),
    Method::kernel("analyzepsbt", Category::RawTransactions, &[line("psbt")]),
    Method::kernel("combinepsbt", Category::RawTransactions, &[json("txs")]),
    Method::kernel("combinerawtransaction", Category::RawTransactions, &[json("txs")]),
    Method::kernel(
        "converttopsbt",
        Category::RawTransactions,
        &[text("hexstring"), json("permitsigdata"), json("iswitness"), json("psbt_version")],
    ),
    Method::kernel("createmultisig", Category::Util, &[json("nrequired"), json("keys"), text("address_type")]),
    Method::kernel(
        "createpsbt",
        Category::RawTransactions,
        &[
            json("inputs"),
            json("outputs"),
            json("locktime"),
            json("replaceable"),
            json("version"),
            json("psbt_version"),
        ],
    ),
    Method::kernel(
        "createrawtransaction",
        Category::RawTransactions,
        &[json("inputs"), json("outputs"), json("locktime"), json("replaceable"), json("version")],
    ),
    Method::kernel("decodepsbt", Category::RawTransactions, &[line("psbt")]),
    Method::kernel("decoderawtransaction", Category::RawTransactions, &[text("hexstring"), json("iswitness")]).brief(),
    Method::kernel("decodescript", Category::RawTransactions, &[text("hexstring")]).brief(),
    Method::kernel("deriveaddresses", Category::Util, &[text("descriptor"), json("range")]),
    Method::kernel(
        "descriptorprocesspsbt",
        Category::RawTransactions,
        &[line("psbt"), json("descriptors"), line("sighashtype"), json("bip32derivs"), json("finalize")],
    ),
    Method::kernel("estimatesmartfee", Category::Util, &[json("conf_target"), text("estimate_mode")]),
    Method::kernel("finalizepsbt", Category::RawTransactions, &[line("psbt"), json("extract")]),
    Method::kernel("getblocktemplate", Category::Mining, &[json("template_request")]),
    Method::kernel("getdescriptorinfo", Category::Util, &[text("descriptor")]),
    Method::kernel("getindexinfo", Category::Util, &[text("index_name")]),
    Method::kernel("getmininginfo", Category::Mining, &[]),
    Method::kernel("getnetworkhashps", Category::Mining, &[json("nblocks"), json("height")]),
    Method::kernel("getprioritisedtransactions", Category::Mining, &[]),
    Method::kernel("getprivatebroadcastinfo", Category::RawTransactions, &[]),
    Method::kernel(
        "getrawtransaction",
        Category::RawTransactions,
        &[text("txid"), json("verbosity|verbose"), text("blockhash")],
    ),
    Method::kernel("joinpsbts", Category::RawTransactions, &[json("txs")]),
    Method::kernel("prioritisetransaction", Category::Mining, &[text("txid"), json("dummy"), json("fee_delta")]),
    Method::kernel(
        "sendrawtransaction",
        Category::RawTransactions,
        &[text("hexstring"), json("maxfeerate"), json("maxburnamount")],
    ),
    Method::kernel("signmessagewithprivkey", Category::Util, &[text("privkey"), line("message")]),
    Method::kernel(
        "signrawtransactionwithkey",
        Category::RawTransactions,
        &[text("hexstring"), json("privkeys"), json("prevtxs"), text("sighashtype")],
    ),
    Method::kernel("submitblock", Category::Mining, &[text("hexdata"), text("dummy")]),
    Method::kernel("submitheader", Category::Mining, &[text("hexdata")]),
    Method::kernel(
        "submitpackage",
        Category::RawTransactions,
        &[json("package"), json("maxfeerate"), json("maxburnamount")],
    ),
    Method::kernel("testmempoolaccept", Category::RawTransactions, &[json("rawtxs"), json("maxfeerate")]),
    Method::kernel("utxoupdatepsbt", Category::RawTransactions, &[line("psbt"), json("descriptors")]),
    Method::kernel("validateaddress", Category::Util, &[text("address")]).brief(),
    Method::kernel("verifymessage", Category::Util, &[text("address"), line("signature"), line("message")]),
];
