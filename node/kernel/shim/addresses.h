// Addresses cross as `addrv2` payloads (BIP155), a single one as a payload with one entry.
#ifndef KEYLESS_ADDRESSES_H
#define KEYLESS_ADDRESSES_H

#include "codec.h"

#include <protocol.h>

namespace keyless {

CAddress OneAddress(kl_in payload);

} // namespace keyless

#endif // KEYLESS_ADDRESSES_H
