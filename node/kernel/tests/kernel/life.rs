//! Opening, closing, options and their errors.

use keyless_kernel::Notification;

use crate::support::Node;

fn opens_and_closes(chain: &str, genesis: &str) {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open_chain(dir.path(), &[chain]).unwrap();
    let tip = node.kernel.tip().unwrap();
    assert_eq!((tip.height, tip.hash.to_string().as_str()), (0, genesis));
    let state = node.kernel.chain_state().unwrap();
    assert!(state.anti_dos_work >= state.minimum_work);
    node.close();
}

#[test]
fn regtest_opens_and_closes() {
    opens_and_closes("-regtest", "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206");
}

#[test]
fn signet_opens_and_closes() {
    opens_and_closes("-signet", "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6");
}

#[test]
fn testnet3_opens_and_closes() {
    opens_and_closes("-testnet", "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943");
}

#[test]
fn testnet4_opens_and_closes() {
    opens_and_closes("-testnet4", "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043");
}

#[test]
fn main_opens_and_closes() {
    opens_and_closes("-chain=main", "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f");
}

#[test]
fn rpc_answers_warm_up_until_ready() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &["-regtest"]).unwrap();
    let early = node.try_rpc("getblockcount", serde_json::json!([])).unwrap_err();
    assert_eq!(early.code, -28);
    assert_eq!(node.kernel.warmup(), Some(early.message));
    node.kernel.load().unwrap();
    assert_eq!(node.try_rpc("getblockcount", serde_json::json!([])).unwrap_err().code, -28);
    node.kernel.ready().unwrap();
    assert_eq!(node.rpc("getblockcount", serde_json::json!([])), 0);
    assert!(
        node.events
            .all()
            .iter()
            .any(|event| matches!(event, Notification::InitMessage(text) if text == "Done loading"))
    );
    node.close();
}
