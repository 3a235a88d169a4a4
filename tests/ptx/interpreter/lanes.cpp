// Instructions that take registers to registers, lane by lane, from the PTX ISA.
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "block.h"
#include "half.h"

namespace ptx {
namespace {

struct F16 {
    uint16_t bits;
};

template <class T> using Cell = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
template <class T> inline T get(Cell<T> c) {
    if constexpr (sizeof(T) == 2) {
        return std::bit_cast<T>(uint16_t(c));
    } else if constexpr (sizeof(T) == 1) {
        return std::bit_cast<T>(uint8_t(c));
    } else {
        return std::bit_cast<T>(c);
    }
}
template <class T> inline Cell<T> put(T v) {
    if constexpr (sizeof(T) == 2) {
        return std::bit_cast<uint16_t>(v);
    } else {
        return std::bit_cast<Cell<T>>(v);
    }
}

template <class T> inline void commit(Warp& w, const Instruction& ins, const Cell<T>* values, uint32_t mask, uint32_t defined) {
    Cell<T>* to = reinterpret_cast<Cell<T>*>(w.row(ins.d));
    if (mask == FULL) {
        std::memcpy(to, values, 32 * sizeof(Cell<T>));
    } else {
        for (int l = 0; l < 32; ++l) to[l] = mask >> l & 1 ? values[l] : to[l];
    }
    w.defined[ins.d] = (w.defined[ins.d] & ~mask) | (defined & mask);
    if (sizeof(T) == 8) w.defined[ins.d + 1] &= ~mask;
}

inline void touch(Block& block, Warp& w, const Instruction& ins) {
    if (w.uses_wgmma) {
        if (w.locked[ins.d]) block.fail(ins, "writes a register of a wgmma.mma_async that is not waited for");
        w.written[ins.d] = w.clock;
    }
}

template <class F, class D, class... S> bool alu(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    return [&]<size_t... k>(std::index_sequence<k...>) {
        std::tuple<const Cell<S>*...> from{reinterpret_cast<const Cell<S>*>(w.row(ins.s[k]))...};
        alignas(64) Cell<D> out[32];
        for (int l = 0; l < 32; ++l) out[l] = put<D>(F{}(get<S>(std::get<k>(from)[l])...));
        touch(block, w, ins);
        commit<D>(w, ins, out, mask, (w.defined[ins.s[k]] & ...));
        return true;
    }(std::index_sequence_for<S...>{});
}

template <class F, class S> bool compare(Block&, Warp& w, const Instruction& ins, uint32_t mask) {
    const auto *a = reinterpret_cast<const Cell<S>*>(w.row(ins.s[0])), *b = reinterpret_cast<const Cell<S>*>(w.row(ins.s[1]));
    uint32_t bits = 0;
    for (int l = 0; l < 32; ++l) bits |= uint32_t(F{}(get<S>(a[l]), get<S>(b[l]))) << l;
    w.p[ins.d] = (w.p[ins.d] & ~mask) | (bits & mask);
    w.p_defined[ins.d] = (w.p_defined[ins.d] & ~mask) | (w.defined[ins.s[0]] & w.defined[ins.s[1]] & mask);
    return true;
}

template <class T> bool select(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    const auto *a = reinterpret_cast<const Cell<T>*>(w.row(ins.s[0])), *b = reinterpret_cast<const Cell<T>*>(w.row(ins.s[1]));
    const uint32_t p = w.p[ins.s[2]];
    alignas(64) Cell<T> out[32];
    for (int l = 0; l < 32; ++l) out[l] = p >> l & 1 ? a[l] : b[l];
    touch(block, w, ins);
    commit<T>(w, ins, out, mask, w.p_defined[ins.s[2]] & ((p & w.defined[ins.s[0]]) | (~p & w.defined[ins.s[1]])));
    return true;
}

enum Logic { AND, OR, XOR, NOT, MOVE };
template <Logic L> bool logic(Block&, Warp& w, const Instruction& ins, uint32_t mask) {
    const uint32_t a = w.p[ins.s[0]], da = w.p_defined[ins.s[0]];
    const bool two = L == AND || L == OR || L == XOR;
    const uint32_t b = two ? w.p[ins.s[1]] : 0, db = two ? w.p_defined[ins.s[1]] : FULL;
    const uint32_t v = L == AND ? a & b : L == OR ? a | b : L == XOR ? a ^ b : L == NOT ? ~a : a;
    // A value that decides alone makes the other irrelevant.
    const uint32_t d = L == AND ? (da & db) | (da & ~a) | (db & ~b) : L == OR ? (da & db) | (da & a) | (db & b) : da & db;
    w.p[ins.d] = (w.p[ins.d] & ~mask) | (v & mask);
    w.p_defined[ins.d] = (w.p_defined[ins.d] & ~mask) | (d & mask);
    return true;
}

// --- the instructions that are not a C++ operator ---------------------------------------------------------

template <class F> F quiet() { return std::numeric_limits<F>::quiet_NaN(); }

template <class F> F greatest(F a, F b) { return a != a ? b : b != b ? a : a > b ? a : b > a ? b : std::signbit(a) ? b : a; }
template <class F> F least(F a, F b) { return a != a ? b : b != b ? a : a < b ? a : b < a ? b : std::signbit(a) ? a : b; }
inline float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

bool fma_down(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    const int mode = std::fegetround();
    std::fesetround(FE_DOWNWARD);
    uint32_t out[32];
    for (int l = 0; l < 32; ++l) {
        volatile float a = get<float>(w.row(ins.s[0])[l]), b = get<float>(w.row(ins.s[1])[l]), c = get<float>(w.row(ins.s[2])[l]);
        volatile float r = std::fma(a, b, c);
        out[l] = put<float>(r);
    }
    std::fesetround(mode);
    touch(block, w, ins);
    commit<float>(w, ins, out, mask, w.defined[ins.s[0]] & w.defined[ins.s[1]] & w.defined[ins.s[2]]);
    return true;
}

template <class T> int32_t to_int(T f) {
    if (f != f) return 0;
    const T t = std::trunc(f);
    return t >= T(2147483648.0) ? INT32_MAX : t < T(-2147483648.0) ? INT32_MIN : int32_t(t);
}

uint32_t insert(uint32_t a, uint32_t b, uint32_t position, uint32_t length) {
    position &= 0xff;
    length &= 0xff;
    uint32_t out = b;
    for (uint32_t i = 0; i < length && position + i < 32; ++i) out = (out & ~(1u << (position + i))) | (a >> i & 1) << (position + i);
    return out;
}

// Byte i is the one of the eight of b:a that nibble i of c names, or where its high bit is set that byte's sign.
uint32_t permute(uint32_t a, uint32_t b, uint32_t c) {
    const uint64_t all = uint64_t(b) << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t selector = c >> 4 * i & 15;
        uint32_t byte = uint32_t(all >> 8 * (selector & 7)) & 0xff;
        if (selector & 8) byte = byte & 0x80 ? 0xff : 0;
        out |= byte << 8 * i;
    }
    return out;
}

std::map<std::string, Entry> make() {
    std::map<std::string, Entry> t;
    auto c = []<class T>(T) { return sizeof(T) == 8 ? 'd' : 'w'; };
    // d = f(a ..); the types are given by example.
    auto reg = [&]<class F, class D, class... S>(const std::string& name, F, D d, S... s) {
        t[name] = {&alu<F, D, S...>, std::string{c(d), c(s)...}};
    };
    auto cmp = [&]<class F, class S>(const std::string& name, F, S s) { t[name] = {&compare<F, S>, {'p', c(s), c(s)}}; };
    auto sel = [&]<class T>(const std::string& name, T v) { t[name] = {&select<T>, {c(v), c(v), c(v), 'p'}}; };
    const uint16_t u16 = 0;
    const int16_t s16 = 0;
    const uint32_t u32 = 0;
    const int32_t s32 = 0;
    const uint64_t u64 = 0;
    const int64_t s64 = 0;
    const float f32 = 0;
    const double f64 = 0;
    const F16 f16{};
    const int8_t s8 = 0;

    for (const char* type : {"b32", "u32", "s32", "f32"}) {
        reg(std::string("mov.") + type, [](uint32_t a) { return a; }, u32, u32);
        sel(std::string("selp.") + type, u32);
    }
    for (const char* type : {"b64", "u64", "s64", "f64"}) {
        reg(std::string("mov.") + type, [](uint64_t a) { return a; }, u64, u64);
        sel(std::string("selp.") + type, u64);
    }
    for (const char* type : {"b16", "u16", "s16"}) {
        reg(std::string("mov.") + type, [](uint16_t a) { return a; }, u16, u16);
        sel(std::string("selp.") + type, u16);
    }

    // Integers.
    for (const char* type : {"s32", "u32"}) {
        const std::string x = std::string(".") + type;
        reg("add" + x, [](uint32_t a, uint32_t b) { return a + b; }, u32, u32, u32);
        reg("sub" + x, [](uint32_t a, uint32_t b) { return a - b; }, u32, u32, u32);
        reg("mul.lo" + x, [](uint32_t a, uint32_t b) { return a * b; }, u32, u32, u32);
        reg("mad.lo" + x, [](uint32_t a, uint32_t b, uint32_t c) { return a * b + c; }, u32, u32, u32, u32);
    }
    for (const char* type : {"s64", "u64"}) {
        const std::string x = std::string(".") + type;
        reg("add" + x, [](uint64_t a, uint64_t b) { return a + b; }, u64, u64, u64);
        reg("sub" + x, [](uint64_t a, uint64_t b) { return a - b; }, u64, u64, u64);
        reg("mul.lo" + x, [](uint64_t a, uint64_t b) { return a * b; }, u64, u64, u64);
        reg("mad.lo" + x, [](uint64_t a, uint64_t b, uint64_t c) { return a * b + c; }, u64, u64, u64, u64);
    }
    for (const char* type : {"s16", "u16"}) {
        const std::string x = std::string(".") + type;
        reg("add" + x, [](uint16_t a, uint16_t b) { return uint16_t(a + b); }, u16, u16, u16);
        reg("sub" + x, [](uint16_t a, uint16_t b) { return uint16_t(a - b); }, u16, u16, u16);
        reg("mul.lo" + x, [](uint16_t a, uint16_t b) { return uint16_t(uint32_t(a) * b); }, u16, u16, u16);
    }
    reg("mul.wide.s32", [](int32_t a, int32_t b) { return int64_t(a) * b; }, s64, s32, s32);
    reg("mul.wide.u32", [](uint32_t a, uint32_t b) { return uint64_t(a) * b; }, u64, u32, u32);
    reg("mul.wide.u16", [](uint16_t a, uint16_t b) { return uint32_t(a) * b; }, u32, u16, u16);
    reg("mul.wide.s16", [](int16_t a, int16_t b) { return int32_t(a) * b; }, s32, s16, s16);
    reg("mad.wide.s32", [](int32_t a, int32_t b, int64_t c) { return int64_t(a) * b + c; }, s64, s32, s32, s64);
    reg("mad.wide.u32", [](uint32_t a, uint32_t b, uint64_t c) { return uint64_t(a) * b + c; }, u64, u32, u32, u64);
    reg("mul.hi.s32", [](int32_t a, int32_t b) { return int32_t((int64_t(a) * b) >> 32); }, s32, s32, s32);
    reg("mul.hi.u32", [](uint32_t a, uint32_t b) { return uint32_t((uint64_t(a) * b) >> 32); }, u32, u32, u32);
    // Division by zero: unspecified.
    reg("div.u32", [](uint32_t a, uint32_t b) { return b ? a / b : ~0u; }, u32, u32, u32);
    reg("rem.u32", [](uint32_t a, uint32_t b) { return b ? a % b : ~0u; }, u32, u32, u32);
    reg("div.s32", [](int32_t a, int32_t b) { return b == 0 ? -1 : b == -1 ? int32_t(0u - uint32_t(a)) : a / b; }, s32, s32, s32);
    reg("rem.s32", [](int32_t a, int32_t b) { return b == 0 ? -1 : b == -1 ? 0 : a % b; }, s32, s32, s32);
    reg("div.u64", [](uint64_t a, uint64_t b) { return b ? a / b : ~uint64_t(0); }, u64, u64, u64);
    reg("rem.u64", [](uint64_t a, uint64_t b) { return b ? a % b : ~uint64_t(0); }, u64, u64, u64);
    reg("div.s64", [](int64_t a, int64_t b) { return b == 0 ? int64_t(-1) : b == -1 ? int64_t(0 - uint64_t(a)) : a / b; }, s64, s64, s64);
    reg("rem.s64", [](int64_t a, int64_t b) { return b == 0 ? int64_t(-1) : b == -1 ? int64_t(0) : a % b; }, s64, s64, s64);
    reg("min.s32", [](int32_t a, int32_t b) { return a < b ? a : b; }, s32, s32, s32);
    reg("max.s32", [](int32_t a, int32_t b) { return a > b ? a : b; }, s32, s32, s32);
    reg("min.u32", [](uint32_t a, uint32_t b) { return a < b ? a : b; }, u32, u32, u32);
    reg("max.u32", [](uint32_t a, uint32_t b) { return a > b ? a : b; }, u32, u32, u32);
    reg("min.s64", [](int64_t a, int64_t b) { return a < b ? a : b; }, s64, s64, s64);
    reg("max.s64", [](int64_t a, int64_t b) { return a > b ? a : b; }, s64, s64, s64);
    reg("abs.s32", [](int32_t a) { return a < 0 ? int32_t(0u - uint32_t(a)) : a; }, s32, s32);
    reg("neg.s32", [](uint32_t a) { return 0u - a; }, u32, u32);
    reg("neg.s64", [](uint64_t a) { return uint64_t(0) - a; }, u64, u64);
    reg("and.b32", [](uint32_t a, uint32_t b) { return a & b; }, u32, u32, u32);
    reg("or.b32", [](uint32_t a, uint32_t b) { return a | b; }, u32, u32, u32);
    reg("xor.b32", [](uint32_t a, uint32_t b) { return a ^ b; }, u32, u32, u32);
    reg("popc.b32", [](uint32_t a) { return uint32_t(std::popcount(a)); }, u32, u32);
    reg("not.b32", [](uint32_t a) { return ~a; }, u32, u32);
    reg("and.b64", [](uint64_t a, uint64_t b) { return a & b; }, u64, u64, u64);
    reg("or.b64", [](uint64_t a, uint64_t b) { return a | b; }, u64, u64, u64);
    reg("xor.b64", [](uint64_t a, uint64_t b) { return a ^ b; }, u64, u64, u64);
    reg("not.b64", [](uint64_t a) { return ~a; }, u64, u64);
    reg("and.b16", [](uint16_t a, uint16_t b) { return uint16_t(a & b); }, u16, u16, u16);
    reg("or.b16", [](uint16_t a, uint16_t b) { return uint16_t(a | b); }, u16, u16, u16);
    reg("xor.b16", [](uint16_t a, uint16_t b) { return uint16_t(a ^ b); }, u16, u16, u16);
    // A shift by more than the width shifts by the width.
    reg("shl.b32", [](uint32_t a, uint32_t n) { return n > 31 ? 0 : a << n; }, u32, u32, u32);
    reg("shr.u32", [](uint32_t a, uint32_t n) { return n > 31 ? 0 : a >> n; }, u32, u32, u32);
    reg("shr.b32", [](uint32_t a, uint32_t n) { return n > 31 ? 0 : a >> n; }, u32, u32, u32);
    reg("shr.s32", [](int32_t a, uint32_t n) { return a >> (n > 31 ? 31 : n); }, s32, s32, u32);
    reg("shl.b64", [](uint64_t a, uint32_t n) { return n > 63 ? 0 : a << n; }, u64, u64, u32);
    reg("shr.u64", [](uint64_t a, uint32_t n) { return n > 63 ? 0 : a >> n; }, u64, u64, u32);
    reg("shr.s64", [](int64_t a, uint32_t n) { return a >> (n > 63 ? 63 : n); }, s64, s64, u32);
    reg("shl.b16", [](uint16_t a, uint32_t n) { return uint16_t(n > 15 ? 0 : a << n); }, u16, u16, u32);
    reg("shr.u16", [](uint16_t a, uint32_t n) { return uint16_t(n > 15 ? 0 : a >> n); }, u16, u16, u32);
    reg("bfi.b32", [](uint32_t a, uint32_t b, uint32_t at, uint32_t n) { return insert(a, b, at, n); }, u32, u32, u32, u32, u32);

    reg("prmt.b32", [](uint32_t a, uint32_t b, uint32_t c) { return permute(a, b, c); }, u32, u32, u32, u32);
    reg("mul.hi.u16", [](uint16_t a, uint16_t b) { return uint16_t(uint32_t(a) * b >> 16); }, u16, u16, u16);

    // Floating point.
    auto real = [&]<class F>(const std::string& x, F f) {
        for (const std::string& rn : {std::string(), std::string(".rn")}) {
            reg("add" + rn + x, [](F a, F b) { return a + b; }, f, f, f);
            reg("sub" + rn + x, [](F a, F b) { return a - b; }, f, f, f);
            reg("mul" + rn + x, [](F a, F b) { return a * b; }, f, f, f);
        }
        reg("fma.rn" + x, [](F a, F b, F c) { return std::fma(a, b, c); }, f, f, f, f);
        reg("div.rn" + x, [](F a, F b) { return a / b; }, f, f, f);
        reg("sqrt.rn" + x, [](F a) { return std::sqrt(a); }, f, f);
        reg("abs" + x, [](F a) { return std::fabs(a); }, f, f);
        reg("neg" + x, [](F a) { return -a; }, f, f);
        reg("min" + x, [](F a, F b) { return least(a, b); }, f, f, f);
        reg("max" + x, [](F a, F b) { return greatest(a, b); }, f, f, f);
    };
    real(".f32", f32);
    real(".f64", f64);
    reg("rcp.rn.f64", [](double a) { return 1.0 / a; }, f64, f64);
    t["fma.rm.f32"] = {&fma_down, "wwww"};
    reg("ex2.approx.ftz.f32", [](float a) { return flushed(float(std::exp2(double(flushed(a))))); }, f32, f32);

    // Conversions.
    reg("cvt.s64.s32", [](int32_t a) { return int64_t(a); }, s64, s32);
    reg("cvt.s64.s32/64", [](uint64_t a) { return int64_t(int32_t(a)); }, s64, u64);
    reg("cvt.u64.u32", [](uint32_t a) { return uint64_t(a); }, u64, u32);
    reg("cvt.u32.u64", [](uint64_t a) { return uint32_t(a); }, u32, u64);
    reg("cvt.s64.s8", [](int8_t a) { return int64_t(a); }, s64, s8);
    reg("cvt.u32.u16", [](uint16_t a) { return uint32_t(a); }, u32, u16);
    reg("cvt.s32.s16", [](int16_t a) { return int32_t(a); }, s32, s16);
    reg("cvt.u64.u16", [](uint16_t a) { return uint64_t(a); }, u64, u16);
    reg("cvt.u16.u32", [](uint32_t a) { return uint16_t(a); }, u16, u32);
    reg("cvt.s32.s8", [](int8_t a) { return int32_t(a); }, s32, s8);
    reg("cvt.rn.f32.s32", [](int32_t a) { return float(a); }, f32, s32);
    reg("cvt.rn.f32.u32", [](uint32_t a) { return float(a); }, f32, u32);
    reg("cvt.rn.f32.u16", [](uint16_t a) { return float(a); }, f32, u16);
    reg("cvt.rn.f64.s32", [](int32_t a) { return double(a); }, f64, s32);
    reg("cvt.rn.f64.s64", [](int64_t a) { return double(a); }, f64, s64);
    reg("cvt.f64.f32", [](float a) { return double(a); }, f64, f32);
    reg("cvt.rn.f32.f64", [](double a) { return float(a); }, f32, f64);
    reg("cvt.rzi.s32.f32", [](float a) { return to_int(a); }, s32, f32);
    reg("cvt.sat.f32.f32", [](float a) { return a != a ? 0.0f : a <= 0.0f ? 0.0f : a >= 1.0f ? 1.0f : a; }, f32, f32);
    reg("cvt.f32.f16", [](F16 a) { return half_to_float(a.bits); }, f32, f16);
    reg("cvt.rn.f16.f32", [](float a) { return F16{float_to_half(a)}; }, f16, f32);
    // The first operand becomes the upper half.
    reg("cvt.rn.f16x2.f32", [](float a, float b) { return uint32_t(float_to_half(a)) << 16 | float_to_half(b); }, u32, f32, f32);

    // Comparisons.
    auto equal = [&](const std::string& x, auto v) {
        using T = decltype(v);
        cmp("setp.eq" + x, [](T a, T b) { return a == b; }, v);
        cmp("setp.ne" + x, [](T a, T b) { return a != b; }, v);
    };
    auto order = [&](const std::string& x, auto v) {
        using T = decltype(v);
        equal(x, v);
        cmp("setp.lt" + x, [](T a, T b) { return a < b; }, v);
        cmp("setp.le" + x, [](T a, T b) { return a <= b; }, v);
        cmp("setp.gt" + x, [](T a, T b) { return a > b; }, v);
        cmp("setp.ge" + x, [](T a, T b) { return a >= b; }, v);
    };
    auto unordered = [&](const std::string& x, auto v) {
        using T = decltype(v);
        order(x, v);
        cmp("setp.ne" + x, [](T a, T b) { return a == a && b == b && a != b; }, v);
        cmp("setp.equ" + x, [](T a, T b) { return a != a || b != b || a == b; }, v);
        cmp("setp.neu" + x, [](T a, T b) { return a != b; }, v);
        cmp("setp.ltu" + x, [](T a, T b) { return !(a >= b); }, v);
        cmp("setp.leu" + x, [](T a, T b) { return !(a > b); }, v);
        cmp("setp.gtu" + x, [](T a, T b) { return !(a <= b); }, v);
        cmp("setp.geu" + x, [](T a, T b) { return !(a < b); }, v);
        cmp("setp.nan" + x, [](T a, T b) { return a != a || b != b; }, v);
        cmp("setp.num" + x, [](T a, T b) { return a == a && b == b; }, v);
    };
    equal(".b16", u16);
    equal(".b32", u32);
    equal(".b64", u64);
    order(".s16", s16);
    order(".u16", u16);
    order(".s32", s32);
    order(".u32", u32);
    order(".s64", s64);
    order(".u64", u64);
    unordered(".f32", f32);
    unordered(".f64", f64);

    t["and.pred"] = {&logic<AND>, "ppp"};
    t["or.pred"] = {&logic<OR>, "ppp"};
    t["xor.pred"] = {&logic<XOR>, "ppp"};
    t["not.pred"] = {&logic<NOT>, "pp"};
    t["mov.pred"] = {&logic<MOVE>, "pp"};
    return t;
}

}  // namespace

const std::map<std::string, Entry>& table() {
    static const std::map<std::string, Entry> all = make();
    return all;
}

}  // namespace ptx
