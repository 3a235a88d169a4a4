// Bilinear upsampling of a one-channel map from the feature grid to the picture, with either rule of common/bilinear.cuh.
//
// x f32 [batch, in_h, in_w]; y f32 [batch, crop_h, crop_w], the upper left of the out_h x out_w picture. -inf wins
// wherever it has any weight, and has none where its weight is zero: no NaN comes of it.
// Grid ceil(pixels of y / 256), blocks of 256; a thread has one pixel.
#include "common/bilinear.cuh"

struct UpsampleParams {
    const float* input;
    float* output;
    Upsampling grid;
    int32_t pixels, unused;
};

DEVICE float blend(float a, float b, float weight) {
    if (weight == 0.0f) return a;
    return a == -INFINITY || b == -INFINITY ? -INFINITY : lerp(a, b, weight);
}

DEVICE void upsample_map(const UpsampleParams& p) {
    const uint32_t pixel = blockIdx.x * 256 + threadIdx.x;
    if (pixel >= uint32_t(p.pixels)) return;
    const Corners at = corners(p.grid, pixel);
    const float* x = p.input;
    p.output[pixel] = blend(blend(x[at.cell[0]], x[at.cell[2]], at.y), blend(x[at.cell[1]], x[at.cell[3]], at.y), at.x);
}

KERNEL(upsample, UpsampleParams, 256, upsample_map)
