// mbarriers, bulk copies and warpgroup matrix products.
//
// An mbarrier's phase ends when its arrivals are in and its bytes have landed; copies land when a thread that waits
// finds nothing else missing, so that data nobody waited for stays poisoned. Arrivals release and waits acquire, for
// ThreadSanitizer as well.
//
// Tensor copies (tensor.cpp) are bulk copies whose rows are found as they land.
//
// A warpgroup product is a rendezvous of 128 lanes. It computes at once, from what shared memory holds, but its
// accumulators cannot be touched before the wait of its group, and there its shared operands must still be what it read:
// hardware reads it some time between the two.
#include "hopper.h"

#include <iterator>

#include "runtime.h"

namespace simt {
namespace {

MBarrier* find(const void* p) {
    Worker& w = worker();
    const uint64_t offset = arena_address(p);
    for (uint32_t i = 0; i < w.mbarriers; ++i) {
        if (w.mbarrier[i].offset == offset) return &w.mbarrier[i];
    }
    return nullptr;
}

MBarrier& barrier_at(const void* p, const Site& site) {
    MBarrier* found = find(p);
    if (!found) fail("an mbarrier that nobody has initialised, at " + where(site));
    return *found;
}

// What has been copied becomes visible, to this thread and, through the barrier, to all who wait.
void land(MBarrier& b) {
    for (uint32_t i = 0; i < b.copies; ++i) {
        const BulkCopy& copy = b.copy[i];
#if defined(DDU_SIMT_TSAN)
        if (copy.source) __tsan_read_range(copy.source, copy.bytes);
        __tsan_write_range(copy.destination, copy.bytes);
#endif
        if (copy.source) std::memcpy(copy.destination, copy.source, copy.bytes);
        const uint32_t row_bytes = copy.source ? 0 : copy.tensor.map->box[0] * 2;
        for (uint32_t row = 0; !copy.source && row < copy.bytes / row_bytes; ++row) {
            const char* source;
            [[maybe_unused]] const uint32_t bytes = land_row(copy.tensor, row, copy.destination + row * row_bytes, source);
#if defined(DDU_SIMT_TSAN)
            if (bytes) __tsan_read_range(source, bytes);
#endif
        }
        mark_written(worker(), copy.destination, copy.bytes);
    }
    b.copies = 0;
    b.bytes = 0;
}

bool awaited(const MBarrier& b) {
    for (uint32_t lanes : b.waiting) {
        if (lanes) return true;
    }
    return false;
}

// Ends the phase where nothing is missing.
bool settle(MBarrier& b, const Site& site) {
    if (b.missing != 0) return false;
    int64_t coming = 0;
    for (uint32_t i = 0; i < b.copies; ++i) coming += b.copy[i].bytes;
    if (coming > b.bytes)
        fail("an mbarrier expects " + std::to_string(b.bytes) + " bytes, " + std::to_string(coming) + " come, at " + where(site));
    if (coming < b.bytes) return false;
    // The thread that completes the phase is ordered after all arrivals.
    edge_acquire(&b.edge[b.phase & 1]);
    land(b);
    edge_release(&b.edge[b.phase & 1]);
    ++b.phase;
    b.missing = b.arrivals;
    for (uint32_t warp = 0; warp < 32; ++warp) {
        make_ready(worker(), warp, b.waiting[warp]);
        b.waiting[warp] = 0;
    }
    return true;
}

}  // namespace

uint64_t arena_address(const void* p) { return worker().arena_base + (static_cast<const char*>(p) - worker().arena); }

void mbarrier_init(void* barrier, int arrivals, Site site) {
    check_write(barrier, 8);
    if (arrivals < 1) fail("an mbarrier of no arrivals at " + where(site));
    Worker& w = worker();
    MBarrier* b = find(barrier);
    if (!b) {
        if (w.mbarriers == std::size(w.mbarrier)) fail("more mbarriers than the simt device plays, at " + where(site));
        b = &w.mbarrier[w.mbarriers++];
    }
    *b = MBarrier{};
    b->offset = arena_address(barrier);
    b->arrivals = b->missing = arrivals;
}

void mbarrier_arrive(void* barrier, int bytes, Site site) {
    check_read(barrier, 8);
    MBarrier& b = barrier_at(barrier, site);
    count(BARRIER);
    edge_release(&b.edge[b.phase & 1]);
    if (b.missing == 0) fail("an mbarrier has " + std::to_string(b.arrivals) + " arrivals a phase, one more comes at " + where(site));
    b.bytes += bytes;
    --b.missing;
    // Only the bytes may still be outstanding.
    if (awaited(b) || b.bytes == 0) settle(b, site);
    // A thread that this arrival releases may run before the rest of this function.
    yield_current(site);
}

void mbarrier_wait(void* barrier, int parity, Site site) {
    check_read(barrier, 8);
    MBarrier& b = barrier_at(barrier, site);
    Worker& w = worker();
    while ((b.phase & 1) == uint32_t(parity)) {
        if (settle(b, site)) break;
        b.waiting[w.current->id / 32] |= 1u << w.current->id % 32;
        block_current({"an mbarrier", site, static_cast<char*>(barrier) - w.arena, parity});
    }
    edge_acquire(&b.edge[parity]);
}

void bulk_copy(void* destination, const void* source, int bytes, void* barrier, Site site) {
    if (bytes <= 0 || bytes % 16 || reinterpret_cast<uintptr_t>(source) % 16) {
        fail("a bulk copy whose size or source is no multiple of 16, at " + where(site));
    }
    begin_copy(destination, uint32_t(bytes), barrier, source, {}, site);
}

void begin_copy(void* destination, uint32_t bytes, void* barrier, const void* source, const TensorCopy& tensor, const Site& site) {
    Worker& w = worker();
    check_read(barrier, 8);
    MBarrier& b = barrier_at(barrier, site);
    mark_in_flight(w, "bulk copy", destination, bytes, site);
#if defined(DDU_SIMT_TSAN)
    __tsan_write_range(destination, bytes);
#endif
    if (b.copies == MBarrier::COPIES) fail("more bulk copies on one mbarrier than the simt device plays, at " + where(site));
    b.copy[b.copies++] = {static_cast<char*>(destination), source, bytes, tensor};
    count(CP_ASYNC);
    edge_release(&b.edge[b.phase & 1]);  // the thread that completes the copy is ordered after the poisoning
    if (awaited(b)) settle(b, site);
}

// --- warpgroup products ---------------------------------------------------------------------------------

namespace {

struct Operands {
    float* d;
    const uint32_t* a;  // registers, or null: a lies in shared memory
    uint64_t a_rows, b;
    unsigned n;
    bool accumulate;
};

// 128 lanes; otherwise as `rendezvous`.
void warpgroup_rendezvous(const char* what, void* operand, const Site& site, void (*compute)(Warpgroup&)) {
    Worker& w = worker();
    const uint32_t id = w.current->id, lane = id % 128, first = id / 128 * 4;
    Warpgroup& group = w.group[id / 128];
    if (!group.arrived) {
        group.what = what;
        group.site = site;
    } else if (group.what != what || group.site.line() != site.line()) {
        fail(std::string("divergent collective: comes to ") + what + " at " + where(site) + " while its warpgroup waits in " + group.what +
             " at " + where(group.site));
    }
    group.operand[lane] = operand;
    if (++group.arrived < 128) return block_current({what, site});
    if (compute) compute(group);
    group.arrived = 0;
    for (uint32_t i = 0; i < 4; ++i) make_ready(w, first + i, i == lane / 32 ? ~(1u << lane % 32) : ~0u);
}

// Where row n of b lies: 16 halves in two chunks, permuted by address bits 7 .. 9 (128-byte swizzle).
struct Rows {
    uint64_t start, stride;

    explicit Rows(uint64_t descriptor) {
        if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0)
            fail("a matrix descriptor of another layout than the 128-byte swizzle without offset");
        start = (descriptor & 0x3fff) << 4;
        stride = (descriptor >> 32 & 0x3fff) << 4;
        // Without offset the swizzle starts with the matrix; the steps of 16 columns lie within its rows of 128 bytes.
        if (start % 1024 >= 128 || stride % 1024) fail("a matrix that does not start, or go on, at a multiple of 1024");
    }
    char* chunk(unsigned n, unsigned i) const {
        const uint64_t linear = start + n / 8 * stride + n % 8 * 128 + i * 16;
        return worker().arena + int64_t((linear ^ (linear >> 7 & 7) << 4) - worker().arena_base);
    }
    void load(unsigned n, float* row) const {
        for (unsigned i = 0; i < 2; ++i) {
            check_read(chunk(n, i), 16);
            half values[8];
            std::memcpy(values, chunk(n, i), 16);
            for (unsigned k = 0; k < 8; ++k) row[i * 8 + k] = half_to_float(values[k]);
        }
    }
    uint64_t checksum(unsigned n) const {
        uint64_t sum = 0;
        for (unsigned row = 0; row < n; ++row) {
            for (unsigned i = 0; i < 2; ++i) {
                uint64_t words[2];
                std::memcpy(words, chunk(row, i), 16);
                sum = (sum ^ words[0]) * 0x9e3779b97f4a7c15 + words[1];
            }
        }
        return sum;
    }
    // Where a lane reads it, for the sanitizer.
    void read([[maybe_unused]] unsigned n) const {
#if defined(DDU_SIMT_TSAN)
        for (unsigned row = 0; row < n; ++row) {
            for (unsigned i = 0; i < 2; ++i) __tsan_read_range(chunk(row, i), 16);
        }
#endif
    }
};

constexpr unsigned MOST_COLUMNS = 128;

// Of one product; a thread's stack has no room for them.
struct Matrices {
    float a[64][16], b[16][MOST_COLUMNS], d[64][MOST_COLUMNS];
};
thread_local Matrices matrices;

// PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16": a warp's 16 rows as in mma.m16n8k16, columns in eights.
__attribute__((always_inline)) inline void product(Warpgroup& group) {
    const Operands& first = *static_cast<Operands*>(group.operand[0]);
    const unsigned n = first.n;
    const Rows rows(first.b);
    auto& [a, b, d] = matrices;
    for (unsigned column = 0; column < n; ++column) {
        float row[16];
        rows.load(column, row);
        for (unsigned k = 0; k < 16; ++k) b[k][column] = row[k];
    }
    if (!first.a) {
        const Rows left(first.a_rows);
        for (unsigned row = 0; row < 64; ++row) left.load(row, a[row]);
    }
    for (int lane = 0; lane < 128; ++lane) {
        const Operands& o = *static_cast<Operands*>(group.operand[lane]);
        if (o.n != n || o.b != first.b || o.a_rows != first.a_rows || o.accumulate != first.accumulate)
            fail("lanes of a warpgroup bring different operands");
        const int row = lane / 32 * 16 + lane % 32 / 4, t = lane % 4 * 2;
        for (int i = 0; o.a && i < 4; ++i) {
            a[row + i % 2 * 8][t + i / 2 * 8] = half_to_float(half{uint16_t(o.a[i])});
            a[row + i % 2 * 8][t + i / 2 * 8 + 1] = half_to_float(half{uint16_t(o.a[i] >> 16)});
        }
        for (unsigned j = 0; j < n / 8; ++j) {
            for (int i = 0; i < 4; ++i) d[row + i / 2 * 8][j * 8 + t + i % 2] = o.accumulate ? o.d[j * 4 + i] : 0.0f;
        }
    }
    for (unsigned j = 0; cut_off && j < n; j += 8) sums::add_products(*cut_off, 64, a, b[0] + j, d[0] + j, MOST_COLUMNS);
    for (int row = 0; !cut_off && row < 64; ++row) {
        for (unsigned j = 0; j < n; j += 16) {
            float sum[16];
            for (int i = 0; i < 16; ++i) sum[i] = d[row][j + i];
            for (int k = 0; k < 16; ++k) {
                for (int i = 0; i < 16; ++i) sum[i] += a[row][k] * b[k][j + i];
            }
            for (int i = 0; i < 16; ++i) d[row][j + i] = sum[i];
        }
    }
    for (int lane = 0; lane < 128; ++lane) {
        const Operands& o = *static_cast<Operands*>(group.operand[lane]);
        const int row = lane / 32 * 16 + lane % 32 / 4, t = lane % 4 * 2;
        for (unsigned j = 0; j < n / 8; ++j) {
            for (int i = 0; i < 4; ++i) o.d[j * 4 + i] = d[row + i / 2 * 8][j * 8 + t + i % 2];
        }
    }
}

void product_portable(Warpgroup& group) { product(group); }
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void product_avx2(Warpgroup& group) { product(group); }
void (*const compute_product)(Warpgroup&) = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? product_avx2
                                                                                                            : product_portable;
#else
void (*const compute_product)(Warpgroup&) = product_portable;
#endif

}  // namespace

// Its operands in shared memory: read for the sanitizer, and what they hold.
static void read(const Product& product) {
    Rows(product.b).read(product.n);
    if (product.a) Rows(product.a).read(64);
}

static uint64_t checksum(const Product& product) {
    return Rows(product.b).checksum(product.n) + (product.a ? Rows(product.a).checksum(64) : 0);
}

void touch(InFlight& state) {
    if (state.products) fail("an accumulator is touched while a wgmma on it is in flight (missing wait)");
    if (state.unnamed) fail("an accumulator is touched that the wait for its wgmma does not name");
    state.touched = worker().current->fences + 1;
}

void wgmma_fence(Site site) {
    warpgroup_rendezvous("wgmma.fence", nullptr, site, nullptr);
    ++worker().current->fences;
}

void wgmma_m64k16(float* d, InFlight& state, unsigned n, const uint32_t* a, uint64_t a_rows, uint64_t b, bool accumulate, Site site) {
    Thread& t = *worker().current;
    if (state.touched > t.fences) fail("a wgmma on registers touched since the last wgmma.fence, at " + where(site));
    if (state.n && state.n != n && state.fences == t.fences) {
        fail("a wgmma of n" + std::to_string(n) + " on the accumulator of one of n" + std::to_string(state.n) +
             " without a wgmma.fence between, at " + where(site));
    }
    state.n = n;
    state.unnamed = false;
    state.fences = t.fences;
    Operands operands{d, a, a_rows, b, n, accumulate};
    if (t.id % 128 == 0) count(MMA);
    warpgroup_rendezvous("wgmma", &operands, site, compute_product);
    const bool checks = t.id % 32 == 0;
    const Product product{&state, a ? 0 : a_rows, b, n, 0, site};
    if (checks) read(product);
    ++state.products;
    t.products.push_back(product);
    if (checks) t.products.back().checksum = checksum(product);
    ++t.open_products;
}

void wgmma_commit() {
    Thread& t = *worker().current;
    t.product_groups.push_back(t.open_products);
    t.open_products = 0;
}

void wgmma_wait(unsigned pending, std::initializer_list<InFlight*> finished) {
    Thread& t = *worker().current;
    while (t.product_groups.size() > pending) {
        const uint32_t count = t.product_groups.front();
        for (uint32_t i = 0; i < count; ++i) {
            const Product& product = t.products[i];
            product.accumulator->unnamed = --product.accumulator->products == 0;
            if (t.id % 32) continue;
            read(product);
            if (checksum(product) != product.checksum) {
                fail("shared memory was overwritten under a wgmma in flight, that of " + where(product.site));
            }
        }
        t.products.erase(t.products.begin(), t.products.begin() + count);
        t.product_groups.erase(t.product_groups.begin());
    }
    for (InFlight* accumulator : finished) accumulator->unnamed = false;
}

}  // namespace simt
