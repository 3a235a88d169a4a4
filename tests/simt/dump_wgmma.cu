// What warpgroup products leave in the registers of each thread, for every N that has a word, as dump.cu does for mma and
// ldmatrix: by nvcc on a GPU of compute capability 9.0, by the C++ compiler on the simt device.
//
//   nvcc -std=c++17 -arch=sm_90a -o dump tests/simt/dump_wgmma.cu && ./dump > tests/golden/ptx/wgmma_sm_90.txt
//
// Each of d = a b and d += a' b' takes 16 of the 32 columns of A [64, 32] and B [64, 32], whole numbers of no pattern: sums
// are exact, and a value in another place, a descriptor off by a step or a swizzle of another kind is another sum.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "../../kernels/common/hopper.cuh"
#if !defined(__CUDACC__)
#include "launch.h"
#endif

constexpr int THREADS = 128, ROWS = 64, DEPTH = 32, ROW_BYTES = 128, TILE_BYTES = ROWS * ROW_BYTES;

struct Params {
    const half* rows;  // B as it lies in shared memory: ROWS rows of ROW_BYTES, chunk c of row r at c ^ r % 8
    float* out;        // [4][32][THREADS]: N, register, thread
};

// Elements of A and B.
DEVICE float a_value(int row, int k) { return float((row * 29 + k * 71) % 127 - 63); }
inline half b_value(int column, int k) {
    const float value = float((column * 37 + k * 53 + 11) % 127 - 63);
#if defined(__CUDACC__)
    return __float2half(value);
#else
    return float_to_half(value);
#endif
}

#if HOPPER
template <int N> DEVICE void product(const Params& p, int section, Shared<half> tile) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    Accumulator d;
    for (int i = 0; i < 32; ++i) d[i] = 0;
    uint32_t a[2][4];
    for (int step = 0; step < 2; ++step) {
        for (int i = 0; i < 4; ++i) {
            const int r = row + i % 2 * 8, k = step * 16 + column + i / 2 * 8;
            a[step][i] = pack(a_value(r, k), a_value(r, k + 1));
        }
    }
    wgmma_fence();
    wgmma_m64k16<N>(d, a[0], wgmma_rows(tile), false);
    wgmma_m64k16<N>(d, a[1], wgmma_rows(tile + 16), true);
    wgmma_commit();
    wgmma_wait<0>(d);
    for (int i = 0; i < 32; ++i) p.out[(section * 32 + i) * THREADS + threadIdx.x] = d[i];
}
#endif

DEVICE void products(const Params& p) {
#if HOPPER
    const Shared<half> tile = smem<half>(0);
    const Shared<MBarrier> barrier = smem<MBarrier>(TILE_BYTES);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(barrier, TILE_BYTES);
        bulk_copy(tile, p.rows, TILE_BYTES, barrier);
    }
    sync_threads();
    mbarrier_wait(barrier, 0);
    product<16>(p, 0, tile);
    product<32>(p, 1, tile);
    product<48>(p, 2, tile);
    product<64>(p, 3, tile);
#endif
}

KERNEL(dump_wgmma, Params, THREADS, products)

int main() {
    constexpr size_t OUT_BYTES = 4 * 32 * THREADS * sizeof(float), SHARED = TILE_BYTES + 128;
    void *rows, *out;
#if defined(__CUDACC__)
    if (cudaMallocManaged(&rows, TILE_BYTES) || cudaMallocManaged(&out, OUT_BYTES)) return std::fprintf(stderr, "no memory\n"), 1;
#else
    rows = ddu_simt_alloc(TILE_BYTES), out = ddu_simt_alloc(OUT_BYTES);
#endif
    std::memset(rows, 0, TILE_BYTES);
    for (int row = 0; row < ROWS; ++row) {
        for (int k = 0; k < DEPTH; ++k) {
            const int chunk = (k / 8) ^ (row % 8);
            const half value = b_value(row, k);
            std::memcpy(static_cast<char*>(rows) + row * ROW_BYTES + chunk * 16 + k % 8 * 2, &value, 2);
        }
    }
    const Params p = {static_cast<const half*>(rows), static_cast<float*>(out)};
#if defined(__CUDACC__)
    dump_wgmma<<<1, THREADS, SHARED>>>(p);
    if (cudaError_t error = cudaDeviceSynchronize()) return std::fprintf(stderr, "%s\n", cudaGetErrorString(error)), 1;
#else
    if (!launch("dump_wgmma", p, {THREADS, SHARED}, stderr)) return 1;
#endif
    for (int section = 0; section < 4; ++section) {
        const int n = 16 * (section + 1);
        for (int thread = 0; thread < THREADS; ++thread) {
            std::printf("wgmma.n%d thread %d:", n, thread);
            for (int i = 0; i < n / 2; ++i) std::printf(" %.0f", p.out[(section * 32 + i) * THREADS + thread]);
            std::printf("\n");
        }
    }
    return 0;
}
