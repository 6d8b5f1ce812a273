//! The usage lines of Core's wallet methods.

use super::*;

const USAGE: &[&str] = &[
    r#"abandontransaction "txid""#,
    r#"abortrescan"#,
    r#"addhdkey ( "hdkey" )"#,
    r#"backupwallet "destination""#,
    r#"bumpfee "txid" ( options )"#,
    r#"createwallet "wallet_name" ( disable_private_keys blank "passphrase" avoid_reuse descriptors load_on_startup external_signer )"#,
    r#"createwalletdescriptor "type" ( {"internal":bool,"hdkey":"str",...} )"#,
    r#"encryptwallet "passphrase""#,
    r#"exportwatchonlywallet "destination""#,
    r#"fundrawtransaction "hexstring" ( options iswitness )"#,
    r#"getaddressesbylabel "label""#,
    r#"getaddressinfo "address""#,
    r#"getbalance ( "dummy" minconf include_watchonly avoid_reuse )"#,
    r#"getbalances"#,
    r#"gethdkeys ( {"active_only":bool,"private":bool,...} )"#,
    r#"getnewaddress ( "label" "address_type" )"#,
    r#"getrawchangeaddress ( "address_type" )"#,
    r#"getreceivedbyaddress "address" ( minconf include_immature_coinbase )"#,
    r#"getreceivedbylabel "label" ( minconf include_immature_coinbase )"#,
    r#"gettransaction "txid" ( include_watchonly verbose )"#,
    r#"getwalletinfo"#,
    r#"importdescriptors requests"#,
    r#"importprunedfunds "rawtransaction" "txoutproof""#,
    r#"keypoolrefill ( newsize )"#,
    r#"listaddressgroupings"#,
    r#"listdescriptors ( private )"#,
    r#"listlabels ( "purpose" )"#,
    r#"listlockunspent"#,
    r#"listreceivedbyaddress ( minconf include_empty include_watchonly "address_filter" include_immature_coinbase )"#,
    r#"listreceivedbylabel ( minconf include_empty include_watchonly include_immature_coinbase )"#,
    r#"listsinceblock ( "blockhash" target_confirmations include_watchonly include_removed include_change "label" )"#,
    r#"listtransactions ( "label" count skip include_watchonly )"#,
    r#"listunspent ( minconf maxconf ["address",...] include_unsafe query_options )"#,
    r#"listwalletdir"#,
    r#"listwallets"#,
    r#"loadwallet "filename" ( load_on_startup )"#,
    r#"lockunspent unlock ( [{"txid":"hex","vout":n},...] persistent )"#,
    r#"migratewallet ( "wallet_name" "passphrase" load_wallet )"#,
    r#"psbtbumpfee "txid" ( options )"#,
    r#"removeprunedfunds "txid""#,
    r#"rescanblockchain ( start_height stop_height )"#,
    r#"restorewallet "wallet_name" "backup_file" ( load_on_startup )"#,
    r#"send [{"address":amount,...},{"data":"hex"},...] ( conf_target "estimate_mode" fee_rate options version )"#,
    r#"sendall ["address",{"address":amount,...},...] ( conf_target "estimate_mode" fee_rate options )"#,
    r#"sendmany ( "" ) {"address":amount,...} ( minconf "comment" ["address",...] replaceable conf_target "estimate_mode" fee_rate verbose )"#,
    r#"sendtoaddress "address" amount ( "comment" "comment_to" subtractfeefromamount replaceable conf_target "estimate_mode" avoid_reuse fee_rate verbose )"#,
    r#"setlabel "address" "label""#,
    r#"setwalletflag "flag" ( value )"#,
    r#"signmessage "address" "message""#,
    r#"signrawtransactionwithwallet "hexstring" ( [{"txid":"hex","vout":n,"scriptPubKey":"hex","redeemScript":"hex","witnessScript":"hex","amount":amount},...] "sighashtype" )"#,
    r#"simulaterawtransaction ( ["rawtx",...] {"include_watchonly":bool,...} )"#,
    r#"unloadwallet ( "wallet_name" load_on_startup )"#,
    r#"walletcreatefundedpsbt ( [{"txid":"hex","vout":n,"sequence":n,"weight":n},...] ) [{"address":amount,...},{"data":"hex"},...] ( locktime options bip32derivs version psbt_version )"#,
    r#"walletdisplayaddress "address""#,
    r#"walletlock"#,
    r#"walletpassphrase "passphrase" timeout"#,
    r#"walletpassphrasechange "oldpassphrase" "newpassphrase""#,
    r#"walletprocesspsbt "psbt" ( sign "sighashtype" bip32derivs finalize )"#,
];

#[test]
fn every_wallet_method_of_core_is_there_with_its_arguments() {
    for usage in USAGE {
        let name = usage.split(' ').next().unwrap();
        let ours: Vec<_> = method(name).usage().split(' ').map(str::to_owned).collect();
        let ours = ours.join(" ");
        let shown = ours
            .replace(" idempotency_key", "")
            .replace(" wait", "")
            .replace(" force", "")
            .replace(" \"idempotency_key\"", "")
            .replace(" quorum", "");
        assert_eq!(shown, *usage);
    }
    let core = METHODS.iter().copied().flatten().filter(|method| !method.new);
    assert_eq!(core.count(), USAGE.len());
}

#[test]
fn what_is_ours_is_marked_so() {
    let ours: Vec<_> =
        METHODS.iter().copied().flatten().filter(|method| method.new).map(|method| method.name).collect();
    assert_eq!(
        ours,
        [
            "getcosignerinfo",
            "enumeratecosigners",
            "getquoruminfo",
            "listsigningsessions",
            "refreshshares",
            "resharequorum",
            "repairshare",
            "suspendcosigner",
            "resumecosigner",
            "deleteshare",
            "verifysharebackup",
            "getsigningpolicy",
            "setsigningpolicy",
            "testsigningpolicy",
            "listpendingapprovals",
            "approvesigning",
            "rejectsigning",
            "getauditlog",
            "verifyauditlog",
            "listblame"
        ]
    );
    for (name, argument) in [
        ("createwallet", "quorum"),
        ("restorewallet", "force"),
        ("sendtoaddress", "idempotency_key"),
        ("sendmany", "idempotency_key"),
    ] {
        let method = method(name);
        assert!(method.args.iter().any(|arg| arg.new && arg.name() == argument), "{name}");
        assert!(!Value::Arr(method.conversions()).compact().contains(argument), "{name}");
    }
}
