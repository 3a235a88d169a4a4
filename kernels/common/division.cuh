// Division by a number that is known at the launch, without the tens of instructions of a division at run time
// (Granlund and Montgomery 1994, "Division by invariant integers using multiplication", theorem 4.2).
//
//   n / d = n m >> (31 + l),   l = ceil(log2 d), m = ceil(2^(31 + l) / d),   0 <= n < 2^31, 1 <= d < 2^31
//
// m fits 32 bits; the product of 2 n and m has the quotient in its high word, shifted by l.
#pragma once
#include "arch.cuh"

// src/device/launch/divisor.rs computes it.
struct Divisor {
    int32_t divisor;
    int32_t multiplier;  // bits of an unsigned number
    int32_t shift;
};

DEVICE int quotient(int n, const Divisor& d) { return int(uint32_t(uint64_t(uint32_t(n) << 1) * uint32_t(d.multiplier) >> 32) >> d.shift); }

// Where pixel `n` of [batch, h, w] lies.
struct Place {
    int image, y, x;
};

DEVICE Place place(int pixel, const Divisor& h, const Divisor& w) {
    const int row = quotient(pixel, w), image = quotient(row, h);
    return {image, row - image * h.divisor, pixel - row * w.divisor};
}
