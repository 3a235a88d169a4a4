// fp16, in integer arithmetic: no machine has to know it.
#pragma once
#include <bit>
#include <cstdint>

namespace ptx {

inline float half_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
    // Exponents of subnormals are too small by one, as those of f32 are; infinities and NaNs keep theirs at the top.
    if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    const float scaled = std::bit_cast<float>(rest << 13) * 0x1p112f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | sign);
}

// To nearest, ties to even; a NaN becomes 0x7fff (PTX ISA, "cvt").
inline uint16_t float_to_half(float f) {
    const uint32_t bits = std::bit_cast<uint32_t>(f), magnitude = bits & 0x7fffffff;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above
    if (magnitude >= 0x38800000) {                      // normal
        const uint32_t shifted = magnitude - 0x38000000;
        return uint16_t(sign | (shifted + 0xfff + (shifted >> 13 & 1)) >> 13);
    }
    // Adding 0.5 leaves the units of 2^-24 in the last bits, rounded.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return uint16_t(sign | (std::bit_cast<uint32_t>(sum) - 0x3f000000));
}

}  // namespace ptx
