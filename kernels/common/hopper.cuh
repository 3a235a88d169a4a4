// The words of arch.cuh that only compute capability 9.0 (sm_90a) has: mbarriers, bulk and tensor copies, clusters of blocks,
// warpgroup matrix products. As there, each has a GPU body and a host body (kernels/simt/hopper.h). For other
// architectures a kernel that needs them is empty (HOPPER is 0) and must not be launched.
#pragma once
#include "arch.cuh"

#if !defined(__CUDACC__)
#include "../simt/hopper.h"
#define HOPPER 1
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1
#else
#define HOPPER 0
#endif

// Where a tensor lies and which box of it a copy takes: the host makes it (src/device/launch/tensor_map.rs), and a kernel's
// parameter holds it, on every architecture.
#if defined(__CUDACC__)
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};
#else
using simt::TensorMap;
#endif

#if HOPPER

// --- mbarriers ---------------------------------------------------------------------------------------------
// A phase ends when all its arrivals and all its expected bytes have come. A wait names the parity of the
// phase (0, 1, 0 ..) that must be over; on a fresh barrier the phase before the first, of parity 1, is.

#if defined(__CUDACC__)
using MBarrier = uint64_t;
#else
using MBarrier = simt::MBarrierCell;
#endif

DEVICE void mbarrier_init(Shared<MBarrier> barrier, int arrivals SITE) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#else
    simt::mbarrier_init(barrier.get(), arrivals, site);
#endif
}

// Makes the initialised barriers visible to bulk copies; other threads see them after a barrier.
DEVICE void mbarrier_init_fence() {
#if defined(__CUDACC__)
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

DEVICE void mbarrier_arrive(Shared<MBarrier> barrier SITE) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
    simt::mbarrier_arrive(barrier.get(), 0, site);
#endif
}

// Arrives, and the phase also awaits `bytes` of bulk copies.
DEVICE void mbarrier_arrive_expect(Shared<MBarrier> barrier, int bytes SITE) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
#else
    simt::mbarrier_arrive(barrier.get(), bytes, site);
#endif
}

// A build with -DDDU_WAIT_TRIES=N, for first tests on a GPU, where a wait that never ends would take the machine with it, traps
// after N tries, each of which the GPU ends after some microseconds. Who waited for what is then in the core dump
// (CUDA_ENABLE_COREDUMP_ON_EXCEPTION=1; cuda-gdb: `print ddu_stuck`). In PTX alone: with a call of printf or assert ptxas would
// wait after each warpgroup product.
#if defined(__CUDACC__) && defined(DDU_WAIT_TRIES)
// Block x, y, z, thread, the barrier's byte of shared memory, parity.
extern "C" __device__ uint32_t ddu_stuck[6];
__device__ uint32_t ddu_stuck[6];
#endif

DEVICE void mbarrier_wait(Shared<MBarrier> barrier, int parity SITE) {
#if defined(__CUDACC__) && defined(DDU_WAIT_TRIES)
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 ".reg .b32 tries, word;\n"
                 "mov.u32 tries, 0;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra over;\n"
                 "add.u32 tries, tries, 1;\n"
                 "setp.lt.u32 done, tries, %2;\n"
                 "@done bra again;\n"
                 "mov.u32 word, %%ctaid.x;\n"
                 "st.volatile.global.u32 [ddu_stuck], word;\n"
                 "mov.u32 word, %%ctaid.y;\n"
                 "st.volatile.global.u32 [ddu_stuck + 4], word;\n"
                 "mov.u32 word, %%ctaid.z;\n"
                 "st.volatile.global.u32 [ddu_stuck + 8], word;\n"
                 "mov.u32 word, %%tid.x;\n"
                 "st.volatile.global.u32 [ddu_stuck + 12], word;\n"
                 "mov.u32 word, ddu_arena;\n"
                 "sub.u32 word, %0, word;\n"
                 "st.volatile.global.u32 [ddu_stuck + 16], word;\n"
                 "st.volatile.global.u32 [ddu_stuck + 20], %1;\n"
                 "trap;\n"
                 "over:\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity), "n"(DDU_WAIT_TRIES)
                 : "memory");
#elif defined(__CUDACC__)
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
#else
    simt::mbarrier_wait(barrier.get(), parity, site);
#endif
}

// `bytes` (a multiple of 16) from global to shared memory, both at multiples of 16, counted by `barrier`.
DEVICE void bulk_copy(Shared<half> destination, const void* source, int bytes, Shared<MBarrier> barrier SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(destination)),
        "l"(source), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
#else
    simt::bulk_copy(destination.get(), source, bytes, barrier.get(), site);
#endif
}

// --- tensor copies ----------------------------------------------------------------------------------------------
// Coordinates are the tensor's own, the innermost first. A copy's bytes are those of the whole box: what lies outside the tensor
// arrives as zeros. The destination is a multiple of 1024, where the 128-byte swizzle starts.

// Fetches the map before the first copy by it.
DEVICE void prefetch_map([[maybe_unused]] const TensorMap& map) {
#if defined(__CUDACC__)
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

// The box that starts at (x, y, z).
DEVICE void tensor_copy(Shared<half> destination, const TensorMap& map, int x, int y, int z, Shared<MBarrier> barrier SITE) {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
                     shared_address(destination)),
                 "l"(&map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
                 : "memory");
#else
    simt::tensor_copy(destination.get(), map, 3, false, {x, y, z, 0}, {0, 0}, barrier.get(), site);
#endif
}

// Channels c .. of as many pixels as the map says: pixel (w, h) of image n and those that follow it between the map's corners,
// each read (right, down) further on.
DEVICE void tensor_copy_im2col(Shared<half> destination, const TensorMap& map, int c, int w, int h, int n, int right, int down,
                               Shared<MBarrier> barrier SITE) {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6], "
                 "{%7, %8};" ::"r"(shared_address(destination)),
                 "l"(&map), "r"(c), "r"(w), "r"(h), "r"(n), "r"(shared_address(barrier)), "h"(uint16_t(right)), "h"(uint16_t(down))
                 : "memory");
#else
    simt::tensor_copy(destination.get(), map, 4, true, {c, w, h, n}, {uint16_t(right), uint16_t(down)}, barrier.get(), site);
#endif
}

// The other way: the box that starts at (x, y, z) becomes what lies at `source`, which must not change before a wait. Of the box
// only what lies inside the tensor is written. What the block's threads have stored at `source` needs a fence_proxy_async of each,
// and an order.
DEVICE void tensor_store(const TensorMap& map, int x, int y, int z, Shared<half> source SITE) {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&map), "r"(x), "r"(y), "r"(z),
                 "r"(shared_address(source))
                 : "memory");
#else
    simt::tensor_store(map, 3, {x, y, z, 0}, source.get(), site);
#endif
}

// Makes a group of the thread's copies to tensors since the last.
DEVICE void store_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
    simt::store_commit();
#endif
}

// Waits until at most PENDING of the thread's groups have something to read from shared memory. The kernel's end waits for what
// they write.
template <int PENDING> DEVICE void store_wait_read() {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
#else
    simt::store_wait_read(PENDING);
#endif
}

// Orders the thread's own reads and writes of shared memory, and those it knows of, before accesses of bulk copies and warpgroup
// products (the async proxy) by whom it lets go on: an mbarrier alone does not (PTX ISA, "Async proxy"). What a copy has written may be
// read after its mbarrier's wait without one.
DEVICE void fence_proxy_async() {
#if defined(__CUDACC__)
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// --- clusters -----------------------------------------------------------------------------------------------------------
// Blocks that a launch puts on neighbouring multiprocessors: of a cluster of N, blocks N i .. N i + N - 1 of the grid's x, by rank.

// Waits for all threads of the cluster that have not ended; what they did to shared memory before is seen after. No block may end
// while another reads its shared memory.
DEVICE void cluster_sync(ONLY_SITE) {
#if defined(__CUDACC__)
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    simt::cluster_sync(site);
#endif
}

// 16 bytes of block `rank`'s shared memory, where this block has `p`.
template <class Vector> DEVICE Vector cluster_load16(Shared<Vector> p, int rank SITE) {
    static_assert(sizeof(Vector) == 16, "one 128-bit access");
#if defined(__CUDACC__)
    // Volatile, so that it stays between the barriers; it waits for nothing itself.
    uint4 bits;
    asm volatile("{\n.reg .b32 at;\nmapa.shared::cluster.u32 at, %4, %5;\nld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [at];\n}"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "r"(shared_address(p)), "r"(rank));
    return *reinterpret_cast<const Vector*>(&bits);
#else
    return *static_cast<const Vector*>(simt::cluster_read(p.get(), rank, 16, site));
#endif
}

// --- registers: called by all warps of a warpgroup -------------------------------------------------------------

template <int REGISTERS> DEVICE void take_registers() {
#if defined(__CUDACC__)
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}

template <int REGISTERS> DEVICE void give_registers() {
#if defined(__CUDACC__)
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}

// --- warpgroup matrix products ------------------------------------------------------------------------------------
// d += a b, a 64 x 16 fp16 in registers (a warp's 16 rows as in mma_m16n8k16) or in shared memory, as 64 rows of 16, b 16 x N
// fp16 in shared memory, stored as N rows of 16; f32 accumulators. Asynchronous: between wgmma_fence and the wgmma_wait of its group
// d and a's registers may not be touched, nor shared operands overwritten. Products of another N on the same d need a
// wgmma_fence between.

// Columns 0 .. N - 1 of 64 rows; in a thread, value 4 j + 2 h + i is row lane / 4 + 8 h of the warp, column 8 j + 2 (lane % 4) + i.
#if defined(__CUDACC__)
template <int N> struct AccumulatorOf {
    float v[N / 2];
    DEVICE float& operator[](int i) { return v[i]; }
};
#else
using simt::AccumulatorOf;
#endif
using Accumulator = AccumulatorOf<64>;

// Where an operand lies: rows of 128 bytes, their 16-byte chunks permuted by row % 8, eight rows (at a multiple of 1024 bytes)
// after another; `rows` at the wanted 16 columns (PTX ISA, "Matrix Descriptor Format": 128-byte swizzle).
DEVICE uint64_t wgmma_rows(Shared<half> rows) {
#if defined(__CUDACC__)
    const uint64_t address = shared_address(rows);
#else
    const uint64_t address = simt::arena_address(rows.get());
#endif
    return (address & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

DEVICE void wgmma_fence(ONLY_SITE) {
#if defined(__CUDACC__)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    simt::wgmma_fence(site);
#endif
}

DEVICE void wgmma_commit() {
#if defined(__CUDACC__)
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    simt::wgmma_commit();
#endif
}

#if defined(__CUDACC__)
#define DDU_8(d, i)                                                                                                           \
    "+f"(d.v[i]), "+f"(d.v[i + 1]), "+f"(d.v[i + 2]), "+f"(d.v[i + 3]), "+f"(d.v[i + 4]), "+f"(d.v[i + 5]), "+f"(d.v[i + 6]), \
        "+f"(d.v[i + 7])
#define DDU_WGMMA(N, D, A0, A1, A2, A3, B, P)      \
    "{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n" \
    "wgmma.mma_async.sync.aligned.m64n" N "k16.f32.f16.f16 {" D "}, {" A0 ", " A1 ", " A2 ", " A3 "}, " B ", p, 1, 1, 0;\n}"
#endif

// The first N columns of d += a b; `accumulate` false: they become a b.
template <int N> DEVICE void wgmma_m64k16(Accumulator& d, const uint32_t (&a)[4], uint64_t b, bool accumulate SITE) {
    static_assert(N == 64 || N == 48 || N == 32 || N == 16, "");
#if defined(__CUDACC__)
    const int p = accumulate;
    if constexpr (N == 64) {
        asm volatile(
            DDU_WGMMA(
                "64",
                "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
                "%32", "%33", "%34", "%35", "%36", "%37")
            : DDU_8(d, 0), DDU_8(d, 8), DDU_8(d, 16), DDU_8(d, 24)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p));
    } else if constexpr (N == 48) {
        asm volatile(
            DDU_WGMMA("48", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23",
                      "%24", "%25", "%26", "%27", "%28", "%29")
            : DDU_8(d, 0), DDU_8(d, 8), DDU_8(d, 16)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p));
    } else if constexpr (N == 32) {
        asm volatile(DDU_WGMMA("32", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16", "%17", "%18", "%19",
                               "%20", "%21")
                     : DDU_8(d, 0), DDU_8(d, 8)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p));
    } else {
        asm volatile(DDU_WGMMA("16", "%0, %1, %2, %3, %4, %5, %6, %7", "%8", "%9", "%10", "%11", "%12", "%13")
                     : DDU_8(d, 0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p));
    }
#else
    simt::wgmma_m64k16(d.values(), d.in_flight(), N, a, 0, b, accumulate, site);
#endif
}

#if defined(__CUDACC__)
#define DDU_32(d, i) DDU_8(d, i), DDU_8(d, i + 8), DDU_8(d, i + 16), DDU_8(d, i + 24)
#define DDU_WGMMA_SHARED(N, D, A, B, P)            \
    "{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n" \
    "wgmma.mma_async.sync.aligned.m64n" N "k16.f32.f16.f16 {" D "}, " A ", " B ", p, 1, 1, 0, 0;\n}"
#define DDU_REGISTERS_32                                                                                                            \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, " \
    "%27, %28, %29, %30, %31"
#define DDU_REGISTERS_64                                                                                                              \
    DDU_REGISTERS_32                                                                                                                  \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, " \
    "%57, %58, %59, %60, %61, %62, %63"
#endif

// d += a b with both operands in shared memory (wgmma_rows); `accumulate` false: d becomes a b.
template <int N> DEVICE void wgmma_m64k16(AccumulatorOf<N>& d, uint64_t a, uint64_t b, bool accumulate SITE) {
    static_assert(N == 128 || N == 64, "");
#if defined(__CUDACC__)
    const int p = accumulate;
    if constexpr (N == 128) {
        asm volatile(DDU_WGMMA_SHARED("128", DDU_REGISTERS_64, "%64", "%65", "%66") : DDU_32(d, 0), DDU_32(d, 32) : "l"(a), "l"(b), "r"(p));
    } else {
        asm volatile(DDU_WGMMA_SHARED("64", DDU_REGISTERS_32, "%32", "%33", "%34") : DDU_32(d, 0) : "l"(a), "l"(b), "r"(p));
    }
#else
    simt::wgmma_m64k16(d.values(), d.in_flight(), N, nullptr, a, b, accumulate, site);
#endif
}

#if defined(__CUDACC__)
// To the compiler: d has new values from here on.
DEVICE void changed(AccumulatorOf<64>& d) { asm volatile("" : DDU_32(d, 0)::"memory"); }
DEVICE void changed(AccumulatorOf<128>& d) { asm volatile("" : DDU_32(d, 0), DDU_32(d, 32)::"memory"); }
#endif

// Waits until at most PENDING of the warpgroup's committed groups are in flight. `finished`: the accumulators that may be read
// from here on; the compiler must not move what reads them above the wait.
template <int PENDING, class... Finished> DEVICE void wgmma_wait(Finished&... finished) {
#if defined(__CUDACC__)
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    (changed(finished), ...);
#else
    simt::wgmma_wait(PENDING, {&finished.in_flight()...});
#endif
}

#endif  // HOPPER
