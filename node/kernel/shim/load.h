// Loading the chainstate and all that stands on it, as Core's init does between logging and sockets.
#ifndef KEYLESS_LOAD_H
#define KEYLESS_LOAD_H

namespace node {
struct NodeContext;
} // namespace node

namespace keyless {

/** Blocks until there is a tip, or a stop was requested. Throws what Core refused. */
void LoadNode(node::NodeContext& node);

/** What has to happen before Core's Shutdown, which expects a connection manager that stored its addresses. */
void UnloadNode(node::NodeContext& node);

} // namespace keyless

#endif // KEYLESS_LOAD_H
