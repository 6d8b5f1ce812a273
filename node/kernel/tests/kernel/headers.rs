//! Headers of too little work cost nothing.

use bitcoin::block::Header;
use keyless_kernel::chain::BlockVerdictKind;

use crate::support::{Node, build};

fn chain_after(mut prev: Header, count: usize) -> Vec<Header> {
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        prev = build::header_after(&prev);
        headers.push(prev);
    }
    headers
}

fn genesis(node: &Node) -> Header {
    let hash = node.kernel.block_hash(0).unwrap().unwrap();
    node.kernel.block_info(&hash).unwrap().unwrap().header
}

#[test]
fn low_work_headers_are_refused_unless_their_work_was_shown() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &["-minimumchainwork=0x1000"]);
    let headers = chain_after(genesis(&node), 3);
    let outcome = node.kernel.process_headers(&headers, false).unwrap();
    assert_eq!(outcome.last, None);
    let rejection = outcome.rejection.unwrap();
    assert_eq!((rejection.kind, rejection.reason.as_str()), (BlockVerdictKind::LowWork, "too-little-chainwork"));
    assert_eq!(node.kernel.block_info(&headers[0].block_hash()).unwrap(), None);
    assert_eq!(node.kernel.process_headers(&headers, true).unwrap().rejection, None);
    node.close();
}

#[test]
fn disconnected_headers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let headers = chain_after(genesis(&node), 3);
    let outcome = node.kernel.process_headers(&headers[1..], true).unwrap();
    assert_eq!(outcome.rejection.unwrap().kind, BlockVerdictKind::MissingPrev);
    node.close();
}

#[test]
fn a_chain_shown_twice_with_enough_work_is_let_through() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &["-minimumchainwork=0x1770"]); // 3,000 regtest blocks
    let start = genesis(&node);
    let headers = chain_after(start, 3_500);
    let minimum = node.kernel.chain_state().unwrap().anti_dos_work;
    let mut sync = node.kernel.headers_sync(&start.block_hash(), minimum, 0).unwrap();
    // First pass: only commitments are kept.
    let step = sync.process(&headers[..2_000], true).unwrap();
    assert!(step.success && step.request_more && step.ready.is_empty());
    assert_eq!(sync.locator().unwrap().first(), Some(&headers[1_999].block_hash()));
    let step = sync.process(&headers[2_000..], false).unwrap();
    assert!(step.success && step.request_more && step.ready.is_empty());
    // Second pass: from the start again.
    assert_eq!(sync.locator().unwrap().first(), Some(&start.block_hash()));
    let mut ready = sync.process(&headers[..2_000], true).unwrap().ready;
    let step = sync.process(&headers[2_000..], false).unwrap();
    assert!(step.success && !step.request_more);
    ready.extend(step.ready);
    assert_eq!(ready, headers);
    assert_eq!(node.kernel.process_headers(&ready, true).unwrap().last.unwrap().height, 3_500);
    assert!(sync.locator().is_err(), "a finished sync answers no more");
    drop(sync);
    node.close();
}
