// Bilinear interpolation: the two neighbours of an output row (or column) and the weight of the second. In integers up to that
// weight, so that every device and size has the same neighbours; the weight is 0 where it should be, and never 1.
//
//   align_corners:   source = i (in - 1) / (out - 1)                   (out = 1: 0)
//   else:            source = max(0, (i + 1/2) in / out - 1/2)
#pragma once
#include "division.cuh"

// Rows (or columns) of a resize, `size` of them in: source = max(0, i step + start) / denominator. src/device/launch/bilinear.rs has both rules.
struct Axis {
    int32_t size, step, start;
    Divisor denominator;
    float inverse;  // 1 / denominator
};

struct Neighbours {
    int low, high;
    float weight;  // of high
};

DEVICE Neighbours neighbours(int i, const Axis& axis) {
    int numerator = i * axis.step + axis.start;
    if (numerator < 0) numerator = 0;
    int low = quotient(numerator, axis.denominator);
    if (low > axis.size - 1) low = axis.size - 1;
    const int high = low + 1 < axis.size ? low + 1 : low;
    return {low, high, float(numerator - low * axis.denominator.divisor) * axis.inverse};
}

DEVICE float lerp(float a, float b, float weight) { return a + (b - a) * weight; }

// A grid of cells [batch, in_h, in_w] under pictures of which the upper left [batch, crop_h, crop_w] is wanted.
struct Upsampling {
    Axis y, x;
    Divisor crop_h, crop_w;
};

// The cells around a pixel of the crops: (low, low), (low, high), (high, low), (high, high) of (y, x).
struct Corners {
    int cell[4];
    float y, x;  // weights of high
};

DEVICE Corners corners(const Upsampling& u, int pixel) {
    const Place at = place(pixel, u.crop_h, u.crop_w);
    const Neighbours y = neighbours(at.y, u.y), x = neighbours(at.x, u.x);
    const int low = (at.image * u.y.size + y.low) * u.x.size, high = (at.image * u.y.size + y.high) * u.x.size;
    return {{low + x.low, low + x.high, high + x.low, high + x.high}, y.weight, x.weight};
}

// Calls f(c, x_c) for each class of a pixel; `logits` f32 [cells, stride], stride a multiple of 4 and no less than `classes`.
template <class F> DEVICE void upsampled(const float* logits, int stride, int classes, const Corners& at, F f) {
    for (int c = 0; c < classes; c += 4) {
        Float4 v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = load16<Float4>(logits + int64_t(at.cell[i]) * stride + c);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (c + j >= classes) break;
            f(c + j, lerp(lerp(v[0].v[j], v[1].v[j], at.x), lerp(v[2].v[j], v[3].v[j], at.x), at.y));
        }
    }
}
