// Logits on the feature grid made maps: for every pixel of the picture, bilinear upsampling, then
//
//   label = the first arg max over c of x_c,   entropy = ln s - t / s  (nats),   s = sum e^(x_c - m), t = sum (x_c - m) e^(x_c - m), m = max x_c
//
// in one pass over the classes, without writing the upsampled logits. Where some x_c is not finite, the entropy is
// NaN and the label the first arg max of those that are not NaN (0 where none is above -inf). logits [batch, in_h, in_w, in_stride] f32,
// in_stride a multiple of 4; label u8 and entropy f32 [batch, crop_h, crop_w], the upper left of the out_h x out_w picture.
// A thread has the pixels of a column that lie between two rows of the grid, four at a time: they share what is blended across.
// Grid ceil(batch in_h crop_w / 256), blocks of 256.
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
    Axis y, x;
    Divisor step, in_h, crop_w;  // of y, 1 where that is 0
    int32_t threads, crop_h, classes, in_stride, unused;
};

namespace {

constexpr int ROWS = 4;

// Of the classes so far.
struct Sums {
    float m, s, t, s2, t2;
    int label;
};

DEVICE float power_of_e(float x) { return exp2_approx(x * 1.44269504f); }

// The first row of the picture that lies at or below row `low` of the grid.
DEVICE int first_row(int low, const HeadParams& p) {
    const int numerator = low * p.y.denominator.divisor - p.y.start + p.y.step - 1;
    return low <= 0 || numerator < 0 ? 0 : quotient(numerator, p.step);
}

// Takes in N classes from c on.
template <int N, bool SCORES> DEVICE void add(Sums& sums, const float (&x)[N], int c) {
    float m = sums.m;
#pragma unroll
    for (int j = 0; j < N; ++j) m = fmaxf(m, x[j]);
    if (m > sums.m) {
        int label = c + N - 1;
#pragma unroll
        for (int j = N - 2; j >= 0; --j) label = x[j] == m ? c + j : label;
        sums.label = label;
        // The sums so far, seen from the new maximum; before the first class there are none.
        if (sums.m != -INFINITY) {
            const float by = sums.m - m, scale = power_of_e(by);
            sums.t = fmaf(by, sums.s, sums.t) * scale;
            sums.s *= scale;
            if (SCORES) {
                const float half_by = 0.5f * by, half_scale = power_of_e(half_by);
                sums.t2 = fmaf(half_by, sums.s2, sums.t2) * half_scale;
                sums.s2 *= half_scale;
            }
        }
        sums.m = m;
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const float below = x[j] - sums.m, e = power_of_e(below);
        sums.s += e;
        sums.t = fmaf(below, e, sums.t);
        if (SCORES) {
            const float half_below = 0.5f * below, e2 = power_of_e(half_below);
            sums.s2 += e2;
            sums.t2 = fmaf(half_below, e2, sums.t2);
        }
    }
}

template <bool SCORES> DEVICE void maps(const HeadParams& p) {
    const int thread = blockIdx.x * 256 + threadIdx.x;
    if (thread >= p.threads) return;
    const Place at = place(thread, p.in_h, p.crop_w);
    const Neighbours x = neighbours(at.x, p.x);
    const int next = at.y + 1 < p.y.size ? at.y + 1 : at.y;
    int end = at.y + 1 < p.y.size ? first_row(at.y + 1, p) : p.crop_h;
    if (end > p.crop_h) end = p.crop_h;
    const float* corner[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int cell = (at.image * p.y.size + (i < 2 ? at.y : next)) * p.x.size + (i % 2 == 0 ? x.low : x.high);
        corner[i] = p.logits + int64_t(cell) * p.in_stride;
    }
#pragma unroll 1
    for (int first = first_row(at.y, p); first < end; first += ROWS) {
        const int rows = end - first;
        float weight[ROWS];
        Sums sums[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            // As `neighbours` has it, of whom at.y is one.
            const int rest = (first + i) * p.y.step + p.y.start - at.y * p.y.denominator.divisor;
            weight[i] = float(rest > 0 ? rest : 0) * p.y.inverse;
            sums[i] = Sums{-INFINITY, 0.0f, 0.0f, 0.0f, 0.0f, 0};
        }
#pragma unroll 1
        for (int c = 0; c < p.classes; c += 4) {
            Float4 v[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) v[i] = load16<Float4>(corner[i] + c);
            float low[4], by[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                low[j] = lerp(v[0].v[j], v[1].v[j], x.weight);
                by[j] = lerp(v[2].v[j], v[3].v[j], x.weight) - low[j];
            }
            const int left = p.classes - c;
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if (i >= rows) break;
                float logits[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) logits[j] = fmaf(by[j], weight[i], low[j]);
                if (left >= 4) {
                    add<4, SCORES>(sums[i], logits, c);
                    continue;
                }
#pragma unroll
                for (int j = 0; j < 3; ++j) {
                    if (j < left) add<1, SCORES>(sums[i], {logits[j]}, c + j);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            if (i >= rows) break;
            const int64_t pixel = (int64_t(at.image) * p.crop_h + first + i) * p.crop_w.divisor + at.x;
            const float s = sums[i].s, t = sums[i].t, log_s = logf(s);
            if (!SCORES || p.label) p.label[pixel] = uint8_t(sums[i].label);
            if (!SCORES || p.entropy) p.entropy[pixel] = log_s - t / s;
            if (!SCORES) continue;
            if (p.max_softmax) p.max_softmax[pixel] = (1.0f + 0.0f * t) / s;
            if (p.energy) p.energy[pixel] = 0.0f * t - (sums[i].m + log_s);
            if (p.entropy_t2) p.entropy_t2[pixel] = logf(sums[i].s2) - sums[i].t2 / sums[i].s2;
        }
    }
}

}  // namespace

KERNEL(head, HeadParams, 256, maps<false>)
KERNEL(logit_scores, HeadParams, 256, maps<true>)
