// The two neighbours of an output row (or column) under bilinear interpolation, and the weight of the
// second. In integers up to one division, so that every device and size has the same neighbours.
//
//   align_corners:   source = i (in - 1) / (out - 1)                   (out = 1: 0)
//   else:            source = max(0, (i + 1/2) in / out - 1/2)
#pragma once
#include "arch.cuh"

struct Neighbours {
    int low, high;
    float weight;  // of high
};

DEVICE Neighbours neighbours(int i, int in, int out, bool align_corners) {
    int numerator, denominator;
    if (align_corners) {
        numerator = i * (in - 1);
        denominator = out > 1 ? out - 1 : 1;
    } else {
        numerator = (2 * i + 1) * in - out;
        if (numerator < 0) numerator = 0;
        denominator = 2 * out;
    }
    int low = numerator / denominator;
    if (low > in - 1) low = in - 1;
    const int high = low + 1 < in ? low + 1 : low;
    return {low, high, float(numerator - low * denominator) / float(denominator)};
}

DEVICE float lerp(float a, float b, float weight) { return a + (b - a) * weight; }
