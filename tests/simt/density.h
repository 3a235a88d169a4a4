// What density.cu and density_hopper.cu share; they include a source, and say which kernels of it to run and how they want W. Against an f64 loop in three
// schedules, with several panels, early exit on and off. Prints the first fault; exit status 1 if there is one.
#include <cstdio>
#include <vector>

#include "launch.h"

namespace {

// Of the random schedule: a missing wait shows only where a lane is late when the copies overtake it.
constexpr uint32_t SEEDS = 6;
constexpr int C = 5, ITEMS = C + 1, WORDS = (P + 31) / 32;

template <class T> T* allocate(size_t n) { return static_cast<T*>(ddu_simt_alloc(n * sizeof(T))); }

uint32_t state = 1;
float uniform() {
    state = state * 1664525u + 1013904223u;
    return float(int(state >> 8) % 2001 - 1000) / 1000.0f;
}

// With 64 PANELS channels.
int check(const Kernel& kernel, const int PANELS) {
    const int D = PANELS * PANEL, PADDED = D, BLOCKS = PANELS * (PANELS + 1) / 2 * (PANEL / BK);  // of an item
    auto* z = allocate<half>(P * D);
    auto* weights = allocate<half>(size_t(ITEMS) * BLOCKS * 2 * PANEL * BK);
    auto* rows = allocate<float>(ITEMS * PADDED * 2);
    auto* constants = allocate<float>(ITEMS);
    auto* ids = allocate<int32_t>(C);
    auto* predicted = allocate<uint8_t>(P);
    auto* density = allocate<float>(P);
    auto* squares = allocate<float>(ITEMS * P);
    auto* stats = allocate<int32_t>(ROOM / 32 * 2);
    for (int i = 0; i < P * D; ++i) z[i] = float_to_half(uniform());
    z[7] = half{0x7c00};
    for (int i = 0; i < P; ++i) predicted[i] = 3;
    // Class 3 is near, the others are so far that what comes after their first panel is never reached.
    for (int c = 0; c < C; ++c) ids[c] = c;
    for (int c = 0; c < ITEMS; ++c) constants[c] = c == 3 ? -10.0f : -200.0f;
    std::vector<double> w(size_t(ITEMS) * D * D);
    for (int c = 0; c < ITEMS; ++c) {
        for (int i = 0; i < PADDED; ++i) {
            rows[(c * PADDED + i) * 2] = uniform();
            rows[(c * PADDED + i) * 2 + 1] = c == 3 ? 0.125f : 0.5f;
        }
        for (int panel = 0; panel < PANELS; ++panel) {
            for (int block = 0; block < (panel + 1) * PANEL / BK; ++block) {
                half* to = weights + ((size_t(c) * BLOCKS + panel * (panel + 1) / 2 * (PANEL / BK) + block) * 2) * PANEL * BK;
                for (int row = 0; row < PANEL; ++row) {
                    for (int column = 0; column < BK; ++column) {
                        const int i = panel * PANEL + row, k = block * BK + column, at = place(row, column / 8) + column % 8;
                        const half high = float_to_half(k <= i ? uniform() : 0.0f), low = float_to_half(k <= i ? uniform() / 2048 : 0.0f);
                        to[at] = low;
                        to[PANEL * BK + at] = high;
                        if (k < D) w[(size_t(c) * D + i) * D + k] = double(half_to_float(high)) + half_to_float(low);
                    }
                }
            }
        }
    }
    DensityParams p = {};
    p.features = z;
    p.weights = weights;
    p.rows = rows;
    p.constants = constants;
    p.ids = ids;
    p.predicted = predicted;
    p.density = density;
    p.squares = squares;
    p.stats = stats;
    p.pixels = P;
    p.feature_stride = p.channels = D;
    p.panels = PANELS;
    p.classes = p.per_split = C;
    p.splits = 1;
    for (uint32_t run = 0; run < 2 * (2 + SEEDS); ++run) {
        p.tau = run % 2 ? INFINITY : 20.0f;
        for (int i = 0; i < P; ++i) density[i] = NAN;
        for (int i = 0; i < ITEMS * P; ++i) squares[i] = 0.0f;
        const uint32_t schedule = run / 2 < 2 ? run / 2 : 2;
        if (!launch(kernel.name, p, {uint32_t(kernel.threads), uint64_t(kernel.shared_bytes), schedule, run, kernel.blocks})) return 1;
        int wrong = 0;
        for (int pixel = 0; pixel < P; ++pixel) {
            double most = -INFINITY, terms[C];
            for (int c = 0; c < C; ++c) {
                double squares = 0.0;
                for (int i = 0; i < D; ++i) {
                    const float* row = rows + (c * PADDED + i / PANEL * PANEL + row_place(i % PANEL)) * 2;
                    double y = -double(row[0]);
                    for (int k = 0; k <= i; ++k) y += w[(size_t(c) * D + i) * D + k] * half_to_float(z[pixel * D + k]);
                    y *= row[1];
                    squares += y * y;
                }
                terms[c] = constants[c] - squares / 2;
                most = std::fmax(most, terms[c]);
            }
            double sum = 0.0;
            for (double term : terms) sum += std::exp(term - most);
            const bool finite_z = pixel != 0;
            wrong += finite_z ? !(std::fabs(density[pixel] - (most + std::log(sum))) < 1e-3) : density[pixel] != -INFINITY;
        }
        int done = 0;
        for (int i = 0; i < WORDS; ++i) done += stats[2 * i + 1];
        const int all = WORDS * C * PANELS * (PANELS + 1);
        if (wrong || (run % 2 ? done != all : done >= all)) {
            std::printf("%s, run %u: %d of %d values are wrong, %d of %d blocks done\n", kernel.name, run, wrong, P, done, all);
            return 1;
        }
    }
    return 0;
}

}  // namespace

int main() {
    for (const Kernel& kernel : KERNELS) {
        if (check(kernel, 2) || check(kernel, 3)) return 1;
    }
    return 0;
}
