// The mean of several predicted distributions at the picture's size, without writing the upsampled logits. mixture_add, once for each of
// N predictions: bilinear upsampling and softmax, then
//
//   sums[c] += p_c,   sums[C] += H(p) = ln s - t / s  (nats),   s = sum e^(x_c - m), t = sum (x_c - m) e^(x_c - m), m = max x_c
//
// and mixture_finish, with share = 1 / N and q = share sums[0..C]:
//
//   label = the first arg max of q, confidence = max q,   entropy = H(q),   information = H(q) - share sums[C]
//
// Where some x_c of any prediction is not finite, sums[C] is NaN, as then are the three maps, and the label is 0.
// logits [batch, in_h, in_w, in_stride] f32, in_stride a multiple of 4; sums f32 [batch, C + 1, crop_h, crop_w]; the first prediction
// (`first`) overwrites them. label u8 and the maps f32 [batch, crop_h, crop_w], the upper left of the out_h x out_w picture.
// Grid ceil(pixels / 256), blocks of 256; a thread has one pixel.
#include "common/bilinear.cuh"

struct MixtureParams {
    const float* logits;
    float* sums;
    uint8_t* label;
    float* confidence;
    float* entropy;
    float* information;
    Upsampling grid;
    Divisor plane;  // crop_h crop_w
    int32_t pixels, classes, in_stride;
    int32_t first;
    float share;
};

// A pixel's sum of class 0; those of the other classes and of the entropy follow at distance crop_h x crop_w.
DEVICE float* sums_of(const MixtureParams& p, int pixel) {
    const int image = quotient(pixel, p.plane);
    return p.sums + int64_t(image) * p.classes * p.plane.divisor + pixel;
}

DEVICE float positive(float value) { return value < 0.0f ? 0.0f : value; }

DEVICE void add(const MixtureParams& p) {
    const uint32_t pixel = blockIdx.x * 256 + threadIdx.x;
    if (pixel >= uint32_t(p.pixels)) return;
    const int64_t plane = p.plane.divisor;
    const Corners at = corners(p.grid, pixel);
    const auto each = [&](auto f) { upsampled(p.logits, p.in_stride, p.classes, at, f); };
    float m = -INFINITY, s = 0.0f, t = 0.0f;
    each([&](int, float x) { m = x > m ? x : m; });
    each([&](int, float x) {
        const float d = x - m, e = expf(d);
        s += e;
        t += d * e;
    });
    float* sums = sums_of(p, pixel);
    each([&](int c, float x) {
        const float share = expf(x - m) / s;
        sums[c * plane] = p.first ? share : sums[c * plane] + share;
    });
    const float entropy = positive(logf(s) - t / s);
    sums[p.classes * plane] = p.first ? entropy : sums[p.classes * plane] + entropy;
}

DEVICE void finish(const MixtureParams& p) {
    const uint32_t pixel = blockIdx.x * 256 + threadIdx.x;
    if (pixel >= uint32_t(p.pixels)) return;
    const int64_t plane = p.plane.divisor;
    const float* sums = sums_of(p, pixel);
    const float mean_entropy = sums[p.classes * plane] * p.share;
    float best = 0.0f, h = 0.0f;
    int label = 0;
    for (int c = 0; c < p.classes; ++c) {
        const float q = sums[c * plane] * p.share;
        if (q > best) {
            best = q;
            label = c;
        }
        if (q > 0.0f) h -= q * logf(q);
    }
    if (mean_entropy != mean_entropy) {
        label = 0;
        best = h = mean_entropy;
    }
    p.label[pixel] = uint8_t(label);
    p.confidence[pixel] = best;
    p.entropy[pixel] = positive(h);
    p.information[pixel] = positive(h - mean_entropy);
}

KERNEL(mixture_add, MixtureParams, 256, add)
KERNEL(mixture_finish, MixtureParams, 256, finish)
