// What the density's kernels (density.cu, density_hopper.cu) share: parameters, the state of a pixel, the order of the classes.
#pragma once
#include "arch.cuh"

struct DensityParams {
    const half* features;      // [pixels, feature_stride], a pixel at a multiple of 16 bytes
    const half* weights;       // [classes + 1, blocks, TERMS, 64, columns of a block]; low term first
    const float* rows;         // [classes + 1, padded D, 2]: bias, 2^-s
    const float* constants;    // [classes + 1]
    const int32_t* ids;        // [classes]: the model's index of each
    const uint8_t* predicted;  // [pixels], the model's indices, or null
    float* density;            // [pixels]
    float* relative;           // [pixels]: log q(z) - ln N(z; mu_0, Sigma_0), or null
    uint8_t* nearest;          // [pixels]: the class of the least Mahalanobis distance, or null
    float* distance;           // [pixels]: that distance, where `nearest` is
    float* partial;            // [splits, pixels, 4] where splits > 1
    int32_t* stats;  // [splits, ceil(pixels / PIXELS) WARPS, 2]: a bit per pixel that is not finite (first split), blocks of W multiplied
    int32_t pixels, feature_stride, channels, panels, classes, splits, per_split;
    float tau;  // infinity: no early exit
};

constexpr int PANEL = 64;  // rows of W that are squared together
constexpr int VOID = 255;

// Whether one of two halves is an infinity or a NaN.
DEVICE bool not_finite(uint32_t pair) { return (pair & 0x7c00u) == 0x7c00u || (pair & 0x7c000000u) == 0x7c000000u; }
DEVICE bool finite(float f) { return fabsf(f) < INFINITY; }

// The online log-sum-exp of a pixel, and its nearest class.
struct State {
    float max = -INFINITY, sum = 0.0f, min_squares = INFINITY;
    int nearest = VOID;

    DEVICE void fold(float constant, float squares, int id) {
        join(constant - 0.5f * squares, 1.0f);
        if (squares < min_squares) {
            min_squares = squares;
            nearest = id;
        }
    }
    // Adds `other` e^term.
    DEVICE void join(float term, float other) {
        const float greater = fmaxf(max, term);
        if (greater == -INFINITY) return;
        sum = sum * expf(max - greater) + other * expf(term - greater);
        max = greater;
    }
};

DEVICE void write(const DensityParams& p, int pixel, const State& s, float background, bool usable) {
    const float density = s.max + logf(s.sum);
    p.density[pixel] = usable && finite(density) ? density : -INFINITY;
    if (p.relative) {
        const float relative = density - background;
        p.relative[pixel] = usable && finite(relative) ? relative : -INFINITY;
    }
    if (p.nearest) {
        p.nearest[pixel] = uint8_t(usable ? s.nearest : VOID);
        p.distance[pixel] = usable ? sqrtf(s.min_squares) : INFINITY;
    }
}

// Items in the order in which the block visits them: by falling votes of `predicted`, then by index; the background last.
// `labels` [PIXELS] and `votes` [256] are scratch, `order` has 257 places. All THREADS of the block call it.
template <int PIXELS, int THREADS>
DEVICE void visiting_order(const DensityParams& p, int pixel0, int first, int count, bool background, Shared<uint8_t> labels,
                           Shared<uint16_t> votes, Shared<uint16_t> order) {
    const int thread = threadIdx.x;
    if (p.predicted) {
        for (int i = thread; i < PIXELS; i += THREADS) labels[i] = pixel0 + i < p.pixels ? p.predicted[pixel0 + i] : uint8_t(VOID);
        sync_threads();
        for (int c = thread; c < count; c += THREADS) {
            const int id = p.ids[first + c];
            int n = 0;
            for (int i = 0; i < PIXELS; ++i) n += labels[i] == id;
            votes[c] = uint16_t(n);
        }
        sync_threads();
        for (int c = thread; c < count; c += THREADS) {
            const int class_votes = votes[c];
            int rank = 0;
            for (int i = 0; i < count; ++i) {
                const int n = votes[i];
                rank += n > class_votes || (n == class_votes && i < c);
            }
            order[rank] = uint16_t(first + c);
        }
    } else {
        for (int c = thread; c < count; c += THREADS) order[c] = uint16_t(first + c);
    }
    if (background && thread == 0) order[count] = uint16_t(p.classes);
    sync_threads();
}

// Stores the result of a pixel, or, where the classes are split, the part of this split for density_merge.
DEVICE void store_result(const DensityParams& p, int pixel, const State& s, float background_term, bool usable, bool background) {
    if (p.splits == 1) {
        write(p, pixel, s, background_term, usable);
    } else {
        // A negative sum: the feature is not finite.
        store16(p.partial + (int64_t(blockIdx.y) * p.pixels + pixel) * 4,
                Float4{{s.max, usable ? s.sum : -1.0f, s.min_squares, float(s.nearest)}});
        if (background) p.relative[pixel] = background_term;
    }
}
