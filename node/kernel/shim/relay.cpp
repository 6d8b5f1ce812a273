#include "relay.h"

#include <consensus/validation.h>
#include <core_memusage.h>
#include <logging.h>
#include <node/txdownloadman.h>
#include <policy/packages.h>
#include <random.h>
#include <txmempool.h>
#include <util/check.h>
#include <util/log.h>
#include <util/time.h>
#include <validation.h>

#include <list>
#include <optional>
#include <tuple>
#include <utility>

namespace keyless {
namespace {

/** Core's limit for a transaction kept for compact blocks, bytes of memory. */
constexpr size_t MAX_EXTRA_TX_USAGE{100'000};

struct Relay {
    CTxMemPool& pool;
    FastRandomContext rng;
    node::TxDownloadManager downloads;
    const size_t max_extra;
    std::vector<std::pair<Wtxid, CTransactionRef>> extra;
    size_t next_extra{0};
    //! A transaction or package was refused since the tip moved: there is something to forget when it moves again.
    bool refused{false};

    Relay(CTxMemPool& mempool, size_t max_extra_txs)
        : pool{mempool}, downloads{node::TxDownloadOptions{.m_mempool = mempool, .m_rng = rng}}, max_extra{max_extra_txs} {}

    void KeepExtra(const CTransactionRef& tx)
    {
        if (max_extra == 0) return;
        if (extra.size() < max_extra) {
            extra.emplace_back(tx->GetWitnessHash(), tx);
        } else {
            extra[next_extra] = {tx->GetWitnessHash(), tx};
        }
        next_extra = (next_extra + 1) % max_extra;
    }
};

// Taken after cs_main and before the mempool's own lock, as Core's m_tx_download_mutex.
Mutex g_mutex;
std::unique_ptr<Relay> g_relay GUARDED_BY(g_mutex);
NewestBlock g_newest GUARDED_BY(g_mutex);

/** What one message led to. */
struct Outcome {
    std::vector<std::tuple<Txid, Wtxid, NodeId>> accepted;
    //! Parents a peer must know, for it sent a child.
    std::vector<std::pair<NodeId, Txid>> parents;

    void Write(Writer& out) const
    {
        out.u32(static_cast<uint32_t>(accepted.size()));
        for (const auto& [txid, wtxid, peer] : accepted) {
            out.hash(txid);
            out.hash(wtxid);
            out.i64(peer);
        }
        out.u32(static_cast<uint32_t>(parents.size()));
        for (const auto& [peer, txid] : parents) {
            out.i64(peer);
            out.hash(txid);
        }
    }
};

/** Judging what peers sent; holds cs_main and the relay for one message, as Core does. */
class Judge
{
    Relay& m_relay;
    ChainstateManager& m_chainman;
    Outcome m_outcome;

    void Valid(NodeId peer, const CTransactionRef& tx, const std::list<CTransactionRef>& replaced)
    {
        m_relay.downloads.MempoolAcceptedTx(tx);
        LogDebug(BCLog::MEMPOOL, "AcceptToMemoryPool: peer=%d: accepted %s (wtxid=%s) (poolsz %u txn, %u kB)\n",
                 peer, tx->GetHash().ToString(), tx->GetWitnessHash().ToString(), m_relay.pool.size(), m_relay.pool.DynamicMemoryUsage() / 1000);
        m_outcome.accepted.emplace_back(tx->GetHash(), tx->GetWitnessHash(), peer);
        for (const CTransactionRef& removed : replaced) m_relay.KeepExtra(removed);
    }

    std::optional<node::PackageToValidate> Invalid(NodeId peer, const CTransactionRef& tx, const TxValidationState& state, bool first_time)
    {
        LogDebug(BCLog::MEMPOOLREJ, "%s (wtxid=%s) from peer=%d was not accepted: %s\n",
                 tx->GetHash().ToString(), tx->GetWitnessHash().ToString(), peer, state.ToString());
        m_relay.refused = true;
        auto todo{m_relay.downloads.MempoolRejectedTx(tx, state, peer, first_time)};
        if (todo.m_should_add_extra_compact_tx && RecursiveDynamicUsage(*tx) < MAX_EXTRA_TX_USAGE) m_relay.KeepExtra(tx);
        for (const Txid& parent : todo.m_unique_parents) m_outcome.parents.emplace_back(peer, parent);
        return std::move(todo.m_package_to_validate);
    }

    void Package(const node::PackageToValidate& package) EXCLUSIVE_LOCKS_REQUIRED(cs_main)
    {
        const auto result{ProcessNewPackage(m_chainman.ActiveChainstate(), m_relay.pool, package.m_txns, /*test_accept=*/false, /*client_maxfeerate=*/std::nullopt)};
        LogDebug(BCLog::TXPACKAGES, "package evaluation for %s: %s\n", package.ToString(), result.m_state.IsValid() ? "package accepted" : "package rejected");
        if (result.m_state.IsInvalid()) {
            m_relay.refused = true;
            m_relay.downloads.MempoolRejectedPackage(package.m_txns);
        }
        // Children first: they leave the orphans before their parent would send them there to be looked at again.
        for (size_t at{package.m_txns.size()}; at-- > 0;) {
            const CTransactionRef& tx{package.m_txns[at]};
            const auto found{result.m_tx_results.find(tx->GetWitnessHash())};
            if (found == result.m_tx_results.end()) continue;
            using Type = MempoolAcceptResult::ResultType;
            const MempoolAcceptResult& own{found->second};
            if (own.m_result_type == Type::VALID) Valid(package.m_senders[at], tx, own.m_replaced_transactions);
            if (own.m_result_type == Type::INVALID || own.m_result_type == Type::DIFFERENT_WITNESS) Invalid(package.m_senders[at], tx, own.m_state, /*first_time=*/false);
        }
    }

public:
    Judge(Relay& relay, ChainstateManager& chainman) : m_relay{relay}, m_chainman{chainman} {}

    /** Whether it was judged: false when it was known. */
    bool Received(NodeId peer, const CTransactionRef& tx) EXCLUSIVE_LOCKS_REQUIRED(cs_main)
    {
        const auto [judge, package]{m_relay.downloads.ReceivedTx(peer, tx)};
        if (!judge) {
            if (package) Package(*package);
            return false;
        }
        const MempoolAcceptResult result{m_chainman.ProcessTransaction(tx)};
        if (result.m_result_type == MempoolAcceptResult::ResultType::VALID) Valid(peer, tx, result.m_replaced_transactions);
        if (result.m_state.IsInvalid()) {
            if (const auto with_child{Invalid(peer, tx, result.m_state, /*first_time=*/true)}) Package(*with_child);
        }
        return true;
    }

    /** Looks at one orphan of the peer again; false when there is none. */
    bool Orphan(NodeId peer) EXCLUSIVE_LOCKS_REQUIRED(cs_main)
    {
        while (const CTransactionRef tx{m_relay.downloads.GetTxToReconsider(peer)}) {
            const MempoolAcceptResult result{m_chainman.ProcessTransaction(tx)};
            const TxValidationState& state{result.m_state};
            if (result.m_result_type == MempoolAcceptResult::ResultType::VALID) {
                LogDebug(BCLog::TXPACKAGES, "   accepted orphan tx %s (wtxid=%s)\n", tx->GetHash().ToString(), tx->GetWitnessHash().ToString());
                Valid(peer, tx, result.m_replaced_transactions);
                return true;
            }
            if (state.GetResult() == TxValidationResult::TX_MISSING_INPUTS) continue;
            LogDebug(BCLog::TXPACKAGES, "   invalid orphan tx %s (wtxid=%s) from peer=%d. %s\n",
                     tx->GetHash().ToString(), tx->GetWitnessHash().ToString(), peer, state.ToString());
            if (state.IsInvalid()) Invalid(peer, tx, state, /*first_time=*/false);
            return true;
        }
        return false;
    }

    const Outcome& Result() const { return m_outcome; }
};

Relay& Running() EXCLUSIVE_LOCKS_REQUIRED(g_mutex)
{
    if (!g_relay) throw NotRunning{};
    return *g_relay;
}

GenTxid Named(const uint256& id, bool is_wtxid)
{
    if (is_wtxid) return Wtxid::FromUint256(id);
    return Txid::FromUint256(id);
}

} // namespace

void MakeRelay(CTxMemPool& pool, uint32_t max_extra_txs)
{
    LOCK(g_mutex);
    g_relay = std::make_unique<Relay>(pool, max_extra_txs);
}

void EndRelay()
{
    LOCK(g_mutex);
    g_relay.reset();
    g_newest = {};
}

void RelayTipMoved()
{
    LOCK(g_mutex);
    // It clears two filters of a megabyte each, which takes a tenth of a sync's time.
    if (g_relay && std::exchange(g_relay->refused, false)) g_relay->downloads.ActiveTipChange();
}

void RelayBlockConnected(const std::shared_ptr<const CBlock>& block)
{
    LOCK(g_mutex);
    if (g_relay) g_relay->downloads.BlockConnected(block);
}

void RelayBlockDisconnected()
{
    LOCK(g_mutex);
    if (g_relay) g_relay->downloads.BlockDisconnected();
}

void RelayNewBlock(const std::shared_ptr<const CBlock>& block)
{
    NewestBlock newest{block, std::make_shared<const CBlockHeaderAndShortTxIDs>(*block, FastRandomContext().rand64())};
    LOCK(g_mutex);
    if (g_relay) g_newest = std::move(newest);
}

NewestBlock RelayNewestBlock() { return WITH_LOCK(g_mutex, return g_newest); }

std::vector<node::TxOrphanage::OrphanInfo> RelayOrphans()
{
    LOCK(g_mutex);
    return g_relay ? g_relay->downloads.GetOrphanTransactions() : std::vector<node::TxOrphanage::OrphanInfo>{};
}

std::vector<std::pair<Wtxid, CTransactionRef>> RelayExtraTransactions()
{
    LOCK(g_mutex);
    return g_relay ? g_relay->extra : std::vector<std::pair<Wtxid, CTransactionRef>>{};
}

} // namespace keyless

using namespace keyless;

kl_buf kl_relay_joined(int64_t peer, int preferred, int relay_permission, int wtxid_relay)
{
    return Answer([&](Writer&) {
        const Call call;
        LOCK(g_mutex);
        Running().downloads.ConnectedPeer(peer, {.m_preferred = preferred != 0, .m_relay_permissions = relay_permission != 0, .m_wtxid_relay = wtxid_relay != 0});
    });
}

kl_buf kl_relay_left(int64_t peer)
{
    return Answer([&](Writer&) {
        const Call call;
        LOCK(g_mutex);
        Running().downloads.DisconnectedPeer(peer);
    });
}

kl_buf kl_relay_announced(int64_t peer, kl_in id, int is_wtxid)
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(g_mutex);
        out.boolean(Running().downloads.AddTxAnnouncement(peer, Named(Hash(id), is_wtxid != 0), GetTime<std::chrono::microseconds>()));
    });
}

kl_buf kl_relay_requests(int64_t peer)
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(g_mutex);
        const auto due{Running().downloads.GetRequestsToSend(peer, GetTime<std::chrono::microseconds>())};
        out.u32(static_cast<uint32_t>(due.size()));
        for (const GenTxid& id : due) {
            out.boolean(id.IsWtxid());
            out.hash(id.ToUint256());
        }
    });
}

//! `ids`: for each a byte that says whether it is a wtxid, then 32 bytes.
kl_buf kl_relay_not_found(int64_t peer, kl_in ids)
{
    return Answer([&](Writer&) {
        const Call call;
        SpanReader reader{View(ids)};
        std::vector<GenTxid> missing;
        while (!reader.empty()) {
            uint8_t is_wtxid;
            uint256 id;
            reader >> is_wtxid >> id;
            missing.push_back(Named(id, is_wtxid != 0));
        }
        LOCK(g_mutex);
        Running().downloads.ReceivedNotFound(peer, missing);
    });
}

kl_buf kl_relay_decode(kl_in tx)
{
    return Answer([&](Writer& out) {
        CTransactionRef decoded;
        SpanReader{View(tx)} >> TX_WITH_WITNESS(decoded);
        out.hash(decoded->GetHash());
        out.hash(decoded->GetWitnessHash());
    });
}

kl_buf kl_relay_transaction(int64_t peer, kl_in tx)
{
    return Answer([&](Writer& out) {
        const Call call;
        CTransactionRef decoded;
        SpanReader{View(tx)} >> TX_WITH_WITNESS(decoded);
        LOCK2(cs_main, g_mutex);
        Judge judge{Running(), call.chainman()};
        const bool judged{judge.Received(peer, decoded)};
        out.boolean(judged);
        out.boolean(call.mempool().exists(decoded->GetHash()));
        judge.Result().Write(out);
    });
}

kl_buf kl_relay_orphan(int64_t peer)
{
    return Answer([&](Writer& out) {
        const Call call;
        if (!WITH_LOCK(g_mutex, return Running().downloads.HaveMoreWork(peer))) return out.boolean(false);
        LOCK2(cs_main, g_mutex);
        Judge judge{Running(), call.chainman()};
        const bool looked{judge.Orphan(peer)};
        out.boolean(looked);
        if (looked) judge.Result().Write(out);
    });
}
