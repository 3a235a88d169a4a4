// Pooling. x, y NHWC fp16, a pixel every in_stride / out_stride values, channels a multiple of 8.
//
// max_pool: y[n, p, q, c] = max over r, s inside the image of x[n, p stride + r - padding, q stride + s - padding, c]; NaN wins.
//   Grid ceil(pixels of y x channels / 8 / 256), blocks of 256; a thread has 8 channels of a pixel.
// global_average_pool: y[n, c] = sum over pixels of x[n, i, j, c] / (in_h in_w), f32 sums in a fixed order.
//   Grid (ceil(channels / 64), batch), blocks of 256, 8192 bytes of shared memory: 32 threads share the pixels of 8 channels.
#include "common/division.cuh"

struct PoolParams {
    const half* input;
    half* output;
    Divisor out_h, out_w, groups;  // groups: eight channels each
    int32_t threads, channels, in_h, in_w, in_stride, out_stride;
    int32_t kernel, stride, padding;
};

DEVICE void max_pool2d(const PoolParams& p) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= uint32_t(p.threads)) return;
    const int pixel = quotient(i, p.groups), c = (i - pixel * p.groups.divisor) * 8;
    const Place at = place(pixel, p.out_h, p.out_w);
    const int y0 = at.y * p.stride - p.padding, x0 = at.x * p.stride - p.padding;
    const half* image = p.input + int64_t(at.image) * p.in_h * p.in_w * p.in_stride + c;
    float maxima[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) maxima[j] = -INFINITY;
    for (int r = 0; r < p.kernel; ++r) {
        for (int s = 0; s < p.kernel; ++s) {
            const int y = y0 + r, x = x0 + s;
            if (unsigned(y) >= unsigned(p.in_h) || unsigned(x) >= unsigned(p.in_w)) continue;
            float v[8];
            unpack(load16<Half8>(image + (int64_t(y) * p.in_w + x) * p.in_stride), v);
#pragma unroll
            for (int j = 0; j < 8; ++j) maxima[j] = v[j] > maxima[j] || v[j] != v[j] ? v[j] : maxima[j];
        }
    }
    store16(p.output + int64_t(pixel) * p.out_stride + c, pack(maxima));
}

DEVICE void global_average(const PoolParams& p) {
    const int lane = threadIdx.x / 8, group = threadIdx.x % 8;
    const int c = blockIdx.x * 64 + group * 8;
    const int64_t n = blockIdx.y;
    const int pixels = p.in_h * p.in_w;
    float sum[8] = {};
    if (c < p.channels) {
        for (int i = lane; i < pixels; i += 32) {
            float v[8];
            unpack(load16<Half8>(p.input + (n * pixels + i) * p.in_stride + c), v);
#pragma unroll
            for (int j = 0; j < 8; ++j) sum[j] += v[j];
        }
    }
    const Shared<Float4> partial = smem<Float4>(0);
    partial[lane * 16 + group * 2] = Float4{{sum[0], sum[1], sum[2], sum[3]}};
    partial[lane * 16 + group * 2 + 1] = Float4{{sum[4], sum[5], sum[6], sum[7]}};
    sync_threads();
    const int channel = threadIdx.x;
    if (channel >= 64 || blockIdx.x * 64 + channel >= unsigned(p.channels)) return;
    const Shared<float> values = smem<float>(0);
    float total = 0.0f;
    for (int i = 0; i < 32; ++i) total += values[i * 64 + channel];
    p.output[n * p.out_stride + blockIdx.x * 64 + channel] = float_to_half(total / float(pixels));
}

KERNEL(max_pool, PoolParams, 256, max_pool2d)
KERNEL(global_average_pool, PoolParams, 256, global_average)
