// Dense 2-D convolution as an implicit GEMM on tensor cores.
//
//   y[n, p, q, k] = act(bias[k] + residual[n, p, q, k]
//                       + sum over r, s, c of x[n, p stride + r dilation - padding, q stride + s dilation - padding, c] w[k, r, s, c])
//
// x NHWC fp16, w KRSC fp16, y NHWC fp16 (or f32); channels of x and y padded to multiples of 8, a pixel
// of x, y and the residual every *_stride values (so each may be a channel slice of a wider buffer).
// Zeros outside the image. Accumulation in f32; bias, residual and ReLU in f32; one rounding at the end.
//
// GEMM: M = n, p, q (pixels), N = k, K = r, s, c (c fastest), so 8 consecutive k of a pixel are 16
// consecutive bytes. Grid (ceil(M / BM), ceil(N / BN), splits); a block computes a BM x BN tile over
// k_blocks blocks of BK = 32, a warp WM x WN of it. Operands reach shared memory by cp.async through a
// ring of STAGES tiles; rows of 64 bytes, their four 16-byte chunks permuted by row / 2 % 4, so that
// ldmatrix reads without bank conflicts. Out-of-image, M, N and K tails are zero-filled copies.
// splits > 1: each split writes f32 sums to partial [splits, M, N]; conv2d_reduce adds them in order.
// Shared memory: shared_bytes() below.
#include "common/epilogue.cuh"

struct Conv2dParams {
    const half* input;
    const half* weight;    // [out_c, kernel, kernel, in_c]
    const float* bias;     // [out_c]
    const half* residual;  // or null
    void* output;          // half, or float where output_f32
    float* partial;        // [splits, M, out_c] where splits > 1
    int32_t batch, in_h, in_w, in_c, in_stride;
    int32_t out_h, out_w, out_c, out_stride, residual_stride;
    int32_t kernel, stride, dilation, padding;
    int32_t relu, output_f32;
    int32_t splits, k_blocks;  // blocks of BK in each split
};

constexpr int BK = 32;

template <int BM_, int BN_, int WM_, int WN_, int STAGES_> struct Tile {
    static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = WN_, STAGES = STAGES_;
    static constexpr int WARPS_N = BN / WN;
    static constexpr int THREADS = BM / WM * WARPS_N * 32;
    static constexpr int STAGE = (BM + BN) * BK;     // halves
    static constexpr int ROWS = THREADS / (BK / 8);  // copied at once
    static constexpr int OUT_STRIDE = BN + 8;        // floats; 8 more spread the rows over the banks
    static constexpr int shared_bytes() {
        const int ring = STAGES * STAGE * 2, staged = BM * OUT_STRIDE * 4;
        return ring > staged ? ring : staged;
    }
    static_assert(BM % ROWS == 0 && BN % ROWS == 0, "whole passes of the copying threads");
    static_assert(WM % 16 == 0 && WN % 16 == 0, "whole fragments; ldmatrix brings two of b at once");
    static_assert(shared_bytes() % 128 == 0 && shared_bytes() <= 99 * 1024, "fits every GPU of the list");
};

// Where a 16-byte chunk of a 64-byte row lies, in halves.
DEVICE int swizzled(int row, int chunk) { return row * BK + ((chunk ^ (row >> 1 & 3)) << 3); }

DEVICE Epilogue epilogue(const Conv2dParams& p) {
    return {p.bias, p.residual, p.output, p.residual_stride, p.out_stride, p.relu != 0, p.output_f32 != 0};
}

template <class T> DEVICE void conv2d(const Conv2dParams& p) {
    constexpr int A_PASSES = T::BM / T::ROWS, B_PASSES = T::BN / T::ROWS;
    constexpr int TILES_M = T::WM / 16, TILES_N = T::WN / 8;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int pixels = p.batch * p.out_h * p.out_w;
    const int m0 = blockIdx.x * T::BM, n0 = blockIdx.y * T::BN;
    const int k_total = p.kernel * p.kernel * p.in_c;
    const int all_blocks = (k_total + BK - 1) / BK, first_block = blockIdx.z * p.k_blocks;
    const int blocks = all_blocks - first_block < p.k_blocks ? all_blocks - first_block : p.k_blocks;

    // This thread copies chunk `chunk` of rows row, row + ROWS ..: fixed pixels and filters, moving k.
    const int chunk = thread % (BK / 8), row = thread / (BK / 8);
    const half* image[A_PASSES];
    int y0[A_PASSES], x0[A_PASSES];
#pragma unroll
    for (int i = 0; i < A_PASSES; ++i) {
        const int m = m0 + row + i * T::ROWS;
        const int n = m / (p.out_h * p.out_w), rest = m % (p.out_h * p.out_w);
        const bool inside = m < pixels;
        image[i] = p.input + (inside ? int64_t(n) * p.in_h * p.in_w * p.in_stride : 0);
        y0[i] = inside ? rest / p.out_w * p.stride - p.padding : -(1 << 28);  // never in the image
        x0[i] = rest % p.out_w * p.stride - p.padding;
    }
    int k = first_block * BK + chunk * 8;
    int c = k % p.in_c, s = k / p.in_c % p.kernel, r = k / p.in_c / p.kernel;

    const Shared<half> ring = smem<half>(0);
    auto copy = [&](int stage) {
        const Shared<half> a = ring + stage * T::STAGE, b = a + T::BM * BK;
#pragma unroll
        for (int i = 0; i < A_PASSES; ++i) {
            const int y = y0[i] + r * p.dilation, x = x0[i] + s * p.dilation;
            const bool valid = r < p.kernel && unsigned(y) < unsigned(p.in_h) && unsigned(x) < unsigned(p.in_w);
            const half* source = valid ? image[i] + (int64_t(y) * p.in_w + x) * p.in_stride + c : p.input;
            cp_async16(a + swizzled(row + i * T::ROWS, chunk), source, valid);
        }
#pragma unroll
        for (int i = 0; i < B_PASSES; ++i) {
            const int n = n0 + row + i * T::ROWS;
            const bool valid = n < p.out_c && k < k_total;
            cp_async16(b + swizzled(row + i * T::ROWS, chunk), valid ? p.weight + int64_t(n) * k_total + k : p.weight, valid);
        }
        k += BK;
        c += BK;
        while (c >= p.in_c) {
            c -= p.in_c;
            if (++s == p.kernel) {
                s = 0;
                ++r;
            }
        }
    };

    float sum[TILES_M][TILES_N][4] = {};
    const int wm = warp / T::WARPS_N * T::WM, wn = warp % T::WARPS_N * T::WN;
#pragma unroll
    for (int stage = 0; stage < T::STAGES - 1; ++stage) {
        if (stage < blocks) copy(stage);
        cp_async_commit();
    }
    for (int block = 0; block < blocks; ++block) {
        cp_async_wait<T::STAGES - 2>();
        // Everybody's copies of this block are in, and everybody has left the stage that is overwritten next.
        sync_threads();
        if (block + T::STAGES - 1 < blocks) copy((block + T::STAGES - 1) % T::STAGES);
        cp_async_commit();
        const Shared<half> a = ring + block % T::STAGES * T::STAGE, b = a + T::BM * BK;
#pragma unroll
        for (int step = 0; step < BK / 16; ++step) {
            uint32_t fa[TILES_M][4], fb[TILES_N][2];
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) {
                ldmatrix_x4(fa[i], a + swizzled(wm + i * 16 + lane % 16, step * 2 + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < TILES_N; j += 2) {
                uint32_t two[4];
                ldmatrix_x4(two, b + swizzled(wn + j * 8 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
                fb[j][0] = two[0];
                fb[j][1] = two[1];
                fb[j + 1][0] = two[2];
                fb[j + 1][1] = two[3];
            }
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
                for (int j = 0; j < TILES_N; ++j) mma_m16n8k16(sum[i][j], fa[i], fb[j]);
            }
        }
    }
    cp_async_wait<0>();
    sync_threads();  // the ring becomes the staging tile

    // Through shared memory, so that global accesses are 16 bytes, neighbours side by side.
    const Shared<Float2> pairs = smem<Float2>(0);
#pragma unroll
    for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
        for (int j = 0; j < TILES_N; ++j) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int at = (wm + i * 16 + lane / 4 + h * 8) * T::OUT_STRIDE + wn + j * 8 + lane % 4 * 2;
                pairs[at / 2] = Float2{{sum[i][j][2 * h], sum[i][j][2 * h + 1]}};
            }
        }
    }
    sync_threads();
    const Shared<Float4> staged = smem<Float4>(0);
    const Epilogue e = epilogue(p);
    for (int i = thread; i < T::BM * T::BN / 8; i += T::THREADS) {
        const int m = i / (T::BN / 8), n = i % (T::BN / 8) * 8;
        if (m0 + m >= pixels || n0 + n >= p.out_c) continue;
        const Float4 low = staged[(m * T::OUT_STRIDE + n) / 4], high = staged[(m * T::OUT_STRIDE + n) / 4 + 1];
        if (p.splits > 1) {
            float* partial = p.partial + (int64_t(blockIdx.z) * pixels + m0 + m) * p.out_c + n0 + n;
            store16(partial, low);
            store16(partial + 4, high);
        } else {
            float v[8] = {low.v[0], low.v[1], low.v[2], low.v[3], high.v[0], high.v[1], high.v[2], high.v[3]};
            store(e, m0 + m, n0 + n, v);
        }
    }
}

// Adds the splits in order. Grid ceil(M out_c / 8 / 256) blocks of 256; a thread has eight channels of a pixel.
DEVICE void conv2d_sum(const Conv2dParams& p) {
    const int64_t pixels = int64_t(p.batch) * p.out_h * p.out_w;
    const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
    const int groups = p.out_c / 8;
    if (i >= pixels * groups) return;
    const int64_t pixel = i / groups;
    const int c = i % groups * 8;
    float v[8] = {};
    for (int split = 0; split < p.splits; ++split) {
        const float* partial = p.partial + (split * pixels + pixel) * p.out_c + c;
        const Float4 low = load16<Float4>(partial), high = load16<Float4>(partial + 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            v[j] += low.v[j];
            v[j + 4] += high.v[j];
        }
    }
    store(epilogue(p), pixel, c, v);
}

using Tile128x128 = Tile<128, 128, 64, 32, 4>;
using Tile128x64 = Tile<128, 64, 64, 32, 4>;
using Tile64x64 = Tile<64, 64, 32, 32, 4>;
using Tile64x32 = Tile<64, 32, 32, 16, 4>;
// src/device/launch/conv2d.rs has the same numbers (tests/twins.rs).
static_assert(Tile128x128::THREADS == 256 && Tile128x128::shared_bytes() == 69632, "");
static_assert(Tile128x64::THREADS == 128 && Tile128x64::shared_bytes() == 49152, "");
static_assert(Tile64x64::THREADS == 128 && Tile64x64::shared_bytes() == 32768, "");
static_assert(Tile64x32::THREADS == 128 && Tile64x32::shared_bytes() == 24576, "");

KERNEL(conv2d_128x128, Conv2dParams, Tile128x128::THREADS, conv2d<Tile128x128>)
KERNEL(conv2d_128x64, Conv2dParams, Tile128x64::THREADS, conv2d<Tile128x64>)
KERNEL(conv2d_64x64, Conv2dParams, Tile64x64::THREADS, conv2d<Tile64x64>)
KERNEL(conv2d_64x32, Conv2dParams, Tile64x32::THREADS, conv2d<Tile64x32>)
KERNEL_BLOCKS(conv2d_reduce, Conv2dParams, 256, 1, conv2d_sum)
