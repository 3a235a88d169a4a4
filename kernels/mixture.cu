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
    int32_t batch, classes, in_h, in_w, in_stride, out_h, out_w, crop_h, crop_w;
    int32_t align_corners, first;
    float share;
};

// Calls f(c, x_c) for each class of a pixel.
template <class F> DEVICE void upsampled(const MixtureParams& p, int64_t pixel, F f) {
    const Neighbours y = neighbours(pixel / p.crop_w % p.crop_h, p.in_h, p.out_h, p.align_corners != 0);
    const Neighbours x = neighbours(pixel % p.crop_w, p.in_w, p.out_w, p.align_corners != 0);
    const float* image = p.logits + pixel / p.crop_w / p.crop_h * p.in_h * p.in_w * p.in_stride;
    const float* corner[4] = {
        image + (int64_t(y.low) * p.in_w + x.low) * p.in_stride,
        image + (int64_t(y.low) * p.in_w + x.high) * p.in_stride,
        image + (int64_t(y.high) * p.in_w + x.low) * p.in_stride,
        image + (int64_t(y.high) * p.in_w + x.high) * p.in_stride,
    };
    for (int c = 0; c < p.classes; c += 4) {
        Float4 v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = load16<Float4>(corner[i] + c);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (c + j >= p.classes) break;
            f(c + j, lerp(lerp(v[0].v[j], v[1].v[j], x.weight), lerp(v[2].v[j], v[3].v[j], x.weight), y.weight));
        }
    }
}

// A pixel's sum of class 0; those of the other classes and of the entropy follow at distance crop_h x crop_w.
DEVICE float* sums_of(const MixtureParams& p, int64_t pixel) {
    const int64_t plane = int64_t(p.crop_h) * p.crop_w;
    return p.sums + pixel / plane * (p.classes + 1) * plane + pixel % plane;
}

DEVICE float positive(float value) { return value < 0.0f ? 0.0f : value; }

DEVICE void add(const MixtureParams& p) {
    const int64_t pixel = int64_t(blockIdx.x) * 256 + threadIdx.x, plane = int64_t(p.crop_h) * p.crop_w;
    if (pixel >= p.batch * plane) return;
    float m = -INFINITY, s = 0.0f, t = 0.0f;
    upsampled(p, pixel, [&](int, float x) { m = x > m ? x : m; });
    upsampled(p, pixel, [&](int, float x) {
        const float d = x - m, e = expf(d);
        s += e;
        t += d * e;
    });
    float* sums = sums_of(p, pixel);
    upsampled(p, pixel, [&](int c, float x) {
        const float share = expf(x - m) / s;
        sums[c * plane] = p.first ? share : sums[c * plane] + share;
    });
    const float entropy = positive(logf(s) - t / s);
    sums[p.classes * plane] = p.first ? entropy : sums[p.classes * plane] + entropy;
}

DEVICE void finish(const MixtureParams& p) {
    const int64_t pixel = int64_t(blockIdx.x) * 256 + threadIdx.x, plane = int64_t(p.crop_h) * p.crop_w;
    if (pixel >= p.batch * plane) return;
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
