// Which transaction goes to which private connection, which came back from the network, which are tried again. As in Core's
// net_processing.cpp, whose own copy belongs to its peers.
#include "private.h"

#include "addresses.h"
#include "state.h"

#include <consensus/validation.h>
#include <logging.h>
#include <streams.h>
#include <util/log.h>
#include <validation.h>

#include <algorithm>
#include <cassert>
#include <utility>

namespace keyless {
namespace {

/** Connections a transaction is first sent by (Core's NUM_PRIVATE_BROADCAST_PER_TX). */
constexpr size_t CONNECTIONS_PER_TX{3};

class Queue
{
    Mutex m_mutex;
    //! Connections that Rust is still to open.
    size_t m_wanted GUARDED_BY(m_mutex){0};

public:
    PrivateBroadcast transactions;

    size_t Want(size_t more, size_t fewer) EXCLUSIVE_LOCKS_REQUIRED(!m_mutex)
    {
        LOCK(m_mutex);
        m_wanted += more;
        m_wanted -= std::min(m_wanted, fewer);
        return m_wanted;
    }

    /** Forgets a transaction, and the first connections it did not need. */
    bool Remove(const CTransactionRef& tx) EXCLUSIVE_LOCKS_REQUIRED(!m_mutex)
    {
        const auto confirmed{transactions.Remove(tx)};
        if (!confirmed) return false;
        Want(0, CONNECTIONS_PER_TX - std::min(CONNECTIONS_PER_TX, *confirmed));
        return true;
    }
};

Queue& TheQueue()
{
    static Queue* const queue{new Queue};
    return *queue;
}

void Write(Writer& out, const CTransactionRef& tx)
{
    out.hash(tx->GetHash());
    out.hash(tx->GetWitnessHash());
    DataStream stream;
    stream << TX_WITH_WITNESS(*tx);
    out.bytes(std::span<const std::byte>{stream});
}

} // namespace

node::TransactionError BroadcastPrivately(const CTransactionRef& tx)
{
    const auto name{strprintf("txid=%s, wtxid=%s", tx->GetHash().ToString(), tx->GetWitnessHash().ToString())};
    switch (TheQueue().transactions.Add(tx)) {
    case PrivateBroadcast::AddResult::Added:
        LogDebug(BCLog::PRIVBROADCAST, "Requesting %d new connections due to %s", CONNECTIONS_PER_TX, name);
        TheQueue().Want(CONNECTIONS_PER_TX, 0);
        return node::TransactionError::OK;
    case PrivateBroadcast::AddResult::AlreadyPresent:
        LogDebug(BCLog::PRIVBROADCAST, "Ignoring unnecessary request to schedule an already scheduled transaction: %s", name);
        return node::TransactionError::OK;
    case PrivateBroadcast::AddResult::QueueFull:
        LogDebug(BCLog::PRIVBROADCAST, "Rejecting private broadcast, queue full (cap=%u): %s", PrivateBroadcast::MAX_TRANSACTIONS, name);
        return node::TransactionError::PRIVATE_BROADCAST_FULL;
    }
    assert(false);
}

std::vector<PrivateBroadcast::TxBroadcastInfo> PrivateBroadcasts() { return TheQueue().transactions.GetBroadcastInfo(); }

std::vector<CTransactionRef> AbortPrivateBroadcasts(const uint256& id)
{
    std::vector<CTransactionRef> removed;
    for (const auto& info : PrivateBroadcasts()) {
        if (info.tx->GetHash().ToUint256() != id && info.tx->GetWitnessHash().ToUint256() != id) continue;
        if (TheQueue().Remove(info.tx)) removed.push_back(info.tx);
    }
    return removed;
}

} // namespace keyless

using namespace keyless;

//! How many connections are still to be opened, after `opened` more were.
kl_buf kl_private_wanted(uint32_t opened)
{
    return Answer([&](Writer& out) {
        const Call call;
        out.u64(TheQueue().Want(0, opened));
    });
}

//! The transaction for a new connection. At most one is ever given to a connection.
kl_buf kl_private_pick(int64_t peer, kl_in address)
{
    return Answer([&](Writer& out) {
        const Call call;
        const auto tx{TheQueue().transactions.PickTxForSend(peer, OneAddress(address))};
        out.boolean(tx.has_value());
        if (tx) Write(out, *tx);
    });
}

//! What was given to this connection.
kl_buf kl_private_given(int64_t peer)
{
    return Answer([&](Writer& out) {
        const Call call;
        const auto tx{TheQueue().transactions.GetTxForNode(peer)};
        out.boolean(tx.has_value());
        if (tx) Write(out, *tx);
    });
}

kl_buf kl_private_confirmed(int64_t peer)
{
    return Answer([&](Writer&) {
        const Call call;
        TheQueue().transactions.NodeConfirmedReception(peer);
    });
}

//! A connection ended. What it did not do, another is to do.
kl_buf kl_private_ended(int64_t peer)
{
    return Answer([&](Writer&) {
        const Call call;
        Queue& queue{TheQueue()};
        if (!queue.transactions.DidNodeConfirmReception(peer) && queue.transactions.HavePendingTransactions()) queue.Want(1, 0);
    });
}

//! A transaction came from the network: true if it is one of ours, which need not be sent any more.
kl_buf kl_private_returned(kl_in bytes)
{
    return Answer([&](Writer& out) {
        const Call call;
        CTransactionRef tx;
        SpanReader{View(bytes)} >> TX_WITH_WITNESS(tx);
        out.boolean(TheQueue().Remove(tx));
    });
}

//! Asks for one more connection for each transaction that has not come back, and forgets those the mempool would refuse.
kl_buf kl_private_retry()
{
    return Answer([&](Writer&) {
        const Call call;
        size_t again{0};
        for (const CTransactionRef& tx : TheQueue().transactions.GetStale()) {
            LOCK(cs_main);
            const auto result{call.chainman().ProcessTransaction(tx, /*test_accept=*/true)};
            if (result.m_result_type == MempoolAcceptResult::ResultType::VALID) {
                LogDebug(BCLog::PRIVBROADCAST, "Reattempting broadcast of stale txid=%s wtxid=%s", tx->GetHash().ToString(), tx->GetWitnessHash().ToString());
                ++again;
            } else {
                LogDebug(BCLog::PRIVBROADCAST, "Giving up broadcast attempts for txid=%s wtxid=%s: %s",
                         tx->GetHash().ToString(), tx->GetWitnessHash().ToString(), result.m_state.ToString());
                TheQueue().transactions.Remove(tx);
            }
        }
        TheQueue().Want(again, 0);
    });
}
