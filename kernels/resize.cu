// Bilinear resize of feature maps, with either rule of common/bilinear.cuh.
//
// x, y NHWC fp16, a pixel every in_stride / out_stride values (y may be a channel slice of a concat), channels a
// multiple of 8; f32 between. Grid ceil(pixels of y x channels / 8 / 256), blocks of 256; a thread has 8 channels of a pixel.
#include "common/bilinear.cuh"

struct ResizeParams {
    const half* input;
    half* output;
    int32_t batch, channels, in_h, in_w, in_stride, out_h, out_w, out_stride;
    int32_t align_corners, unused;
};

DEVICE void bilinear(const ResizeParams& p) {
    const int groups = p.channels / 8;
    const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x, pixel = i / groups;
    if (pixel >= int64_t(p.batch) * p.out_h * p.out_w) return;
    const int c = i % groups * 8;
    const Neighbours y = neighbours(pixel / p.out_w % p.out_h, p.in_h, p.out_h, p.align_corners != 0);
    const Neighbours x = neighbours(pixel % p.out_w, p.in_w, p.out_w, p.align_corners != 0);
    const half* image = p.input + pixel / p.out_w / p.out_h * p.in_h * p.in_w * p.in_stride + c;
    float v00[8], v01[8], v10[8], v11[8];
    unpack(load16<Half8>(image + (int64_t(y.low) * p.in_w + x.low) * p.in_stride), v00);
    unpack(load16<Half8>(image + (int64_t(y.low) * p.in_w + x.high) * p.in_stride), v01);
    unpack(load16<Half8>(image + (int64_t(y.high) * p.in_w + x.low) * p.in_stride), v10);
    unpack(load16<Half8>(image + (int64_t(y.high) * p.in_w + x.high) * p.in_stride), v11);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        v00[j] = lerp(lerp(v00[j], v01[j], x.weight), lerp(v10[j], v11[j], x.weight), y.weight);
    }
    store16(p.output + pixel * p.out_stride + c, pack(v00));
}

KERNEL(resize, ResizeParams, 256, bilinear)
