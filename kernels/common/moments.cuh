// Parameters and sizes of the moments' kernels: kernels/moments_sort.cu, which says which pixels belong together, then kernels/moments.cu,
// which sums over them. Every sum has a fixed order that depends on the image alone: no atomics, the same bits every run, whatever
// the batch.
#pragma once
#include "division.cuh"

struct MomentsParams {
    const half* features;   // [batch, cells, feature_stride], a pixel at a multiple of 16 bytes
    const uint8_t* labels;  // [batch, cells]; below `classes`: a class
    const float* logits;    // [batch, cells, logit_stride], read by moments_keys, if `weighted`
    float* roots;           // [batch, cells]: square roots of the weights of pixels with a class, if `weighted`; else each weighs 1
    uint16_t* keys;         // [batch, cells]
    uint8_t* ranks;         // [batch, cells]
    int32_t* offsets;       // [batch, segments, KEYS]: counts, then their exclusive sums over the segments
    int32_t* totals;        // [batch, 3, KEYS]: pixels of each key; where they start in `sorted`; a class's first chunk
    int32_t* chunks;        // [batch, slots, 4]: class, start in `sorted`, pixels (0: no chunk), 0
    int32_t* sorted;        // [batch, cells]
    double* sums;           // [batch, slots, D]
    double* slot_weights;   // [batch, slots, 3]: W, V, the greatest root; if `weighted`, as is the next
    double* image_weights;  // [batch, classes, 2]: W, V
    double* weight_before;  // [classes]: pixels, or W, before this batch; the next is the means then
    double* mean_before;    // [classes, D]
    float* extremes;        // [batch, slots, 2, D]
    double* image_mean;     // [batch, classes, D]
    float* shifts;          // [batch, classes, D, 2]: shift, scale
    float* partial;         // [batch, slots, blocks, 64, 64]
    int64_t* count;         // [257], running, as are the next three: pixels of each label, and those that are not finite
    double* weights;        // [classes, 2]: W, V; if `weighted`
    double* mean;           // [classes, D]
    double* scatter;        // [classes, D, D], the lower triangle
    Divisor groups;         // of a pixel: eight channels each
    int32_t batch, cells, feature_stride, logit_stride, channels, classes, segments, slots, blocks, weighted;
    int32_t lanes;  // 256 / groups
};

constexpr int SEGMENT = 256, CHUNK = 512;
// A key is the label, or one of these.
constexpr int NON_FINITE = 256, NO_PIXEL = 257, KEYS = 258;
