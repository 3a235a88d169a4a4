// Clusters: a barrier of all threads of their blocks, and reads of another block's shared memory, which lies where the reader's
// own does. Arrivals release and the barrier's opening acquires, for ThreadSanitizer as well.
#include <string>

#include "runtime.h"

namespace simt {

void settle(Cluster& cluster) {
    uint32_t threads = 0;
    for (const Worker* block : cluster.blocks) threads += block->threads;
    if (!cluster.arrived || cluster.arrived + cluster.ended < threads) return;
    cluster.arrived = 0;
    ++cluster.generation;
    for (Worker* block : cluster.blocks) {
        for (uint32_t warp = 0; warp < block->warps; ++warp) {
            make_ready(*block, warp, block->at_cluster[warp]);
            block->at_cluster[warp] = 0;
        }
    }
}

void cluster_sync(Site site) {
    Worker& w = worker();
    Cluster& cluster = *w.cluster;
    const uint32_t generation = cluster.generation;
    count(BARRIER);
    edge_release(&cluster.edge[generation & 1]);
    ++cluster.arrived;
    const uint32_t id = w.current->id;
    w.at_cluster[id / 32] |= 1u << id % 32;
    settle(cluster);
    // Ready as all others are, where it was the last: it waits for its turn.
    block_current({"the cluster's barrier", site});
    edge_acquire(&cluster.edge[generation & 1]);
}

const void* cluster_read(const void* p, int rank, size_t bytes, Site site) {
    const Cluster& cluster = *worker().cluster;
    if (rank < 0 || size_t(rank) >= cluster.blocks.size()) {
        fail("block " + std::to_string(rank) + " of a cluster of " + std::to_string(cluster.blocks.size()) + ", at " + where(site));
    }
    const Worker& other = *cluster.blocks[size_t(rank)];
    const std::string what = "read from block " + std::to_string(rank) + " of the cluster";
    const size_t offset = arena_offset(what.c_str(), p, bytes);
    if (other.done == other.threads) {
        fail("a " + what + ", which has ended (missing barrier of the cluster), at " + where(site));
    }
    check_written(other, what.c_str(), offset, bytes);
    return other.arena + offset;
}

}  // namespace simt
