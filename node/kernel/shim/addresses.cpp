// Core's address manager, its groups of networks, anchors and fixed seeds. Addresses cross as `addrv2` payloads (BIP155).
#include "addresses.h"

#include "state.h"

#include <addrdb.h>
#include <addrman.h>
#include <chainparams.h>
#include <common/args.h>
#include <mapport.h>
#include <net.h>
#include <netaddress.h>
#include <netbase.h>
#include <netgroup.h>
#include <protocol.h>
#include <random.h>
#include <util/fs.h>

#include <chrono>
#include <unordered_set>

using namespace keyless;

namespace {

constexpr const char* ANCHORS_FILE{"anchors.dat"};

std::vector<CAddress> Addresses(kl_in payload)
{
    SpanReader reader{View(payload)};
    ParamsStream stream{reader, CAddress::V2_NETWORK};
    std::vector<CAddress> addresses;
    stream >> addresses;
    return addresses;
}

void Write(Writer& out, const std::vector<CAddress>& addresses)
{
    DataStream stream;
    ParamsStream{stream, CAddress::V2_NETWORK} << addresses;
    out.bytes(std::span<const std::byte>{stream});
}

void Write(Writer& out, const std::pair<CAddress, NodeSeconds>& chosen)
{
    const auto& [address, last_try]{chosen};
    out.boolean(address.IsValid());
    if (!address.IsValid()) return;
    Write(out, std::vector<CAddress>{address});
    out.i64(TicksSinceEpoch<std::chrono::seconds>(last_try));
}

AddrMan& Book(const Call& call) { return *call.node().addrman; }

/** Bit n stands for BIP155's network n. */
std::unordered_set<Network> Networks(uint32_t mask)
{
    std::unordered_set<Network> networks;
    if (mask & 1U << 1) networks.insert(NET_IPV4);
    if (mask & 1U << 2) networks.insert(NET_IPV6);
    if (mask & 1U << 4) networks.insert(NET_ONION);
    if (mask & 1U << 5) networks.insert(NET_I2P);
    if (mask & 1U << 6) networks.insert(NET_CJDNS);
    return networks;
}

} // namespace

CAddress keyless::OneAddress(kl_in payload)
{
    const auto addresses{Addresses(payload)};
    if (addresses.size() != 1) throw Refused{"one address is expected"};
    return addresses.front();
}

//! `network` as in BIP155, 0 for all.
kl_buf kl_book_size(uint8_t network)
{
    return Answer([&](Writer& out) {
        const Call call;
        const auto networks{Networks(network ? 1U << network : 0)};
        out.u64(networks.empty() ? Book(call).Size() : Book(call).Size(*networks.begin()));
    });
}

//! `source` is an address, or empty: then `source_name` names where they come from (a DNS seed).
kl_buf kl_book_learn(kl_in addresses, kl_in source, kl_in source_name, int64_t penalty_secs)
{
    return Answer([&](Writer& out) {
        const Call call;
        CNetAddr from;
        if (source.len) {
            from = OneAddress(source);
        } else {
            from.SetInternal(Text(source_name));
        }
        out.boolean(Book(call).Add(Addresses(addresses), from, std::chrono::seconds{penalty_secs}));
    });
}

kl_buf kl_book_good(kl_in address)
{
    return Answer([&](Writer& out) {
        const Call call;
        out.boolean(Book(call).Good(OneAddress(address)));
    });
}

kl_buf kl_book_attempt(kl_in address, int count_failure)
{
    return Answer([&](Writer&) {
        const Call call;
        Book(call).Attempt(OneAddress(address), count_failure != 0);
    });
}

kl_buf kl_book_connected(kl_in address)
{
    return Answer([&](Writer&) {
        const Call call;
        Book(call).Connected(OneAddress(address));
    });
}

kl_buf kl_book_services(kl_in address)
{
    return Answer([&](Writer&) {
        const Call call;
        const CAddress entry{OneAddress(address)};
        Book(call).SetServices(entry, entry.nServices);
    });
}

kl_buf kl_book_choose(int only_new, uint32_t networks)
{
    return Answer([&](Writer& out) {
        const Call call;
        Write(out, Book(call).Select(only_new != 0, Networks(networks)));
    });
}

//! Moves what was tested, then gives an entry whose place another one wants.
kl_buf kl_book_collision()
{
    return Answer([&](Writer& out) {
        const Call call;
        Book(call).ResolveCollisions();
        Write(out, Book(call).SelectTriedCollision());
    });
}

kl_buf kl_book_sample(uint32_t most, uint32_t percent)
{
    return Answer([&](Writer& out) {
        const Call call;
        Write(out, Book(call).GetAddr(most, percent, /*network=*/std::nullopt));
    });
}

kl_buf kl_book_save()
{
    return Answer([&](Writer&) {
        const Call call;
        DumpPeerAddresses(gArgs, Book(call));
    });
}

kl_buf kl_address_group(kl_in address)
{
    return Answer([&](Writer& out) {
        const Call call;
        const auto group{call.node().netgroupman->GetGroup(OneAddress(address))};
        out.bytes(std::span{group.data(), group.size()});
    });
}

kl_buf kl_address_mapped_as(kl_in address)
{
    return Answer([&](Writer& out) {
        const Call call;
        out.u32(call.node().netgroupman->GetMappedAS(OneAddress(address)));
    });
}

//! Networks that may be dialed; Core's own code reads cjdns addresses by it.
void kl_set_reachable(uint32_t networks)
{
    g_reachable_nets.RemoveAll();
    for (const Network network : Networks(networks)) g_reachable_nets.Add(network);
}

//! Finds out by what addresses others may reach us: those of this machine where `on_any` of them is listened on, and by Core's
//! thread what a router gives us (`-natpmp`), which ends with the node.
kl_buf kl_find_own(int on_any)
{
    return Answer([&](Writer&) {
        const Call call;
        fDiscover = gArgs.GetBoolArg("-discover", true);
        StartMapPort(gArgs.GetBoolArg("-natpmp", DEFAULT_NATPMP));
        if (on_any) Discover();
    });
}

//! What was found so far: addresses, and as many scores.
kl_buf kl_own()
{
    return Answer([&](Writer& out) {
        std::vector<CAddress> addresses;
        std::vector<int> scores;
        {
            LOCK(g_maplocalhost_mutex);
            for (const auto& [address, info] : mapLocalHost) {
                addresses.emplace_back(CService{address, info.nPort}, NODE_NONE);
                scores.push_back(info.nScore);
            }
        }
        Write(out, addresses);
        for (const int score : scores) out.u32(static_cast<uint32_t>(score));
    });
}

kl_buf kl_fixed_seeds()
{
    return Answer([&](Writer& out) {
        const Call call;
        SpanReader reader{Params().FixedSeeds()};
        ParamsStream stream{reader, CAddress::V2_NETWORK};
        FastRandomContext rng;
        std::vector<CAddress> seeds;
        while (!stream.empty()) {
            CService endpoint;
            stream >> endpoint;
            CAddress seed{endpoint, SeedsServiceFlags()};
            // Heard of one to two weeks ago: what peers tell is newer.
            seed.nTime = rng.rand_uniform_delay(Now<NodeSeconds>() - std::chrono::weeks{1}, -std::chrono::weeks{1});
            seeds.push_back(seed);
        }
        Write(out, seeds);
    });
}

//! Reads `anchors.dat` and removes it.
kl_buf kl_anchors_take()
{
    return Answer([&](Writer& out) {
        const Call call;
        Write(out, ReadAnchors(gArgs.GetDataDirNet() / ANCHORS_FILE));
    });
}

kl_buf kl_anchors_keep(kl_in addresses)
{
    return Answer([&](Writer&) {
        const Call call;
        DumpAnchors(gArgs.GetDataDirNet() / ANCHORS_FILE, Addresses(addresses));
    });
}
