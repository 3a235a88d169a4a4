// As faults.cu, for the primitives of kernels/common/hopper.cuh: mbarriers, bulk copies, warpgroup products.
#define SHARED_BYTES 8192
#include "planted.h"

#include "../../kernels/common/hopper.cuh"
#include "../ptx/stuck.cuh"

constexpr int TILE_BYTES = THREADS * 16;  // 16 rows of 128 bytes

DEVICE Shared<MBarrier> barrier(int i) { return smem<MBarrier>(2 * TILE_BYTES + i * 8); }

DEVICE void start(int arrivals) {
    if (threadIdx.x == 0) {
        mbarrier_init(barrier(0), 1);
        mbarrier_init(barrier(1), arrivals);
        mbarrier_init_fence();
    }
    sync_threads();
}

DEVICE void load(const Params& p, int expected) {
    if (threadIdx.x != 0) return;
    mbarrier_arrive_expect(barrier(0), expected);
    bulk_copy(smem<half>(0), p.in, TILE_BYTES, barrier(0));
}

constexpr uint32_t ONES[4] = {0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00};

DEVICE void store(const Params& p, Accumulator& sum) { p.out[threadIdx.x] = sum[0]; }

template <bool SOUND> DEVICE void not_awaited(const Params& p) {
    start(1);
    load(p, TILE_BYTES);
    if (SOUND || threadIdx.x == 0) mbarrier_wait(barrier(0), SOUND ? 0 : 1);
    p.out[threadIdx.x] = half_to_float(smem<half>(0)[threadIdx.x * 8]);
    mbarrier_wait(barrier(0), 0);
}

enum Fault { NONE, NO_DATA, NO_WAIT, NO_FENCE, OVERWRITTEN, NEVER_WAITED, NOT_NAMED };
template <Fault FAULT> DEVICE void product(const Params& p) {
    start(1);
    load(p, TILE_BYTES);
    if (FAULT != NO_DATA) mbarrier_wait(barrier(0), 0);
    Accumulator sum;
    if (FAULT != NO_FENCE) wgmma_fence();
    wgmma_m64k16<16>(sum, ONES, wgmma_rows(smem<half>(0)), false);
    wgmma_commit();
    if (FAULT == OVERWRITTEN) smem<half>(0)[threadIdx.x * 8] = float_to_half(-1.0f);
    if (FAULT == NOT_NAMED) wgmma_wait<0>();
    if (FAULT != NO_WAIT && FAULT != NEVER_WAITED && FAULT != NOT_NAMED) wgmma_wait<0>(sum);
    if (FAULT != NEVER_WAITED) store(p, sum);
    if (FAULT == NO_WAIT) wgmma_wait<0>(sum);
}
template <bool SOUND> DEVICE void no_data(const Params& p) { product<SOUND ? NONE : NO_DATA>(p); }
template <bool SOUND> DEVICE void no_wait(const Params& p) { product<SOUND ? NONE : NO_WAIT>(p); }
template <bool SOUND> DEVICE void no_fence(const Params& p) { product<SOUND ? NONE : NO_FENCE>(p); }
template <bool SOUND> DEVICE void overwritten(const Params& p) { product<SOUND ? NONE : OVERWRITTEN>(p); }
template <bool SOUND> DEVICE void product_never_waited(const Params& p) { product<SOUND ? NONE : NEVER_WAITED>(p); }
template <bool SOUND> DEVICE void not_named(const Params& p) { product<SOUND ? NONE : NOT_NAMED>(p); }

template <bool SOUND> DEVICE void other_layout(const Params& p) {
    start(1);
    load(p, TILE_BYTES);
    mbarrier_wait(barrier(0), 0);
    Accumulator sum;
    wgmma_fence();
    const uint64_t rows = wgmma_rows(smem<half>(0));
    wgmma_m64k16<16>(sum, ONES, SOUND ? rows : rows & ~(uint64_t(3) << 62), false);
    wgmma_commit();
    wgmma_wait<0>(sum);
    store(p, sum);
}

template <bool SOUND> DEVICE void other_shape(const Params& p) {
    start(1);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(barrier(0), 2 * TILE_BYTES);
        for (int i = 0; i < 2; ++i) bulk_copy(smem<half>(i * TILE_BYTES), p.in, TILE_BYTES, barrier(0));
    }
    mbarrier_wait(barrier(0), 0);
    Accumulator sum;
    const uint64_t rows = wgmma_rows(smem<half>(0));
    wgmma_fence();
    wgmma_m64k16<32>(sum, ONES, rows, false);
    if (SOUND) wgmma_fence();
    wgmma_m64k16<16>(sum, ONES, rows, true);
    wgmma_commit();
    wgmma_wait<0>(sum);
    store(p, sum);
}

// The descriptor holds an address of shared memory, not an offset from the block's own.
template <bool SOUND> DEVICE void offset_for_address(const Params& p) {
    start(1);
    load(p, TILE_BYTES);
    mbarrier_wait(barrier(0), 0);
    Accumulator sum;
    const uint64_t rows = wgmma_rows(smem<half>(0));
    wgmma_fence();
    wgmma_m64k16<16>(sum, ONES, SOUND ? rows : rows & ~uint64_t(0x3fff), false);
    wgmma_commit();
    wgmma_wait<0>(sum);
    store(p, sum);
}

// The swizzle's pattern starts at multiples of 1024 bytes.
template <bool SOUND> DEVICE void between_periods(const Params& p) {
    start(1);
    load(p, TILE_BYTES);
    mbarrier_wait(barrier(0), 0);
    Accumulator sum;
    const uint64_t rows = wgmma_rows(smem<half>(0));
    wgmma_fence();
    wgmma_m64k16<16>(sum, ONES, SOUND ? rows : rows + (128 >> 4), false);
    wgmma_commit();
    wgmma_wait<0>(sum);
    store(p, sum);
}

template <bool SOUND> DEVICE void one_warp_short(const Params& p) {
    start(1);
    if (SOUND || threadIdx.x < 96) wgmma_fence();
    sync_threads();
    p.out[threadIdx.x] = 1.0f;
}

template <bool SOUND> DEVICE void too_few_bytes(const Params& p) {
    start(1);
    load(p, SOUND ? TILE_BYTES : TILE_BYTES / 2);
    mbarrier_wait(barrier(0), 0);
    p.out[threadIdx.x] = 1.0f;
}

template <bool SOUND> DEVICE void too_many_bytes(const Params& p) {
    start(1);
    load(p, SOUND ? TILE_BYTES : TILE_BYTES * 2);
    mbarrier_wait(barrier(0), 0);
    p.out[threadIdx.x] = 1.0f;
}

template <bool SOUND> DEVICE void no_init(const Params& p) {
    if (SOUND) start(1);
    load(p, TILE_BYTES);
    mbarrier_wait(barrier(0), 0);
    p.out[threadIdx.x] = 1.0f;
}

template <bool SOUND> DEVICE void too_many_arrivals(const Params& p) {
    start(1);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(barrier(0), TILE_BYTES);
        if (!SOUND) mbarrier_arrive(barrier(0));
        bulk_copy(smem<half>(0), p.in, TILE_BYTES, barrier(0));
    }
    mbarrier_wait(barrier(0), 0);
    p.out[threadIdx.x] = 1.0f;
}

template <bool SOUND> DEVICE void missing_arrival(const Params& p) {
    two_phases<SOUND>();
    p.out[threadIdx.x] = 1.0f;
}

// A second copy onto a tile that the warp has read, as the vote makes sure, but nothing orders the copy after the read.
template <bool SOUND> DEVICE void refilled(const Params& p) {
    start(32);
    float sum = 0.0f;
    for (int round = 0; round < 2 && threadIdx.x < 32; ++round) {
        if (SOUND && threadIdx.x == 0) mbarrier_wait(barrier(1), (round & 1) ^ 1);
        load(p, TILE_BYTES);
        mbarrier_wait(barrier(0), round & 1);
        sum += half_to_float(smem<half>(0)[(31 - threadIdx.x) * 8]);
        if (SOUND) mbarrier_arrive(barrier(1));
        vote(true);
    }
    p.out[threadIdx.x] = sum;
}

BOTH(not_awaited)
BOTH(no_data)
BOTH(no_wait)
BOTH(no_fence)
BOTH(overwritten)
BOTH(product_never_waited)
BOTH(not_named)
BOTH(other_layout)
BOTH(other_shape)
BOTH(offset_for_address)
BOTH(between_periods)
BOTH(one_warp_short)
BOTH(too_few_bytes)
BOTH(too_many_bytes)
BOTH(no_init)
BOTH(too_many_arrivals)
BOTH(missing_arrival)
BOTH(refilled)
