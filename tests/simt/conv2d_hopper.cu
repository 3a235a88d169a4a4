// Hopper's convolution as -DKERNEL_FILE=... has it (tests/simt/main.rs takes barriers and waits out of it), against an f64 loop in
// several schedules: both shapes of its tiles, several tiles for one block, more steps than the ring has stages; and splits joined in
// clusters. Prints the first fault; exit status 1 if there is one.
#include KERNEL_FILE

#include <cstdio>

#include "divisor.h"
#include "launch.h"
#include "maps.h"

template <class T> int check(const char* kernel, int splits = 1) {
    constexpr int N = 3, H = 9, W = 8, C = 72, K = 40, PIXELS = N * H * W;
    auto* x = static_cast<half*>(ddu_simt_alloc(PIXELS * C * 2));
    auto* w = static_cast<half*>(ddu_simt_alloc(K * 9 * C * 2));
    auto* bias = static_cast<float*>(ddu_simt_alloc(K * 4));
    auto* y = static_cast<half*>(ddu_simt_alloc(PIXELS * K * 2));
    uint32_t state = 1;
    auto random = [&] {
        state = state * 1664525u + 1013904223u;
        return float(int(state >> 8) % 2001 - 1000) / 1000.0f;
    };
    for (int i = 0; i < PIXELS * C; ++i) x[i] = float_to_half(random());
    for (int i = 0; i < K * 9 * C; ++i) w[i] = float_to_half(random());
    for (int i = 0; i < K; ++i) bias[i] = random();
    Conv2dHopperParams p = {};
    p.input = im2col(x, N, H, W, C, C, 1, 2, 1, T::BM);
    p.weight = tiled(w, {C, 9, K}, {C, 9 * C}, T::BN, 1);
    p.bias = bias;
    p.output = y;
    p.pixels = PIXELS;
    p.out_h = divisor(H);
    p.out_w = divisor(W);
    p.out_c = p.out_stride = K;
    p.kernel = divisor(3);
    p.tiles_n = divisor(1);
    p.stride = p.dilation = p.padding = 1;
    p.splits = divisor(splits);
    p.in_cluster = splits > 1;
    p.through_ring = splits == 1;
    p.added = tiled(x, {K, 1, PIXELS}, {C, C}, T::BM, 1);
    p.stored = tiled(y, {K, 1, PIXELS}, {K, K}, STORED_ROWS, 1);
    // The input's first channels.
    p.residual = splits == 1 ? x : nullptr;
    const int tiles = (PIXELS + T::BM - 1) / T::BM;
    p.tiles_m = divisor(tiles);
    p.c_blocks = divisor(2);
    p.all_blocks = 18;
    p.k_blocks = (18 + splits - 1) / splits;
    const uint32_t blocks = splits > 1 ? uint32_t(tiles * splits) : 1;
    for (uint32_t run = 0; run < 5; ++run) {
        const uint32_t schedule = run < 2 ? run : 2;
        for (int i = 0; i < PIXELS * K; ++i) y[i] = half{0x7fff};
        if (!launch(kernel, p, {384, uint64_t(T::shared_bytes()), schedule, run, blocks, 1, 1, uint32_t(splits)})) return 1;
        int wrong = 0;
        for (int i = 0; i < PIXELS * K; ++i) {
            const int m = i / K, k = i % K;
            double sum = bias[k] + (splits == 1 ? half_to_float(x[m * C + k]) : 0.0);
            for (int tap = 0; tap < 9; ++tap) {
                const int row = m / W % H + tap / 3 - 1, column = m % W + tap % 3 - 1;
                if (row < 0 || column < 0 || row >= H || column >= W) continue;
                for (int c = 0; c < C; ++c) {
                    sum += double(half_to_float(x[((m / W / H * H + row) * W + column) * C + c])) * half_to_float(w[(k * 9 + tap) * C + c]);
                }
            }
            // |sum| stays below 64, where fp16 steps by 1/32.
            wrong += !(std::fabs(half_to_float(y[i]) - sum) < 1.0 / 32);
        }
        if (wrong) {
            std::printf("%s, run %u: %d of %d values are wrong\n", kernel, run, wrong, PIXELS * K);
            return 1;
        }
    }
    return 0;
}

int main() {
    return check<Tile128x128>("conv2d_hopper_128x128") || check<Tile256x64>("conv2d_hopper_256x64") ||
           check<Tile128x128>("conv2d_hopper_128x128", 4);
}
