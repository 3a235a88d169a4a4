// What follows an accumulation, for eight channels of one pixel: + bias, + residual, ReLU, store.
#pragma once
#include "arch.cuh"

struct Epilogue {
    const float* bias;     // [channels]
    const half* residual;  // [pixels, residual_stride], or null
    void* output;          // [pixels, output_stride], half or float
    int residual_stride, output_stride;
    bool relu, output_f32;
};

// `v` holds channels c .. c + 7 of `pixel`, c a multiple of 8; f32 until the store.
DEVICE void store(const Epilogue& e, int64_t pixel, int c, float (&v)[8]) {
    const Float4 bias[2] = {load16<Float4>(e.bias + c), load16<Float4>(e.bias + c + 4)};
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] += bias[i / 4].v[i % 4];
    if (e.residual) {
        float r[8];
        unpack(load16<Half8>(e.residual + pixel * e.residual_stride + c), r);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += r[i];
    }
    if (e.relu) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = v[i] < 0.0f ? 0.0f : v[i];  // NaN stays NaN
    }
    const int64_t at = pixel * e.output_stride + c;
    if (e.output_f32) {
        float* output = static_cast<float*>(e.output) + at;
        store16(output, Float4{{v[0], v[1], v[2], v[3]}});
        store16(output + 4, Float4{{v[4], v[5], v[6], v[7]}});
    } else {
        store16(static_cast<half*>(e.output) + at, pack(v));
    }
}
