// What an unclean end leaves of indexes that name places in block files.
#ifndef KEYLESS_POSITION_REPAIR_H
#define KEYLESS_POSITION_REPAIR_H

class ChainstateManager;

namespace keyless {

/**
 * Before txindex and txospenderindex are opened, and before any block is stored. Blocks that came after the last flush lie in
 * the block files behind what the block index knows, and the next blocks are written over them; the indexes name their places
 * all the same, and what a reorganisation took from the old branch is missing. So what names a forgotten block is taken out,
 * and what belongs to the chain that the index has followed is put back. Core does neither: it answers with a block that is
 * no more, with "IO error finding spending tx", or with nothing.
 */
void RepairPositions(ChainstateManager& chainman);

} // namespace keyless

#endif // KEYLESS_POSITION_REPAIR_H
