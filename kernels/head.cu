// Logits on the feature grid made maps: for every pixel of the picture, bilinear upsampling, then
//
//   label = the first arg max over c of x_c,   entropy = ln s - t / s  (nats),   s = sum e^(x_c - m), t = sum (x_c - m) e^(x_c - m), m = max x_c
//
// in one pass over the classes, without writing the upsampled logits. Where some x_c is not finite, the entropy is
// NaN and the label the first arg max of those that are not NaN (0 where none is above -inf). logits [batch, in_h, in_w, in_stride] f32,
// in_stride a multiple of 4; label u8 and entropy f32 [batch, crop_h, crop_w], the upper left of the out_h x out_w picture.
// Grid ceil(pixels / 256), blocks of 256; a thread has one pixel.
//
// logit_scores: any of these outputs (null: not wanted) and, in the same pass,
//
//   max_softmax = 1 / s,   energy = -(m + ln s),   entropy_t2 = ln s2 - t2 / s2 of (x_c - m) / 2
//
// each NaN where some x_c is not finite: t is.
#include "common/bilinear.cuh"

struct HeadParams {
    const float* logits;
    uint8_t* label;
    float* entropy;
    float* max_softmax;
    float* energy;
    float* entropy_t2;
    Upsampling grid;
    int32_t pixels, classes, in_stride, unused;
};

template <bool SCORES> DEVICE void maps(const HeadParams& p) {
    const uint32_t pixel = blockIdx.x * 256 + threadIdx.x;
    if (pixel >= uint32_t(p.pixels)) return;
    float max_logit = 0.0f, s = 0.0f, t = 0.0f, s2 = 0.0f, t2 = 0.0f;
    int label = 0;
    upsampled(p.logits, p.in_stride, p.classes, corners(p.grid, pixel), [&](int c, float logit) {
        if (c == 0) {
            // A first logit that is not finite makes t NaN, as every later one does.
            max_logit = logit == logit ? logit : -INFINITY;
            s = 1.0f;
            t = logit - logit;
            s2 = s;
            t2 = t;
            return;
        }
        const float above = logit - max_logit, e = expf(-fabsf(above));
        if (SCORES) {
            const float half_above = 0.5f * above, e2 = expf(-fabsf(half_above));
            t2 = half_above > 0.0f ? (t2 - half_above * s2) * e2 : t2 + half_above * e2;
            s2 = half_above > 0.0f ? s2 * e2 + 1.0f : s2 + e2;
        }
        if (above > 0.0f) {
            // The sums so far, seen from the new maximum.
            t = (t - above * s) * e;
            s = s * e + 1.0f;
            max_logit = logit;
            label = c;
        } else {
            s += e;
            t += above * e;
        }
    });
    if (!SCORES || p.label) p.label[pixel] = uint8_t(label);
    if (!SCORES || p.entropy) p.entropy[pixel] = logf(s) - t / s;
    if (!SCORES) return;
    if (p.max_softmax) p.max_softmax[pixel] = (1.0f + 0.0f * t) / s;
    if (p.energy) p.energy[pixel] = 0.0f * t - (max_logit + logf(s));
    if (p.entropy_t2) p.entropy_t2[pixel] = logf(s2) - t2 / s2;
}

KERNEL(head, HeadParams, 256, maps<false>)
KERNEL(logit_scores, HeadParams, 256, maps<true>)
