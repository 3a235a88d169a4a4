// Depthwise 2-D convolution: one filter per channel; bias and ReLU fused.
//
//   y[n, p, q, c] = act(bias[c] + sum over r, s of x[n, p stride + r dilation - padding, q stride + s dilation - padding, c] w[r, s, c])
//
// x, y NHWC fp16 (a pixel every in_stride / out_stride values), w [kernel, kernel, channels] fp16, channels a
// multiple of 8. f32 accumulation. Memory-bound: a thread has 8 channels of a pixel, neighbours side by side.
// Grid ceil(pixels x channels / 8 / 256), blocks of 256.
#include "common/division.cuh"
#include "common/epilogue.cuh"

struct DepthwiseParams {
    const half* input;
    const half* weight;
    const float* bias;
    half* output;
    Divisor out_h, out_w, groups;  // groups: eight channels each
    int32_t threads, channels, in_h, in_w, in_stride, out_stride;
    int32_t kernel, stride, dilation, padding;
    int32_t relu;
};

DEVICE void depthwise2d(const DepthwiseParams& p) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= uint32_t(p.threads)) return;
    const int pixel = quotient(i, p.groups), c = (i - pixel * p.groups.divisor) * 8;
    const Place at = place(pixel, p.out_h, p.out_w);
    const int y0 = at.y * p.stride - p.padding, x0 = at.x * p.stride - p.padding;
    const half* image = p.input + int64_t(at.image) * p.in_h * p.in_w * p.in_stride + c;
    float sum[8] = {};
    for (int r = 0; r < p.kernel; ++r) {
        const int y = y0 + r * p.dilation;
        if (unsigned(y) >= unsigned(p.in_h)) continue;
        for (int s = 0; s < p.kernel; ++s) {
            const int x = x0 + s * p.dilation;
            if (unsigned(x) >= unsigned(p.in_w)) continue;
            float v[8], w[8];
            unpack(load16<Half8>(image + (int64_t(y) * p.in_w + x) * p.in_stride), v);
            unpack(load16<Half8>(p.weight + int64_t(r * p.kernel + s) * p.channels + c), w);
#pragma unroll
            for (int j = 0; j < 8; ++j) sum[j] += v[j] * w[j];
        }
    }
    store(Epilogue{p.bias, nullptr, p.output, 0, p.out_stride, p.relu != 0, false}, pixel, c, sum);
}

KERNEL(depthwise, DepthwiseParams, 256, depthwise2d)
