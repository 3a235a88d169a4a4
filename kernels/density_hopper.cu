// density.cu's equation on Hopper's warpgroup matrix products, for up to 256 channels.
//
// A warpgroup owns 128 or 64 pixels and keeps their features in registers, as the left operand of every product it will do: z is
// read once and never lies in shared memory. W streams through a ring by bulk copies in blocks of 64 rows x 64 columns,
// packed by the host as the 128-byte swizzle has them, low term first; a producer warp runs ahead, two or three consumer
// warpgroups follow, each at its own pace, so that one squares a panel while the tensor cores work for another. A panel
// (64 rows) ends at its diagonal. In the diagonal block the rows above columns 16 s .. are zeros: a product could leave them
// out, but products of different shapes on one accumulator need a fence between them (PTX ISA, wgmma.fence), so that every
// product has all 64 rows until a GPU has timed the alternatives. A panel's rows lie in reverse, so that a shorter product would
// start at the accumulator's first register.
//
// Scaling, bias, scores, visiting order, splits and outputs are density.cu's. The producer's warpgroup works the order out while
// the consumers load z; they learn it behind the first block's mbarrier.
//
// Early exit: after a panel a warpgroup leaves the class once constant_c - partial / 2 < max - tau for all its pixels. It
// then frees the class's remaining blocks unread. As it frees a stage it says which item it is past; the producer
// goes to the next item once all warpgroups are past this one, and marks each block with its item's place, so that
// they see where the next item starts. Results and counts do not depend on how far the producer ran ahead.
#include "common/gaussians.cuh"
#include "common/hopper.cuh"

#if HOPPER
namespace {

constexpr int BK = 64, STAGES = 8;
constexpr int MOST_PANELS = 4;  // of 64 channels

// GROUPS warpgroups of SETS x 64 pixels. Shared memory in bytes.
template <int GROUPS_, int SETS_, int TERMS_> struct Tile {
    static constexpr int GROUPS = GROUPS_, SETS = SETS_, TERMS = TERMS_;
    static constexpr int PIXELS = GROUPS * SETS * 64, CONSUMERS = GROUPS * 128, THREADS = CONSUMERS + 128;
    // What setmaxnreg shares out of a multiprocessor's 65536, in eights: the producer gives first, as consumers wait for it.
    static constexpr int PRODUCER_REGISTERS = 40, REGISTERS = (65536 - PRODUCER_REGISTERS * 128) / CONSUMERS / 8 * 8;
    static constexpr int TERM = PANEL * BK, STAGE = TERMS * TERM * 2, ROWS = PANEL * 8;
    static constexpr int ROWS_AT = STAGES * STAGE;           // bias and scale, with a panel's last block
    static constexpr int FULL_AT = ROWS_AT + STAGES * ROWS;  // mbarriers
    static constexpr int EMPTY_AT = FULL_AT + STAGES * 8;
    static constexpr int PLACE_AT = EMPTY_AT + STAGES * 8;        // [STAGES]: place of the block's item in the order
    static constexpr int PAST_AT = PLACE_AT + STAGES * 4;         // [STAGES, GROUPS]: places that the group is past
    static constexpr int OUT_AT = PAST_AT + STAGES * GROUPS * 4;  // [GROUPS, 2, 4 warps]
    static constexpr int ORDER_AT = OUT_AT + GROUPS * 2 * 4 * 4;  // 257 x 2 bytes
    static constexpr int BROKEN_AT = ORDER_AT + 528;              // [GROUPS, SETS, 4 warps] x 2 bytes
    static constexpr int VOTES_AT = BROKEN_AT + GROUPS * SETS * 8;
    static constexpr int shared_bytes() { return (VOTES_AT + 1024 + 127) / 128 * 128; }
    static_assert(STAGE % 1024 == 0, "the swizzle's period");
};

struct Ring {
    int stage = 0, phase = 0;

    DEVICE void advance() {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

// One thread: blocks of W in the order of the items, each stage once all consumers have freed it.
template <class T> DEVICE void produce(const DensityParams& p, int items) {
    const Shared<uint16_t> order = smem<uint16_t>(T::ORDER_AT);
    const Shared<uint32_t> place = smem<uint32_t>(T::PLACE_AT), past = smem<uint32_t>(T::PAST_AT);
    const Shared<MBarrier> full = smem<MBarrier>(T::FULL_AT), empty = smem<MBarrier>(T::EMPTY_AT);
    const int blocks = p.panels * (p.panels + 1) / 2;
    Ring at;
    // Last an empty block, for who has left the last item.
    for (int n = 0; n <= items; ++n) {
        const bool end = n == items;
        const int item = end ? 0 : order[n];
        const half* weights = p.weights + int64_t(item) * blocks * (T::TERMS * T::TERM);
        const float* rows = p.rows + int64_t(item) * p.panels * PANEL * 2;
        bool left = false;
        for (int panel = 0; panel < (end ? 1 : p.panels) && !left; ++panel) {
            for (int block = 0; block <= panel; ++block) {
                mbarrier_wait(empty + at.stage, at.phase ^ 1);
                left = true;
#pragma unroll
                for (int group = 0; group < T::GROUPS; ++group) left &= past[at.stage * T::GROUPS + group] > uint32_t(n);
                if (left) break;
                place[at.stage] = n;
                const bool last = block == panel;
                mbarrier_arrive_expect(full + at.stage, end ? 0 : T::STAGE + (last ? T::ROWS : 0));
                if (end) return;
                bulk_copy(smem<half>(at.stage * T::STAGE), weights, T::STAGE, full + at.stage);
                if (last) bulk_copy(smem<half>(T::ROWS_AT + at.stage * T::ROWS), rows, T::ROWS, full + at.stage);
                weights += T::TERMS * T::TERM;
                if (last) rows += PANEL * 2;
                at.advance();
            }
        }
    }
}

// A block of W times the features' 64 columns; the terms' low one first.
template <class T> DEVICE void multiply(Accumulator (&sum)[T::SETS], const uint32_t (&z)[T::SETS][4 * MOST_PANELS][4], int block, int stage,
                                        bool first) {
#pragma unroll
    for (int i = 0; i < T::SETS; ++i) {
#pragma unroll
        for (int step = 0; step < BK / 16; ++step) {
#pragma unroll
            for (int term = 0; term < T::TERMS; ++term) {
                const Shared<half> w = smem<half>(stage * T::STAGE) + term * T::TERM + step * 16;
                const bool accumulate = !(first && step == 0 && term == 0);
                wgmma_m64k16<64>(sum[i], z[i][block * 4 + step], wgmma_rows(w), accumulate);
            }
        }
    }
}

template <class T> DEVICE void consume(const DensityParams& p, int count, bool background) {
    const int group = uniform(threadIdx.x / 128), warp = uniform(threadIdx.x / 32 % 4), lane = threadIdx.x % 32, t = lane % 4;
    const int items = count + background;
    constexpr int SETS = T::SETS, ROWS = 2 * SETS;  // of a quad
    const int group_pixel0 = blockIdx.x * T::PIXELS + group * SETS * 64;
    const int row0 = group_pixel0 + warp * 16 + lane / 4;  // rows row0, + 8, + 64, + 72 of a quad
    const bool exits = p.tau < INFINITY;

    // z[i][k]: columns 16 k .. of rows row0 + 64 i (words 0, 2) and + 8 (1, 3); columns 2 t, 2 t + 1 (0, 1) and + 8 (2, 3).
    uint32_t z[SETS][4 * MOST_PANELS][4];
    bool broken[ROWS] = {};
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const int pixel = row0 + r / 2 * 64 + r % 2 * 8;
        const half* feature = p.features + int64_t(pixel < p.pixels ? pixel : 0) * p.feature_stride;
#pragma unroll
        for (int k = 0; k < 4 * MOST_PANELS; ++k) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int column = k * 16 + h * 8 + 2 * t;
                const bool valid = pixel < p.pixels && column < p.channels;
                const uint32_t pair = valid ? *reinterpret_cast<const uint32_t*>(feature + column) : 0;
                z[r / 2][k][r % 2 + 2 * h] = pair;
                broken[r] |= not_finite(pair);
            }
        }
    }
    // Zeros take the place of a feature that is not finite: it must not slow down the others' exit.
    const Shared<uint16_t> broken_rows = smem<uint16_t>(T::BROKEN_AT + group * SETS * 8);  // [SETS, 4 warps]: a bit a row
    uint32_t usable = 0;                                                                   // bit r
#pragma unroll
    for (int i = 0; i < SETS; ++i) {
        uint32_t rows = 0;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int r = i * 2 + h;
            const bool any = vote(broken[r]) >> (lane & ~3) & 0xf;
            if (any) {
#pragma unroll
                for (int k = 0; k < 4 * MOST_PANELS; ++k) {
                    z[i][k][h] = 0;
                    z[i][k][h + 2] = 0;
                }
            }
            const uint32_t quads = vote(any && t == 0);
#pragma unroll
            for (int q = 0; q < 8; ++q) rows |= (quads >> 4 * q & 1) << (q + 8 * h);
            usable |= uint32_t(!any && row0 + i * 64 + h * 8 < p.pixels) << r;
        }
        if (lane == 0) broken_rows[i * 4 + warp] = uint16_t(rows);
    }

    const Shared<uint16_t> order = smem<uint16_t>(T::ORDER_AT);
    const Shared<uint32_t> place = smem<uint32_t>(T::PLACE_AT), past = smem<uint32_t>(T::PAST_AT),
                           outs = smem<uint32_t>(T::OUT_AT + group * 32);
    const Shared<MBarrier> full = smem<MBarrier>(T::FULL_AT), empty = smem<MBarrier>(T::EMPTY_AT);
    auto release = [&](int stage, int places) {
        if (lane != 0) return;
        if (warp == 0) past[stage * T::GROUPS + group] = places;
        mbarrier_arrive(empty + stage);
    };

    // Lane 4 g + t has pixel t of its quad's, where it has so many.
    const int pixel = t < ROWS ? row0 + t / 2 * 64 + t % 2 * 8 : p.pixels;
    State state;
    Accumulator sum[SETS];
    Ring at;
    int done = 0, turn = 0;
    // Whether all warps of the group say so. Two sets of words: no warp can write its next before all have read this one.
    auto all = [&](bool finished) {
        if (lane == 0) outs[turn * 4 + warp] = finished;
        if (group == 0) {
            barrier_sync(1, 128);
        } else if (T::GROUPS == 2 || group == 1) {
            barrier_sync(2, 128);
        } else {
            barrier_sync(4, 128);
        }
        const bool every = outs[turn * 4] && outs[turn * 4 + 1] && outs[turn * 4 + 2] && outs[turn * 4 + 3];
        turn ^= 1;
        return uniform(every) != 0;
    };
    const bool idle = all(vote(usable != 0) == 0);
    // The order is complete once the first block is.
    mbarrier_wait(full + 0, 0);
    for (int n = 0; n < items; ++n) {
        const int item = uniform(order[n]);
        const float constant = p.constants[item];
        const bool may_exit = exits && item != p.classes;
        float squares[ROWS] = {};
        float lane_squares = 0.0f;
        bool left = idle;
#pragma unroll
        for (int panel = 0; panel < MOST_PANELS; ++panel) {
            if (left || panel >= p.panels) continue;
            int last_stage = 0;
#pragma unroll
            for (int block = 0; block <= panel; ++block) {
                mbarrier_wait(full + at.stage, at.phase);
                wgmma_fence();
                multiply<T>(sum, z, block, at.stage, block == 0);
                wgmma_commit();
                if (block > 0) {
                    wgmma_wait<1>();
                    release(last_stage, n);
                }
                last_stage = at.stage;
                at.advance();
            }
            done += item != p.classes ? 2 * (panel + 1) : 0;
            wgmma_wait<0>(sum[0], sum[SETS - 1]);
            const Shared<Float4> rows = smem<Float4>(T::ROWS_AT + last_stage * T::ROWS);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const Float4 row = rows[j * 4 + t];  // bias and scale of rows 8 j + 2 t of W and the next
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    const float y0 = (sum[r / 2][j * 4 + r % 2 * 2] - row.v[0]) * row.v[1];
                    const float y1 = (sum[r / 2][j * 4 + r % 2 * 2 + 1] - row.v[2]) * row.v[3];
                    squares[r] += y0 * y0 + y1 * y1;
                }
            }
            const bool last = panel == p.panels - 1;
            if (last || may_exit) {
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    float total = squares[r] + shuffle_xor(squares[r], 1);
                    total += shuffle_xor(total, 2);
                    if (t == r) lane_squares = total;
                }
            }
            if (last && item != p.classes) {
                state.visit(constant, lane_squares);
            } else if (!last && may_exit) {
                left = all(vote(state.beyond(p, constant, lane_squares) || !(usable >> t & 1)) == 0xffffffffu);
            }
            fence_proxy_async();  // the panel's bias and scale have been read; a bulk copy overwrites them
            sync_warp();
            release(last_stage, left ? n + 1 : n);
        }
        if (left) {
            // Frees what is left of the item.
            for (;;) {
                mbarrier_wait(full + at.stage, at.phase);
                if (place[at.stage] != uint32_t(n)) break;
                sync_warp();
                release(at.stage, n + 1);
                at.advance();
            }
        }
        if (pixel < p.pixels) p.squares[int64_t(item) * p.pixels + pixel] = stored(lane_squares, left, usable >> t & 1);
    }

    // A word of the counters for every 32 pixels.
    const int64_t counter = (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * (T::PIXELS / 32) + group * 2 * SETS + warp;
    if (lane == 0 && warp < 2 * SETS) {
        p.stats[2 * counter] = blockIdx.y == 0 ? int32_t(broken_rows[2 * warp] | uint32_t(broken_rows[2 * warp + 1]) << 16) : 0;
        p.stats[2 * counter + 1] = group_pixel0 + warp * 32 < p.pixels ? done : 0;
    }
    if (p.splits == 1 && pixel < p.pixels) scores(p, pixel);
}

template <class T> DEVICE void density(const DensityParams& p) {
    const int first = blockIdx.y * p.per_split;
    const int count = p.classes - first < p.per_split ? p.classes - first : p.per_split;
    const bool background = p.relative && int(blockIdx.y) == p.splits - 1;
    const int thread = threadIdx.x;
    if (thread < STAGES) {
        mbarrier_init(smem<MBarrier>(T::FULL_AT) + thread, 1);
        mbarrier_init(smem<MBarrier>(T::EMPTY_AT) + thread, T::CONSUMERS / 32);
        mbarrier_init_fence();
        for (int group = 0; group < T::GROUPS; ++group) smem<uint32_t>(T::PAST_AT)[thread * T::GROUPS + group] = 0;
    }
    sync_threads();
    if (uniform(thread / 128) == T::GROUPS) {
        give_registers<T::PRODUCER_REGISTERS>();
        visiting_order<T::PIXELS, 128>(p, thread - T::CONSUMERS, blockIdx.x * T::PIXELS, first, count, background, smem<float>(T::VOTES_AT),
                                       smem<uint16_t>(T::ORDER_AT), [] { barrier_sync(3, 128); });
        if (thread == T::CONSUMERS) produce<T>(p, count + background);
    } else {
        take_registers<T::REGISTERS>();
        consume<T>(p, count, background);
    }
}

using Tile256 = Tile<2, 2, 2>;
using Tile192 = Tile<3, 1, 2>;
using Fast256 = Tile<2, 2, 1>;
using Fast192 = Tile<3, 1, 1>;
// src/device/launch/density.rs has the same numbers (tests/twins.rs).
static_assert(Tile256::PIXELS == 256 && Tile256::THREADS == 384 && Fast256::THREADS == 384, "");
static_assert(Tile192::PIXELS == 192 && Tile192::THREADS == 512 && Fast192::THREADS == 512, "");
static_assert(Tile256::shared_bytes() == 137088 && Tile192::shared_bytes() == 137216, "");
static_assert(Fast256::shared_bytes() == 71552 && Fast192::shared_bytes() == 71680, "");

}  // namespace
#define DENSITY(TILE) density<TILE>
#else
// Of another architecture; never launched there.
#define DENSITY(TILE) (void)
#endif

KERNEL_BLOCKS(density_hopper, DensityParams, 384, 1, DENSITY(Tile256))
KERNEL_BLOCKS(density_hopper_192, DensityParams, 512, 1, DENSITY(Tile192))
KERNEL_BLOCKS(density_hopper_fast, DensityParams, 384, 1, DENSITY(Fast256))
KERNEL_BLOCKS(density_hopper_192_fast, DensityParams, 512, 1, DENSITY(Fast192))
