// The C surface between Core's node and Rust; its twin is `src/ffi.rs`.
//
// Every function answers with a buffer: a status byte, then fields in little-endian order (codec.h). Nothing throws across
// this line. A call that needs the node answers STATUS_NOT_RUNNING before it is loaded and once it is shutting down.
#ifndef KEYLESS_SHIM_H
#define KEYLESS_SHIM_H

#include <cstddef>
#include <cstdint>

struct kl_buf {
    uint8_t* data;
    size_t len;
};

struct kl_in {
    const uint8_t* data;
    size_t len;
};

using kl_notify = void (*)(void* ctx, uint32_t kind, const uint8_t* data, size_t len);

//! Asks a peer for a block (32 bytes of hash). Writes an error text of at most `capacity` bytes, returns its length; 0 is success.
using kl_fetch = size_t (*)(void* ctx, int64_t peer, const uint8_t* hash, uint8_t* text, size_t capacity);

extern "C" {
void kl_free(kl_buf buffer);

// args.cpp
kl_buf kl_args_parse(kl_in argv);
kl_buf kl_args_help(kl_in program);
kl_buf kl_args_get(kl_in name);
kl_buf kl_args_get_all(kl_in name);
kl_buf kl_args_get_bool(kl_in name, int fallback);
kl_buf kl_args_get_int(kl_in name);
kl_buf kl_args_is_set(kl_in name);
kl_buf kl_args_is_negated(kl_in name);
kl_buf kl_args_soft_set(kl_in name, kl_in value);
kl_buf kl_args_force_set(kl_in name, kl_in value);
kl_buf kl_args_path(int which);
kl_buf kl_args_numeric_address(kl_in text, uint16_t default_port);
kl_buf kl_args_bad_port(uint16_t port);
kl_buf kl_args_chain();
kl_buf kl_settings_read(kl_in name);
kl_buf kl_settings_write(kl_in name, kl_in json);
kl_buf kl_init_error(kl_in text);
kl_buf kl_init_warning(kl_in text);

// log.cpp
kl_buf kl_log(kl_in category, int level, kl_in text);
int kl_log_enabled(kl_in category, int level);
int kl_log_is_category(kl_in name);
void kl_log_reopen();

// life.cpp, load.cpp
kl_buf kl_prepare();
kl_buf kl_lock_directories();
kl_buf kl_start(kl_notify notify, kl_fetch fetch, void* ctx);
kl_buf kl_load();
kl_buf kl_ready();
void kl_request_shutdown();
int kl_shutdown_requested();
void kl_wait_shutdown();
int kl_exit_status();
kl_buf kl_interrupt();
kl_buf kl_shutdown();
kl_buf kl_init_message(kl_in text);
void kl_set_peer_count(uint32_t peers);
kl_buf kl_sync_queue();
kl_buf kl_warnings();
int64_t kl_time();
/* The same clock in microseconds. */
int64_t kl_time_micros();

// rpc.cpp
kl_buf kl_rpc(kl_in method, kl_in params, kl_in uri, kl_in user, kl_in peer, int version);
kl_buf kl_rpc_commands();
kl_buf kl_rpc_warmup();

// chain.cpp
kl_buf kl_tip();
kl_buf kl_best_header();
kl_buf kl_block_info(kl_in hash);
kl_buf kl_block_hash(uint32_t height);
kl_buf kl_locator(kl_in of);
kl_buf kl_headers_after(kl_in locator, kl_in stop, uint32_t max);
kl_buf kl_missing_blocks(kl_in target, uint32_t from, uint32_t max);
kl_buf kl_historical_range();
kl_buf kl_fork_point(kl_in hash);
kl_buf kl_ancestor(kl_in hash, uint32_t height);
kl_buf kl_chain_state();
kl_buf kl_chain_params();
kl_buf kl_coin(kl_in outpoint, int with_mempool);
kl_buf kl_flush();
kl_buf kl_block_filter(kl_in hash);

// blocks.cpp
kl_buf kl_process_headers(kl_in headers, int min_pow_checked);
kl_buf kl_process_block(kl_in block, int force, int min_pow_checked);
kl_buf kl_read_block(kl_in hash);
kl_buf kl_read_undo(kl_in hash);
kl_buf kl_hsync_new(kl_in start, kl_in min_work, int64_t peer);
kl_buf kl_hsync_process(uint64_t id, kl_in headers, int full);
kl_buf kl_hsync_locator(uint64_t id);
void kl_hsync_free(uint64_t id);

// mempool.cpp
kl_buf kl_mempool_accept(kl_in tx, int test_accept);
kl_buf kl_mempool_package(kl_in txs, int test_accept);
kl_buf kl_mempool_get(kl_in id, int is_wtxid);
kl_buf kl_mempool_list();
kl_buf kl_mempool_info();
kl_buf kl_mempool_spender(kl_in outpoint);
kl_buf kl_mempool_unbroadcast();
kl_buf kl_mempool_broadcast_seen(kl_in txid);
kl_buf kl_broadcast(kl_in tx, int64_t max_fee, int relay);
kl_buf kl_estimate_fee(int target, int conservative);

// relay.cpp
kl_buf kl_relay_joined(int64_t peer, int preferred, int relay_permission, int wtxid_relay);
kl_buf kl_relay_left(int64_t peer);
kl_buf kl_relay_announced(int64_t peer, kl_in id, int is_wtxid);
kl_buf kl_relay_requests(int64_t peer);
kl_buf kl_relay_not_found(int64_t peer, kl_in ids);
kl_buf kl_relay_decode(kl_in tx);
kl_buf kl_relay_transaction(int64_t peer, kl_in tx);
kl_buf kl_relay_orphan(int64_t peer);

// rules.cpp
kl_buf kl_rules_evict(kl_in inbound);
kl_buf kl_rules_fee_filter(int64_t rate);
kl_buf kl_rules_best_first(kl_in wtxids);
kl_buf kl_rules_note_clock(int64_t ahead_secs);
kl_buf kl_rules_clock_offset();
// private.cpp
kl_buf kl_private_wanted(uint32_t opened);
kl_buf kl_private_pick(int64_t peer, kl_in address);
kl_buf kl_private_given(int64_t peer);
kl_buf kl_private_confirmed(int64_t peer);
kl_buf kl_private_ended(int64_t peer);
kl_buf kl_private_returned(kl_in tx);
kl_buf kl_private_retry();

// compact.cpp
kl_buf kl_compact_make(kl_in hash);
kl_buf kl_compact_decode(kl_in bytes);
kl_buf kl_compact_begin(int64_t peer, kl_in bytes);
kl_buf kl_compact_fill(int64_t peer, kl_in payload);
kl_buf kl_compact_try(kl_in bytes);
void kl_compact_forget(int64_t peer, kl_in hash);
kl_buf kl_compact_request(kl_in payload);
kl_buf kl_compact_ask(kl_in hash, kl_in indexes);
kl_buf kl_compact_answer(kl_in payload);

// addresses.cpp
kl_buf kl_book_size(uint8_t network);
kl_buf kl_book_learn(kl_in addresses, kl_in source, kl_in source_name, int64_t penalty_secs);
kl_buf kl_book_good(kl_in address);
kl_buf kl_book_attempt(kl_in address, int count_failure);
kl_buf kl_book_connected(kl_in address);
kl_buf kl_book_services(kl_in address);
kl_buf kl_book_choose(int only_new, uint32_t networks);
kl_buf kl_book_collision();
kl_buf kl_book_sample(uint32_t most, uint32_t percent);
kl_buf kl_book_save();
kl_buf kl_address_group(kl_in address);
kl_buf kl_address_mapped_as(kl_in address);
void kl_set_reachable(uint32_t networks);
kl_buf kl_find_own(int on_any);
kl_buf kl_own();
kl_buf kl_fixed_seeds();
kl_buf kl_anchors_take();
kl_buf kl_anchors_keep(kl_in addresses);

// filters.cpp
kl_buf kl_filter_range(uint32_t start, kl_in stop);
kl_buf kl_filter_headers(uint32_t start, kl_in stop);
kl_buf kl_filter_checkpoints(kl_in stop);
kl_buf kl_bloom_load(int64_t peer, kl_in payload);
kl_buf kl_bloom_add(int64_t peer, kl_in payload);
void kl_bloom_clear(int64_t peer);
kl_buf kl_bloom_matches(int64_t peer, kl_in txid);
kl_buf kl_bloom_block(int64_t peer, kl_in hash);
// unconfirmed.cpp
kl_buf kl_ancestry(kl_in txid);
kl_buf kl_has_descendants(kl_in txid);
kl_buf kl_bump_fees(kl_in outpoints, int64_t sat_kvb);
kl_buf kl_combined_bump_fee(kl_in outpoints, int64_t sat_kvb);
kl_buf kl_fits_limits(kl_in tx);
}

#endif // KEYLESS_SHIM_H
