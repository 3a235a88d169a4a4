// A program that runs one kernel, planted with a fault or sound: `PROGRAM KERNEL SCHEDULE` prints what the device said, else
// the output. Its kernels are registered with BOTH; SHARED_BYTES is theirs.
#pragma once
#include <cstdio>
#include <cstdlib>

#include "../../kernels/common/arch.cuh"
#include "../../kernels/simt/api.h"

struct Params {
    float* out;        // [128]
    const half* in;    // [128 * 8], i / 8
};

constexpr int THREADS = 128;

#define BOTH(NAME)                                  \
    KERNEL(NAME, Params, THREADS, NAME<false>)      \
    KERNEL(NAME##_sound, Params, THREADS, NAME<true>)

int main(int, char** argv) {
    Params p;
    auto* in = static_cast<half*>(ddu_simt_alloc(THREADS * 8 * sizeof(half)));
    for (int i = 0; i < THREADS * 8; ++i) in[i] = float_to_half(float(i / 8));
    p.in = in;
    p.out = static_cast<float*>(ddu_simt_alloc(THREADS * sizeof(float)));
    DduSimtLaunch launch = {};
    launch.kernel = argv[1];
    launch.params = &p;
    launch.params_bytes = sizeof p;
    launch.grid_x = launch.grid_y = launch.grid_z = 1;
    launch.threads = THREADS;
    launch.shared_bytes = SHARED_BYTES;
    launch.schedule = atoi(argv[2]);
    launch.workers = 1;
    char error[1024];
    const int failed = ddu_simt_launch(&launch, error, sizeof error);
    if (failed) {
        std::printf("%s\n", error);
    } else {
        for (int i = 0; i < THREADS; ++i) std::printf("%g ", double(p.out[i]));
        std::printf("\n");
    }
    ddu_simt_free(in);
    ddu_simt_free(p.out);
    return failed;
}
