// A picture made the network's input: y[n, i, j, c] = (x[n, i, j, c] / 255 - mean[c]) / std[c], c = R, G, B.
//
// x [batch, in_h, in_w, 3] u8; y [batch, out_h, out_w, 4] fp16, out >= in: the fourth channel and the
// padding at the bottom and right are 0. In f32, as x scale[c] + offset[c]: scale = 1 / (255 std), offset = -mean / std, rounded once.
// Grid ceil(pixels of y / 512), blocks of 256; a thread has two pixels, 16 bytes of y.
#include "common/division.cuh"

struct PreprocessParams {
    const uint8_t* input;
    half* output;
    Divisor out_h, out_w;
    int32_t pixels, in_h, in_w, unused;
    float scale[3], offset[3];
};

DEVICE Half4 normalised(const PreprocessParams& p, uint32_t pixel) {
    const Place at = place(pixel, p.out_h, p.out_w);
    if (at.y >= p.in_h || at.x >= p.in_w) return Half4{};
    const uint8_t* rgb = p.input + (int64_t(at.image * p.in_h + at.y) * p.in_w + at.x) * 3;
    float v[3];
#pragma unroll
    for (int c = 0; c < 3; ++c) v[c] = fmaf(float(rgb[c]), p.scale[c], p.offset[c]);
    return Half4{{pack(v[0], v[1]), pack(v[2], 0.0f)}};
}

DEVICE void normalise(const PreprocessParams& p) {
    const uint32_t i = (blockIdx.x * 256 + threadIdx.x) * 2;
    if (i >= uint32_t(p.pixels)) return;
    const Half4 first = normalised(p, i);
    if (i + 1 == uint32_t(p.pixels)) {
        reinterpret_cast<Half4*>(p.output)[i] = first;
        return;
    }
    const Half4 second = normalised(p, i + 1);
    store16(p.output + int64_t(i) * 4, Half8{{first.pair[0], first.pair[1], second.pair[0], second.pair[1]}});
}

KERNEL(preprocess, PreprocessParams, 256, normalise)
