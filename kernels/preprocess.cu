// A picture made the network's input: y[n, i, j, c] = (x[n, i, j, c] / 255 - mean[c]) / std[c], c = R, G, B.
//
// x [batch, in_h, in_w, 3] u8; y [batch, out_h, out_w, 4] fp16, out >= in: the fourth channel and the
// padding at the bottom and right are 0. Computed in f32. Grid ceil(pixels of y / 256), blocks of 256.
#include "common/division.cuh"

struct PreprocessParams {
    const uint8_t* input;
    half* output;
    Divisor out_h, out_w;
    int32_t pixels, in_h, in_w, unused;
    float mean[3], std[3];
};

DEVICE void normalise(const PreprocessParams& p) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= uint32_t(p.pixels)) return;
    const Place at = place(i, p.out_h, p.out_w);
    Half4 pixel = {};
    if (at.y < p.in_h && at.x < p.in_w) {
        const uint8_t* rgb = p.input + (int64_t(at.image * p.in_h + at.y) * p.in_w + at.x) * 3;
        float v[3];
#pragma unroll
        for (int c = 0; c < 3; ++c) v[c] = (rgb[c] / 255.0f - p.mean[c]) / p.std[c];
        pixel = Half4{{pack(v[0], v[1]), pack(v[2], 0.0f)}};
    }
    reinterpret_cast<Half4*>(p.output)[i] = pixel;
}

KERNEL(preprocess, PreprocessParams, 256, normalise)
