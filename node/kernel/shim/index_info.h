// Fields that describe an entry of the block index.
#ifndef KEYLESS_INDEX_INFO_H
#define KEYLESS_INDEX_INFO_H

#include "codec.h"

#include <arith_uint256.h>
#include <chain.h>
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

} // namespace keyless

#endif // KEYLESS_INDEX_INFO_H
