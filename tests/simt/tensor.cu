// Tensor copies and products of two shared operands (kernels/common/hopper.cuh). Without arguments: against loops, over maps of odd
// shapes, each in three schedules; prints the first fault. `PROGRAM KERNEL SCHEDULE`: one planted fault, or its sound twin.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../../kernels/common/hopper.cuh"
#include "launch.h"
#include "maps.h"

constexpr int THREADS = 128, BARRIER_AT = 24576, SHARED_BYTES = 24704;

struct Params {
    TensorMap map, other;
    float* out;
    int32_t at[4], offsets[2];
    int32_t rows, bytes;
};

DEVICE Shared<MBarrier> barrier() { return smem<MBarrier>(BARRIER_AT); }

DEVICE void start() {
    if (threadIdx.x == 0) {
        mbarrier_init(barrier(), 1);
        mbarrier_init_fence();
    }
    sync_threads();
}

// Column k of row i of a tile as the 128-byte swizzle has it.
DEVICE half element(int i, int k) { return smem<half>(i * 128)[((k / 8) ^ (i % 8)) * 8 + k % 8]; }

DEVICE void copy(const Params& p, int to, int expected) {
    if (threadIdx.x != 0) return;
    mbarrier_arrive_expect(barrier(), expected);
    if (p.map.mode == TensorMap::TILED) {
        tensor_copy(smem<half>(to), p.map, p.at[0], p.at[1], p.at[2], barrier());
    } else {
        tensor_copy_im2col(smem<half>(to), p.map, p.at[0], p.at[1], p.at[2], p.at[3], p.offsets[0], p.offsets[1], barrier());
    }
}

DEVICE void store(const Params& p) {
    for (int i = threadIdx.x; i < p.rows * 64; i += THREADS) p.out[i] = half_to_float(element(i / 64, i % 64));
}

DEVICE void whole(const Params& p) {
    start();
    copy(p, 0, p.bytes);
    mbarrier_wait(barrier(), 0);
    store(p);
}

// The product of a tile of 64 rows by one of N rows.
template <int N> DEVICE void product(const Params& p) {
    start();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(barrier(), (64 + N) * 128);
        tensor_copy(smem<half>(0), p.map, 0, 0, 0, barrier());
        tensor_copy(smem<half>(8192), p.other, 0, 0, 0, barrier());
    }
    mbarrier_wait(barrier(), 0);
    AccumulatorOf<N> sum;
    wgmma_fence();
    for (int k = 0; k < 64; k += 16) wgmma_m64k16(sum, wgmma_rows(smem<half>(0) + k), wgmma_rows(smem<half>(8192) + k), k > 0);
    wgmma_commit();
    wgmma_wait<0>(sum);
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    for (int i = 0; i < N / 2; ++i) p.out[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2] = sum[i];
}

KERNEL(whole, Params, THREADS, whole)
KERNEL(product_64, Params, THREADS, product<64>)
KERNEL(product_128, Params, THREADS, product<128>)

// --- faults -----------------------------------------------------------------------------------------------------------

template <bool SOUND> DEVICE void missing_bytes(const Params& p) {
    start();
    copy(p, 0, SOUND ? p.bytes : p.bytes / 2);
    mbarrier_wait(barrier(), 0);
    store(p);
}

template <bool SOUND> DEVICE void misaligned(const Params& p) {
    start();
    copy(p, SOUND ? 0 : 64, p.bytes);
    mbarrier_wait(barrier(), 0);
    if (SOUND) store(p);
}

template <bool SOUND> DEVICE void not_awaited(const Params& p) {
    start();
    copy(p, 0, p.bytes);
    if (SOUND) mbarrier_wait(barrier(), 0);
    store(p);
    mbarrier_wait(barrier(), 0);
}

template <int CORNER, int OFFSET, bool NO_MAP, bool OTHER_MODE> DEVICE void place(const Params& p) {
    start();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(barrier(), p.bytes);
        const TensorMap& map = NO_MAP ? p.other : p.map;
        if (OTHER_MODE) {
            tensor_copy(smem<half>(0), map, 0, 0, 0, barrier());
        } else {
            tensor_copy_im2col(smem<half>(0), map, 0, CORNER, -1, 0, OFFSET, 2, barrier());
        }
    }
    mbarrier_wait(barrier(), 0);
    store(p);
}
template <bool SOUND> DEVICE void outside_corners(const Params& p) { place<SOUND ? -1 : -2, 2, false, false>(p); }
template <bool SOUND> DEVICE void between_strides(const Params& p) { place<SOUND ? 1 : 0, 2, false, false>(p); }
template <bool SOUND> DEVICE void far_offset(const Params& p) { place<-1, SOUND ? 255 : 256, false, false>(p); }
template <bool SOUND> DEVICE void no_map(const Params& p) { place<-1, 2, !SOUND, false>(p); }
template <bool SOUND> DEVICE void other_mode(const Params& p) { place<-1, 2, false, !SOUND>(p); }

template <bool SOUND> DEVICE void left_overwritten(const Params& p) {
    start();
    copy(p, 0, p.bytes);
    mbarrier_wait(barrier(), 0);
    AccumulatorOf<64> sum;
    wgmma_fence();
    wgmma_m64k16(sum, wgmma_rows(smem<half>(0)), wgmma_rows(smem<half>(0)), false);
    wgmma_commit();
    if (!SOUND) smem<half>(0)[threadIdx.x * 8] = float_to_half(-1.0f);
    wgmma_wait<0>(sum);
    p.out[threadIdx.x] = sum[0];
}

// Rows of 64 of a pattern to the box at p.at; `p.out` counts nothing.
DEVICE float pattern(int i, int k) { return float((i * 64 + k) % 1021 - 510); }
template <int ALIGNED, bool ORDERED, bool AWAITED, bool KEPT> DEVICE void stored(const Params& p, const TensorMap& map) {
    const int at = ALIGNED ? 0 : 64;
    for (int i = threadIdx.x; i < p.rows * 64; i += THREADS) {
        const int row = i / 64, k = i % 64;
        smem<half>(at + row * 128)[((k / 8) ^ (row % 8)) * 8 + k % 8] = float_to_half(pattern(row, k));
    }
    fence_proxy_async();
    if (ORDERED) sync_threads();
    // In no order of the threads the last.
    if (threadIdx.x == THREADS / 2) {
        tensor_store(map, p.at[0], p.at[1], p.at[2], smem<half>(at));
        store_commit();
        if (!KEPT) smem<half>(at)[0] = float_to_half(-1.0f);
        if (AWAITED) store_wait_read<0>();
    }
}
DEVICE void box_stored(const Params& p) { stored<true, true, true, true>(p, p.map); }
KERNEL(box_stored, Params, THREADS, box_stored)
template <bool SOUND> DEVICE void stored_too_early(const Params& p) { stored<true, SOUND, true, true>(p, p.other); }
template <bool SOUND> DEVICE void stored_unaligned(const Params& p) { stored<SOUND, true, true, true>(p, p.other); }
template <bool SOUND> DEVICE void stored_overwritten(const Params& p) { stored<true, true, true, SOUND>(p, p.other); }
template <bool SOUND> DEVICE void stored_not_awaited(const Params& p) { stored<true, true, SOUND, true>(p, p.other); }
template <bool SOUND> DEVICE void stored_elsewhere(const Params& p) {
    TensorMap map = p.other;
    // As if the tensor had more rows.
    if (!SOUND) map.sizes[2] += 1024;
    if (!SOUND) map.address += uint64_t(map.strides[1]) * 1024;
    stored<true, true, true, true>(p, map);
}
template <bool SOUND> DEVICE void stored_by_im2col(const Params& p) { stored<true, true, true, true>(p, SOUND ? p.other : p.map); }

#define BOTH(NAME)                             \
    KERNEL(NAME, Params, THREADS, NAME<false>) \
    KERNEL(NAME##_sound, Params, THREADS, NAME<true>)
BOTH(missing_bytes)
BOTH(misaligned)
BOTH(not_awaited)
BOTH(outside_corners)
BOTH(between_strides)
BOTH(far_offset)
BOTH(no_map)
BOTH(other_mode)
BOTH(left_overwritten)
BOTH(stored_too_early)
BOTH(stored_unaligned)
BOTH(stored_overwritten)
BOTH(stored_not_awaited)
BOTH(stored_elsewhere)
BOTH(stored_by_im2col)

// --- the host ---------------------------------------------------------------------------------------------------------

namespace {

// Channels of a slice of a wider tensor.
struct Image {
    int n, h, w, c, stride;
    half* data = nullptr;
    Image(int n, int h, int w, int c, int stride) : n(n), h(h), w(w), c(c), stride(stride) {
        // No more memory than the slice reaches.
        const size_t elements = size_t(n * h * w - 1) * stride + c;
        data = static_cast<half*>(ddu_simt_alloc(elements * 2));
        for (size_t i = 0; i < elements; ++i) data[i] = float_to_half(float(int(i * 7919 % 2039) - 1019));
    }
    ~Image() { ddu_simt_free(data); }
    float at(int n_, int h_, int w_, int c_) const {
        if (n_ < 0 || n_ >= n || h_ < 0 || h_ >= h || w_ < 0 || w_ >= w || c_ >= c) return 0.0f;
        return half_to_float(data[((n_ * h + h_) * w + w_) * stride + c_]);
    }
};

TensorMap im2col(const Image& x, int padding, int reach, int stride, int pixels) {
    return ::im2col(x.data, x.n, x.h, x.w, x.c, x.stride, padding, reach, stride, pixels);
}

// [z, y, x] with the image's rows as z, its columns as y.
TensorMap tiled(const Image& x, int rows, int columns) {
    return ::tiled(x.data, {x.c, x.w, x.h}, {x.stride, x.stride * x.w}, rows, columns);
}

float* fresh(size_t values) {
    auto* out = static_cast<float*>(ddu_simt_alloc(values * 4));
    for (size_t i = 0; i < values; ++i) out[i] = NAN;
    return out;
}

bool same(const char* what, const std::vector<float>& expected, const char* kernel, Params p) {
    for (uint32_t schedule = 0; schedule < 3; ++schedule) {
        p.out = fresh(expected.size());
        if (!launch(kernel, p, {THREADS, SHARED_BYTES, schedule, 5})) return false;
        size_t wrong = 0;
        for (size_t i = 0; i < expected.size(); ++i) wrong += p.out[i] != expected[i];
        ddu_simt_free(p.out);
        if (wrong) std::printf("%s, schedule %u: %zu of %zu values are wrong\n", what, schedule, wrong, expected.size());
        if (wrong) return false;
    }
    return true;
}

// Every tile of a convolution, every filter position, every block of channels.
bool convolution(const Image& x, int kernel, int stride, int dilation, int padding, int pixels) {
    const int reach = dilation * (kernel - 1);
    const int out_h = (x.h + 2 * padding - reach - 1) / stride + 1, out_w = (x.w + 2 * padding - reach - 1) / stride + 1;
    Params p = {im2col(x, padding, reach, stride, pixels), {}, nullptr, {}, {}, pixels, pixels * 128};
    for (int first = 0; first < x.n * out_h * out_w; first += pixels) {
        for (int tap = 0; tap < kernel * kernel; ++tap) {
            for (int c = 0; c < x.c; c += 64) {
                const int place[4] = {c, first % out_w * stride - padding, first / out_w % out_h * stride - padding, first / out_w / out_h};
                for (int i = 0; i < 4; ++i) p.at[i] = place[i];
                p.offsets[0] = tap % kernel * dilation;
                p.offsets[1] = tap / kernel * dilation;
                std::vector<float> expected;
                for (int m = first; m < first + pixels; ++m) {
                    const int row = m / out_w % out_h * stride - padding + p.offsets[1];
                    const int column = m % out_w * stride - padding + p.offsets[0];
                    for (int k = 0; k < 64; ++k) expected.push_back(x.at(m / out_w / out_h, row, column, c + k));
                }
                if (!same("im2col", expected, "whole", p)) return false;
            }
        }
    }
    return true;
}

bool box(const Image& x, int rows, int columns, int c, int w, int h) {
    Params p = {tiled(x, rows, columns), {}, nullptr, {c, w, h}, {}, rows * columns, rows * columns * 128};
    std::vector<float> expected;
    for (int i = 0; i < rows * columns; ++i) {
        for (int k = 0; k < 64; ++k) expected.push_back(x.at(0, h + i / columns, w + i % columns, c + k));
    }
    return same("tiled", expected, "whole", p);
}

// Nothing but what lies inside the tensor changes.
bool stored(int rows, int c, int w, int h) {
    constexpr uint16_t BEFORE = 0x7e5a;
    for (uint32_t schedule = 0; schedule < 3; ++schedule) {
        const Image x(1, 21, 1, 40, 48);
        const int elements = (x.h - 1) * x.stride + x.c;
        for (int i = 0; i < elements; ++i) x.data[i] = half{BEFORE};
        Params p = {tiled(x, rows, 1), {}, nullptr, {c, w, h}, {}, rows, 0};
        if (!launch("box_stored", p, {THREADS, SHARED_BYTES, schedule, 5})) return false;
        int wrong = 0;
        for (int i = 0; i < elements; ++i) {
            const int row = i / x.stride - h, k = i % x.stride - c;
            const bool inside = w == 0 && row >= 0 && row < rows && i % x.stride < x.c && k >= 0 && k < 64;
            wrong += inside ? half_to_float(x.data[i]) != pattern(row, k) : x.data[i].bits != BEFORE;
        }
        if (wrong) std::printf("a store of %d rows at %d, %d, %d, schedule %u: %d values are wrong\n", rows, c, w, h, schedule, wrong);
        if (wrong) return false;
    }
    return true;
}

template <int N> bool products(const char* kernel) {
    // Small whole numbers: their sums are exact.
    const Image a(1, 64, 1, 64, 72), b(1, N, 1, 56, 56);
    for (const Image* x : {&a, &b}) {
        for (int i = 0; i < (x->h - 1) * x->stride + x->c; ++i) x->data[i] = float_to_half(float(i * 37 % 17 - 8));
    }
    Params p = {tiled(a, 64, 1), tiled(b, N, 1), nullptr, {}, {}, 64, 0};
    std::vector<float> expected;
    for (int i = 0; i < 64 * N; ++i) {
        float sum = 0.0f;
        for (int k = 0; k < 64; ++k) sum += a.at(0, i / N, 0, k) * b.at(0, i % N, 0, k);
        expected.push_back(sum);
    }
    return same(kernel, expected, kernel, p);
}

}  // namespace

int main(int count, char** argument) {
    if (count > 2) {
        const Image x(2, 5, 7, 40, 40);
        const Image y(1, 21, 1, 40, 48);
        Params p = {im2col(x, 1, 2, 2, 64), {}, fresh(64 * 64), {0, -1, -1, 0}, {2, 2}, 64, 64 * 128};
        if (std::string(argument[1]).rfind("stored", 0) == 0) {
            p.other = tiled(y, 16, 1);
            p.at[1] = 0;
            p.at[2] = 8;
            p.rows = 16;
        }
        const bool ended = launch(argument[1], p, {THREADS, SHARED_BYTES, uint32_t(atoi(argument[2]))});
        ddu_simt_free(p.out);
        return !ended;
    }
    const Image odd(2, 5, 7, 72, 80), small(3, 3, 4, 24, 24);
    const bool sound = convolution(odd, 3, 1, 1, 1, 32) && convolution(odd, 3, 2, 1, 1, 16) && convolution(odd, 3, 1, 6, 6, 64) &&
                       convolution(odd, 1, 2, 1, 0, 8) && convolution(small, 5, 1, 1, 2, 128) && convolution(small, 3, 3, 1, 0, 8) &&
                       box(odd, 8, 1, 0, 3, 0) && box(odd, 3, 4, 64, -1, 4) && box(odd, 2, 8, 8, 5, -1) && products<64>("product_64") &&
                       products<128>("product_128") && stored(16, 0, 0, 0) && stored(16, 0, 0, 8) && stored(8, 32, 0, -3) &&
                       stored(32, 0, 0, 20) && stored(16, 0, 1, 0);
    if (sound) std::printf("ok\n");
    return !sound;
}
