// Stand-ins for the parts of Core's node that own peers: the sockets are Rust's.
#ifndef KEYLESS_PEERS_H
#define KEYLESS_PEERS_H

#include <interfaces/mining.h>
#include <net_processing.h>

#include <memory>

namespace keyless {

/** Hands what Core wants of its peers to Rust; knows no peer itself. */
std::unique_ptr<PeerManager> MakePeers(bool blocks_only, bool private_broadcast);

/** Core's Mining, except that whether this node is connected is Rust's knowledge. */
std::unique_ptr<interfaces::Mining> MakePeerAwareMining(std::unique_ptr<interfaces::Mining> core);

} // namespace keyless

#endif // KEYLESS_PEERS_H
