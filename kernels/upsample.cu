// Bilinear upsampling of a one-channel map from the feature grid to the picture, with either rule of common/bilinear.cuh.
//
// x f32 [batch, in_h, in_w]; y f32 [batch, crop_h, crop_w], the upper left of the out_h x out_w picture. -inf wins
// wherever it has any weight, and has none where its weight is zero: no NaN comes of it.
// Grid ceil(pixels of y / 256), blocks of 256; a thread has one pixel.
#include "common/bilinear.cuh"

struct UpsampleParams {
    const float* input;
    float* output;
    int32_t batch, in_h, in_w, out_h, out_w, crop_h, crop_w;
    int32_t align_corners;
};

DEVICE float blend(float a, float b, float weight) {
    if (weight == 0.0f) return a;
    return a == -INFINITY || b == -INFINITY ? -INFINITY : lerp(a, b, weight);
}

DEVICE void upsample_map(const UpsampleParams& p) {
    const int64_t pixel = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (pixel >= int64_t(p.batch) * p.crop_h * p.crop_w) return;
    const Neighbours y = neighbours(pixel / p.crop_w % p.crop_h, p.in_h, p.out_h, p.align_corners != 0);
    const Neighbours x = neighbours(pixel % p.crop_w, p.in_w, p.out_w, p.align_corners != 0);
    const float* image = p.input + pixel / p.crop_w / p.crop_h * p.in_h * p.in_w;
    const float *low = image + int64_t(y.low) * p.in_w, *high = image + int64_t(y.high) * p.in_w;
    p.output[pixel] = blend(blend(low[x.low], high[x.low], y.weight), blend(low[x.high], high[x.high], y.weight), x.weight);
}

KERNEL(upsample, UpsampleParams, 256, upsample_map)
