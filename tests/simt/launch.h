// One launch on the simt device, for the programs of this folder.
#pragma once
#include <cstdio>

#include "../../kernels/simt/api.h"

struct Run {
    uint32_t threads;
    uint64_t shared_bytes = 0;
    uint32_t schedule = 0;  // forward, reverse, random
    uint64_t seed = 0;
    uint32_t x = 1, y = 1, z = 1;  // blocks
    uint32_t cluster = 1;
};

// Whether the kernel ran to its end; else what the device said is printed.
template <class Params> bool launch(const char* kernel, const Params& params, const Run& run, std::FILE* to = stdout) {
    DduSimtLaunch request = {};
    request.kernel = kernel;
    request.params = &params;
    request.params_bytes = sizeof params;
    request.grid_x = run.x;
    request.grid_y = run.y;
    request.grid_z = run.z;
    request.threads = run.threads;
    request.shared_bytes = run.shared_bytes;
    request.schedule = run.schedule;
    request.seed = run.seed;
    request.workers = 1;
    request.cluster = run.cluster;
    char error[1024];
    if (!ddu_simt_launch(&request, error, sizeof error)) return true;
    std::fprintf(to, "%s\n", error);
    return false;
}
