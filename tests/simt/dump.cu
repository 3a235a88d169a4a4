// What mma and ldmatrix leave in the registers of each lane. By nvcc it runs on a GPU, by the C++ compiler on
// the simt device; tests/simt/main.rs holds the one against the other's dumps in tests/golden/ptx:
//
//   nvcc -std=c++17 -arch=native -o dump tests/simt/dump.cu && ./dump > tests/golden/ptx/sm_90.txt
//
// The lines "rounding" tell how a device sums what f32 cannot hold; devices may differ there.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "../../kernels/common/arch.cuh"
#if !defined(__CUDACC__)
#include "launch.h"
#endif

struct Params {
    uint32_t* out;  // [4][4][32]: case, register, lane
};

DEVICE void store(const Params& p, int section, int i, uint32_t word) { p.out[(section * 4 + i) * 32 + threadIdx.x] = word; }

DEVICE void store(const Params& p, int section, const float (&d)[4]) {
    for (int i = 0; i < 4; ++i) {
        uint32_t bits;
        memcpy(&bits, &d[i], 4);
        store(p, section, i, bits);
    }
}

DEVICE void registers(const Params& p) {
    const int lane = threadIdx.x;
    // Whole numbers without a pattern: the sums are exact, and a value in a wrong place gives another sum.
    auto whole = [&](int seed) { return float((lane * 29 + seed * 71) % 127 - 63); };
    uint32_t a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; ++i) a[i] = pack(whole(2 * i), whole(2 * i + 1));
    for (int i = 0; i < 2; ++i) b[i] = pack(whole(2 * i + 8), whole(2 * i + 9));
    for (int i = 0; i < 4; ++i) d[i] = whole(i + 12);
    mma_m16n8k16(d, a, b);
    store(p, 0, d);

    // 1 plus or minus (by the row) 16 terms of 2^-24 .. 2^-27 (by the column), each of which alone vanishes beside
    // 1 in f32.
    const float sign = (lane / 4) % 2 ? -1.0f : 1.0f;
    const float term = 1.0f / float(1 << (12 + lane / 8));
    for (int i = 0; i < 4; ++i) a[i] = pack(sign / 4096.0f, sign / 4096.0f);
    for (int i = 0; i < 2; ++i) b[i] = pack(term, term);
    for (int i = 0; i < 4; ++i) d[i] = 1.0f;
    mma_m16n8k16(d, a, b);
    store(p, 1, d);

    // Element (row, column) of matrix m is 64 m + 8 row + column.
    const Shared<half> tile = smem<half>(0);
    for (int i = lane; i < 256; i += 32) tile[i] = float_to_half(float(i));
    sync_warp();
    uint32_t r[4];
    ldmatrix_x4(r, tile + lane * 8);
    for (int i = 0; i < 4; ++i) store(p, 2, i, r[i]);
    ldmatrix_x4_transposed(r, tile + lane * 8);
    for (int i = 0; i < 4; ++i) store(p, 3, i, r[i]);
}

KERNEL(dump, Params, 32, registers)

int main() {
    const size_t bytes = 4 * 4 * 32 * sizeof(uint32_t);
    Params p;
#if defined(__CUDACC__)
    void* memory = nullptr;
    if (cudaError_t error = cudaMallocManaged(&memory, bytes)) return std::fprintf(stderr, "%s\n", cudaGetErrorString(error)), 1;
    p.out = static_cast<uint32_t*>(memory);
    dump<<<1, 32, 512>>>(p);
    if (cudaError_t error = cudaDeviceSynchronize()) return std::fprintf(stderr, "%s\n", cudaGetErrorString(error)), 1;
#else
    p.out = static_cast<uint32_t*>(ddu_simt_alloc(bytes));
    if (!launch("dump", p, {32, 512}, stderr)) return 1;
#endif
    const char* names[] = {"mma", "rounding", "ldmatrix", "ldmatrix.trans"};
    for (int section = 0; section < 4; ++section) {
        for (int lane = 0; lane < 32; ++lane) {
            std::printf("%s lane %d:", names[section], lane);
            for (int i = 0; i < 4; ++i) std::printf(" %08x", unsigned(p.out[(section * 4 + i) * 32 + lane]));
            std::printf("\n");
        }
    }
    return 0;
}
