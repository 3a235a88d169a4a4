// The moments kernels, those of -DKERNEL_FILE=... as it has them (tests/simt/main.rs takes barriers out of them), two images folded in
// two batches, against two f64 passes, in three schedules. Prints the first fault; exit status 1 if there is one.
#include KERNEL_FILE
#ifndef OTHER_FILE
#define OTHER_FILE "../../kernels/moments_sort.cu"
#endif
#include OTHER_FILE

#include <cstdio>

#include "launch.h"

namespace {

constexpr int IMAGES = 2, P = 600, D = 80, C = 3;
constexpr int SEGMENTS = (P + SEGMENT - 1) / SEGMENT, SLOTS = P / CHUNK + C, PANELS = (D + BLOCK - 1) / BLOCK,
              BLOCKS = PANELS * (PANELS + 1) / 2;

template <class T> T* allocate(size_t n) { return static_cast<T*>(ddu_simt_alloc(n * sizeof(T))); }

uint32_t state = 1;
uint32_t next() { return state = state * 1664525u + 1013904223u; }

struct Step {
    const char* kernel;
    uint32_t x, y, z, threads, shared_bytes;
};
// clang-format off
constexpr Step STEPS[] = {
    {"moments_keys", SEGMENTS, 1, 1, 256, 2176},
    {"moments_offsets", 1, 1, 1, 288, 1152},
    {"moments_place", SEGMENTS, 1, 1, 256, 0},
    {"moments_sums", SLOTS, 1, 1, SUMS, WEIGHTS_AT + SUMS / 2 * 3 * 8},
    {"moments_shifts", C, 1, 1, 256, 0},
    {"moments_syrk", SLOTS, BLOCKS, 1, 128, ROOTS_AT + CHUNK * 4},
    {"moments_fold", BLOCKS * 16 + 1, C, 1, 256, 0},
};
// clang-format on

}  // namespace

int main() {
    auto* z = allocate<half>(IMAGES * P * D);
    auto* labels = allocate<uint8_t>(IMAGES * P);
    for (int i = 0; i < IMAGES * P; ++i) labels[i] = next() >> 24 < 200 ? 1 : next() >> 28;
    for (int i = 0; i < IMAGES * P * D; ++i) z[i] = float_to_half(2.0f + float(int(next() >> 8) % 2001 - 1000) / 1000.0f);
    auto* count = allocate<int64_t>(257);
    auto* mean = allocate<double>(C * D);
    auto* scatter = allocate<double>(C * D * D);
    for (uint32_t schedule = 0; schedule < 3; ++schedule) {
        for (int i = 0; i < 257; ++i) count[i] = 0;
        for (int i = 0; i < C * D; ++i) mean[i] = 0.0;
        for (int i = 0; i < C * D * D; ++i) scatter[i] = 0.0;
        MomentsParams p = {};
        p.keys = allocate<uint16_t>(P);
        p.ranks = allocate<uint8_t>(P);
        p.offsets = allocate<int32_t>(SEGMENTS * KEYS);
        p.totals = allocate<int32_t>(3 * KEYS);
        p.chunks = allocate<int32_t>(SLOTS * 4);
        p.sorted = allocate<int32_t>(P);
        p.sums = allocate<double>(SLOTS * D);
        p.weight_before = allocate<double>(C);
        p.mean_before = allocate<double>(C * D);
        p.extremes = allocate<float>(SLOTS * 2 * D);
        p.image_mean = allocate<double>(C * D);
        p.shifts = allocate<float>(C * D * 2);
        p.partial = allocate<float>(SLOTS * BLOCKS * BLOCK * BLOCK);
        p.count = count;
        p.mean = mean;
        p.scatter = scatter;
        p.batch = 1;
        p.cells = P;
        p.feature_stride = p.channels = D;
        p.classes = C;
        p.segments = SEGMENTS;
        p.slots = SLOTS;
        p.blocks = BLOCKS;
        p.groups = {D / 8, int32_t(0xccccccccu + 1), 4};  // ceil(2^35 / 10)
        p.lanes = SUMS / (D / 8);
        for (int image = 0; image < IMAGES; ++image) {
            p.features = z + image * P * D;
            p.labels = labels + image * P;
            for (const Step& step : STEPS) {
                const Run run = {
                    uint32_t(step.threads), uint64_t(step.shared_bytes), uint32_t(schedule), 0, uint32_t(step.x), uint32_t(step.y),
                    uint32_t(step.z)};
                if (!launch(step.kernel, p, run)) return 1;
            }
        }
        int wrong = 0;
        for (int c = 0; c < C; ++c) {
            int64_t n = 0;
            double average[D] = {};
            for (int i = 0; i < IMAGES * P; ++i) n += labels[i] == c;
            for (int i = 0; i < IMAGES * P; ++i) {
                for (int k = 0; k < D; ++k) average[k] += labels[i] == c ? half_to_float(z[i * D + k]) / double(n) : 0.0;
            }
            wrong += count[c] != n;
            for (int i = 0; i < D; ++i) {
                wrong += !(std::fabs(mean[c * D + i] - average[i]) < 1e-12);
                for (int j = 0; j <= i; ++j) {
                    double sum = 0.0;
                    for (int pixel = 0; pixel < IMAGES * P; ++pixel) {
                        if (labels[pixel] != c) continue;
                        sum += (half_to_float(z[pixel * D + i]) - average[i]) * (half_to_float(z[pixel * D + j]) - average[j]);
                    }
                    // A deviation of 0.58: S_ii is n / 3.
                    wrong += !(std::fabs(scatter[(c * D + i) * D + j] - sum) < 2e-6 * double(n) / 3);
                }
            }
        }
        if (wrong) {
            std::printf("schedule %u: %d values are wrong\n", schedule, wrong);
            return 1;
        }
    }
    return 0;
}
