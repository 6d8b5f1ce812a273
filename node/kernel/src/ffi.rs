//! The C surface of the shim, one to one with `shim/keyless_shim.h`. Every function answers with a [`Buffer`] whose first
//! byte is a status; no C++ exception and no Rust panic crosses this line.
//!
//! The functions themselves are safe to call (`safe fn`): they check every argument, refuse calls while no node runs, and
//! lock what they read. What they hand out, the buffers, is what `codec` has to take care of.

use std::os::raw::{c_int, c_void};

/// The call succeeded; fields follow.
pub(crate) const STATUS_OK: u8 = 0;
/// There is no node to ask (any more).
pub(crate) const STATUS_NOT_RUNNING: u8 = 2;
/// A JSON-RPC error: code, then text.
pub(crate) const STATUS_RPC_ERROR: u8 = 3;

/// Memory allocated by the shim.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    pub data: *mut u8,
    pub len: usize,
}

/// Memory lent to the shim for one call.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a> {
    data: *const u8,
    len: usize,
    lent: std::marker::PhantomData<&'a [u8]>,
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Bytes { data: bytes.as_ptr(), len: bytes.len(), lent: std::marker::PhantomData }
    }
}

impl<'a> From<&'a str> for Bytes<'a> {
    fn from(text: &'a str) -> Self {
        Bytes::from(text.as_bytes())
    }
}

impl<'a> From<&'a [u8; 32]> for Bytes<'a> {
    fn from(bytes: &'a [u8; 32]) -> Self {
        Bytes::from(bytes.as_slice())
    }
}

/// `kind`, then the fields of the notification.
pub(crate) type NotifyFn = extern "C" fn(ctx: *mut c_void, kind: u32, data: *const u8, len: usize);

/// Asks a peer for a block; writes an error text and returns its length, 0 for success.
pub(crate) type FetchFn =
    extern "C" fn(ctx: *mut c_void, peer: i64, hash: *const u8, text: *mut u8, capacity: usize) -> usize;

unsafe extern "C" {
    pub(crate) unsafe fn kl_free(buffer: Buffer);

    // Options.
    pub(crate) safe fn kl_args_parse(argv: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_args_help(name: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_args_get(name: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_args_get_all(name: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_args_get_bool(name: Bytes<'_>, default: c_int) -> Buffer;
    pub(crate) safe fn kl_args_get_int(name: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_args_is_set(name: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_args_is_negated(name: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_args_soft_set(name: Bytes<'_>, value: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_args_force_set(name: Bytes<'_>, value: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_args_path(which: c_int) -> Buffer;
    pub(crate) safe fn kl_args_numeric_address(text: Bytes<'_>, default_port: u16) -> Buffer;
    pub(crate) safe fn kl_args_bad_port(port: u16) -> Buffer;
    pub(crate) safe fn kl_args_chain() -> Buffer;
    pub(crate) safe fn kl_settings_read(name: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_settings_write(name: Bytes<'_>, json: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_init_error(text: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_init_warning(text: Bytes<'_>) -> Buffer;

    // Logging.
    pub(crate) safe fn kl_log(category: Bytes<'_>, level: c_int, text: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_log_enabled(category: Bytes<'_>, level: c_int) -> c_int;
    pub(crate) safe fn kl_log_is_category(name: Bytes<'_>) -> c_int;
    pub(crate) safe fn kl_log_reopen();

    // The node's life.
    pub(crate) safe fn kl_prepare() -> Buffer;
    pub(crate) safe fn kl_lock_directories() -> Buffer;
    pub(crate) unsafe fn kl_start(notify: NotifyFn, fetch: FetchFn, ctx: *mut c_void) -> Buffer;
    pub(crate) safe fn kl_load() -> Buffer;
    pub(crate) safe fn kl_ready() -> Buffer;
    pub(crate) safe fn kl_request_shutdown();
    pub(crate) safe fn kl_shutdown_requested() -> c_int;
    pub(crate) safe fn kl_wait_shutdown();
    pub(crate) safe fn kl_exit_status() -> c_int;
    pub(crate) safe fn kl_interrupt() -> Buffer;
    pub(crate) safe fn kl_shutdown() -> Buffer;
    pub(crate) safe fn kl_init_message(text: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_set_peer_count(peers: u32);
    pub(crate) safe fn kl_sync_queue() -> Buffer;
    pub(crate) safe fn kl_warnings() -> Buffer;
    pub(crate) safe fn kl_time() -> i64;
    pub(crate) safe fn kl_time_micros() -> i64;

    // RPC.
    pub(crate) safe fn kl_rpc(
        method: Bytes<'_>,
        params: Bytes<'_>,
        uri: Bytes<'_>,
        user: Bytes<'_>,
        peer: Bytes<'_>,
        version: c_int,
    ) -> Buffer;
    pub(crate) safe fn kl_rpc_commands() -> Buffer;
    pub(crate) safe fn kl_rpc_warmup() -> Buffer;

    // Chain.
    pub(crate) safe fn kl_tip() -> Buffer;
    pub(crate) safe fn kl_best_header() -> Buffer;
    pub(crate) safe fn kl_block_info(hash: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_block_hash(height: u32) -> Buffer;
    pub(crate) safe fn kl_locator(which: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_headers_after(locator: Bytes<'_>, stop: Bytes<'_>, max: u32) -> Buffer;
    pub(crate) safe fn kl_process_headers(headers: Bytes<'_>, min_pow_checked: c_int) -> Buffer;
    pub(crate) safe fn kl_process_block(block: Bytes<'_>, force: c_int, min_pow_checked: c_int) -> Buffer;
    pub(crate) safe fn kl_read_block(hash: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_read_undo(hash: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_missing_blocks(target: Bytes<'_>, from: u32, max: u32) -> Buffer;
    pub(crate) safe fn kl_historical_range() -> Buffer;
    pub(crate) safe fn kl_fork_point(hash: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_ancestor(hash: Bytes<'_>, height: u32) -> Buffer;
    pub(crate) safe fn kl_chain_state() -> Buffer;
    pub(crate) safe fn kl_chain_params() -> Buffer;
    pub(crate) safe fn kl_coin(outpoint: Bytes<'_>, with_mempool: c_int) -> Buffer;
    pub(crate) safe fn kl_flush() -> Buffer;
    pub(crate) safe fn kl_block_filter(hash: Bytes<'_>) -> Buffer;

    // Low-work headers.
    pub(crate) safe fn kl_hsync_new(start: Bytes<'_>, min_work: Bytes<'_>, peer: i64) -> Buffer;
    pub(crate) safe fn kl_hsync_process(id: u64, headers: Bytes<'_>, full: c_int) -> Buffer;
    pub(crate) safe fn kl_hsync_locator(id: u64) -> Buffer;
    pub(crate) safe fn kl_hsync_free(id: u64);

    // Mempool.
    pub(crate) safe fn kl_mempool_accept(tx: Bytes<'_>, test_accept: c_int) -> Buffer;
    pub(crate) safe fn kl_mempool_package(txs: Bytes<'_>, test_accept: c_int) -> Buffer;
    pub(crate) safe fn kl_mempool_get(id: Bytes<'_>, is_wtxid: c_int) -> Buffer;
    pub(crate) safe fn kl_mempool_list() -> Buffer;
    pub(crate) safe fn kl_mempool_info() -> Buffer;
    pub(crate) safe fn kl_mempool_spender(outpoint: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_mempool_unbroadcast() -> Buffer;
    pub(crate) safe fn kl_mempool_broadcast_seen(txid: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_broadcast(tx: Bytes<'_>, max_fee: i64, relay: c_int) -> Buffer;
    pub(crate) safe fn kl_estimate_fee(target: c_int, conservative: c_int) -> Buffer;

    // Transactions of peers.
    pub(crate) safe fn kl_relay_joined(peer: i64, preferred: c_int, relay_permission: c_int, wtxid: c_int) -> Buffer;
    pub(crate) safe fn kl_relay_left(peer: i64) -> Buffer;
    pub(crate) safe fn kl_relay_announced(peer: i64, id: Bytes<'_>, is_wtxid: c_int) -> Buffer;
    pub(crate) safe fn kl_relay_requests(peer: i64) -> Buffer;
    pub(crate) safe fn kl_relay_not_found(peer: i64, ids: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_relay_decode(tx: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_relay_transaction(peer: i64, tx: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_relay_orphan(peer: i64) -> Buffer;

    // Rules about peers.
    pub(crate) safe fn kl_rules_evict(inbound: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_rules_fee_filter(rate: i64) -> Buffer;
    pub(crate) safe fn kl_rules_best_first(wtxids: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_rules_note_clock(ahead_secs: i64) -> Buffer;
    pub(crate) safe fn kl_rules_clock_offset() -> Buffer;
    // Private broadcast.
    pub(crate) safe fn kl_private_wanted(opened: u32) -> Buffer;
    pub(crate) safe fn kl_private_pick(peer: i64, address: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_private_given(peer: i64) -> Buffer;
    pub(crate) safe fn kl_private_confirmed(peer: i64) -> Buffer;
    pub(crate) safe fn kl_private_ended(peer: i64) -> Buffer;
    pub(crate) safe fn kl_private_returned(tx: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_private_retry() -> Buffer;

    // Compact blocks.
    pub(crate) safe fn kl_compact_make(hash: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_compact_decode(bytes: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_compact_begin(peer: i64, bytes: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_compact_fill(peer: i64, payload: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_compact_try(bytes: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_compact_forget(peer: i64, hash: Bytes<'_>);
    pub(crate) safe fn kl_compact_request(payload: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_compact_ask(hash: Bytes<'_>, indexes: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_compact_answer(payload: Bytes<'_>) -> Buffer;

    // Addresses of other nodes.
    pub(crate) safe fn kl_book_size(network: u8) -> Buffer;
    pub(crate) safe fn kl_book_learn(
        addresses: Bytes<'_>,
        source: Bytes<'_>,
        source_name: Bytes<'_>,
        penalty_secs: i64,
    ) -> Buffer;
    pub(crate) safe fn kl_book_good(address: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_book_attempt(address: Bytes<'_>, count_failure: c_int) -> Buffer;
    pub(crate) safe fn kl_book_connected(address: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_book_services(address: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_book_choose(only_new: c_int, networks: u32) -> Buffer;
    pub(crate) safe fn kl_book_collision() -> Buffer;
    pub(crate) safe fn kl_book_sample(most: u32, percent: u32) -> Buffer;
    pub(crate) safe fn kl_book_save() -> Buffer;
    pub(crate) safe fn kl_address_group(address: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_address_mapped_as(address: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_set_reachable(networks: u32);
    pub(crate) safe fn kl_find_own(on_any: c_int) -> Buffer;
    pub(crate) safe fn kl_own() -> Buffer;
    pub(crate) safe fn kl_fixed_seeds() -> Buffer;
    pub(crate) safe fn kl_anchors_take() -> Buffer;
    pub(crate) safe fn kl_anchors_keep(addresses: Bytes<'_>) -> Buffer;

    // Filters for light clients.
    pub(crate) safe fn kl_filter_range(start: u32, stop: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_filter_headers(start: u32, stop: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_filter_checkpoints(stop: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_bloom_load(peer: i64, payload: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_bloom_add(peer: i64, payload: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_bloom_clear(peer: i64);
    pub(crate) safe fn kl_bloom_matches(peer: i64, txid: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_bloom_block(peer: i64, hash: Bytes<'_>) -> Buffer;
    // Unconfirmed coins.
    pub(crate) safe fn kl_ancestry(txid: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_has_descendants(txid: Bytes<'_>) -> Buffer;
    pub(crate) safe fn kl_bump_fees(outpoints: Bytes<'_>, sat_kvb: i64) -> Buffer;
    pub(crate) safe fn kl_combined_bump_fee(outpoints: Bytes<'_>, sat_kvb: i64) -> Buffer;
    pub(crate) safe fn kl_fits_limits(tx: Bytes<'_>) -> Buffer;
}
