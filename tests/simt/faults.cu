// Kernels with a planted fault, each beside its sound twin (SOUND = true). `faults KERNEL SCHEDULE` runs
// one and prints what the device said; tests/simt/main.rs holds that against what it must say.
#define SHARED_BYTES 2048
#include "planted.h"

// Reverses the block's values through shared memory.
template <bool SOUND> DEVICE void reverse_block(const Params& p) {
    const Shared<float> tile = smem<float>(0);
    tile[threadIdx.x] = threadIdx.x;
    if (SOUND) sync_threads();
    p.out[threadIdx.x] = tile[THREADS - 1 - threadIdx.x];
}

// The same where every value was written before: nothing is unwritten, only the order is missing.
template <bool SOUND> DEVICE void reverse_block_again(const Params& p) {
    const Shared<float> tile = smem<float>(0);
    tile[threadIdx.x] = -1.0f;
    sync_threads();
    tile[threadIdx.x] = threadIdx.x;
    if (SOUND) sync_threads();
    p.out[threadIdx.x] = tile[THREADS - 1 - threadIdx.x];
}

// Rotates the lanes of each warp.
template <bool SOUND> DEVICE void rotate_warp(const Params& p) {
    const Shared<float> tile = smem<float>(0);
    const int warp = threadIdx.x / 32 * 32;
    tile[threadIdx.x] = threadIdx.x;
    if (SOUND) sync_warp();
    p.out[threadIdx.x] = tile[warp + (threadIdx.x + 1) % 32];
}

template <bool SOUND> DEVICE void rotate_warp_again(const Params& p) {
    const Shared<float> tile = smem<float>(0);
    const int warp = threadIdx.x / 32 * 32;
    tile[threadIdx.x] = -1.0f;
    sync_threads();
    tile[threadIdx.x] = threadIdx.x;
    if (SOUND) sync_warp();
    p.out[threadIdx.x] = tile[warp + (threadIdx.x + 1) % 32];
}

template <bool SOUND> DEVICE void asynchronous(const Params& p) {
    cp_async16(smem<half>(0) + threadIdx.x * 8, p.in + threadIdx.x * 8, true);
    cp_async_commit();
    if (SOUND) cp_async_wait<0>();
    sync_threads();
    p.out[threadIdx.x] = half_to_float(smem<half>(0)[(threadIdx.x ^ 32) * 8]);
    cp_async_wait<0>();
}

template <bool SOUND> DEVICE void never_waited(const Params& p) {
    cp_async16(smem<half>(0) + threadIdx.x * 8, p.in + threadIdx.x * 8, true);
    cp_async_commit();
    if (SOUND) cp_async_wait<0>();
    p.out[threadIdx.x] = 0.0f;
}

// A second copy onto a tile that others may still read.
template <bool SOUND> DEVICE void ring(const Params& p) {
    const Shared<half> tile = smem<half>(0);
    float sum = 0.0f;
    for (int round = 0; round < 2; ++round) {
        cp_async16(tile + threadIdx.x * 8, p.in + threadIdx.x * 8, true);
        cp_async_commit();
        cp_async_wait<0>();
        sync_threads();
        sum += half_to_float(tile[(THREADS - 1 - threadIdx.x) * 8]);
        if (SOUND) sync_threads();
    }
    p.out[threadIdx.x] = sum;
}

// Within the page, so that no hardware notices.
template <bool SOUND> DEVICE void store_near(const Params& p) { p.out[threadIdx.x + (SOUND ? 0 : 1)] = 1.0f; }
template <bool SOUND> DEVICE void store_far(const Params& p) { p.out[threadIdx.x + (SOUND || threadIdx.x != 77 ? 0 : 200)] = 1.0f; }
template <bool SOUND> DEVICE void store_before(const Params& p) { p.out[int(threadIdx.x) - (SOUND ? 0 : 2)] = 1.0f; }
template <bool SOUND> DEVICE void load_far(const Params& p) {
    p.out[threadIdx.x] = half_to_float(p.in[(SOUND ? threadIdx.x : threadIdx.x * 100) * 8]);
}

template <bool SOUND> DEVICE void shared_outside(const Params& p) {
    smem<float>(0)[threadIdx.x + (SOUND || threadIdx.x != 5 ? 0 : 1024)] = 1.0f;
    p.out[threadIdx.x] = 1.0f;
}

// The tail of a tile that no thread fills.
template <bool SOUND> DEVICE void unwritten(const Params& p) {
    const Shared<float> tile = smem<float>(0);
    if (SOUND || threadIdx.x != 99) tile[threadIdx.x] = 2.0f;
    sync_threads();
    p.out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

template <bool SOUND> DEVICE void divergent_exit(const Params& p) {
    if (!SOUND && threadIdx.x == 40) return;
    sync_threads();
    p.out[threadIdx.x] = 1.0f;
}

template <bool SOUND> DEVICE void divergent_branch(const Params& p) {
    if (SOUND || threadIdx.x < 64) {
        sync_threads();
    } else {
        sync_threads();
    }
    p.out[threadIdx.x] = 1.0f;
}

template <bool SOUND> DEVICE void divergent_shuffle(const Params& p) {
    float v = 1.0f;
    if (SOUND || threadIdx.x % 32 < 16) v = shuffle_xor(v, 1);
    sync_threads();
    p.out[threadIdx.x] = v;
}

// A producer arrives with one warp where the consumers expect two.
template <bool SOUND> DEVICE void never_arrives(const Params& p) {
    if (threadIdx.x < 32) barrier_arrive(1, SOUND ? 64 : 96);
    if (threadIdx.x >= 96) barrier_sync(1, SOUND ? 64 : 96);
    p.out[threadIdx.x] = 1.0f;
}

// Endless local arrays: the stack of a thread is small.
template <bool SOUND> DEVICE void deep(const Params& p) {
    volatile float local[SOUND ? 16 : 32 << 10];
    local[0] = 1.0f;
    p.out[threadIdx.x] = local[0];
}

BOTH(reverse_block)
BOTH(reverse_block_again)
BOTH(rotate_warp)
BOTH(rotate_warp_again)
BOTH(asynchronous)
BOTH(never_waited)
BOTH(ring)
BOTH(store_near)
BOTH(store_far)
BOTH(store_before)
BOTH(load_far)
BOTH(shared_outside)
BOTH(unwritten)
BOTH(divergent_exit)
BOTH(divergent_branch)
BOTH(divergent_shuffle)
BOTH(never_arrives)
BOTH(deep)
