// The C interface of the simt device; src/device/simt.rs declares the same.
#pragma once
#include <cstdint>

#include "simt.h"

extern "C" {

struct DduSimtLaunch {
    const char* kernel;
    const void* params;
    uint64_t params_bytes;
    uint32_t grid_x, grid_y, grid_z;
    uint32_t threads;
    uint64_t shared_bytes;
    uint32_t schedule;  // 0 forward, 1 reverse, 2 random by `seed`
    uint32_t workers;   // OS threads
    uint32_t cluster;   // blocks of x that run together; 0 and 1: none do
    uint64_t seed;
    uint64_t counts[simt::COUNTS];  // out
};

// Runs the kernel to its end: 0, or 1 with a line in `error`.
int ddu_simt_launch(DduSimtLaunch* request, char* error, uint64_t error_bytes);
// The table of kernels: the i-th one's name, or null; its bytes of parameters and threads per block.
const char* ddu_simt_kernel(uint32_t i, uint32_t* params_bytes, uint32_t* threads);
// A buffer of all-ones bytes, aligned to 16; null if there is no memory.
void* ddu_simt_alloc(uint64_t bytes);
void ddu_simt_free(void* data);
}
