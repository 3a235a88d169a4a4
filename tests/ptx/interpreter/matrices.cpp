// A warp's matrices: ldmatrix, mma, and the sum of products that wgmma shares.
#include <bit>
#include <cmath>
#include <cstring>

#include "half.h"
#include "handlers.h"

namespace ptx {
namespace {

bool ldmatrix(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    full(block, ins, mask);
    if (~w.defined[ins.s[0]]) block.fail(ins, "an undefined address");
    uint16_t rows[32][8];
    uint8_t undefined[32][8];
    for (int l = 0; l < 32; ++l) {
        bool defined;
        uint32_t offset;
        const uint8_t* from = source<SHARED>(block, ins, uint32_t(w.row(ins.s[0])[l] + ins.imm), 16, defined, offset);
        std::memcpy(rows[l], from, 16);
        block.touch(ins, false, true, w.index * 32 + uint32_t(l), offset, 16);
        for (int i = 0; i < 8; ++i) undefined[l][i] = (block.shadow[offset + 2 * i] | block.shadow[offset + 2 * i + 1]) & UNDEFINED;
    }
    for (int k = 0; k < 4; ++k) {
        write_check(block, w, ins, ins.list[k]);
        uint32_t defined = 0;
        for (int l = 0; l < 32; ++l) {
            const int major = l / 4, minor = l % 4 * 2;
            uint32_t v = 0;
            bool bad = false;
            for (int e = 0; e < 2; ++e) {
                const int row = k * 8 + (ins.shape ? minor + e : major), column = ins.shape ? major : minor + e;
                v |= uint32_t(rows[row][column]) << 16 * e;
                bad |= undefined[row][column];
            }
            w.row(ins.list[k])[l] = v;
            defined |= uint32_t(!bad) << l;
        }
        w.defined[ins.list[k]] = defined;
    }
    return true;
}

// Towards zero.
float narrow(double v) {
    const float f = float(v);
    return std::isfinite(f) && std::abs(double(f)) > std::abs(v) ? std::bit_cast<float>(std::bit_cast<uint32_t>(f) - 1) : f;
}

// d[16][n] += a[16][16] b[16][n], all row-major: the exact sums (but for f64's rounding), rounded towards zero.
void product(const float (&a)[16][16], const float* b, float* d, int n) {
    double sum[128];
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < n; ++j) sum[j] = double(d[i * n + j]);
        for (int k = 0; k < 16; ++k) {
            const double x = a[i][k];
            const float* from = b + k * n;
            for (int j = 0; j < n; ++j) sum[j] += x * double(from[j]);
        }
        for (int j = 0; j < n; ++j) d[i * n + j] = narrow(sum[j]);
    }
}

}  // namespace

void widen(const uint16_t* from, float* to, int n) {
    for (int i = 0; i < n; ++i) to[i] = half_to_float(from[i]);
}

void multiply(const float (&a)[16][16], const float* b, float* d, int n, const Options& options) {
    if (options.sums) {
        for (int j = 0; j < n; j += 8) sums::add_products(*options.sums, 16, a, b + j, d + j, n);
    } else {
        product(a, b, d, n);
    }
}

// A 16 x 16 fragment in four registers.
void fragment(Warp& w, const uint32_t* registers, float (&a)[16][16]) {
    uint16_t raw[16][16];
    for (int r = 0; r < 4; ++r) {
        for (int l = 0; l < 32; ++l) {
            const uint32_t v = w.row(registers[r])[l];
            const int row = l / 4 + r % 2 * 8, column = l % 4 * 2 + r / 2 * 8;
            raw[row][column] = uint16_t(v);
            raw[row][column + 1] = uint16_t(v >> 16);
        }
    }
    widen(raw[0], a[0], 256);
}

namespace {

bool mma(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    full(block, ins, mask);
    float a[16][16], b[16 * 8], d[16 * 8];
    fragment(w, &ins.list2[0], a);
    uint32_t defined = FULL;
    for (int i = 0; i < 10; ++i) defined &= w.defined[ins.list2[i]];
    uint16_t raw[16 * 8];
    for (int l = 0; l < 32; ++l) {
        for (int r = 0; r < 2; ++r) {
            const uint32_t v = w.row(ins.list2[4 + r])[l];
            const int k = l % 4 * 2 + r * 8, n = l / 4;
            raw[k * 8 + n] = uint16_t(v);
            raw[(k + 1) * 8 + n] = uint16_t(v >> 16);
        }
        for (int i = 0; i < 4; ++i) d[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = std::bit_cast<float>(w.row(ins.list2[6 + i])[l]);
    }
    widen(raw, b, 128);
    multiply(a, b, d, 8, block.options);
    for (int i = 0; i < 4; ++i) {
        write_check(block, w, ins, ins.list[i]);
        for (int l = 0; l < 32; ++l) {
            w.row(ins.list[i])[l] = std::bit_cast<uint32_t>(d[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2]);
        }
        w.defined[ins.list[i]] = defined == FULL ? FULL : 0;
    }
    return true;
}

}  // namespace

void matrix_handlers(Handlers& h) {
    h["ldmatrix"] = &ldmatrix;
    h["mma"] = &mma;
}

}  // namespace ptx
