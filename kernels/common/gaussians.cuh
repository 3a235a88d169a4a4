// What the density's kernels (density.cu, density_hopper.cu) share: parameters, what a pixel knows while the classes are visited,
// the order of the classes, and the scores.
//
// Squared distances go to memory, [class, pixel], and the scores are made of them in the classes' own order. So their bits
// depend neither on the order in which a block visits the classes, nor on tile, splits or the pixels beside: the early exit
// leaves out only terms below max - tau, and such terms are left out where they have been computed too.
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
    float* squares;            // [classes + 1, pixels]: scratch
    int32_t* stats;  // [splits, ceil(pixels / PIXELS) WARPS, 2]: a bit per pixel that is not finite (first split), blocks of W multiplied
    int32_t pixels, feature_stride, channels, panels, classes, splits, per_split;
    float tau;  // infinity: no early exit
};

constexpr int PANEL = 64;  // rows of W that are squared together
constexpr int VOID = 255;

// Whether one of two halves is an infinity or a NaN.
DEVICE bool not_finite(uint32_t pair) { return (pair & 0x7c00u) == 0x7c00u || (pair & 0x7c000000u) == 0x7c000000u; }
DEVICE bool finite(float f) { return fabsf(f) < INFINITY; }

// What the early exit goes by: of the classes that a pixel has visited, the greatest term and the least squared distance.
struct State {
    float max = -INFINITY, least = INFINITY;

    DEVICE void visit(float constant, float squares) {
        max = fmaxf(max, constant - 0.5f * squares);
        least = fminf(least, squares);
    }
    // Whether a class whose squares are this or more adds nothing to the pixel's scores. Sums of squares, rounded as they
    // are, do not fall, nor does `max`: `scores` leaves such a class out whether or not a block has.
    DEVICE bool beyond(const DensityParams& p, float constant, float squares) const {
        return constant - 0.5f * squares < max - p.tau && !(p.nearest && squares <= least);
    }
};

// What `squares` has of a class that was left, of a pixel whose feature is not finite, and of any other.
DEVICE float stored(float squares, bool left, bool usable) { return !usable ? NAN : left ? INFINITY : squares; }

// Scores of a pixel, whose squares are complete.
DEVICE void scores(const DensityParams& p, int pixel) {
    const float* squares = p.squares + pixel;
    float max = -INFINITY, least = INFINITY;
    int nearest = VOID;
    bool usable = true;
#pragma unroll 4
    for (int c = 0; c < p.classes; ++c) {
        const float s = squares[int64_t(c) * p.pixels];
        usable &= s == s;
        max = fmaxf(max, p.constants[c] - 0.5f * s);
        if (s < least) {
            least = s;
            nearest = c;
        }
    }
    float sum = 0.0f;
#pragma unroll 4
    for (int c = 0; c < p.classes; ++c) {
        const float term = p.constants[c] - 0.5f * squares[int64_t(c) * p.pixels];
        sum += term < max - p.tau ? 0.0f : expf(term - max);
    }
    const float density = max + logf(sum);
    p.density[pixel] = usable && finite(density) ? density : -INFINITY;
    if (p.relative) {
        const float relative = density - (p.constants[p.classes] - 0.5f * squares[int64_t(p.classes) * p.pixels]);
        p.relative[pixel] = usable && finite(relative) ? relative : -INFINITY;
    }
    if (p.nearest) {
        p.nearest[pixel] = uint8_t(usable && nearest != VOID ? p.ids[nearest] : VOID);
        p.distance[pixel] = usable ? sqrtf(least) : INFINITY;
    }
}

// Items in the order in which the block visits them: by falling votes of `predicted`, then by index; the background last.
// `votes` [256] is scratch, `order` has 257 places. THREADS threads call it, of which `barrier` waits for all.
template <int PIXELS, int THREADS, class Barrier>
DEVICE void visiting_order(const DensityParams& p, int thread, int pixel0, int first, int count, bool background, Shared<float> votes,
                           Shared<uint16_t> order, Barrier barrier) {
    if (p.predicted) {
        // Every warp has all labels, and a class to count.
        const int warp = thread / 32, lane = thread % 32;
        int labels[PIXELS / 32];
#pragma unroll
        for (int i = 0; i < PIXELS / 32; ++i) {
            const int pixel = pixel0 + i * 32 + lane;
            labels[i] = pixel < p.pixels ? p.predicted[pixel] : VOID;
        }
        for (int c = warp; c < count; c += THREADS / 32) {
            const int id = p.ids[first + c];
            float n = 0.0f;
#pragma unroll
            for (int i = 0; i < PIXELS / 32; ++i) n += labels[i] == id ? 1.0f : 0.0f;
#pragma unroll
            for (int mask = 16; mask > 0; mask /= 2) n += shuffle_xor(n, mask);
            if (lane == 0) votes[c] = n;
        }
        barrier();
        for (int c = thread; c < count; c += THREADS) {
            const float class_votes = votes[c];
            int rank = 0;
            for (int i = 0; i < count; ++i) {
                const float n = votes[i];
                rank += n > class_votes || (n == class_votes && i < c);
            }
            order[rank] = uint16_t(first + c);
        }
    } else {
        for (int c = thread; c < count; c += THREADS) order[c] = uint16_t(first + c);
    }
    if (background && thread == 0) order[count] = uint16_t(p.classes);
    barrier();
}
