//! Blocks, chain, coins, mempool: rows that Core's handlers answer.

use super::{either, json, line, text};
use crate::table::{Category, Method};

pub static METHODS: &[Method] = &[
    Method::kernel(
        "dumptxoutset",
        Category::Blockchain,
        &[line("path"), line("type"), json("options").inner(&[either("rollback"), json("in_memory")])],
    ),
    Method::kernel("getbestblockhash", Category::Blockchain, &[]).brief(),
    Method::kernel("getblock", Category::Blockchain, &[text("blockhash"), json("verbosity|verbose")]).brief(),
    Method::kernel("getblockchaininfo", Category::Blockchain, &[]).brief(),
    Method::kernel("getblockcount", Category::Blockchain, &[]).brief(),
    Method::kernel("getblockfilter", Category::Blockchain, &[text("blockhash"), text("filtertype")]),
    Method::kernel("getblockfrompeer", Category::Blockchain, &[text("blockhash"), json("peer_id")]),
    Method::kernel("getblockhash", Category::Blockchain, &[json("height")]).brief(),
    Method::kernel("getblockheader", Category::Blockchain, &[text("blockhash"), json("verbose")]).brief(),
    Method::kernel("getblockstats", Category::Blockchain, &[either("hash_or_height"), json("stats")]),
    Method::kernel("getchainstates", Category::Blockchain, &[]),
    Method::kernel("getchaintips", Category::Blockchain, &[]),
    Method::kernel("getchaintxstats", Category::Blockchain, &[json("nblocks"), text("blockhash")]),
    Method::kernel("getdeploymentinfo", Category::Blockchain, &[text("blockhash")]),
    Method::kernel(
        "getdescriptoractivity",
        Category::Blockchain,
        &[json("blockhashes"), json("scanobjects"), json("include_mempool")],
    ),
    Method::kernel("getdifficulty", Category::Blockchain, &[]).brief(),
    Method::kernel("getmempoolancestors", Category::Blockchain, &[text("txid"), json("verbose")]),
    Method::kernel("getmempoolcluster", Category::Blockchain, &[text("txid")]),
    Method::kernel("getmempooldescendants", Category::Blockchain, &[text("txid"), json("verbose")]),
    Method::kernel("getmempoolentry", Category::Blockchain, &[text("txid")]).brief(),
    Method::kernel("getmempoolinfo", Category::Blockchain, &[]).brief(),
    Method::kernel("getrawmempool", Category::Blockchain, &[json("verbose"), json("mempool_sequence")]),
    Method::kernel("gettxout", Category::Blockchain, &[text("txid"), json("n"), json("include_mempool")]).brief(),
    Method::kernel("gettxoutproof", Category::Blockchain, &[json("txids"), text("blockhash")]),
    Method::kernel(
        "gettxoutsetinfo",
        Category::Blockchain,
        &[text("hash_type"), either("hash_or_height"), json("use_index")],
    ),
    Method::kernel(
        "gettxspendingprevout",
        Category::Blockchain,
        &[json("outputs"), json("options").inner(&[json("mempool_only"), json("return_spending_tx")])],
    ),
    Method::kernel(
        "importmempool",
        Category::Blockchain,
        &[
            line("filepath"),
            json("options").inner(&[
                json("use_current_time"),
                json("apply_fee_delta_priority"),
                json("apply_unbroadcast_set"),
            ]),
        ],
    ),
    Method::kernel("loadtxoutset", Category::Blockchain, &[line("path")]),
    Method::kernel("preciousblock", Category::Blockchain, &[text("blockhash")]),
    Method::kernel("pruneblockchain", Category::Blockchain, &[json("height")]),
    Method::kernel("savemempool", Category::Blockchain, &[]),
    Method::kernel(
        "scanblocks",
        Category::Blockchain,
        &[
            text("action"),
            json("scanobjects"),
            json("start_height"),
            json("stop_height"),
            text("filtertype"),
            json("options").inner(&[json("filter_false_positives")]),
        ],
    ),
    Method::kernel("scantxoutset", Category::Blockchain, &[text("action"), json("scanobjects")]),
    Method::kernel("verifychain", Category::Blockchain, &[json("checklevel"), json("nblocks")]),
    Method::kernel("verifytxoutproof", Category::Blockchain, &[text("proof")]),
    Method::kernel("waitforblock", Category::Blockchain, &[text("blockhash"), json("timeout")]),
    Method::kernel("waitforblockheight", Category::Blockchain, &[json("height"), json("timeout")]),
    Method::kernel("waitfornewblock", Category::Blockchain, &[json("timeout"), text("current_tip")]),
];
