// Bilinear upsampling of a one-channel map from the feature grid to the picture, with either rule of common/bilinear.cuh.
//
// x f32 [batch, in_h, in_w]; y f32 [batch, crop_h, crop_w], the upper left of the out_h x out_w picture. -inf wins
// wherever it has any weight, and has none where its weight is zero: no NaN comes of it.
// A thread has four columns of eight rows. The columns are a quarter of the width apart, so that neighbouring threads store neighbouring
// pixels whatever the width; rows of the grid are blended across once, and kept while the picture's rows lie between them.
// Grid ceil(batch ceil(crop_h / 8) ceil(crop_w / 4) / 256), blocks of 256.
#include "common/bilinear.cuh"

struct UpsampleParams {
    const float* input;
    float* output;
    Axis y, x;
    Divisor strips, quarter;  // ceil(crop_h / 8), ceil(crop_w / 4)
    int32_t threads, crop_h, crop_w, unused;
};

namespace {

constexpr int ROWS = 8, COLUMNS = 4;

// Between two values of a column: near + step weight, or `low` where the weight is zero.
struct Span {
    float low, high, near, step;
};

DEVICE Span span(float low, float high) {
    const bool gone = fminf(low, high) == -INFINITY;
    return {low, high, gone ? -INFINITY : low, gone ? 0.0f : high - low};
}

DEVICE float blend(const Span& s, float weight) { return weight == 0.0f ? s.low : s.near + s.step * weight; }

DEVICE void upsample_map(const UpsampleParams& p) {
    const int thread = blockIdx.x * 256 + threadIdx.x;
    if (thread >= p.threads) return;
    const Place at = place(thread, p.strips, p.quarter);
    Neighbours x[COLUMNS];
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
        const int column = at.x + j * p.quarter.divisor;
        x[j] = neighbours(column < p.crop_w ? column : p.crop_w - 1, p.x);
    }

    auto across = [&](int row, float (&v)[COLUMNS]) {
        const int line = (at.image * p.y.size + row) * p.x.size;
        float low[COLUMNS], high[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            low[j] = p.input[line + x[j].low];
            high[j] = p.input[line + x[j].high];
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) v[j] = blend(span(low[j], high[j]), x[j].weight);
    };
    const int first = at.y * ROWS, end = first + ROWS < p.crop_h ? first + ROWS : p.crop_h;
    int row = -2;  // of the grid: that of each span's `low`
    Span spans[COLUMNS] = {};
#pragma unroll 1
    for (int i = first; i < end; ++i) {
        const Neighbours y = neighbours(i, p.y);
        if (y.low != row) {
            float low[COLUMNS], high[COLUMNS];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) low[j] = spans[j].high;
            if (y.low != row + 1) across(y.low, low);
            across(y.high, high);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) spans[j] = span(low[j], high[j]);
            row = y.low;
        }
        const int pixel = (at.image * p.crop_h + i) * p.crop_w + at.x;
        float values[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) values[j] = blend(spans[j], y.weight);
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            if (at.x + j * p.quarter.divisor < p.crop_w) p.output[pixel + j * p.quarter.divisor] = values[j];
        }
    }
}

}  // namespace

KERNEL(upsample, UpsampleParams, 256, upsample_map)
