// Dense 2-D convolution as an implicit GEMM on tensor cores.
//
//   y[n, p, q, k] = act(bias[k] + residual[n, p, q, k]
//                       + sum over r, s, c of x[n, p stride + r dilation - padding, q stride + s dilation - padding, c] w[k, r, s, c])
//
// x NHWC fp16, w KRSC fp16, y NHWC fp16 (or f32, without a residual); channels of x and y padded to multiples of 8, a pixel
// of x, y and the residual every *_stride values (so each may be a channel slice of a wider buffer). Up to 15 x 15 taps.
// Zeros outside the image. Accumulation in f32; bias, residual and ReLU in f32; one rounding at the end.
//
// GEMM: M = n, p, q (pixels), N = k, K = r, s, c (c fastest), so 8 consecutive k of a pixel are 16
// consecutive bytes: a chunk, in which places of x, w and K are counted. Grid (ceil(M / BM), ceil(N / BN), splits); a block
// computes a BM x BN tile over k_blocks blocks of BK = 64, a warp WM x WN of it. Operands reach shared memory by cp.async
// through a ring of STAGES slots; rows of 128 bytes, their chunks permuted by row % 8, so that ldmatrix reads without
// bank conflicts. Out-of-image, M and K tails are zero-filled copies; rows behind the last filter are copies of it, which
// nobody stores. The residual is the last to pass through the ring; sums are added to it in its slot and stored from there.
// Splits write f32 sums, without bias and residual; conv2d_reduce adds them in order.
// Shared memory: shared_bytes() below.
#include "common/division.cuh"
#include "common/epilogue.cuh"

struct Conv2dParams {
    const half* input;
    const half* weight;                    // [out_c, kernel, kernel, in_c]
    const float* bias;                     // [out_c], or null
    const half* residual;                  // or null
    void* output;                          // half, or float [splits, M, out_stride] where output_f32
    const float* partial;                  // of conv2d_reduce: [splits, M, out_c]
    Divisor out_h, out_w;                  // of a pixel's number
    Divisor in_c, kernel;                  // of a chunk's number in K: in_c / 8, kernel
    Divisor out_c;                         // of eight channels' number in y: out_c / 8
    int32_t pixels, in_h, in_w, in_pitch;  // in_pitch: chunks from pixel to pixel
    int32_t out_stride, residual_stride;
    int32_t stride, dilation, padding;
    int32_t relu, output_f32;
    int32_t splits, k_blocks;  // blocks of BK in each split
};

constexpr int BK = 64, CHUNKS = BK / 8;

template <int BM_, int BN_, int WM_, int WN_, int STAGES_> struct Tile {
    static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = WN_, STAGES = STAGES_;
    static constexpr int WARPS_N = BN / WN;
    static constexpr int THREADS = BM / WM * WARPS_N * 32;
    static constexpr int STAGE = (BM + BN) * BK;   // halves
    static constexpr int ROWS = THREADS / CHUNKS;  // copied at once
    static constexpr int BIAS_AT = STAGES * STAGE * 2;
    static constexpr int shared_bytes() { return BIAS_AT + BN * 4; }
    static_assert(ROWS % 8 == 0 && BM % ROWS == 0 && BN % ROWS == 0, "whole passes of the copying threads, permuted alike");
    static_assert(BM <= THREADS && BN <= THREADS * 4 && BM * BN <= STAGE, "a thread per row, bias at once, a tile in a slot");
    static_assert(WM % 16 == 0 && WN % 16 == 0, "whole fragments; ldmatrix brings two of b at once");
    static_assert(shared_bytes() <= 99 * 1024, "fits every GPU of the list");
};

// Where a chunk of a row of BK lies in a slot, in halves; of a row of BN in the tile of y, whose rows are written in
// fragments of 8 rows x 16 bytes.
DEVICE int swizzled(int row, int chunk) { return row * BK + ((chunk ^ (row & 7)) << 3); }
template <class T> DEVICE int in_tile(int row, int chunk) { return row * T::BN + ((chunk ^ (T::BN >= 64 ? row & 7 : row >> 1 & 3)) << 3); }

// A row of the tile: the chunk of its pixel's first tap, and which taps lie outside of the image: bit r, bit 16 + s, and always
// bit 15, for what lies behind the last tap.
struct alignas(8) Row {
    int32_t first;
    uint32_t outside;
};

DEVICE Row row_of(const Conv2dParams& p, int m) {
    if (m >= p.pixels) return {0, ~0u};
    const Place at = place(m, p.out_h, p.out_w);
    const int y = at.y * p.stride - p.padding, x = at.x * p.stride - p.padding;
    uint32_t outside = 1u << 15;
#pragma unroll 1
    for (int i = 0; i < p.kernel.divisor; ++i) {
        outside |= uint32_t(unsigned(y + i * p.dilation) >= unsigned(p.in_h)) << i;
        outside |= uint32_t(unsigned(x + i * p.dilation) >= unsigned(p.in_w)) << (16 + i);
    }
    return {((at.image * p.in_h + y) * p.in_w + x) * p.in_pitch, outside};
}

template <class T> DEVICE void conv2d(const Conv2dParams& p) {
    constexpr int A_PASSES = T::BM / T::ROWS, B_PASSES = T::BN / T::ROWS, STEPS = BK / 16, PARTS = 2;
    constexpr int TILES_M = T::WM / 16, TILES_N = T::WN / 8;
    const uint32_t thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int m0 = blockIdx.x * T::BM, n0 = blockIdx.y * T::BN, out_c = p.out_c.divisor * 8;
    const int taps = p.kernel.divisor * p.kernel.divisor, k_chunks = taps * p.in_c.divisor;
    const int all_blocks = (k_chunks + CHUNKS - 1) / CHUNKS, first_block = blockIdx.z * p.k_blocks;
    const int blocks = all_blocks - first_block < p.k_blocks ? all_blocks - first_block : p.k_blocks;

    const Shared<half> ring = smem<half>(0);
    const Shared<float> bias = smem<float>(T::BIAS_AT);
    if (thread < T::BN / 4) {
        const int n = n0 + thread * 4;
        const bool valid = p.bias && n < out_c;
        cp_async16(reinterpret_shared<half>(bias + thread * 4), reinterpret_cast<const half*>(p.bias + n), valid);
    }
    // Rows are worked out once, in the slot that is filled last, after the barrier of the first block.
    const Shared<Row> rows = smem<Row>((T::STAGES - 1) * T::STAGE * 2);
    if (thread < T::BM) rows[thread] = row_of(p, m0 + thread);
    sync_threads();

    // This thread copies chunk `chunk` of rows row, row + ROWS ..: fixed pixels and filters, moving k.
    const int chunk = thread % CHUNKS, row = thread / CHUNKS, to = swizzled(row, chunk);
    int pixel[A_PASSES], filter[B_PASSES];
    uint32_t outside[A_PASSES];
#pragma unroll
    for (int i = 0; i < A_PASSES; ++i) {
        const Row r = rows[row + i * T::ROWS];
        pixel[i] = r.first;
        outside[i] = r.outside;
    }
#pragma unroll
    for (int i = 0; i < B_PASSES; ++i) {
        const int n = n0 + row + i * T::ROWS;
        filter[i] = (n < out_c ? n : out_c - 1) * k_chunks;
    }
    int k = first_block * CHUNKS + chunk;
    const int tap_x = p.dilation * p.in_pitch, tap_y = p.in_w * tap_x;
    // Of the tap that k lies in: the chunk from a row's first, and the bits of `outside` that forbid it.
    int at = 0;
    uint32_t forbidden = 0;

    // One of PARTS parts of a block's copies.
    const auto copy = [&](const Shared<half>& slot, int part) {
        if (part == 0) {
            const int tap = quotient(k, p.in_c), r = quotient(tap, p.kernel), s = tap - r * p.kernel.divisor;
            at = r * tap_y + s * tap_x + k - tap * p.in_c.divisor;
            forbidden = r < p.kernel.divisor ? 1u << r | 1u << (16 + s) : 1u << 15;
        }
#pragma unroll
        for (int i = part * A_PASSES / PARTS; i < (part + 1) * A_PASSES / PARTS; ++i) {
            const half* source = p.input + int64_t(pixel[i] + at) * 8;
            cp_async16(slot + (to + i * T::ROWS * BK), source, !(outside[i] & forbidden));
        }
#pragma unroll
        for (int i = part * B_PASSES / PARTS; i < (part + 1) * B_PASSES / PARTS; ++i) {
            const half* source = p.weight + int64_t(filter[i] + k) * 8;
            cp_async16(slot + (T::BM * BK + to + i * T::ROWS * BK), source, k < k_chunks);
        }
        if (part + 1 == PARTS) k += CHUNKS;
    };
    // 16 bytes a thread of the tile of y at once, rows of it side by side; permuted alike, OUT_ROWS being a multiple of 8.
    constexpr int OUT_CHUNKS = T::BN / 8, OUT_ROWS = T::THREADS / OUT_CHUNKS;
    const int out_row = thread / OUT_CHUNKS, out_chunk = thread % OUT_CHUNKS, m_out = m0 + out_row, n_out = n0 + out_chunk * 8;
    const int out_at = in_tile<T>(out_row, out_chunk), out_rows = n_out < out_c ? p.pixels - m_out : 0;
    const auto copy_residual = [&](const Shared<half>& slot) {
        const half* source = p.residual + int64_t(m_out) * p.residual_stride + n_out;
#pragma unroll 1
        for (int i = 0; i < T::BM; i += OUT_ROWS) {
            cp_async16(slot + (out_at + i * T::BN), source, i < out_rows);
            source += OUT_ROWS * p.residual_stride;
        }
    };

    float sum[TILES_M][TILES_N][4] = {};
    const int wm = warp / T::WARPS_N * T::WM, wn = warp % T::WARPS_N * T::WN;
    // What this lane points at for ldmatrix in the first step, in halves; a step is two chunks, which the permutation leaves apart
    // from a slot's other bits.
    const int from_a = swizzled(wm + lane % 16, lane / 16);
    const int from_b = T::BM * BK + swizzled(wn + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    int read = 0, write = 0;  // slots, in halves
    const auto next = [](int slot) { return slot == (T::STAGES - 1) * T::STAGE ? 0 : slot + T::STAGE; };
#pragma unroll 1
    for (int block = 0; block < T::STAGES - 1; ++block) {
        if (block < blocks) {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) copy(ring + write, part);
        } else if (block == blocks && p.residual) {
            copy_residual(ring + write);
        }
        cp_async_commit();
        write = next(write);
    }
#pragma unroll 1
    for (int block = 0; block < blocks; ++block) {
        cp_async_wait<T::STAGES - 2>();
        // Everybody's copies of this block are in, and everybody has left the slot that is overwritten next.
        sync_threads();
        const bool more = block + T::STAGES - 1 < blocks;
        if (block + T::STAGES - 1 == blocks && p.residual) copy_residual(ring + write);
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            uint32_t fa[TILES_M][4], fb[TILES_N][2];
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) ldmatrix_x4(fa[i], ring + (read + (from_a ^ step * 16) + i * 16 * BK));
#pragma unroll
            for (int j = 0; j < TILES_N; j += 2) {
                uint32_t two[4];
                ldmatrix_x4(two, ring + (read + (from_b ^ step * 16) + j * 8 * BK));
                fb[j][0] = two[0];
                fb[j][1] = two[1];
                fb[j + 1][0] = two[2];
                fb[j + 1][1] = two[3];
            }
            if (more && step < PARTS) copy(ring + write, step);
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
                for (int j = 0; j < TILES_N; ++j) mma_m16n8k16(sum[i][j], fa[i], fb[j]);
            }
        }
        cp_async_commit();
        read = next(read);
        write = next(write);
    }
    cp_async_wait<0>();
    sync_threads();  // residual and bias are in; the other slots are free

    const float floor = p.relu ? 0.0f : -INFINITY;
    const auto rectified = [&](float v) { return v < floor ? floor : v; };  // NaN stays NaN
    // Calls f(row of the tile, channel of the tile, their two sums with the bias).
    const auto each = [&](auto f) {
#pragma unroll
        for (int j = 0; j < TILES_N; ++j) {
            const int n = wn + j * 8 + lane % 4 * 2;
            const Float2 add = reinterpret_shared<Float2>(bias)[n / 2];
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    f(wm + i * 16 + lane / 4 + h * 8, n, sum[i][j][2 * h] + add.v[0], sum[i][j][2 * h + 1] + add.v[1]);
                }
            }
        }
    };
    if (p.output_f32) {
        // Of a quad 32 bytes side by side: a whole sector.
        float* out = static_cast<float*>(p.output) + (int64_t(blockIdx.z) * p.pixels + m0) * p.out_stride + n0;
        each([&](int m, int n, float v, float w) {
            if (m0 + m >= p.pixels || n0 + n >= out_c) return;
            *reinterpret_cast<Float2*>(out + int64_t(m) * p.out_stride + n) = Float2{{rectified(v), rectified(w)}};
        });
        return;
    }
    const Shared<uint32_t> pairs = reinterpret_shared<uint32_t>(ring + read);
    const auto place_of = [](int m, int n) { return (in_tile<T>(m, n / 8) + n % 8) / 2; };
    if (p.residual) {
        each([&](int m, int n, float v, float w) {
            const Float2 r = unpack(uint32_t(pairs[place_of(m, n)]));
            pairs[place_of(m, n)] = pack(rectified(v + r.v[0]), rectified(w + r.v[1]));
        });
    } else {
        each([&](int m, int n, float v, float w) { pairs[place_of(m, n)] = pack(rectified(v), rectified(w)); });
    }
    sync_threads();
    const Shared<Half8> staged = reinterpret_shared<Half8>(ring + read);
    half* out = static_cast<half*>(p.output) + int64_t(m_out) * p.out_stride + n_out;
#pragma unroll
    for (int i = 0; i < T::BM; i += OUT_ROWS) {
        if (i < out_rows) store16(out + int64_t(i) * p.out_stride, Half8(staged[(out_at + i * T::BN) / 8]));
    }
}

// Adds the splits in order. Grid ceil(M out_c / 8 / 256) blocks of 256; a thread has eight channels of a pixel.
DEVICE void conv2d_sum(const Conv2dParams& p) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= uint32_t(p.pixels) * p.out_c.divisor) return;
    const int out_c = p.out_c.divisor * 8, pixel = quotient(i, p.out_c), c = (i - pixel * p.out_c.divisor) * 8;
    float v[8] = {};
    for (int split = 0; split < p.splits; ++split) {
        const float* partial = p.partial + (int64_t(split) * p.pixels + pixel) * out_c + c;
        const Float4 low = load16<Float4>(partial), high = load16<Float4>(partial + 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            v[j] += low.v[j];
            v[j + 4] += high.v[j];
        }
    }
    store({p.bias, p.residual, p.output, p.residual_stride, p.out_stride, p.relu != 0, p.output_f32 != 0}, pixel, c, v);
}

using Tile128x128 = Tile<128, 128, 64, 64, 3>;
using Tile128x64 = Tile<128, 64, 64, 32, 3>;
using Tile64x64 = Tile<64, 64, 32, 32, 4>;
using Tile64x32 = Tile<64, 32, 32, 16, 4>;
// src/device/launch/conv2d.rs has the same numbers (tests/twins.rs).
static_assert(Tile128x128::THREADS == 128 && Tile128x128::shared_bytes() == 98816, "");
static_assert(Tile128x64::THREADS == 128 && Tile128x64::shared_bytes() == 73984, "");
static_assert(Tile64x64::THREADS == 128 && Tile64x64::shared_bytes() == 65792, "");
static_assert(Tile64x32::THREADS == 128 && Tile64x32::shared_bytes() == 49280, "");

KERNEL(conv2d_128x128, Conv2dParams, Tile128x128::THREADS, conv2d<Tile128x128>)
KERNEL(conv2d_128x64, Conv2dParams, Tile128x64::THREADS, conv2d<Tile128x64>)
KERNEL(conv2d_64x64, Conv2dParams, Tile64x64::THREADS, conv2d<Tile64x64>)
KERNEL(conv2d_64x32, Conv2dParams, Tile64x32::THREADS, conv2d<Tile64x32>)
KERNEL_BLOCKS(conv2d_reduce, Conv2dParams, 256, 1, conv2d_sum)
