// The numbers of common/division.cuh, which the program includes: ceil(log2 d) and ceil(2^(31 + l) / d).
#pragma once

inline Divisor divisor(int32_t d) {
    int shift = 0;
    while (1 << shift < d) ++shift;
    return {d, int32_t(uint32_t(((uint64_t(1) << (31 + shift)) + uint64_t(d) - 1) / uint64_t(d))), shift};
}
