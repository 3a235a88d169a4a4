// Bilinear resize of feature maps, with either rule of common/bilinear.cuh.
//
// x, y NHWC fp16, a pixel every in_stride / out_stride values (y may be a channel slice of a concat), channels a
// multiple of 8; f32 between. Grid ceil(pixels of y x channels / 8 / 256), blocks of 256; a thread has 8 channels of a pixel.
#include "common/bilinear.cuh"

struct ResizeParams {
    const half* input;
    half* output;
    Axis y, x;
    Divisor out_h, out_w, groups;  // groups: eight channels each
    int32_t threads, in_stride, out_stride;
};

DEVICE void bilinear(const ResizeParams& p) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= uint32_t(p.threads)) return;
    const int pixel = quotient(i, p.groups), c = (i - pixel * p.groups.divisor) * 8;
    const Place at = place(pixel, p.out_h, p.out_w);
    const Neighbours y = neighbours(at.y, p.y), x = neighbours(at.x, p.x);
    const int low = (at.image * p.y.size + y.low) * p.x.size, high = (at.image * p.y.size + y.high) * p.x.size;
    const auto load = [&](int cell, float (&v)[8]) { unpack(load16<Half8>(p.input + int64_t(cell) * p.in_stride + c), v); };
    float v00[8], v01[8], v10[8], v11[8];
    load(low + x.low, v00);
    load(low + x.high, v01);
    load(high + x.low, v10);
    load(high + x.high, v11);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        v00[j] = lerp(lerp(v00[j], v01[j], x.weight), lerp(v10[j], v11[j], x.weight), y.weight);
    }
    store16(p.output + int64_t(pixel) * p.out_stride + c, pack(v00));
}

KERNEL(resize, ResizeParams, 256, bilinear)
