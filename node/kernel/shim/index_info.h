// Fields that describe an entry of the block index, and what Core thinks of it.
#ifndef KEYLESS_INDEX_INFO_H
#define KEYLESS_INDEX_INFO_H

#include "codec.h"

#include <arith_uint256.h>
#include <chain.h>
#include <consensus/validation.h>
#include <kernel/cs_main.h>

namespace keyless {

inline void WriteWork(Writer& out, const arith_uint256& work) { out.hash(ArithToUint256(work)); }

inline void WriteTip(Writer& out, const CBlockIndex& index)
{
    out.hash(index.GetBlockHash());
    out.u32(static_cast<uint32_t>(index.nHeight));
    WriteWork(out, index.nChainWork);
    out.u32(index.nTime);
    out.u32(static_cast<uint32_t>(index.GetMedianTimePast()));
}

inline void WriteInfo(Writer& out, const CBlockIndex& index, const CChain& active) EXCLUSIVE_LOCKS_REQUIRED(::cs_main)
{
    out.hash(index.GetBlockHash());
    out.consensus(index.GetBlockHeader());
    out.u32(static_cast<uint32_t>(index.nHeight));
    WriteWork(out, index.nChainWork);
    out.u32(static_cast<uint32_t>(index.GetMedianTimePast()));
    out.u32(index.nTx);
    uint8_t flags{0};
    if (index.nStatus & BLOCK_HAVE_DATA) flags |= 1;
    if (index.nStatus & BLOCK_HAVE_UNDO) flags |= 2;
    if (active.Contains(index)) flags |= 4;
    if (index.nStatus & BLOCK_FAILED_VALID) flags |= 8;
    out.u8(flags);
}

inline constexpr uint8_t VERDICT_NODE_ERROR{9};

/** Core's judgement of a block: its kind (0 is valid), reject reason and detail. */
inline void WriteVerdict(Writer& out, const BlockValidationState& state)
{
    out.u8(state.IsError() ? VERDICT_NODE_ERROR : static_cast<uint8_t>(state.GetResult()));
    out.text(state.GetRejectReason());
    out.text(state.GetDebugMessage());
}

} // namespace keyless

#endif // KEYLESS_INDEX_INFO_H
