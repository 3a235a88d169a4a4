// Collectives: each is a rendezvous whose last arrival computes for all. Barriers are happens-before
// edges for ThreadSanitizer; shuffle, vote, ldmatrix and mma are none.
#include <cstdlib>

#include "runtime.h"

namespace simt {

const char* const wanted_sums = std::getenv("DDU_SIMT_SUMS");
const sums::Cut* const cut_off = wanted_sums ? sums::named(wanted_sums) : nullptr;

// Every lane of the warp brings its operands; the last one runs `compute` on all 32 and frees the rest.
// The lanes must come to the same instruction (.aligned), in the same place of the source.
void rendezvous(const char* what, void* operand, const Site& site, void (*compute)(Warp&)) {
    Worker& w = worker();
    const uint32_t id = w.current->id, lane = id % 32;
    Warp& warp = w.warp[id / 32];
    if (!warp.arrived) {
        warp.what = what;
        warp.site = site;
    } else if (warp.what != what || warp.site.line() != site.line()) {
        fail(std::string("divergent collective: comes to ") + what + " at " + where(site) + " while lanes of its warp wait in " +
             warp.what + " at " + where(warp.site));
    }
    warp.operand[lane] = operand;
    warp.arrived |= 1u << lane;
    if (warp.arrived != ~0u) return block_current({what, site});
    if (compute) compute(warp);
    warp.arrived = 0;
    ++warp.generation;
    make_ready(w, id / 32, ~(1u << lane));
}

void sync_warp(Site site) {
    Warp& warp = worker().warp[worker().current->id / 32];
    void* edge = &warp.edge[warp.generation & 1];
    edge_release(edge);
    count(BARRIER);
    rendezvous("__syncwarp", nullptr, site, nullptr);
    edge_acquire(edge);
}

namespace {

void arrive(unsigned id, unsigned threads, bool wait, const char* what, const Site& site) {
    Worker& w = worker();
    Barrier& b = w.barrier[id];
    const uint32_t thread = w.current->id;
    if (!b.arrived) {
        b.threads = threads;
        b.site = site;
    } else if (id == 0 && b.site.line() != site.line()) {
        fail("divergent barrier: comes to __syncthreads at " + where(site) + " while others wait in the one at " + where(b.site));
    } else if (b.threads != threads) {
        fail("named barrier " + std::to_string(id) + ": expects " + std::to_string(threads) + " threads at " + where(site) +
             ", others expect " + std::to_string(b.threads));
    }
    void* edge = &b.edge[b.generation & 1];
    edge_release(edge);
    count(BARRIER);
    if (++b.arrived == b.threads) {
        b.arrived = 0;
        ++b.generation;
        for (uint32_t i = 0; i < w.warps; ++i) {
            make_ready(w, i, b.waiting[i]);
            b.waiting[i] = 0;
        }
    } else if (wait) {
        b.waiting[thread / 32] |= 1u << thread % 32;
        block_current({what, site});
    }
    if (wait) edge_acquire(edge);
}

}  // namespace

void sync_threads(Site site) { arrive(0, worker().threads, true, "__syncthreads", site); }

void named_barrier(unsigned id, unsigned threads, bool wait, Site site) {
    if (id < 1 || id > 15 || threads % 32 || threads == 0)
        fail("named barrier " + std::to_string(id) + " does not exist at " + where(site));
    arrive(id, threads, wait, "a named barrier", site);
}

namespace {

struct Shuffle {
    uint32_t value, source, result;
};

struct Ballot {
    bool predicate;
    uint32_t result;
};

struct Ldmatrix {
    const uint16_t* row;
    uint32_t* r;
    bool transpose;
};

struct Mma {
    float* d;
    const uint32_t* a;
    const uint32_t* b;
};

// Matrix m holds rows lane 8 m .. 8 m + 7. Lane l receives elements (l / 4, 2 (l % 4)) and the next of
// the row; transposed, (2 (l % 4), l / 4) and the next of the column.
void compute_ldmatrix(Warp& warp) {
    const Ldmatrix* lane[32];
    for (int l = 0; l < 32; ++l) lane[l] = static_cast<Ldmatrix*>(warp.operand[l]);
    const bool transpose = lane[0]->transpose;
    for (int l = 0; l < 32; ++l) {
        const int g = l / 4, t = l % 4;
        for (int m = 0; m < 4; ++m) {
            uint32_t low, high;
            if (transpose) {
                low = lane[8 * m + 2 * t]->row[g];
                high = lane[8 * m + 2 * t + 1]->row[g];
            } else {
                low = lane[8 * m + g]->row[2 * t];
                high = lane[8 * m + g]->row[2 * t + 1];
            }
            lane[l]->r[m] = low | high << 16;
        }
    }
}

inline float low(uint32_t pair) { return half_to_float(half{uint16_t(pair)}); }
inline float high(uint32_t pair) { return half_to_float(half{uint16_t(pair >> 16)}); }

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type". With g = lane / 4, t = lane % 4:
// a0 (g, 2t), a1 (g + 8, 2t), a2 (g, 2t + 8), a3 (g + 8, 2t + 8); b0 (2t, g), b1 (2t + 8, g); d0, d1 (g, 2t), d2, d3 (g + 8, 2t).
// Products of fp16 are exact in f32, so a fused multiply-add gives the bits of a multiply and an add. Sums are those of f32,
// one product after another, or as a tensor core's.
__attribute__((always_inline)) inline void mma(Warp& warp) {
    float a[16][16], b[16][8], d[16][8];
    for (int l = 0; l < 32; ++l) {
        const Mma& o = *static_cast<Mma*>(warp.operand[l]);
        const int g = l / 4, t = l % 4 * 2;
        for (int i = 0; i < 4; ++i) {
            a[g + i % 2 * 8][t + i / 2 * 8] = low(o.a[i]);
            a[g + i % 2 * 8][t + i / 2 * 8 + 1] = high(o.a[i]);
        }
        for (int i = 0; i < 2; ++i) {
            b[t + 8 * i][g] = low(o.b[i]);
            b[t + 8 * i + 1][g] = high(o.b[i]);
        }
        for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][t + i % 2] = o.d[i];
    }
    if (cut_off) sums::add_products(*cut_off, 16, a, b[0], d[0], 8);
    for (int i = 0; !cut_off && i < 16; ++i) {
        float sum[8];
        for (int j = 0; j < 8; ++j) sum[j] = d[i][j];
        for (int k = 0; k < 16; ++k) {
            for (int j = 0; j < 8; ++j) sum[j] += a[i][k] * b[k][j];
        }
        for (int j = 0; j < 8; ++j) d[i][j] = sum[j];
    }
    for (int l = 0; l < 32; ++l) {
        const Mma& o = *static_cast<Mma*>(warp.operand[l]);
        const int g = l / 4, t = l % 4 * 2;
        for (int i = 0; i < 4; ++i) o.d[i] = d[g + i / 2 * 8][t + i % 2];
    }
}

void mma_portable(Warp& warp) { mma(warp); }
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void mma_avx2(Warp& warp) { mma(warp); }
void (*const compute_mma)(Warp&) = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? mma_avx2 : mma_portable;
#else
void (*const compute_mma)(Warp&) = mma_portable;
#endif

void compute_shuffle(Warp& warp) {
    for (void* operand : warp.operand) {
        auto* lane = static_cast<Shuffle*>(operand);
        lane->result = static_cast<Shuffle*>(warp.operand[lane->source % 32])->value;
    }
}

void compute_ballot(Warp& warp) {
    uint32_t mask = 0;
    for (int l = 0; l < 32; ++l) mask |= uint32_t(static_cast<Ballot*>(warp.operand[l])->predicate) << l;
    for (void* operand : warp.operand) static_cast<Ballot*>(operand)->result = mask;
}

// Counted once per warp.
void count_warp(Count what) {
    if (worker().current->id % 32 == 0) count(what);
}

}  // namespace

uint32_t shuffle(uint32_t value, unsigned source_lane, Site site) {
    Shuffle operand{value, source_lane, 0};
    count_warp(SHUFFLE);
    rendezvous("shuffle", &operand, site, compute_shuffle);
    return operand.result;
}

uint32_t ballot(bool predicate, Site site) {
    Ballot operand{predicate, 0};
    count_warp(SHUFFLE);
    rendezvous("vote", &operand, site, compute_ballot);
    return operand.result;
}

void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transpose, Site site) {
    check_read(row, 16);
#if defined(DDU_SIMT_TSAN)
    __tsan_read_range(row, 16);
#endif
    Ldmatrix operand{static_cast<const uint16_t*>(row), r, transpose};
    count_warp(LDMATRIX);
    rendezvous(transpose ? "ldmatrix.trans" : "ldmatrix", &operand, site, compute_ldmatrix);
}

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
    Mma operand{d, a, b};
    count_warp(MMA);
    rendezvous("mma", &operand, site, compute_mma);
}

}  // namespace simt
