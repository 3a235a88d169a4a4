// The first convolution of a ResNet: 7 x 7, stride 2, padding 3, three channels in; bias and ReLU fused.
//
//   y[n, p, q, k] = act(bias[k] + sum over r, s, c of x[n, 2 p + r - 3, 2 q + s - 3, c] w[k, r, s, c])
//
// x [batch, in_h, in_w, 4] fp16 (fourth channel 0); w [out_c, 7, 8, 4] fp16, zero at s = 7 and c = 3; y
// NHWC fp16, out_c a multiple of 8. f32 accumulation.
//
// With four channels per pixel, the 8 taps x 4 channels of a filter row are 32 consecutive values of the
// image: a fragment of a for tensor cores is read straight from the patch of the image in shared memory,
// without im2col and without bank conflicts (two pixels apart: 16 bytes). K = 7 x 32 = 224.
// Grid (ceil(out_w / 32), ceil(out_h / 4), batch x ceil(out_c / 64)), 128 threads: a block has 4 rows of 32
// pixels and 64 channels, a warp one row. Shared memory 36992 bytes: the patch and the weights, then y.
#include "common/division.cuh"
#include "common/epilogue.cuh"

struct StemParams {
    const half* input;
    const half* weight;
    const float* bias;
    half* output;
    Divisor tiles_c;  // of 64 output channels
    int32_t in_h, in_w, out_h, out_w, out_c, out_stride, relu;
};

namespace {

constexpr int ROWS = 4, COLUMNS = 32, CHANNELS = 64, THREADS = 128;
constexpr int PATCH_H = 2 * ROWS + 5, PATCH_W = 2 * COLUMNS + 6;  // one column more for the zero tap
constexpr int K = 7 * 8 * 4, K_STRIDE = K + 8;                    // 29 x 16 bytes: ldmatrix without conflicts
constexpr int WEIGHTS_AT = (PATCH_H * PATCH_W * 8 + 127) / 128 * 128;
constexpr int OUT_STRIDE = CHANNELS + 8;
static_assert(WEIGHTS_AT + CHANNELS * K_STRIDE * 2 == 36992, "as in the launch file (tests/twins.rs)");
static_assert(ROWS * COLUMNS * OUT_STRIDE * 4 <= 36992, "y fits where patch and weights were");

DEVICE void stem7x7(const StemParams& p) {
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int q0 = blockIdx.x * COLUMNS, p0 = blockIdx.y * ROWS;
    const int n = quotient(blockIdx.z, p.tiles_c), c0 = (blockIdx.z - n * p.tiles_c.divisor) * CHANNELS;

    const Shared<Half4> patch = smem<Half4>(0);
    const Half4* image = reinterpret_cast<const Half4*>(p.input) + int64_t(n) * p.in_h * p.in_w;
    for (int i = thread; i < PATCH_H * PATCH_W; i += THREADS) {
        const int y = 2 * p0 - 3 + i / PATCH_W, x = 2 * q0 - 3 + i % PATCH_W;
        const bool inside = unsigned(y) < unsigned(p.in_h) && unsigned(x) < unsigned(p.in_w);
        patch[i] = inside ? image[int64_t(y) * p.in_w + x] : Half4{};
    }
    const Shared<Half8> weights = smem<Half8>(WEIGHTS_AT);
    for (int i = thread; i < CHANNELS * K / 8; i += THREADS) {
        const int k = i / (K / 8), chunk = i % (K / 8);
        weights[k * (K_STRIDE / 8) + chunk] = c0 + k < p.out_c ? load16<Half8>(p.weight + int64_t(c0 + k) * K + chunk * 8) : Half8{};
    }
    sync_threads();

    const Shared<uint32_t> pairs = smem<uint32_t>(0);
    const Shared<half> filters = smem<half>(WEIGHTS_AT);
    const int g = lane / 4, t = lane % 4;
    float sum[2][CHANNELS / 8][4] = {};
#pragma unroll 2
    for (int step = 0; step < K / 16; ++step) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                // Row g (+ 8) of the fragment is a pixel, column 2 t (+ 8) a tap and channel pair.
                const int q = i * 16 + g + j % 2 * 8, tap = step % 2 * 4 + t / 2 + j / 2 * 2;
                a[i][j] = pairs[((2 * warp + step / 2) * PATCH_W + 2 * q + tap) * 2 + t % 2];
            }
        }
#pragma unroll
        for (int j = 0; j < CHANNELS / 8; j += 2) {
            uint32_t two[4];
            ldmatrix_x4(two, filters + ((j * 8 + lane % 8 + lane / 16 * 8) * K_STRIDE + step * 16 + lane / 8 % 2 * 8));
            const uint32_t b[2][2] = {{two[0], two[1]}, {two[2], two[3]}};
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                mma_m16n8k16(sum[i][j], a[i], b[0]);
                mma_m16n8k16(sum[i][j + 1], a[i], b[1]);
            }
        }
    }
    sync_threads();  // y takes the place of patch and weights

    const Shared<Float2> out = smem<Float2>(0);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < CHANNELS / 8; ++j) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int pixel = warp * COLUMNS + i * 16 + g + h * 8;
                out[(pixel * OUT_STRIDE + j * 8 + t * 2) / 2] = Float2{{sum[i][j][2 * h], sum[i][j][2 * h + 1]}};
            }
        }
    }
    sync_threads();
    const Shared<Float4> staged = smem<Float4>(0);
    const Epilogue e = {p.bias, nullptr, p.output, 0, p.out_stride, p.relu != 0, false};
    for (int i = thread; i < ROWS * COLUMNS * CHANNELS / 8; i += THREADS) {
        const int pixel = i / (CHANNELS / 8), c = i % (CHANNELS / 8) * 8;
        const int y = p0 + pixel / COLUMNS, x = q0 + pixel % COLUMNS;
        if (y >= p.out_h || x >= p.out_w || c0 + c >= p.out_c) continue;
        const Float4 low = staged[(pixel * OUT_STRIDE + c) / 4], high = staged[(pixel * OUT_STRIDE + c) / 4 + 1];
        float v[8] = {low.v[0], low.v[1], low.v[2], low.v[3], high.v[0], high.v[1], high.v[2], high.v[3]};
        store(e, (int64_t(n) * p.out_h + y) * p.out_w + x, c0 + c, v);
    }
}

}  // namespace

KERNEL(stem, StemParams, THREADS, stem7x7)
