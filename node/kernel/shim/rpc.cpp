// Core's RPC table for the Rust side.
#include "state.h"

#include <rpc/protocol.h>
#include <rpc/request.h>
#include <rpc/server.h>

#include <any>

using namespace keyless;

namespace {

UniValue Execute(kl_in method, kl_in params, kl_in uri, kl_in user, kl_in peer, int version)
{
    JSONRPCRequest request;
    request.strMethod = Text(method);
    request.URI = Text(uri);
    request.authUser = Text(user);
    request.peerAddr = Text(peer);
    request.m_json_version = version ? JSONRPCVersion::V2 : JSONRPCVersion::V1_LEGACY;
    request.context = &TheState().node;
    if (params.len == 0) {
        request.params = UniValue{UniValue::VARR};
    } else if (!request.params.read(Text(params))) {
        throw JSONRPCError(RPC_PARSE_ERROR, "Parse error");
    } else if (!request.params.isArray() && !request.params.isObject()) {
        throw JSONRPCError(RPC_INVALID_REQUEST, "Params must be an array or object");
    }
    return tableRPC.execute(request);
}

} // namespace

kl_buf kl_rpc(kl_in method, kl_in params, kl_in uri, kl_in user, kl_in peer, int version)
{
    return Answer([&](Writer& out) {
        const Call call{Call::Needs::STARTED};
        out.text(Execute(method, params, uri, user, peer, version).write());
    });
}

kl_buf kl_rpc_commands()
{
    return Answer([&](Writer& out) {
        const Call call{Call::Needs::STARTED};
        const auto names{tableRPC.listCommands()};
        out.u32(static_cast<uint32_t>(names.size()));
        for (const std::string& name : names) out.text(name);
    });
}

kl_buf kl_rpc_warmup()
{
    return Answer([&](Writer& out) {
        std::string text;
        const bool warming{RPCIsInWarmup(&text)};
        out.boolean(warming);
        if (warming) out.text(text);
    });
}
