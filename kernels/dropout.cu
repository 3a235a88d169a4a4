// Dropout of feature maps at test time: y = x m / (1 - p), m = 0 where the element's word is below `threshold`, else 1. The words of
// channels 4 q .. 4 q + 3 of a pixel are Philox4x32-10 (Salmon et al. 2011) with the seed as key and the counter
// (pixel of the image, q, pass, place), as src/ops/dropout.rs has it. Threshold 0 and scale 1 copy.
//
// x, y NHWC fp16, a pixel every in_stride / out_stride values, channels a multiple of 8; f32 between. Every image has the same mask.
// Grid ceil(pixels x channels / 8 / 256), blocks of 256; a thread has 8 channels of a pixel.
#include "common/division.cuh"

struct DropoutParams {
    const half* input;
    half* output;
    int64_t seed;
    Divisor image_pixels, groups;  // groups: eight channels each
    int32_t threads, in_stride, out_stride;
    // Bits of unsigned numbers.
    int32_t pass, place, threshold;
    float scale;
    int32_t unused;
};

struct Words {
    uint32_t v[4];
};

DEVICE Words philox(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint64_t key) {
    uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t first = uint64_t(0xd2511f53u) * a, second = uint64_t(0xcd9e8d57u) * c;
        a = uint32_t(second >> 32) ^ b ^ low;
        b = uint32_t(second);
        c = uint32_t(first >> 32) ^ d ^ high;
        d = uint32_t(first);
        low += 0x9e3779b9u;
        high += 0xbb67ae85u;
    }
    return {{a, b, c, d}};
}

DEVICE void mask(const DropoutParams& p) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= uint32_t(p.threads)) return;
    const int pixel = quotient(i, p.groups), c = (i - pixel * p.groups.divisor) * 8;
    const int image = quotient(pixel, p.image_pixels);
    float x[8];
    unpack(load16<Half8>(p.input + int64_t(pixel) * p.in_stride + c), x);
#pragma unroll
    for (int half_group = 0; half_group < 2; ++half_group) {
        const uint32_t place = uint32_t(pixel - image * p.image_pixels.divisor), quad = uint32_t(c / 4 + half_group);
        const Words words = philox(place, quad, uint32_t(p.pass), uint32_t(p.place), uint64_t(p.seed));
#pragma unroll
        for (int j = 0; j < 4; ++j) x[4 * half_group + j] *= words.v[j] < uint32_t(p.threshold) ? 0.0f : p.scale;
    }
    store16(p.output + int64_t(pixel) * p.out_stride + c, pack(x));
}

KERNEL(dropout, DropoutParams, 256, mask)
