// A picture made the network's input: y[n, i, j, c] = (x[n, i, j, c] / 255 - mean[c]) / std[c], c = R, G, B.
//
// x [batch, in_h, in_w, 3] u8; y [batch, out_h, out_w, 4] fp16, out >= in: the fourth channel and the
// padding at the bottom and right are 0. Computed in f32. Grid ceil(pixels of y / 256), blocks of 256.
#include "common/arch.cuh"

struct PreprocessParams {
    const uint8_t* input;
    half* output;
    int32_t batch, in_h, in_w, out_h, out_w;
    float mean[3], std[3];
    int32_t unused;
};

DEVICE void normalise(const PreprocessParams& p) {
    const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (i >= int64_t(p.batch) * p.out_h * p.out_w) return;
    const int x = i % p.out_w, y = i / p.out_w % p.out_h;
    const int64_t n = i / p.out_w / p.out_h;
    Half4 pixel = {};
    if (y < p.in_h && x < p.in_w) {
        const uint8_t* rgb = p.input + ((n * p.in_h + y) * p.in_w + x) * 3;
        float v[3];
#pragma unroll
        for (int c = 0; c < 3; ++c) v[c] = (rgb[c] / 255.0f - p.mean[c]) / p.std[c];
        pixel = Half4{{pack(v[0], v[1]), pack(v[2], 0.0f)}};
    }
    reinterpret_cast<Half4*>(p.output)[i] = pixel;
}

KERNEL(preprocess, PreprocessParams, 256, normalise)
