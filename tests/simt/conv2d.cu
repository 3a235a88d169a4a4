// The convolution kernel as -DKERNEL_FILE=... has it (tests/simt/main.rs takes barriers and waits out of it), against an
// f64 loop in three schedules. Prints the first fault; exit status 1 if there is one.
#include KERNEL_FILE

#include <cstdio>

#include "divisor.h"
#include "launch.h"

int main() {
    constexpr int H = 9, W = 8, C = 64, K = 40, PIXELS = H * W;
    auto* x = static_cast<half*>(ddu_simt_alloc(PIXELS * C * 2));
    auto* w = static_cast<half*>(ddu_simt_alloc(K * 9 * C * 2));
    auto* bias = static_cast<float*>(ddu_simt_alloc(K * 4));
    auto* residual = static_cast<half*>(ddu_simt_alloc(PIXELS * K * 2));
    auto* y = static_cast<half*>(ddu_simt_alloc(PIXELS * K * 2));
    uint32_t state = 1;
    auto random = [&] {
        state = state * 1664525u + 1013904223u;
        return float(int(state >> 8) % 2001 - 1000) / 1000.0f;
    };
    for (int i = 0; i < PIXELS * C; ++i) x[i] = float_to_half(random());
    for (int i = 0; i < K * 9 * C; ++i) w[i] = float_to_half(random());
    for (int i = 0; i < K; ++i) bias[i] = random();
    for (int i = 0; i < PIXELS * K; ++i) residual[i] = float_to_half(random());
    Conv2dParams p = {};
    p.input = x;
    p.weight = w;
    p.bias = bias;
    p.output = y;
    p.residual = residual;
    p.stride = p.dilation = p.padding = p.splits = 1;
    p.pixels = PIXELS;
    p.in_h = H;
    p.in_w = W;
    p.in_pitch = C / 8;
    p.out_h = divisor(H);
    p.out_w = divisor(W);
    p.in_c = divisor(C / 8);
    p.kernel = divisor(3);
    p.out_c = divisor(K / 8);
    p.out_stride = p.residual_stride = K;
    p.k_blocks = 9 * C / BK;
    for (uint32_t schedule = 0; schedule < 3; ++schedule) {
        const Run run = {Tile64x64::THREADS, uint64_t(Tile64x64::shared_bytes()), uint32_t(schedule), 0, (PIXELS + 63) / 64};
        if (!launch("conv2d_64x64", p, run)) return 1;
        int wrong = 0;
        for (int i = 0; i < PIXELS * K; ++i) {
            const int m = i / K, k = i % K;
            double sum = bias[k] + half_to_float(residual[i]);
            for (int tap = 0; tap < 9; ++tap) {
                const int row = m / W + tap / 3 - 1, column = m % W + tap % 3 - 1;
                if (row < 0 || column < 0 || row >= H || column >= W) continue;
                for (int c = 0; c < C; ++c) {
                    sum += double(half_to_float(x[(row * W + column) * C + c])) * half_to_float(w[(k * 9 + tap) * C + c]);
                }
            }
            // |sum| stays below 64, where fp16 steps by 1/32.
            wrong += !(std::fabs(half_to_float(y[i]) - sum) < 1.0 / 32);
        }
        if (wrong) {
            std::printf("schedule %u: %d of %d values are wrong\n", schedule, wrong, PIXELS * K);
            return 1;
        }
    }
    return 0;
}
