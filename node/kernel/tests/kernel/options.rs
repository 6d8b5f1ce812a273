//! Command line, configuration file, settings.

use bitcoin::Network;
use keyless_kernel::Args;

use crate::support::Node;

fn parse(dir: &std::path::Path, options: &[&str]) -> Result<Args, String> {
    let mut argv = vec!["keylessd".to_string(), format!("-datadir={}", dir.display())];
    argv.extend(options.iter().map(|option| option.to_string()));
    Args::parse(&argv).map_err(|error| error.to_string())
}

#[test]
fn an_unknown_option_is_refused_with_cores_text() {
    let dir = tempfile::tempdir().unwrap();
    let error = parse(dir.path(), &["-regtest", "-foo"]).unwrap_err();
    assert_eq!(error, "Error parsing command line arguments: Invalid parameter -foo");
}

#[test]
fn a_loose_word_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = parse(dir.path(), &["-regtest", "word"]).unwrap_err();
    assert!(error.starts_with("Command line contains unexpected token 'word'"), "{error}");
}

#[test]
fn a_missing_data_directory_is_refused() {
    let error = parse(std::path::Path::new("/nonexistent/keyless"), &["-regtest"]).unwrap_err();
    assert_eq!(error, "Specified data directory \"/nonexistent/keyless\" does not exist.");
}

#[test]
fn the_configuration_file_has_sections() {
    let dir = tempfile::tempdir().unwrap();
    let conf =
        "regtest=1\nrpcuser=u\n[regtest]\nrpcport=1234\nthreshold=3\ncosigner=a\ncosigner=b\n[signet]\nrpcport=5\n";
    std::fs::write(dir.path().join("bitcoin.conf"), conf).unwrap();
    let args = parse(dir.path(), &["-server=0", "-nolisten"]).unwrap();
    assert_eq!((args.chain(), args.chain_name().as_str()), (Network::Regtest, "regtest"));
    assert_eq!(args.get("-rpcport").as_deref(), Some("1234"));
    assert_eq!(args.get_int("-threshold"), Some(3));
    assert_eq!(args.get_all("-cosigner"), ["a", "b"]);
    assert!(!args.get_bool("-server", true));
    assert!(args.is_negated("-listen") && args.is_set("-listen"));
    assert_eq!(args.get("-devquorum"), None);
    assert!(args.soft_set("-devquorum", "2/3") && !args.soft_set("-devquorum", "1/1"));
    assert_eq!(args.get("-devquorum").as_deref(), Some("2/3"));
    assert_eq!(args.datadir_net(), dir.path().join("regtest"));
    assert_eq!(args.blocks_dir(), dir.path().join("regtest/blocks"));
    assert_eq!(args.config_file(), dir.path().join("bitcoin.conf"));
    assert!(!args.help_requested());
}

#[test]
fn settings_are_kept_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let args = parse(dir.path(), &["-regtest"]).unwrap();
    assert_eq!(args.setting("wallet"), None);
    args.write_setting("wallet", r#"["w"]"#).unwrap();
    assert_eq!(args.setting("wallet").as_deref(), Some(r#"["w"]"#));
    let file = std::fs::read_to_string(dir.path().join("regtest/settings.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!(value["wallet"], serde_json::json!(["w"]));
    args.write_setting("wallet", "null").unwrap();
    assert_eq!(args.setting("wallet"), None);
    assert!(args.write_setting("wallet", "not json").is_err());
}

#[test]
fn the_help_names_cores_options_and_ours() {
    let dir = tempfile::tempdir().unwrap();
    let args = parse(dir.path(), &["-regtest", "-help"]).unwrap();
    assert!(args.help_requested());
    let help = args.help("keylessd");
    for option in ["-datadir=", "-rpcauth=", "-wallet=", "-cosigner=", "-devquorum=", "-threshold=", "-signingtimeout="]
    {
        assert!(help.contains(option), "{option}");
    }
}

#[test]
fn a_fresh_data_directory_has_cores_layout() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let net = dir.path().join("regtest");
    for name in ["blocks", "chainstate", "wallets", "debug.log", "settings.json", ".lock", "bitcoind.pid"] {
        assert!(net.join(name).exists(), "{name}");
    }
    assert_eq!(std::fs::read_dir(net.join("wallets")).unwrap().count(), 0);
    assert_eq!(node.args.debug_log(), net.join("debug.log"));
    node.wait_for_mempool();
    node.close();
    assert!(!net.join("bitcoind.pid").exists());
    assert!(net.join("mempool.dat").exists());
}

#[test]
fn options_of_test_networks_are_refused_on_main() {
    let dir = tempfile::tempdir().unwrap();
    let error = Node::start(dir.path(), &["-chain=main", "-testactivationheight=segwit@5"]).err().unwrap();
    assert_eq!(error.to_string(), "The -testactivationheight option may not be used on mainnet.");
}

#[test]
fn a_locked_data_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("regtest");
    std::fs::create_dir_all(&net).unwrap();
    let lock = std::fs::File::create(net.join(".lock")).unwrap();
    // Core locks by fcntl, which does not see locks of its own process: hold it in a child.
    let mut child = std::process::Command::new("python3")
        .args(["-c", "import fcntl,sys\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\nsys.stdin.read()"])
        .arg(net.join(".lock"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    let error = Node::start(dir.path(), &["-regtest"]).err().unwrap();
    assert!(error.to_string().contains("Cannot obtain a lock on directory"), "{error}");
    drop(child.stdin.take());
    child.wait().unwrap();
    drop(lock);
}

#[test]
fn a_bad_port_is_refused_and_leaves_no_pid_file() {
    let dir = tempfile::tempdir().unwrap();
    let error = Node::start(dir.path(), &["-regtest", "-port=0"]).err().unwrap();
    assert_eq!(error.to_string(), "Invalid port specified in -port: '0'");
    assert!(!dir.path().join("regtest/bitcoind.pid").exists());
}

#[test]
fn a_failed_load_is_refused_with_cores_text_and_can_be_ended() {
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("regtest");
    std::fs::create_dir_all(net.join("blocks/index")).unwrap();
    std::fs::write(net.join("blocks/index/CURRENT"), "garbage").unwrap();
    let node = Node::start(dir.path(), &["-regtest"]).unwrap();
    let error = node.kernel.load().unwrap_err();
    assert!(error.to_string().contains("Please restart with -reindex"), "{error}");
    node.close();
    assert!(!net.join("bitcoind.pid").exists());
}
