// Every machine instruction that CUDA C++ has no word for, and every word that the two compilers of
// this folder do not share. Each has a GPU body (PTX) and a host body (kernels/simt); kernels are
// written in these words alone.
#pragma once

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <stdint.h>
#define DEVICE __device__ __forceinline__
#define SITE
#define ONLY_SITE
// An entry point: `FUNCTION(params)` under the unmangled name NAME, in blocks of THREADS. The second form says how many
// blocks the registers must let a multiprocessor hold, where the compiler would rather spill than take more of them.
#define KERNEL(NAME, PARAMS, THREADS, ...) \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const __grid_constant__ PARAMS p) { __VA_ARGS__(p); }
#define KERNEL_BLOCKS(NAME, PARAMS, THREADS, BLOCKS, ...) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const __grid_constant__ PARAMS p) { __VA_ARGS__(p); }
#else
#include "../simt/simt.h"
#define DEVICE inline
#define SITE , simt::Site site = simt::Site::current()
#define ONLY_SITE simt::Site site = simt::Site::current()
#define KERNEL(NAME, PARAMS, THREADS, ...)                                      \
    static const simt::Register register_##NAME(#NAME, sizeof(PARAMS), THREADS, \
                                                [](const void* p) { __VA_ARGS__(*static_cast<const PARAMS*>(p)); });
#define KERNEL_BLOCKS(NAME, PARAMS, THREADS, BLOCKS, ...) KERNEL(NAME, PARAMS, THREADS, __VA_ARGS__)
using simt::half;
#endif

// --- values ------------------------------------------------------------------------------------------

struct alignas(8) Float2 {
    float v[2];
};
struct alignas(16) Float4 {
    float v[4];
};
// Four fp16 values: a pixel of the network's image.
struct alignas(8) Half4 {
    uint32_t pair[2];
};
// Eight fp16 values, two a word, the lower index in the lower half: the unit of every activation.
struct alignas(16) Half8 {
    uint32_t pair[4];
};

#if defined(__CUDACC__)
DEVICE float half_to_float(half h) { return __half2float(h); }
DEVICE half float_to_half(float f) { return __float2half_rn(f); }
#else
using simt::float_to_half;
using simt::half_to_float;
#endif

DEVICE uint32_t pack(float low, float high) {
#if defined(__CUDACC__)
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
#else
    return simt::float_to_half(low).bits | uint32_t(simt::float_to_half(high).bits) << 16;
#endif
}

DEVICE Float2 unpack(uint32_t pair) {
#if defined(__CUDACC__)
    const float2 f = __half22float2(*reinterpret_cast<const __half2*>(&pair));
    return Float2{f.x, f.y};
#else
    return Float2{{simt::half_to_float(half{uint16_t(pair)}), simt::half_to_float(half{uint16_t(pair >> 16)})}};
#endif
}

DEVICE void unpack(const Half8& h, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const Float2 f = unpack(h.pair[i]);
        v[2 * i] = f.v[0];
        v[2 * i + 1] = f.v[1];
    }
}

DEVICE Half8 pack(const float (&v)[8]) {
    Half8 h;
#pragma unroll
    for (int i = 0; i < 4; ++i) h.pair[i] = pack(v[2 * i], v[2 * i + 1]);
    return h;
}

// 2^x within 2^-22 of itself (PTX ISA: ex2.approx, 2^-22.5), 0 below 2^-126.
DEVICE float exp2_approx(float x) {
#if defined(__CUDACC__)
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

// --- global memory, 16 bytes at once; `p` is a multiple of 16 -----------------------------------------

// From memory that nobody writes while the kernel runs.
template <class Vector> DEVICE Vector load16(const void* p) {
    static_assert(sizeof(Vector) == 16, "one 128-bit access");
#if defined(__CUDACC__)
    // In PTX, so that the compiler cannot make it four loads of what it finds it needs; not volatile, so that it may gather
    // several of them ahead of what uses them.
    uint4 bits;
    asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w) : "l"(p));
    return *reinterpret_cast<const Vector*>(&bits);
#else
    simt::count(simt::LOAD);
    return *static_cast<const Vector*>(p);
#endif
}

template <class Vector> DEVICE void store16(void* p, const Vector& v) {
    static_assert(sizeof(Vector) == 16, "one 128-bit access");
#if defined(__CUDACC__)
    *static_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(&v);
#else
    simt::count(simt::STORE);
    *static_cast<Vector*>(p) = v;
#endif
}

// --- shared memory --------------------------------------------------------------------------------------

#if defined(__CUDACC__)
template <class T> using Shared = T*;
// At a multiple of the period of the 128-byte swizzle, which goes by addresses, not by offsets.
extern __shared__ __align__(1024) unsigned char ddu_arena[];
#else
template <class T> using Shared = simt::Shared<T>;
#endif

// The block's shared memory from byte `offset` on; its size is the launch's.
template <class T> DEVICE Shared<T> smem(int offset) {
#if defined(__CUDACC__)
    return reinterpret_cast<T*>(ddu_arena + offset);
#else
    return Shared<T>(simt::arena(offset));
#endif
}

// The same bytes as another type.
template <class T, class From> DEVICE Shared<T> reinterpret_shared(Shared<From> p) {
#if defined(__CUDACC__)
    return reinterpret_cast<T*>(p);
#else
    return Shared<T>(static_cast<void*>(p.get()));
#endif
}

#if defined(__CUDACC__)
template <class T> DEVICE uint32_t shared_address(const T* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
#endif

// --- barriers ---------------------------------------------------------------------------------------------

DEVICE void sync_threads(ONLY_SITE) {
#if defined(__CUDACC__)
    __syncthreads();
#else
    simt::sync_threads(site);
#endif
}

DEVICE void sync_warp(ONLY_SITE) {
#if defined(__CUDACC__)
    __syncwarp();
#else
    simt::sync_warp(site);
#endif
}

// Barrier `id` in 1..15 among `threads` threads (a multiple of 32): wait for all, or only be counted.
DEVICE void barrier_sync(int id, int threads SITE) {
#if defined(__CUDACC__)
    asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
    simt::named_barrier(id, threads, true, site);
#endif
}

DEVICE void barrier_arrive(int id, int threads SITE) {
#if defined(__CUDACC__)
    asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
    simt::named_barrier(id, threads, false, site);
#endif
}

// --- of one warp -------------------------------------------------------------------------------------------

// `value` of lane `lane ^ mask`.
DEVICE float shuffle_xor(float value, int mask SITE) {
#if defined(__CUDACC__)
    return __shfl_xor_sync(0xffffffffu, value, mask);
#else
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = simt::shuffle(bits, (threadIdx.x ^ mask) % 32, site);
    std::memcpy(&value, &bits, 4);
    return value;
#endif
}

// Broadcasts a warp-uniform value from lane 0, so that the compiler knows it to be uniform.
DEVICE int uniform(int value SITE) {
#if defined(__CUDACC__)
    return __shfl_sync(0xffffffffu, value, 0);
#else
    return int(simt::shuffle(uint32_t(value), 0, site));
#endif
}

// Bit i: the predicate of lane i.
DEVICE uint32_t vote(bool predicate SITE) {
#if defined(__CUDACC__)
    return __ballot_sync(0xffffffffu, predicate);
#else
    return simt::ballot(predicate, site);
#endif
}

// How many bits are set.
DEVICE int count_bits(uint32_t bits) {
#if defined(__CUDACC__)
    return __popc(bits);
#else
    return __builtin_popcount(bits);
#endif
}

// --- tensor cores ---------------------------------------------------------------------------------------------

// Four 8 x 8 matrices of fp16; lane i points at row i % 8 of matrix i / 8 (16 bytes).
DEVICE void ldmatrix_x4(uint32_t (&r)[4], Shared<half> row SITE) {
#if defined(__CUDACC__)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    simt::ldmatrix_x4(r, row.get(), false, site);
#endif
}

DEVICE void ldmatrix_x4_transposed(uint32_t (&r)[4], Shared<half> row SITE) {
#if defined(__CUDACC__)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    simt::ldmatrix_x4(r, row.get(), true, site);
#endif
}

// d += a b with a 16 x 16 (row), b 16 x 8 (column), fp16 in, f32 accumulators.
DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] SITE) {
#if defined(__CUDACC__)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    simt::mma_m16n8k16(d, a, b, site);
#endif
}

// --- asynchronous copies ------------------------------------------------------------------------------------------

// 16 bytes from global to shared memory, or 16 zero bytes if not `valid` (then `source` is not read: any
// multiple of 16). Visible to the issuing thread after its wait, to others after a barrier.
DEVICE void cp_async16(Shared<half> destination, const half* source, bool valid SITE) {
#if defined(__CUDACC__)
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(destination)), "l"(source), "r"(bytes) : "memory");
#else
    simt::cp_async(destination.get(), source, 16, valid ? 16 : 0, site);
#endif
}

DEVICE void cp_async_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    simt::cp_async_commit();
#endif
}

// Waits until at most PENDING of the thread's committed groups are in flight.
template <int PENDING> DEVICE void cp_async_wait() {
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#else
    simt::cp_async_wait(PENDING);
#endif
}
