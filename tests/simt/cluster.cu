// As hopper.cu, for clusters of two blocks: their barrier, and reads of the other's shared memory.
#define SHARED_BYTES 1024
#define BLOCKS 2
#include "planted.h"

#include "../../kernels/common/hopper.cuh"

DEVICE Shared<Float4> cells() { return smem<Float4>(0); }
DEVICE int other() { return 1 - int(blockIdx.x); }

DEVICE void put(float value) {
    if (threadIdx.x < 64) cells()[threadIdx.x] = Float4{{value, 0, 0, 0}};
}
DEVICE void take(const Params& p, int rank) {
    if (threadIdx.x < 64) p.out[blockIdx.x * 64 + threadIdx.x] = cluster_load16(cells() + threadIdx.x, rank).v[0];
}

template <bool SOUND> DEVICE void not_written(const Params& p) {
    if (SOUND || blockIdx.x == 0) put(1.0f);
    cluster_sync();
    take(p, other());
    cluster_sync();
}

template <bool SOUND> DEVICE void no_barrier(const Params& p) {
    put(1.0f);
    if (SOUND) cluster_sync();
    take(p, other());
    cluster_sync();
}

// A barrier of the block is none of the cluster.
template <bool SOUND> DEVICE void other_barrier(const Params& p) {
    put(1.0f);
    if (SOUND) cluster_sync();
    sync_threads();
    take(p, other());
    cluster_sync();
}

template <bool SOUND> DEVICE void ends_too_early(const Params& p) {
    put(1.0f);
    cluster_sync();
    take(p, other());
    if (SOUND) cluster_sync();
}

template <bool SOUND> DEVICE void no_such_block(const Params& p) {
    put(1.0f);
    cluster_sync();
    take(p, SOUND ? other() : 2);
    cluster_sync();
}

template <bool SOUND> DEVICE void one_warp_elsewhere(const Params& p) {
    put(1.0f);
    if (SOUND || threadIdx.x < 96) cluster_sync();
    sync_threads();
    take(p, int(blockIdx.x));
    cluster_sync();
}

template <bool SOUND> DEVICE void in_flight(const Params& p) {
    if (threadIdx.x < 64) cp_async16(reinterpret_shared<half>(cells() + threadIdx.x), p.in, true);
    cp_async_commit();
    if (SOUND) cp_async_wait<0>();
    cluster_sync();
    take(p, other());
    cluster_sync();
    cp_async_wait<0>();
}

// Nothing is unwritten or out of place: an order alone is missing.
template <bool SOUND> DEVICE void overwritten(const Params& p) {
    put(1.0f);
    cluster_sync();
    take(p, other());
    if (SOUND) cluster_sync();
    put(2.0f);
    cluster_sync();
}

BOTH(not_written)
BOTH(no_barrier)
BOTH(other_barrier)
BOTH(ends_too_early)
BOTH(no_such_block)
BOTH(one_warp_elsewhere)
BOTH(in_flight)
BOTH(overwritten)
