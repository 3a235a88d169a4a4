// Log-density of every pixel's feature under one Gaussian per class, all classes in one kernel.
//
//   log q(z) = LSE_c [ constant_c - ||W_c (z - mu_c)||^2 / 2 ]   (nats),   constant_c = ln pi_c - (D ln 2 pi + ln|Sigma_c|) / 2
//
// z fp16, exact; W_c = L_c^-1 lower triangular. Row i of W_c is scaled by a power of two, its greatest value in
// 2^14 .. 2^15, and split in two fp16 terms (`fast`: one), which share one f32 accumulator: at this scale the low
// term needs no scale, for it leaves fp16's normal range only 2^-18 below the row's greatest value.
//   y_i = (sum over k of (high_ik + low_ik) z_k - bias_i) 2^-s_i,   bias = the stored W_c times mu_c, in f64 on the host.
//
// A warp owns 32 pixels and every row of W; a block's warps share the stream of W. z stays in shared memory,
// [PIXELS][padded D], 16-byte chunks permuted by row % 8. W streams through a ring by cp.async, class after class
// without a break, in blocks of 64 rows x 32 columns, packed by the host as they lie in the ring (chunks permuted by
// row / 2 % 4); a panel (64 rows) ends at its diagonal, so no block above it exists, and in the last two blocks
// tiles of 8 rows above it are skipped. At a panel's end squares are summed in registers; at a class's end the quad's
// four lanes add up and write the sum, one float per pixel and class; after the last class each lane makes its pixel's scores
// of them (gaussians.cuh, which says why it does not as it goes).
//
// Early exit: partial sums only grow. A warp leaves class c once constant_c - partial / 2 < max - tau for all its
// pixels (with `nearest`, also once partial > the least distance); when all warps have, the block streams the next
// class. The omitted terms add at most C e^-tau. The classes predicted most often in the block come first.
// Their order is worked out while z is on its way, and z checked while the first blocks of W are.
//
// Splits: grid (ceil(pixels / PIXELS), splits); split s has classes s per_split ..; where splits > 1,
// density_merge makes the scores. The background Gaussian of the relative score is item `classes`; the last split has it, never
// leaves it, and it has no part in the sum.
// A pixel with an infinity or a NaN gets -inf, nearest 255; one whose result overflows f32 gets -inf.
// Shared memory: Tile::shared_bytes().
#include "common/gaussians.cuh"

namespace {

constexpr int BK = 32, STAGES = 4;
constexpr int TERM = PANEL * BK;       // halves of a block of W
constexpr int ROWS_BYTES = PANEL * 8;  // bias and scale, with a panel's last block

// WARPS x 32 pixels of at most CHANNELS channels.
template <int WARPS_, int CHANNELS_, int TERMS_> struct Tile {
    static constexpr int WARPS = WARPS_, TERMS = TERMS_;
    static constexpr int PIXELS = WARPS * 32, THREADS = WARPS * 32;
    static constexpr int RING_AT = PIXELS * CHANNELS_ * 2;
    static constexpr int STAGE = 2 * TERM * 2 + ROWS_BYTES;
    static constexpr int LEFT_AT = RING_AT + STAGES * STAGE;  // a word per warp
    static constexpr int ORDER_AT = LEFT_AT + 64;             // 257 x 2 bytes
    static constexpr int shared_bytes() { return LEFT_AT + 640; }
    static_assert(ORDER_AT + 257 * 2 <= shared_bytes() && WARPS * 4 <= 64, "");
    static_assert(RING_AT % 128 == 0 && STAGE % 128 == 0, "whole lines");
    // votes (a float per class) lie where the ring is filled later
    static_assert(256 * 4 <= STAGE, "");
};

// Where a chunk of 8 halves lies: of a pixel of z, of a row of W; in halves.
DEVICE int z_at(int row, int chunk, int padded) { return row * padded + ((chunk ^ (row & 7)) << 3); }
DEVICE int w_at(int row, int chunk) { return row * BK + ((chunk ^ (row >> 1 & 3)) << 3); }

// Both steps of 16 columns of a block; in a diagonal one, tiles of 8 rows below SKIP (+ 2 in the second step) are zero.
template <class T, int SKIP> DEVICE void multiply(float (&sum)[2][8][4], Shared<half> z, Shared<half> w, int padded, int chunk, int lane) {
#pragma unroll
    for (int step = 0; step < BK / 16; ++step) {
        const int skip = SKIP < 0 ? 0 : SKIP + 2 * step;
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i) ldmatrix_x4(a[i], z + z_at(i * 16 + lane % 16, chunk + step * 2 + lane / 16, padded));
#pragma unroll
        for (int term = 0; term < T::TERMS; ++term) {
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                if (j < skip) continue;
                uint32_t two[4];
                ldmatrix_x4(two, w + (term * TERM + w_at(j * 8 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2)));
                const uint32_t b[2][2] = {{two[0], two[1]}, {two[2], two[3]}};
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    mma_m16n8k16(sum[i][j], a[i], b[0]);
                    mma_m16n8k16(sum[i][j + 1], a[i], b[1]);
                }
            }
        }
    }
}

// A block of W in the stream of a tile.
struct Cursor {
    int item = 0, panel = 0, block = 0;

    DEVICE bool ends_panel() const { return block == 2 * panel + 1; }
    DEVICE void advance(int panels) {
        if (!ends_panel()) {
            ++block;
            return;
        }
        block = 0;
        if (++panel < panels) return;
        panel = 0;
        ++item;
    }
};

template <class T> DEVICE void density(const DensityParams& p) {
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, t = lane % 4;
    const int pixel0 = blockIdx.x * T::PIXELS, warp_pixel0 = pixel0 + warp * 32;
    const int padded = p.panels * PANEL, chunks = padded / 8;
    const int first = blockIdx.y * p.per_split;
    const int count = p.classes - first < p.per_split ? p.classes - first : p.per_split;
    const bool background = p.relative && int(blockIdx.y) == p.splits - 1;
    const int items = count + background;
    const bool exits = p.tau < INFINITY;

    const Shared<half> z = smem<half>(warp * 32 * padded * 2);
    for (int i = lane; i < 32 * chunks; i += 32) {
        const int row = i / chunks, chunk = i % chunks;
        const bool valid = warp_pixel0 + row < p.pixels && chunk * 8 < p.channels;
        cp_async16(z + z_at(row, chunk, padded),
                   valid ? p.features + int64_t(warp_pixel0 + row) * p.feature_stride + chunk * 8 : p.features, valid);
    }
    cp_async_commit();
    const Shared<uint16_t> order = smem<uint16_t>(T::ORDER_AT);
    visiting_order<T::PIXELS, T::THREADS>(p, thread, pixel0, first, count, background, smem<float>(T::RING_AT), order,
                                          [] { sync_threads(); });

    const int blocks = p.panels * (p.panels + 1);  // of an item
    auto copy = [&](int stage, const Cursor& c) {
        if (c.item >= items) return;
        const int item = order[c.item];
        const half* source = p.weights + (int64_t(item) * blocks + c.panel * (c.panel + 1) + c.block) * (T::TERMS * TERM);
        const Shared<half> to = smem<half>(T::RING_AT + stage * T::STAGE);
#pragma unroll
        for (int i = 0; i < T::TERMS * TERM / 8 / T::THREADS; ++i) {
            const int at = (thread + i * T::THREADS) * 8;
            cp_async16(to + at, source + at, true);
        }
        if (c.ends_panel() && thread < ROWS_BYTES / 16) {
            const float* rows = p.rows + (int64_t(item) * padded + c.panel * PANEL) * 2 + thread * 4;
            cp_async16(to + (2 * TERM + thread * 8), reinterpret_cast<const half*>(rows), true);
        }
    };
    int stage = 0;
    Cursor at, ahead;
    // Starts the stream at `at`.
    auto prime = [&] {
        ahead = at;
#pragma unroll
        for (int i = 0; i < STAGES - 1; ++i) {
            copy((stage + i) % STAGES, ahead);
            cp_async_commit();
            ahead.advance(p.panels);
        }
    };
    prime();

    // z was the first group.
    cp_async_wait<STAGES - 1>();
    sync_warp();
    // A lane checks one pixel. Zeros take the place of one that is not finite: it must not slow down the others' exit.
    const Shared<Half8> z8 = smem<Half8>(warp * 32 * padded * 2);
    bool broken = false;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const Half8 h = z8[z_at(lane, chunk, padded) / 8];
#pragma unroll
        for (int i = 0; i < 4; ++i) broken |= not_finite(h.pair[i]);
    }
    if (broken) {
        for (int chunk = 0; chunk < chunks; ++chunk) z8[z_at(lane, chunk, padded) / 8] = Half8{};
    }
    const uint32_t usable = vote(!broken && warp_pixel0 + lane < p.pixels);
    const uint32_t non_finite = vote(broken);

    const bool idle = usable == 0;  // past the last pixel
    bool left = idle;
    State state[4];  // of rows g, g + 8, g + 16, g + 24 of the warp's pixels, g = lane / 4; the same in a quad's lanes
    float squares[4] = {};
    // Lane 4 g + t has pixel 8 t + g: one store per lane.
    const int row = t * 8 + lane / 4, pixel = warp_pixel0 + row;
    auto store = [&](int item, float value) {
        if (pixel < p.pixels) p.squares[int64_t(item) * p.pixels + pixel] = stored(value, left, usable >> row & 1);
    };
    float sum[2][8][4] = {};
    int done = 0;
    const Shared<uint32_t> lefts = smem<uint32_t>(T::LEFT_AT);
    while (at.item < items) {
        cp_async_wait<STAGES - 2>();
        // All threads' copies of this block have arrived, and no thread reads the stage that is overwritten next.
        sync_threads();
        const int item = order[at.item];
        const bool may_exit = exits && item != p.classes;
        if (may_exit && at.panel > 0 && at.block == 0) {
            uint32_t all = 1;
            for (int i = 0; i < T::WARPS; ++i) all &= lefts[i];
            if (all) {
                store(item, 0.0f);
                // The copies in flight would be overwritten. A panel has two blocks at least, so no warp can
                // write its next word before all have read this one.
                cp_async_wait<0>();
                at = Cursor{at.item + 1, 0, 0};
                left = idle;
#pragma unroll
                for (int r = 0; r < 4; ++r) squares[r] = 0.0f;
                prime();
                continue;
            }
        }
        copy((stage + STAGES - 1) % STAGES, ahead);
        cp_async_commit();
        ahead.advance(p.panels);

        if (!left) {
            const Shared<half> w = smem<half>(T::RING_AT + stage * T::STAGE);
            const int chunk = at.block * (BK / 8);
            if (at.block < 2 * at.panel) {
                multiply<T, -1>(sum, z, w, padded, chunk, lane);
            } else if (at.block == 2 * at.panel) {
                multiply<T, 0>(sum, z, w, padded, chunk, lane);
            } else {
                multiply<T, 4>(sum, z, w, padded, chunk, lane);
            }
            done += item != p.classes;
        }
        if (at.ends_panel()) {
            const float constant = p.constants[item];
            float lane_squares = 0.0f;
            if (!left) {
                const Shared<Float4> rows = smem<Float4>(T::RING_AT + stage * T::STAGE + 2 * TERM * 2);
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    const Float4 row = rows[j * 4 + t];  // bias and scale of rows 8 j + 2 t and the next
#pragma unroll
                    for (int r = 0; r < 4; ++r) {
                        float (&products)[4] = sum[r / 2][j];
                        const float y0 = (products[r % 2 * 2] - row.v[0]) * row.v[1], y1 = (products[r % 2 * 2 + 1] - row.v[2]) * row.v[3];
                        squares[r] += y0 * y0 + y1 * y1;
                        products[r % 2 * 2] = 0.0f;
                        products[r % 2 * 2 + 1] = 0.0f;
                    }
                }
                const bool last = at.panel == p.panels - 1;
                if (last || may_exit) {
                    bool out = true;
#pragma unroll
                    for (int r = 0; r < 4; ++r) {
                        float total = squares[r] + shuffle_xor(squares[r], 1);
                        total += shuffle_xor(total, 2);
                        if (!last) {
                            out &= state[r].beyond(p, constant, total) || !(usable >> (r * 8 + lane / 4) & 1);
                        } else if (item != p.classes) {
                            state[r].visit(constant, total);
                        }
                        if (t == r) lane_squares = total;
                    }
                    if (!last) left = vote(out) == 0xffffffffu;
                }
            }
            if (at.panel == p.panels - 1) {
                store(item, lane_squares);
                left = idle;
#pragma unroll
                for (int r = 0; r < 4; ++r) squares[r] = 0.0f;
            } else if (may_exit && lane == 0) {
                lefts[warp] = left;
            }
        }
        at.advance(p.panels);
        stage = (stage + 1) % STAGES;
    }
    cp_async_wait<0>();

    if (lane == 0) {
        const int64_t i = (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * T::WARPS + warp;
        p.stats[2 * i] = blockIdx.y == 0 ? int32_t(non_finite) : 0;
        p.stats[2 * i + 1] = done;
    }
    if (p.splits == 1 && pixel < p.pixels) scores(p, pixel);
}

// The scores behind several splits. Grid ceil(pixels / 256), blocks of 256; a thread has one pixel.
DEVICE void merge(const DensityParams& p) {
    const int64_t pixel = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (pixel < p.pixels) scores(p, int(pixel));
}

using Tile256 = Tile<8, 256, 2>;
using Tile128 = Tile<4, 256, 2>;
using Tile64 = Tile<2, 512, 2>;
// src/device/launch/density.rs has the same numbers (tests/twins.rs). The first does not fit GPUs with 99 KiB.
static_assert(Tile256::shared_bytes() == 166528 && Tile128::shared_bytes() == 100992 && Tile64::shared_bytes() == 100992, "");

}  // namespace

KERNEL_BLOCKS(density_256, DensityParams, Tile256::THREADS, 1, density<Tile256>)
KERNEL_BLOCKS(density_128, DensityParams, Tile128::THREADS, 1, density<Tile128>)
KERNEL_BLOCKS(density_64, DensityParams, Tile64::THREADS, 1, density<Tile64>)
using Fast256 = Tile<8, 256, 1>;
using Fast128 = Tile<4, 256, 1>;
using Fast64 = Tile<2, 512, 1>;
KERNEL_BLOCKS(density_256_fast, DensityParams, Fast256::THREADS, 1, density<Fast256>)
KERNEL_BLOCKS(density_128_fast, DensityParams, Fast128::THREADS, 1, density<Fast128>)
KERNEL_BLOCKS(density_64_fast, DensityParams, Fast64::THREADS, 1, density<Fast64>)
KERNEL(density_merge, DensityParams, 256, merge)
