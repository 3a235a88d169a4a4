// conv2d.cu's equation, operands and epilogue on Hopper's tensor copies and warpgroup matrix products.
//
// GEMM: M = n, p, q (pixels), N = k, K = r, s, c in blocks of BK channels of one filter position, so that a block of the input is one
// copy: of BM pixels by an im2col map, which also brings the zeros around the image, or, where the filter is 1 x 1 and nothing is
// left out, of BM rows by a tiled map. The weights are a tensor [k, r s, c] of BN rows. Channels past the last of C are zeros in both.
//
// A block of 384 threads: one thread of the last warpgroup issues copies into a ring of STAGES tiles, two warpgroups multiply
// BM / 2 pixels each. Blocks are persistent: block b takes tiles b, b + gridDim.x .., and the producer goes on to the next
// tile while the others write theirs. Tiles of the same pixels follow each other, so that the input is read from L2.
//
// splits > 1: a split of the reduction is a tile of its own. Its f32 sums go to partial [splits, M, N], which conv2d_reduce
// (conv2d.cu) adds in order; or, in_cluster, to the block's shared memory, the splits of a tile being the blocks of a cluster: each
// adds a part of the tile in the same order, from the shared memory of all. Such a block takes one tile: where its sums lie was
// the ring. No bit depends on the number of blocks, nor on which of the two joins the splits.
//
// Where nothing is split and fp16 goes out, a tile ends in the ring: for every 64 channels of it a stage that the residual was copied
// to, as if it were one more block of the input. Each thread adds its sums and bias to it in place, and tensor copies take the results
// from there, 16 rows of a warp each; rows and channels outside the tensor they leave out.
//
// Elsewhere (f32, or sums of a split): a row of the product lies in one quad's registers, two channels a thread; the quad exchanges
// them so that each thread has eight channels of a row, and stores 16 bytes at once.
#include "common/division.cuh"
#include "common/epilogue.cuh"
#include "common/hopper.cuh"

struct Conv2dHopperParams {
    TensorMap input;   // im2col, or tiled [M, 1, C]
    TensorMap weight;  // tiled [out_c, kernel kernel, in_c]
    TensorMap added;   // the residual: tiled [M, 1, out_c], boxes of BM rows; unless through_ring and a residual, another map
    TensorMap stored;  // the output: the same in boxes of 16 rows; unless through_ring, another map
    const float* bias;
    const half* residual;  // or null
    void* output;          // half, or float where output_f32
    float* partial;        // [splits, M, out_c] where splits > 1, unless in_cluster
    Divisor out_h, out_w, kernel;
    Divisor tiles_m, tiles_n;  // of the product
    Divisor c_blocks;          // blocks of BK channels of a filter position
    Divisor splits;
    int32_t pixels, out_c, out_stride, residual_stride;
    int32_t stride, dilation, padding;
    int32_t relu, output_f32;
    int32_t tiled;         // the input's map
    int32_t all_blocks;    // of the reduction
    int32_t k_blocks;      // of each split
    int32_t in_cluster;    // the grid: clusters of `splits` blocks, one for each tile
    int32_t through_ring;  // residual and output: where nothing is split and fp16 goes out
    int32_t reserved[5];   // to a multiple of the maps' alignment
};

#if HOPPER
namespace {

constexpr int BK = 64;
constexpr int GROUPS = 2, CONSUMERS = GROUPS * 128;  // and a warpgroup that copies
constexpr int STORED_ROWS = 16;                      // of a copy to the output

template <int BM_, int BN_, int STAGES_> struct Tile {
    static constexpr int BM = BM_, BN = BN_, STAGES = STAGES_;
    static constexpr int ROWS = BM / GROUPS;                              // of a warpgroup, in products of 64
    static constexpr int STAGE = (BM + BN) * BK * 2, B_AT = BM * BK * 2;  // bytes
    static constexpr int FULL_AT = STAGES * STAGE;                        // mbarriers
    static constexpr int EMPTY_AT = FULL_AT + STAGES * 8;
    static constexpr int shared_bytes() { return (EMPTY_AT + STAGES * 8 + 127) / 128 * 128; }
    static_assert(ROWS % 64 == 0 && B_AT % 1024 == 0 && STAGE % 1024 == 0, "the swizzle's period");
    static_assert(shared_bytes() <= 227 * 1024, "fits a multiprocessor");
    static_assert(BM * BN * 4 <= FULL_AT, "a tile's sums fit the ring");
};

struct Ring {
    int stage = 0, phase = 0;

    template <int STAGES> DEVICE void advance() {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

// Where a tile lies, and its part of the reduction.
struct Work {
    int split, m, n, first, blocks;
};

DEVICE Work work_of(const Conv2dHopperParams& p, int tile) {
    Work w;
    w.split = 0;
    if (p.in_cluster) {
        const int cluster = quotient(tile, p.splits);
        w.split = tile - cluster * p.splits.divisor;
        tile = cluster;
    }
    const int row = quotient(tile, p.tiles_n), split = quotient(row, p.tiles_m);
    w.n = tile - row * p.tiles_n.divisor;
    w.m = row - split * p.tiles_m.divisor;
    w.split += split;
    w.first = w.split * p.k_blocks;
    w.blocks = p.all_blocks - w.first < p.k_blocks ? p.all_blocks - w.first : p.k_blocks;
    return w;
}

// Stages in which a tile ends: 64 channels each.
template <class T> DEVICE int parts_of(const Conv2dHopperParams& p, const Work& w) {
    const int left = (p.out_c - w.n * T::BN + BK - 1) / BK;
    return !p.through_ring ? 0 : left < T::BN / BK ? left : T::BN / BK;
}

// One thread: each stage once all consumers have freed it.
template <class T> DEVICE void produce(const Conv2dHopperParams& p, int tiles) {
    const Shared<MBarrier> full = smem<MBarrier>(T::FULL_AT), empty = smem<MBarrier>(T::EMPTY_AT);
    if (p.through_ring) prefetch_map(p.stored);
    Ring at;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const Work w = work_of(p, tile);
        const int pixel = w.m * T::BM;
        const Place at_pixel = place(pixel, p.out_h, p.out_w);
        const int image = at_pixel.image, y = at_pixel.y * p.stride - p.padding, x = at_pixel.x * p.stride - p.padding;
        int tap = quotient(w.first, p.c_blocks), c = w.first - tap * p.c_blocks.divisor;
        int r = quotient(tap, p.kernel), s = tap - r * p.kernel.divisor;
#pragma unroll 1
        for (int block = 0; block < w.blocks; ++block) {
            mbarrier_wait(empty + at.stage, at.phase ^ 1);
            mbarrier_arrive_expect(full + at.stage, T::STAGE);
            const Shared<half> a = smem<half>(at.stage * T::STAGE), b = smem<half>(at.stage * T::STAGE + T::B_AT);
            if (p.tiled) {
                tensor_copy(a, p.input, c * BK, 0, pixel, full + at.stage);
            } else {
                tensor_copy_im2col(a, p.input, c * BK, x, y, image, s * p.dilation, r * p.dilation, full + at.stage);
            }
            tensor_copy(b, p.weight, c * BK, tap, w.n * T::BN, full + at.stage);
            at.advance<T::STAGES>();
            if (++c == p.c_blocks.divisor) {
                c = 0;
                ++tap;
                if (++s == p.kernel.divisor) {
                    s = 0;
                    ++r;
                }
            }
        }
        const int parts = parts_of<T>(p, w);
#pragma unroll 1
        for (int part = 0; part < parts; ++part) {
            mbarrier_wait(empty + at.stage, at.phase ^ 1);
            mbarrier_arrive_expect(full + at.stage, p.residual ? T::B_AT : 0);
            if (p.residual) tensor_copy(smem<half>(at.stage * T::STAGE), p.added, w.n * T::BN + part * BK, 0, pixel, full + at.stage);
            at.advance<T::STAGES>();
        }
    }
}

// Of the quad's four threads t, e[j] of thread t becomes e[t] of thread j.
DEVICE void transpose(Float2 (&e)[4], int t) {
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
        const bool upper = (t & distance) != 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if (k & distance) continue;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float &low = e[k].v[i], &high = e[k + distance].v[i];
                const float received = shuffle_xor(upper ? low : high, distance);
                low = upper ? received : low;
                high = upper ? high : received;
            }
        }
    }
}

// Where a thread's values lie: `item` is eight channels of a row, of which each thread has ITEMS.
template <class T> struct Item {
    static constexpr int EIGHTS = T::BN / 32;  // of a row, a thread
    static constexpr int ITEMS = T::ROWS / 64 * 2 * EIGHTS;

    // `warp` of the eight that multiply.
    DEVICE static int pixel(const Work& w, int item, int warp, int lane) {
        return w.m * T::BM + warp / 4 * T::ROWS + item / (2 * EIGHTS) * 64 + warp % 4 * 16 + lane / 4 + item / EIGHTS % 2 * 8;
    }
    DEVICE static int channel(const Work& w, int item, int lane) { return w.n * T::BN + 8 * (lane % 4) + item % EIGHTS * 32; }
};

// Of a tile whose sums lie in the shared memory of the cluster's blocks, item by item, thread by thread, in two halves: the items
// of every splits-th warp, from this block's on.
template <class T> DEVICE void join(const Conv2dHopperParams& p, const Epilogue& e, const Work& w) {
    using I = Item<T>;
    const int warp = uniform(threadIdx.x / 32), lane = threadIdx.x % 32;
#pragma unroll 1
    for (int unit = warp * p.splits.divisor + w.split; unit < I::ITEMS * (CONSUMERS / 32); unit += CONSUMERS / 32 * p.splits.divisor) {
        const int item = unit / (CONSUMERS / 32), from = unit % (CONSUMERS / 32);
        const int pixel = I::pixel(w, item, from, lane), c = I::channel(w, item, lane);
        if (pixel >= p.pixels || c >= p.out_c) continue;
        const Shared<Float4> at = smem<Float4>(0) + (2 * item * CONSUMERS + from * 32 + lane);
        float v[8] = {};
#pragma unroll 4
        for (int split = 0; split < p.splits.divisor; ++split) {
            const Float4 low = cluster_load16(at, split), high = cluster_load16(at + CONSUMERS, split);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                v[j] += low.v[j];
                v[j + 4] += high.v[j];
            }
        }
        store(e, pixel, c, v);
    }
}

// The end of a tile in the ring: 64 channels of the warp's rows, from sums to copies under way. Of a row each thread of the quad has
// two channels in eights; rows lie as the 128-byte swizzle has them, so that a warp's words are in 32 banks.
template <class T, bool RESIDUAL> DEVICE void finish(const Conv2dHopperParams& p, const Work& w, AccumulatorOf<T::BN> (&sum)[T::ROWS / 64],
                                                     int part, int stage, const Float2 (&bias)[8]) {
    const int warp = uniform(threadIdx.x / 32), lane = threadIdx.x % 32, row = lane / 4, t = lane % 4;
    const int row0 = warp / 4 * T::ROWS + warp % 4 * STORED_ROWS;
    const float least = p.relu ? 0.0f : -INFINITY;
#pragma unroll
    for (int i = 0; i < T::ROWS / 64; ++i) {
        const Shared<uint32_t> words = smem<uint32_t>(stage * T::STAGE) + (row0 + i * 64 + row) * (BK / 2) + t;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int at = h * 8 * (BK / 2) + (j ^ row) * 4, value = 4 * (8 * part + j) + 2 * h;
                float v[2] = {sum[i][value] + bias[j].v[0], sum[i][value + 1] + bias[j].v[1]};
                if (RESIDUAL) {
                    const Float2 r = unpack(words[at]);
                    v[0] += r.v[0];
                    v[1] += r.v[1];
                }
#pragma unroll
                for (int k = 0; k < 2; ++k) v[k] = v[k] < least ? least : v[k];  // NaN stays NaN
                words[at] = pack(v[0], v[1]);
            }
        }
    }
    fence_proxy_async();
    sync_warp();
    if (lane != 0) return;
#pragma unroll
    for (int i = 0; i < T::ROWS / 64; ++i) {
        const int pixel = w.m * T::BM + row0 + i * 64;
        if (pixel >= p.pixels) continue;
        tensor_store(p.stored, w.n * T::BN + part * BK, 0, pixel, smem<half>(stage * T::STAGE) + (row0 + i * 64) * BK);
    }
    store_commit();
}

template <class T> DEVICE void consume(const Conv2dHopperParams& p, int tiles) {
    constexpr int PRODUCTS = T::ROWS / 64;
    const int thread = threadIdx.x, group = uniform(thread / 128), warp = uniform(thread / 32), lane = thread % 32, t = lane % 4;
    const Shared<MBarrier> full = smem<MBarrier>(T::FULL_AT), empty = smem<MBarrier>(T::EMPTY_AT);
    const Epilogue e = {p.bias, p.residual, p.output, p.residual_stride, p.out_stride, p.relu != 0, p.output_f32 != 0};
    auto release = [&](int stage) {
        if (lane == 0) mbarrier_arrive(empty + stage);
    };
    Ring at;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const Work w = work_of(p, tile);
        AccumulatorOf<T::BN> sum[PRODUCTS];
        int last = 0;
#pragma unroll 1
        for (int block = 0; block < w.blocks; ++block) {
            mbarrier_wait(full + at.stage, at.phase);
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < BK / 16; ++step) {
                const Shared<half> a = smem<half>(at.stage * T::STAGE) + group * (T::ROWS * BK) + step * 16;
                const Shared<half> b = smem<half>(at.stage * T::STAGE + T::B_AT) + step * 16;
#pragma unroll
                for (int i = 0; i < PRODUCTS; ++i) {
                    wgmma_m64k16(sum[i], wgmma_rows(a + i * 64 * BK), wgmma_rows(b), block > 0 || step > 0);
                }
            }
            wgmma_commit();
            if (block > 0) {
                wgmma_wait<1>();
                release(last);
            }
            last = at.stage;
            at.advance<T::STAGES>();
        }
        if constexpr (PRODUCTS == 2) {
            wgmma_wait<0>(sum[0], sum[1]);
        } else {
            wgmma_wait<0>(sum[0]);
        }
        release(last);

        const int parts = parts_of<T>(p, w);
        if (parts > 0) {
            int stages[T::BN / BK];
#pragma unroll
            for (int part = 0; part < T::BN / BK; ++part) {
                if (part >= parts) continue;
                Float2 bias[8];
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    const int c = w.n * T::BN + part * BK + 8 * j + 2 * t;
                    bias[j] = c < p.out_c ? *reinterpret_cast<const Float2*>(p.bias + c) : Float2{};
                }
                mbarrier_wait(full + at.stage, at.phase);
                if (p.residual) {
                    finish<T, true>(p, w, sum, part, at.stage, bias);
                } else {
                    finish<T, false>(p, w, sum, part, at.stage, bias);
                }
                stages[part] = at.stage;
                at.advance<T::STAGES>();
            }
            store_wait_read<0>();
#pragma unroll
            for (int part = 0; part < T::BN / BK; ++part) {
                if (part < parts) release(stages[part]);
            }
            continue;
        }

        // The sums of the cluster come into the ring, which the other warpgroup's products have to have read.
        if (p.in_cluster) barrier_sync(1, CONSUMERS);
        using I = Item<T>;
#pragma unroll
        for (int item = 0; item < I::ITEMS; ++item) {
            const int i = item / (2 * I::EIGHTS), h = item / I::EIGHTS % 2, q = item % I::EIGHTS;
            Float2 pairs[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int at = 4 * (4 * q + j) + 2 * h;
                pairs[j] = Float2{{sum[i][at], sum[i][at + 1]}};
            }
            transpose(pairs, t);
            const int pixel = I::pixel(w, item, warp, lane), c = I::channel(w, item, lane);
            if (pixel >= p.pixels || c >= p.out_c) continue;
            float v[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) v[j] = pairs[j / 2].v[j % 2];
            const Float4 low = {{v[0], v[1], v[2], v[3]}}, high = {{v[4], v[5], v[6], v[7]}};
            if (p.in_cluster) {
                const Shared<Float4> at = smem<Float4>(0) + (2 * item * CONSUMERS + thread);
                at[0] = low;
                at[CONSUMERS] = high;
            } else if (p.splits.divisor > 1) {
                float* partial = p.partial + (int64_t(w.split) * p.pixels + pixel) * p.out_c + c;
                store16(partial, low);
                store16(partial + 4, high);
            } else {
                store(e, pixel, c, v);
            }
        }
        if (p.in_cluster) {
            cluster_sync();
            join<T>(p, e, w);
            cluster_sync();
        }
    }
}

template <class T> DEVICE void conv2d_hopper(const Conv2dHopperParams& p) {
    const int thread = threadIdx.x, tiles = p.tiles_m.divisor * p.tiles_n.divisor * p.splits.divisor;
    if (thread < T::STAGES) {
        mbarrier_init(smem<MBarrier>(T::FULL_AT) + thread, 1);
        mbarrier_init(smem<MBarrier>(T::EMPTY_AT) + thread, CONSUMERS / 32);
        mbarrier_init_fence();
    }
    if (thread == CONSUMERS) {
        prefetch_map(p.input);
        prefetch_map(p.weight);
    }
    sync_threads();
    if (uniform(thread / 128) == GROUPS) {
        give_registers<24>();
        if (thread == CONSUMERS) produce<T>(p, tiles);
    } else {
        take_registers<240>();
        consume<T>(p, tiles);
    }
}

using Tile256x128 = Tile<256, 128, 4>;
using Tile128x128 = Tile<128, 128, 6>;
using Tile256x64 = Tile<256, 64, 5>;
// src/device/launch/conv2d/hopper.rs has the same numbers (tests/twins.rs).
static_assert(Tile256x128::shared_bytes() == 196736, "");
static_assert(Tile128x128::shared_bytes() == 196736, "");
static_assert(Tile256x64::shared_bytes() == 204928, "");

}  // namespace
#define CONV2D(TILE) conv2d_hopper<TILE>
#else
// Of another architecture; never launched there.
#define CONV2D(TILE) (void)
#endif

KERNEL_BLOCKS(conv2d_hopper_256x128, Conv2dHopperParams, 384, 1, CONV2D(Tile256x128))
KERNEL_BLOCKS(conv2d_hopper_128x128, Conv2dHopperParams, 384, 1, CONV2D(Tile128x128))
KERNEL_BLOCKS(conv2d_hopper_256x64, Conv2dHopperParams, 384, 1, CONV2D(Tile256x64))
