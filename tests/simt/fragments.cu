// The host bodies of mma, ldmatrix and wgmma against the layouts of the PTX ISA, stated here once more ("Matrix
// Fragments for mma.m16n8k16 with floating point type", "ldmatrix", "Register
// Fragments for wgmma.mma_async.m64nNk16", "Strides", "Swizzling modes"), element by element as the manual writes
// them. Prints "ok", or the first difference. Also the fp16 conversions, of every value, against the compiler's.
#include <cstdio>
#include <cstring>

#include "../../kernels/common/hopper.cuh"
#include "launch.h"

struct Params {
    const float* a;  // [16][16]
    const float* b;  // [16][8]
    float* d;        // [16][8], in and out
    uint32_t* r;     // [2][4][32], what ldmatrix gives
};

// Element i of a lane's fragment lies at (row, column).
struct At {
    int row, column;
};
DEVICE At of_a(int lane, int i) {
    const int group = lane >> 2, in_group = lane % 4;
    const int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8;
    const int column = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
    return {row, column};
}
DEVICE At of_b(int lane, int i) {
    const int group = lane >> 2, in_group = lane % 4;
    return {i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8, group};
}
DEVICE At of_d(int lane, int i) {
    const int group = lane >> 2, in_group = lane % 4;
    return {i < 2 ? group : group + 8, in_group * 2 + (i & 1)};
}

DEVICE void fragments(const Params& p) {
    const int lane = threadIdx.x;
    uint32_t a[4], b[2];
    float d[4];
    auto value_a = [&](int i) { return p.a[of_a(lane, i).row * 16 + of_a(lane, i).column]; };
    auto value_b = [&](int i) { return p.b[of_b(lane, i).row * 8 + of_b(lane, i).column]; };
    for (int i = 0; i < 4; ++i) a[i] = pack(value_a(2 * i), value_a(2 * i + 1));
    for (int i = 0; i < 2; ++i) b[i] = pack(value_b(2 * i), value_b(2 * i + 1));
    for (int i = 0; i < 4; ++i) d[i] = p.d[of_d(lane, i).row * 8 + of_d(lane, i).column];
    mma_m16n8k16(d, a, b);
    sync_warp();
    for (int i = 0; i < 4; ++i) p.d[of_d(lane, i).row * 8 + of_d(lane, i).column] = d[i];

    // Four matrices, element (row, column) of matrix m is 100 m + 10 row + column.
    const Shared<half> tile = smem<half>(0);
    for (int i = lane; i < 256; i += 32) tile[i] = float_to_half(float(100 * (i / 64) + 10 * (i / 8 % 8) + i % 8));
    sync_warp();
    uint32_t r[4];
    ldmatrix_x4(r, tile + lane * 8);
    for (int m = 0; m < 4; ++m) p.r[m * 32 + lane] = r[m];
    ldmatrix_x4_transposed(r, tile + lane * 8);
    for (int m = 0; m < 4; ++m) p.r[128 + m * 32 + lane] = r[m];
    // Shuffle and vote.
    const float other = shuffle_xor(float(lane), 5);
    const uint32_t odd = vote(lane % 2 == 1);
    if (other != float(lane ^ 5) || odd != 0xaaaaaaaau) p.r[0] = 0xdead;
}

KERNEL(fragments, Params, 32, fragments)

struct Products {
    const float* a;  // [4 steps][64][16]
    const float* b;  // [64][64]: n, k
    float* d;        // [4][64][64]: products with the first 64, 48, 32, 16 of n, of steps 0 .. 3, added to -1
};

DEVICE void warpgroup(const Products& p) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Row n has 128 bytes; its chunk c of 16 bytes lies where c and n % 8 differ.
    const Shared<half> tile = smem<half>(0);
    for (int i = threadIdx.x; i < 64 * 64; i += 128) {
        const int n = i / 64, k = i % 64, chunk = k / 8, lies = (chunk & ~(n % 8)) | (~chunk & (n % 8));
        tile[n * 64 + lies * 8 + k % 8] = float_to_half(p.b[i]);
    }
    sync_threads();
    Accumulator sum[4];
    for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 32; ++j) sum[i][j] = -1.0f;
    }
    wgmma_fence();
    for (int step = 0; step < 4; ++step) {
        uint32_t a[4];
        for (int i = 0; i < 4; ++i) {
            auto value = [&](int j) {
                const At at = of_a(lane, j);
                return p.a[(step * 64 + warp * 16 + at.row) * 16 + at.column];
            };
            a[i] = pack(value(2 * i), value(2 * i + 1));
        }
        const uint64_t b = wgmma_rows(tile + step * 16);
        wgmma_m64k16<64>(sum[0], a, b, true);
        wgmma_m64k16<48>(sum[1], a, b, true);
        wgmma_m64k16<32>(sum[2], a, b, true);
        wgmma_m64k16<16>(sum[3], a, b, step > 0);
    }
    wgmma_commit();
    wgmma_wait<0>(sum[0], sum[1], sum[2], sum[3]);
    for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 32; ++j) {
            // Figure "WGMMA .m64nNk16 register fragment layout for accumulator matrix D".
            const int row = 16 * warp + lane / 4 + 8 * (j / 2 % 2), column = 8 * (j / 4) + lane % 4 * 2 + j % 2;
            p.d[(i * 64 + row) * 64 + column] = sum[i][j];
        }
    }
}

KERNEL(warpgroup, Products, 128, warpgroup)

int fail(const char* what, int i) {
    std::printf("%s differs at %d\n", what, i);
    return 1;
}

int check_warpgroup() {
    auto* a = static_cast<float*>(ddu_simt_alloc(4 * 64 * 16 * 4));
    auto* b = static_cast<float*>(ddu_simt_alloc(64 * 64 * 4));
    auto* d = static_cast<float*>(ddu_simt_alloc(4 * 64 * 64 * 4));
    for (int i = 0; i < 4 * 64 * 16; ++i) a[i] = float(i * 37 % 61 - 30);
    for (int i = 0; i < 64 * 64; ++i) b[i] = float(i * 53 % 41 - 20);
    Products p = {a, b, d};
    if (!launch("warpgroup", p, {128, 64 * 128})) return 1;
    for (int i = 0; i < 4 * 64 * 64; ++i) {
        const int size = 64 - i / 4096 * 16, m = i / 64 % 64, n = i % 64;
        float want = size == 16 && n < 16 ? 0.0f : -1.0f;
        for (int k = 0; k < 64 && n < size; ++k) want += a[(k / 16 * 64 + m) * 16 + k % 16] * b[n * 64 + k];
        if (d[i] != want) return fail("wgmma", i);
    }
    return 0;
}

int main() {
    if (check_warpgroup()) return 1;
    auto* a = static_cast<float*>(ddu_simt_alloc(1024));
    auto* b = static_cast<float*>(ddu_simt_alloc(512));
    auto* d = static_cast<float*>(ddu_simt_alloc(512));
    auto* r = static_cast<uint32_t*>(ddu_simt_alloc(1024));
    // Whole numbers: sums are exact, so every order gives the same bits.
    for (int i = 0; i < 256; ++i) a[i] = float(i * 37 % 61 - 30);
    for (int i = 0; i < 128; ++i) b[i] = float(i * 53 % 41 - 20);
    for (int i = 0; i < 128; ++i) d[i] = float(i * 7 % 11);
    Params p = {a, b, d, r};
    if (!launch("fragments", p, {32, 512})) return 1;
    for (int i = 0; i < 128; ++i) {
        float sum = float(i * 7 % 11);
        for (int k = 0; k < 16; ++k) sum += a[i / 8 * 16 + k] * b[k * 8 + i % 8];
        if (d[i] != sum) return fail("mma", i);
    }
    for (int i = 0; i < 128; ++i) {
        const int m = i / 32, lane = i % 32, row = lane / 4, column = lane % 4 * 2;
        auto element = [&](int row, int column) { return float_to_half(float(100 * m + 10 * row + column)).bits; };
        if (r[i] != (element(row, column) | uint32_t(element(row, column + 1)) << 16)) return fail("ldmatrix", i);
        if (r[128 + i] != (element(column, row) | uint32_t(element(column + 1, row)) << 16)) return fail("ldmatrix.trans", i);
    }
    // fp16 to f32 is checked by value, f32 to fp16 by being the nearest: between two neighbours, the even one at half way.
    for (uint32_t i = 0; i < 0x7c00; ++i) {
        const double exact = i < 0x400 ? double(i) * 0x1p-24 : (1024.0 + double(i & 0x3ff)) * double(uint64_t(1) << (i >> 10)) * 0x1p-25;
        const float f = half_to_float(half{uint16_t(i)});
        if (double(f) != exact || half_to_float(half{uint16_t(i | 0x8000)}) != -f) return fail("half to float", int(i));
        if (float_to_half(f).bits != i || float_to_half(-f).bits != (i | 0x8000)) return fail("float to half", int(i));
        if (i == 0x7bff) break;
        const float next = half_to_float(half{uint16_t(i + 1)}), middle = f + (next - f) / 2;
        if (float_to_half(middle).bits != (i + 1) / 2 * 2) return fail("float to half at half way", int(i));
        if (float_to_half(std::nextafter(middle, 0.0f)).bits != i) return fail("float to half below", int(i));
        if (float_to_half(std::nextafter(middle, 1e9f)).bits != i + 1) return fail("float to half above", int(i));
    }
    const bool specials = float_to_half(65519.0f).bits == 0x7bff && float_to_half(65520.0f).bits == 0x7c00 &&
                          float_to_half(INFINITY).bits == 0x7c00 && std::isinf(half_to_float(half{0xfc00})) &&
                          std::isnan(half_to_float(float_to_half(NAN))) && std::isnan(half_to_float(half{0xffff}));
    if (!specials) return fail("special values", 0);
    std::printf("ok\n");
    return 0;
}
