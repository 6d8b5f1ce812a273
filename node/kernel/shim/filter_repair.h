// What an unclean end leaves of a block filter index.
#ifndef KEYLESS_FILTER_REPAIR_H
#define KEYLESS_FILTER_REPAIR_H

#include <cstdint>

class ChainstateManager;
enum class BlockFilterType : uint8_t;

namespace keyless {

/**
 * Before the index is opened. A reorganisation writes the new branch's filters over the old one's heights at once, but tells
 * how far the index is only when the chainstate is flushed. After a kill between the two Core finds another block at the
 * height of the index's best one, and refuses to start. What was written over lies under its hash, and is put back.
 */
void RepairFilterIndex(ChainstateManager& chainman, BlockFilterType type);

} // namespace keyless

#endif // KEYLESS_FILTER_REPAIR_H
