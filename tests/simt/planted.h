// A program that runs one kernel, planted with a fault or sound: `PROGRAM KERNEL SCHEDULE` prints what the device said, else
// the output. Its kernels are registered with BOTH; SHARED_BYTES is theirs, BLOCKS how many are a cluster.
#pragma once
#include <cstdio>
#include <cstdlib>

#include "../../kernels/common/arch.cuh"
#include "launch.h"

struct Params {
    float* out;      // [128]
    const half* in;  // [128 * 8], i / 8
};

constexpr int THREADS = 128;

#if !defined(BLOCKS)
#define BLOCKS 1
#endif

#define BOTH(NAME)                             \
    KERNEL(NAME, Params, THREADS, NAME<false>) \
    KERNEL(NAME##_sound, Params, THREADS, NAME<true>)

int main(int, char** argv) {
    Params p;
    auto* in = static_cast<half*>(ddu_simt_alloc(THREADS * 8 * sizeof(half)));
    for (int i = 0; i < THREADS * 8; ++i) in[i] = float_to_half(float(i / 8));
    p.in = in;
    p.out = static_cast<float*>(ddu_simt_alloc(THREADS * sizeof(float)));
    const bool ended = launch(argv[1], p, {THREADS, SHARED_BYTES, uint32_t(atoi(argv[2])), 0, BLOCKS, 1, 1, BLOCKS});
    if (ended) {
        for (int i = 0; i < THREADS; ++i) std::printf("%g ", double(p.out[i]));
        std::printf("\n");
    }
    ddu_simt_free(in);
    ddu_simt_free(p.out);
    return !ended;
}
