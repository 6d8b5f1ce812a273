// Mempool, broadcast and fee estimates.
#include "state.h"

#include <consensus/validation.h>
#include <node/mempool_args.h>
#include <node/transaction.h>
#include <node/types.h>
#include <common/messages.h>
#include <policy/fees/block_policy_estimator.h>
#include <policy/packages.h>
#include <txmempool.h>
#include <util/time.h>
#include <validation.h>

using namespace keyless;

namespace {

template <typename Result>
void WriteRejection(Writer& out, const ValidationState<Result>& state, uint8_t kind)
{
    out.u8(kind);
    out.text(state.GetRejectReason());
    out.text(state.GetDebugMessage());
}

void WriteAcceptance(Writer& out, const MempoolAcceptResult& result)
{
    using Type = MempoolAcceptResult::ResultType;
    switch (result.m_result_type) {
    case Type::VALID:
        out.u8(0);
        out.u64(static_cast<uint64_t>(result.m_vsize.value()));
        out.i64(result.m_base_fees.value());
        out.u32(static_cast<uint32_t>(result.m_replaced_transactions.size()));
        for (const CTransactionRef& tx : result.m_replaced_transactions) out.hash(tx->GetHash());
        return;
    case Type::INVALID:
        out.u8(1);
        return WriteRejection(out, result.m_state, static_cast<uint8_t>(result.m_state.GetResult()));
    case Type::MEMPOOL_ENTRY:
        out.u8(2);
        out.u64(static_cast<uint64_t>(result.m_vsize.value()));
        out.i64(result.m_base_fees.value());
        return;
    case Type::DIFFERENT_WITNESS:
        out.u8(3);
        return out.hash(result.m_other_wtxid.value());
    }
    throw Refused{"unknown kind of acceptance"};
}

CTransactionRef Transaction(kl_in bytes)
{
    CMutableTransaction tx;
    Decode(bytes, TX_WITH_WITNESS(tx), "TX");
    return MakeTransactionRef(std::move(tx));
}

void WriteEntry(Writer& out, const CTxMemPool& pool, const TxMempoolInfo& info)
{
    AssertLockHeld(pool.cs);
    const CTxMemPoolEntry* const entry{info.tx ? pool.GetEntry(info.tx->GetHash()) : nullptr};
    out.boolean(entry != nullptr);
    if (!entry) return;
    out.consensus(TX_WITH_WITNESS(*info.tx));
    out.i64(info.fee);
    out.u64(static_cast<uint64_t>(info.vsize));
    out.u64(static_cast<uint64_t>(info.m_time.count()));
    out.u64(entry->GetSequence());
}

COutPoint OutPoint(kl_in bytes)
{
    COutPoint point;
    Decode(bytes, point, "outpoint");
    return point;
}

} // namespace

kl_buf kl_mempool_accept(kl_in tx, int test_accept)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CTransactionRef decoded{Transaction(tx)};
        LOCK(cs_main);
        // ProcessTransaction is this, and on regtest a look through the whole mempool: a test changes nothing in it.
        const MempoolAcceptResult result{test_accept != 0 ? AcceptToMemoryPool(call.chainman().ActiveChainstate(), decoded, GetTime(), /*bypass_limits=*/false, /*test_accept=*/true)
                                                          : call.chainman().ProcessTransaction(decoded)};
        WriteAcceptance(out, result);
    });
}

kl_buf kl_mempool_package(kl_in txs, int test_accept)
{
    return Answer([&](Writer& out) {
        const Call call;
        std::vector<CMutableTransaction> decoded;
        Decode(txs, TX_WITH_WITNESS(decoded), "TX");
        Package package;
        for (CMutableTransaction& tx : decoded) package.push_back(MakeTransactionRef(std::move(tx)));
        if (package.empty()) throw Refused{"a package has at least one transaction"};
        const auto result{WITH_LOCK(cs_main, return ProcessNewPackage(call.chainman().ActiveChainstate(), call.mempool(), package, test_accept != 0, /*client_maxfeerate=*/{}))};
        out.boolean(!result.m_state.IsValid());
        if (!result.m_state.IsValid()) WriteRejection(out, result.m_state, static_cast<uint8_t>(TxValidationResult::TX_UNKNOWN));
        out.u32(static_cast<uint32_t>(result.m_tx_results.size()));
        for (const auto& [wtxid, acceptance] : result.m_tx_results) {
            out.hash(wtxid);
            WriteAcceptance(out, acceptance);
        }
    });
}

kl_buf kl_mempool_get(kl_in id, int is_wtxid)
{
    return Answer([&](Writer& out) {
        const Call call;
        const uint256 hash{Hash(id)};
        const CTxMemPool& pool{call.mempool()};
        LOCK(pool.cs);
        WriteEntry(out, pool, is_wtxid ? pool.info(Wtxid::FromUint256(hash)) : pool.info(Txid::FromUint256(hash)));
    });
}

kl_buf kl_mempool_list()
{
    return Answer([&](Writer& out) {
        const Call call;
        const auto entries{call.mempool().infoAll()};
        out.u32(static_cast<uint32_t>(entries.size()));
        for (const TxMempoolInfo& info : entries) {
            out.hash(info.tx->GetHash());
            out.hash(info.tx->GetWitnessHash());
            out.i64(info.fee);
            out.u64(static_cast<uint64_t>(info.vsize));
            out.u64(static_cast<uint64_t>(info.m_time.count()));
        }
    });
}

kl_buf kl_mempool_info()
{
    return Answer([&](Writer& out) {
        const Call call;
        CTxMemPool& pool{call.mempool()};
        LOCK(pool.cs);
        out.u64(pool.size());
        out.u64(pool.GetTotalTxSize());
        out.u64(static_cast<uint64_t>(pool.GetMinFee().GetFeePerK()));
        out.u64(static_cast<uint64_t>(pool.m_opts.min_relay_feerate.GetFeePerK()));
        out.u64(static_cast<uint64_t>(pool.m_opts.incremental_relay_feerate.GetFeePerK()));
        out.u64(static_cast<uint64_t>(pool.m_opts.dust_relay_feerate.GetFeePerK()));
        out.boolean(pool.GetLoadTried());
        out.u32(pool.GetTransactionsUpdated());
        out.u64(pool.GetSequence());
    });
}

kl_buf kl_mempool_spender(kl_in outpoint)
{
    return Answer([&](Writer& out) {
        const Call call;
        const COutPoint point{OutPoint(outpoint)};
        CTxMemPool& pool{call.mempool()};
        LOCK(pool.cs);
        const CTransaction* const spender{pool.GetConflictTx(point)};
        out.boolean(spender != nullptr);
        if (spender) out.hash(spender->GetHash());
    });
}

kl_buf kl_mempool_unbroadcast()
{
    return Answer([&](Writer& out) {
        const Call call;
        CTxMemPool& pool{call.mempool()};
        Writer list;
        uint32_t count{0};
        for (const Txid& txid : pool.GetUnbroadcastTxs()) {
            const CTransactionRef tx{pool.get(txid)};
            if (!tx) {
                pool.RemoveUnbroadcastTx(txid, /*unchecked=*/true);
                continue;
            }
            list.hash(txid);
            list.hash(tx->GetWitnessHash());
            ++count;
        }
        out.u32(count);
        out.raw(list.view());
    });
}

kl_buf kl_mempool_broadcast_seen(kl_in txid)
{
    return Answer([&](Writer&) {
        const Call call;
        call.mempool().RemoveUnbroadcastTx(Txid::FromUint256(Hash(txid)));
    });
}

kl_buf kl_broadcast(kl_in tx, int64_t max_fee, int relay)
{
    return Answer([&](Writer&) {
        const Call call;
        std::string text;
        const auto method{relay ? node::TxBroadcast::MEMPOOL_AND_BROADCAST_TO_ALL : node::TxBroadcast::MEMPOOL_NO_BROADCAST};
        const auto error{node::BroadcastTransaction(call.node(), Transaction(tx), text, max_fee, method, /*wait_callback=*/false)};
        if (error == node::TransactionError::OK) return;
        throw Refused{text.empty() ? common::TransactionErrorString(error).original : text};
    });
}

kl_buf kl_estimate_fee(int target, int conservative)
{
    return Answer([&](Writer& out) {
        const Call call;
        FeeCalculation calculation;
        CFeeRate rate{0};
        if (call.node().fee_estimator) rate = call.node().fee_estimator->estimateSmartFee(target, &calculation, conservative != 0);
        const bool known{rate != CFeeRate{0}};
        out.boolean(known);
        if (known) out.u64(static_cast<uint64_t>(rate.GetFeePerK()));
        out.u32(static_cast<uint32_t>(calculation.returnedTarget));
    });
}
