// Core's rules about peers that need no socket: who makes room, what a fee filter tells, in which order transactions are
// announced, whether clocks disagree.
#include "state.h"

#include <net.h>
#include <netaddress.h>
#include <netgroup.h>
#include <node/eviction.h>
#include <node/timeoffsets.h>
#include <policy/fees/block_policy_estimator.h>
#include <policy/policy.h>
#include <protocol.h>
#include <random.h>
#include <txmempool.h>

#include <algorithm>
#include <chrono>
#include <vector>

using namespace keyless;

namespace {

//! As in Core, where no header has it.
constexpr uint64_t RANDOMIZER_ID_NETGROUP{0x6c0edd8036ef4036ULL};

enum : uint8_t {
    HAS_WANTED_SERVICES = 1,
    RELAYS_TXS = 2,
    HAS_BLOOM_FILTER = 4,
    PREFER_EVICT = 8,
    INBOUND_ONION = 16,
    NO_BAN = 32,
};

/** One peer: numbers, flags, and its address as an `addrv2` payload. A negative ping: none was answered yet. */
NodeEvictionCandidate ReadCandidate(const Call& call, SpanReader& reader)
{
    using std::chrono::microseconds;
    using std::chrono::seconds;
    int64_t id, connected, min_ping, last_block, last_tx;
    uint8_t flags;
    reader >> id >> connected >> min_ping >> last_block >> last_tx >> flags;
    std::vector<CAddress> address;
    ParamsStream{reader, CAddress::V2_NETWORK} >> address;
    if (address.size() != 1) throw Refused{"one address is expected"};
    const CAddress& addr{address.front()};
    const CConnman& connman{*call.node().connman};
    return {
        .id = id,
        .m_connected = NodeClock::time_point{microseconds{connected}},
        .m_min_ping_time = min_ping < 0 ? NodeClock::duration::max() : NodeClock::duration{microseconds{min_ping}},
        .m_last_block_time = seconds{last_block},
        .m_last_tx_time = seconds{last_tx},
        .fRelevantServices = (flags & HAS_WANTED_SERVICES) != 0,
        .m_relay_txs = (flags & RELAYS_TXS) != 0,
        .fBloomFilter = (flags & HAS_BLOOM_FILTER) != 0,
        .nKeyedNetGroup = connman.GetDeterministicRandomizer(RANDOMIZER_ID_NETGROUP).Write(call.node().netgroupman->GetGroup(addr)).Finalize(),
        .prefer_evict = (flags & PREFER_EVICT) != 0,
        .m_is_local = addr.IsLocal(),
        .m_network = flags & INBOUND_ONION ? NET_ONION : addr.GetNetClass(),
        .m_noban = (flags & NO_BAN) != 0,
        .m_conn_type = ConnectionType::INBOUND,
    };
}

CAmount RoundFeeFilter(CAmount rate)
{
    static FastRandomContext rng;
    static FeeFilterRounder rounder{CFeeRate{DEFAULT_MIN_RELAY_TX_FEE}, rng};
    return rounder.round(rate);
}

/** Lives as long as the process, as what it warns in does. */
TimeOffsets& Clocks(const Call& call)
{
    static TimeOffsets* const offsets{new TimeOffsets{*call.node().warnings}};
    return *offsets;
}

} // namespace

//! `inbound` is a list of peers without a count (see ReadCandidate).
kl_buf kl_rules_evict(kl_in inbound)
{
    return Answer([&](Writer& out) {
        const Call call;
        SpanReader reader{View(inbound)};
        std::vector<NodeEvictionCandidate> candidates;
        while (!reader.empty()) candidates.push_back(ReadCandidate(call, reader));
        const auto chosen{SelectNodeToEvict(std::move(candidates))};
        out.boolean(chosen.has_value());
        if (chosen) out.i64(*chosen);
    });
}

kl_buf kl_rules_fee_filter(int64_t rate)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CAmount least{call.mempool().m_opts.min_relay_feerate.GetFeePerK()};
        out.u64(static_cast<uint64_t>(std::max(RoundFeeFilter(rate), least)));
    });
}

//! `wtxids` one after another; the answer has those in the mempool, the one to be mined first first.
kl_buf kl_rules_best_first(kl_in wtxids)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CTxMemPool& pool{call.mempool()};
        const auto view{View(wtxids)};
        if (view.size() % uint256::size() != 0) throw Refused{"a list of hashes has a multiple of 32 bytes"};
        std::vector<Wtxid> ids;
        LOCK(pool.cs);
        for (size_t at{0}; at < view.size(); at += uint256::size()) {
            const Wtxid id{Wtxid::FromUint256(uint256{view.subspan(at, uint256::size())})};
            if (pool.exists(id)) ids.push_back(id);
        }
        std::sort(ids.begin(), ids.end(), [&](const Wtxid& a, const Wtxid& b) { return pool.CompareMiningScoreWithTopology(a, b); });
        out.u32(static_cast<uint32_t>(ids.size()));
        for (const Wtxid& id : ids) out.hash(id);
    });
}

kl_buf kl_rules_note_clock(int64_t ahead_secs)
{
    return Answer([&](Writer&) {
        const Call call;
        TimeOffsets& clocks{Clocks(call)};
        clocks.Add(std::chrono::seconds{ahead_secs});
        clocks.WarnIfOutOfSync();
    });
}

kl_buf kl_rules_clock_offset()
{
    return Answer([&](Writer& out) {
        const Call call;
        out.i64(Clocks(call).Median().count());
    });
}
