// Bilinear upsampling of a one-channel map from the feature grid to the picture, with either rule of common/bilinear.cuh.
//
// x f32 [batch, in_h, in_w]; y f32 [batch, crop_h, crop_w], the upper left of the out_h x out_w picture. -inf wins
// wherever it has any weight, and has none where its weight is zero: no NaN comes of it.
// Grid ceil(pixels of y / 1024), blocks of 256; a thread has four pixels, 16 bytes.
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
    const uint32_t first = (blockIdx.x * 256 + threadIdx.x) * 4;
    if (first >= uint32_t(p.pixels)) return;
    const int left = p.pixels - int(first);
    Place at = place(first, p.grid.crop_h, p.grid.crop_w);
    Neighbours y = neighbours(at.y, p.grid.y);
    float values[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (i >= left) break;
        if (at.x == p.grid.crop_w.divisor) {
            // The next row, of the next image behind the last.
            at.x = 0;
            if (++at.y == p.grid.crop_h.divisor) {
                at.y = 0;
                ++at.image;
            }
            y = neighbours(at.y, p.grid.y);
        }
        const Neighbours x = neighbours(at.x++, p.grid.x);
        const float* low = p.input + int64_t(at.image * p.grid.y.size + y.low) * p.grid.x.size;
        const float* high = p.input + int64_t(at.image * p.grid.y.size + y.high) * p.grid.x.size;
        values[i] = blend(blend(low[x.low], high[x.low], y.weight), blend(low[x.high], high[x.high], y.weight), x.weight);
    }
    if (left >= 4) {
        store16(p.output + first, Float4{{values[0], values[1], values[2], values[3]}});
        return;
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        if (i < left) p.output[first + i] = values[i];
    }
}

KERNEL(upsample, UpsampleParams, 256, upsample_map)
