// How tensor cores add fp16 products in f32, for the simt device and for the PTX interpreter (tests/ptx). NVIDIA does not say.
// What experiments found, bit for bit on each GPU:
//
//   `products` products and the accumulator are added at once. Products are exact. Each term is cut off, towards zero, at
//   2^(e - bits), where e is the greatest exponent of a term: of a product the sum of its factors' exponents, of a subnormal
//   number the least of its format. The sum of what is left is exact and is rounded towards zero to f32.
//
// M. Fasi, N. J. Higham, M. Mikaitis and S. Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330,
// 2021; F. A. Khattak and M. Mikaitis, "Accurate models of NVIDIA tensor cores", arXiv:2512.07004, 2025; P. Xie, Y. Wang, F. Yang
// and M. Yang, "MMA-Sim: bit-accurate reference model of tensor cores and matrix cores", arXiv:2511.10909, 2025, whose T-FDPA
// with L products and F bits this is.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

namespace sums {

struct Cut {
    int products, bits;
};
constexpr Cut A100{8, 24};   // compute capability 8.x
constexpr Cut H100{16, 25};  // 9.0, and 10.0 and 12.0 alike

constexpr const char* NAMES = "a100 or h100";
// Null where there is none of this name.
inline const Cut* named(const char* name) { return !std::strcmp(name, "a100") ? &A100 : !std::strcmp(name, "h100") ? &H100 : nullptr; }

constexpr int NONE = -90;   // exponent of 0: times any finite one less than any product's, times infinity greater
constexpr int LEAST = -14;  // of fp16

inline int exponent(float v) {
    const int field = int(std::bit_cast<uint32_t>(v) >> 23 & 0xff);
    return field ? field - 127 : NONE;
}
// Of an fp16 number.
inline int exponent_of_half(float v) { return v == 0.0f ? NONE : std::max(exponent(v), LEAST); }

// `WIDTH` columns of one row: d[j] += the products a[k] b[k * stride + j], whose greatest exponent is product[j], a finite sum.
template <int WIDTH>
__attribute__((always_inline)) inline void add_finite(const Cut& cut, const float* a, const float* b, int stride, const int* product,
                                                      float* d) {
    float scale[WIDTH];
    int most[WIDTH];
    for (int j = 0; j < WIDTH; ++j) {
        // No product but 0 has a lesser exponent.
        most[j] = std::max(std::max(product[j], exponent(d[j])), 2 * LEAST);
        scale[j] = std::bit_cast<float>(uint32_t(127 + cut.bits - most[j]) << 23);
    }
    // In units of 2^(e - bits), of which a term has less than 2^27: two sums of eight fit. A product has 22 bits, so that its
    // scaling is exact above 1.
    int32_t even[WIDTH], odd[WIDTH];
    for (int j = 0; j < WIDTH; ++j) even[j] = int32_t(d[j] * scale[j]), odd[j] = 0;
    for (int k = 0; k < cut.products; k += 2) {
        for (int j = 0; j < WIDTH; ++j) even[j] += int32_t(a[k] * b[k * stride + j] * scale[j]);
        for (int j = 0; j < WIDTH; ++j) odd[j] += int32_t(a[k + 1] * b[(k + 1) * stride + j] * scale[j]);
    }
    for (int j = 0; j < WIDTH; ++j) {
        const double unit = std::bit_cast<double>(uint64_t(1023 + most[j] - cut.bits) << 52);
        const double exact = (double(even[j]) + double(odd[j])) * unit;
        // 24 bits of its 53.
        const float sum = float(std::bit_cast<double>(std::bit_cast<uint64_t>(exact) >> 29 << 29));
        d[j] = product[j] < 2 * LEAST ? d[j] : sum;
    }
}

// Eight columns: d[i][j] += sum over k < 16 of a[i][k] b[k][j], i < rows; a and b hold fp16 numbers. Rows of b and of d are
// `stride` apart.
__attribute__((always_inline)) inline void add_products(const Cut& cut, int rows, const float (*a)[16], const float* b, float* d,
                                                        int stride) {
    int of_b[16][8];
    for (int k = 0; k < 16; ++k) {
        for (int j = 0; j < 8; ++j) of_b[k][j] = exponent_of_half(b[k * stride + j]);
    }
    for (int i = 0; i < rows; ++i, d += stride) {
        for (int first = 0; first < 16; first += cut.products) {
            int product[8], finite[8], all = 1;
            for (int j = 0; j < 8; ++j) product[j] = NONE;
            for (int k = first; k < first + cut.products; ++k) {
                const int of_a = exponent_of_half(a[i][k]);
                for (int j = 0; j < 8; ++j) product[j] = std::max(product[j], of_a + of_b[k][j]);
            }
            for (int j = 0; j < 8; ++j) finite[j] = (exponent(d[j]) <= 127) & (product[j] <= 30);
            for (int j = 0; j < 8; ++j) all &= finite[j];
            if (all) {
                add_finite<8>(cut, a[i] + first, b + first * stride, stride, product, d);
                continue;
            }
            for (int j = 0; j < 8; ++j) {
                if (finite[j]) {
                    add_finite<1>(cut, a[i] + first, b + first * stride + j, stride, product + j, d + j);
                } else {
                    for (int k = first; k < first + cut.products; ++k) d[j] += a[i][k] * b[k * stride + j];
                }
            }
        }
    }
}

}  // namespace sums
