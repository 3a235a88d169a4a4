// kernels/simt/sums.h against a second statement of its rule, term by term in 128-bit integers, and on sums worked out by hand.
// Prints "ok", or the first difference.
#include <cmath>
#include <cstdio>
#include <limits>

#include "../../kernels/simt/simt.h"
#include "../../kernels/simt/sums.h"

// A number as integer times 2^power, and the exponent it is aligned by.
struct Term {
    __int128 integer;
    int power, exponent;
};

Term of_half(simt::half h) {
    const int field = h.bits >> 10 & 31, integer = (field ? 1024 : 0) | (h.bits & 1023);
    return {h.bits & 0x8000 ? -integer : integer, (field ? field : 1) - 25, (field ? field : 1) - 15};
}

Term of_float(float v) {
    int exponent;
    const float fraction = std::frexp(v, &exponent);
    return {__int128(std::ldexp(fraction, 24)), exponent - 24, exponent - 1};
}

// Towards zero at 2^power.
__int128 cut_at(const Term& t, int power) {
    __int128 magnitude = t.integer < 0 ? -t.integer : t.integer;
    const int shift = t.power - power;
    magnitude = shift >= 0 ? magnitude << shift : shift < -100 ? 0 : magnitude >> -shift;
    return t.integer < 0 ? -magnitude : magnitude;
}

float again(const sums::Cut& cut, const simt::half* a, const simt::half* b, float d) {
    for (int first = 0; first < 16; first += cut.products) {
        Term terms[17];
        int count = 0, most = -200;
        auto add = [&](const Term& t) {
            if (t.integer == 0) return;
            most = std::max(most, t.exponent);
            terms[count++] = t;
        };
        add(of_float(d));
        for (int k = first; k < first + cut.products; ++k) {
            const Term x = of_half(a[k]), y = of_half(b[k]);
            add({x.integer * y.integer, x.power + y.power, x.exponent + y.exponent});
        }
        __int128 sum = 0;
        for (int i = 0; i < count; ++i) sum += cut_at(terms[i], most - cut.bits);
        __int128 magnitude = sum < 0 ? -sum : sum;
        int power = most - cut.bits;
        for (; magnitude >= 1 << 24; ++power) magnitude >>= 1;
        d = std::ldexp(float(magnitude), power) * (sum < 0 ? -1.0f : 1.0f);
    }
    return d;
}

uint64_t state = 1;
uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return uint32_t(state >> 32);
}

// One column of eight has what is asked for, the others something else.
float sum(const sums::Cut& cut, const float (&a)[1][16], const float (&b)[16], float d, int column) {
    float all_b[16][8], all_d[8];
    for (int j = 0; j < 8; ++j) {
        for (int k = 0; k < 16; ++k) all_b[k][j] = j == column ? b[k] : float(j - k);
        all_d[j] = j == column ? d : float(j);
    }
    if (column == 3) all_b[5][4] = std::numeric_limits<float>::infinity();
    sums::add_products(cut, 1, a, all_b[0], all_d, 8);
    return all_d[column];
}

bool differs(const char* what, float found, float expected) {
    if (found == expected || (found != found && expected != expected)) return false;
    std::printf("%s: %a, expected %a\n", what, double(found), double(expected));
    return true;
}

int main() {
    // Of 1, and `products` more of `small` from the k-th on.
    auto beside_one = [](const sums::Cut& cut, float small, int products) {
        float a[1][16] = {}, b[16] = {};
        for (int k = 0; k < products; ++k) a[0][k] = 0x1p-12f, b[k] = small * 0x1p12f;
        return sum(cut, a, b, 1.0f, 2);
    };
    const float infinity = std::numeric_limits<float>::infinity();
    const float ones[1][16] = {{1.0f}}, large[16] = {infinity}, none[1][16] = {};
    bool wrong = differs("a100: 2^-24 is kept", beside_one(sums::A100, 0x1p-24f, 8), 1.0f + 0x1p-21f) ||
                 differs("a100: 2^-25 is cut off", beside_one(sums::A100, 0x1p-25f, 8), 1.0f) ||
                 differs("h100: 2^-25 is kept", beside_one(sums::H100, 0x1p-25f, 16), 1.0f + 0x1p-21f) ||
                 differs("h100: 2^-26 is cut off", beside_one(sums::H100, 0x1p-26f, 16), 1.0f) ||
                 differs("the sum is rounded towards zero", beside_one(sums::A100, 0x1.8p-23f, 1), 1.0f + 0x1p-23f) ||
                 differs("so is a negative one", -beside_one(sums::A100, -0x1p-24f, 1), -1.0f + 0x1p-24f) ||
                 differs("an infinity", sum(sums::A100, ones, large, 0.0f, 1), infinity) ||
                 differs("0 times infinity", sum(sums::A100, none, large, 0.0f, 1), NAN) ||
                 differs("nothing but the accumulator", sum(sums::H100, none, ones[0], 0x1.8p-120f, 1), 0x1.8p-120f);
    for (int n = 0; n < 200000 && !wrong; ++n) {
        simt::half a[16], b[16];
        float wide_a[1][16], wide_b[16];
        const uint32_t range = next() % 31 + 1;
        for (int k = 0; k < 16; ++k) {
            auto half = [&] { return simt::half{uint16_t((next() & 0x83ff) | (next() % range) << 10)}; };
            a[k] = half();
            b[k] = half();
            if (next() % 4 == 0) a[k].bits = 0;
            wide_a[0][k] = simt::half_to_float(a[k]);
            wide_b[k] = simt::half_to_float(b[k]);
        }
        const float d = next() % 8 ? std::ldexp(float(int32_t(next())), int(next() % 80) - 60) : 0.0f;
        const sums::Cut& cut = n % 2 ? sums::A100 : sums::H100;
        wrong = differs(n % 2 ? "a100" : "h100", sum(cut, wide_a, wide_b, d, int(next() % 8)), again(cut, a, b, d));
    }
    if (!wrong) std::printf("ok\n");
    return wrong;
}
