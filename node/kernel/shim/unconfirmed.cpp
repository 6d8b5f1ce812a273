// What a wallet asks of the mempool about coins that are not confirmed. Core's mini miner and cluster limits answer.
#include "state.h"

#include <node/mini_miner.h>
#include <policy/feerate.h>
#include <txmempool.h>

using namespace keyless;

namespace {

std::vector<COutPoint> OutPoints(kl_in bytes)
{
    std::vector<COutPoint> points;
    Decode(bytes, points, "outpoints");
    return points;
}

} // namespace

kl_buf kl_ancestry(kl_in txid)
{
    return Answer([&](Writer& out) {
        const Call call;
        size_t ancestors{0}, cluster{0}, size{0};
        CAmount fees{0};
        call.mempool().GetTransactionAncestry(Txid::FromUint256(Hash(txid)), ancestors, cluster, &size, &fees);
        out.boolean(ancestors > 0);
        if (ancestors == 0) return;
        out.u64(ancestors);
        out.u64(cluster);
        out.u64(size);
        out.i64(fees);
    });
}

kl_buf kl_has_descendants(kl_in txid)
{
    return Answer([&](Writer& out) {
        const Call call;
        out.boolean(call.mempool().HasDescendants(Txid::FromUint256(Hash(txid))));
    });
}

kl_buf kl_bump_fees(kl_in outpoints, int64_t sat_kvb)
{
    return Answer([&](Writer& out) {
        const Call call;
        const std::vector<COutPoint> points{OutPoints(outpoints)};
        const auto fees{node::MiniMiner(call.mempool(), points).CalculateBumpFees(CFeeRate{sat_kvb})};
        out.u32(static_cast<uint32_t>(points.size()));
        for (const COutPoint& point : points) {
            const auto found{fees.find(point)};
            out.i64(found == fees.end() ? 0 : found->second);
        }
    });
}

kl_buf kl_combined_bump_fee(kl_in outpoints, int64_t sat_kvb)
{
    return Answer([&](Writer& out) {
        const Call call;
        const auto fee{node::MiniMiner(call.mempool(), OutPoints(outpoints)).CalculateTotalBumpFees(CFeeRate{sat_kvb})};
        out.boolean(fee.has_value());
        if (fee) out.i64(*fee);
    });
}

kl_buf kl_fits_limits(kl_in tx)
{
    return Answer([&](Writer& out) {
        const Call call;
        CMutableTransaction decoded;
        Decode(tx, TX_WITH_WITNESS(decoded), "TX");
        out.boolean(call.mempool().CheckPolicyLimits(MakeTransactionRef(std::move(decoded))));
    });
}
