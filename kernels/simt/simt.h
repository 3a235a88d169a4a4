// The host's CUDA: what a .cu file sees instead of the CUDA headers when the C++ compiler builds it.
//
// A CUDA thread is a fiber (fiber.h); an OS thread runs one block at a time (runtime.cpp). A
// collective (barrier, shuffle, vote, ldmatrix, mma) is a rendezvous whose last arrival computes for
// all. Shared memory is reached through Shared<T>, which checks every access: inside the arena, and
// written before it is read (memory.cpp). Global memory is plain pointers between guard pages.
//
// Every fault ends the launch with one line that names kernel, block and thread.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace simt {

// Where a collective stands in the kernel's source; a default argument, so that it is the caller's.
using Site = std::source_location;

struct Dim {
    uint32_t x, y, z;
};

// The running CUDA thread's indices; valid only inside a kernel.
struct Indices {
    Dim thread, block, block_dim, grid_dim;
};
const Indices& indices();

// --- shared memory -----------------------------------------------------------------------------

// Start of the block's arena plus `offset` bytes.
void* arena(size_t offset);
// Ends the launch unless [p, p + bytes) lies in the arena, aligned; a read also needs every byte
// written and no copy in flight on it; a write also needs no copy in flight on it.
void check_read(const void* p, size_t bytes);
void check_write(void* p, size_t bytes);

// A T* into shared memory that checks what it does. On a GPU the same code has a plain T*.
template <class T> class Shared {
    T* p;

  public:
    class Ref {
        T* p;

      public:
        explicit Ref(T* p) : p(p) {}
        operator T() const {
            check_read(p, sizeof(T));
            return *p;
        }
        const Ref& operator=(T value) const {
            check_write(p, sizeof(T));
            *p = value;
            return *this;
        }
        const Ref& operator=(const Ref& other) const { return *this = T(other); }
        const Ref& operator+=(T value) const { return *this = T(*this) + value; }
    };

    Shared() : p(nullptr) {}
    explicit Shared(void* p) : p(static_cast<T*>(p)) {}
    Shared operator+(ptrdiff_t i) const { return Shared(static_cast<void*>(p + i)); }
    Ref operator[](ptrdiff_t i) const { return Ref(p + i); }
    Ref operator*() const { return Ref(p); }
    // The bare pointer, for the instructions below that do their own checks.
    T* get() const { return p; }
};

// --- collectives: called by all 32 lanes of a warp, or all threads of a block --------------------

void sync_threads(Site site);
void sync_warp(Site site);
// bar.sync / bar.arrive on barrier 1..15 for `threads` threads.
void named_barrier(unsigned id, unsigned threads, bool wait, Site site);
uint32_t shuffle(uint32_t value, unsigned source_lane, Site site);
uint32_t ballot(bool predicate, Site site);
// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lane i gives the 16-byte row i % 8 of matrix i / 8.
void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transpose, Site site);
// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32, d = a b + d.
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site);

// --- cp.async ------------------------------------------------------------------------------------

// The destination is poisoned at once and holds the data only after the wait of the issuing thread.
// Bytes from `source_bytes` on are zero; the source is read at the wait.
void cp_async(void* destination, const void* source, unsigned bytes, unsigned source_bytes, Site site);
void cp_async_commit();
// Waits until at most `pending` of this thread's committed groups are in flight.
void cp_async_wait(unsigned pending);

// --- counters for `ddu profile`, in instructions of a thread (collectives: of a warp) -----------

enum Count { MMA, LDMATRIX, CP_ASYNC, SHUFFLE, BARRIER, LOAD, STORE, COUNTS };
void count(Count what);

// --- the table of kernels --------------------------------------------------------------------------

struct Kernel {
    const char* name;
    uint32_t params_bytes;
    uint32_t threads;
    void (*run)(const void* params);
    const Kernel* next;
};
// Links a kernel into the table; a static object of this type stands beside every kernel.
struct Register {
    Kernel kernel;
    Register(const char* name, uint32_t params_bytes, uint32_t threads, void (*run)(const void*));
};

// --- fp16 -------------------------------------------------------------------------------------------

struct half {
    uint16_t bits;
};

inline float half_to_float(half h) {
    const uint32_t sign = uint32_t(h.bits & 0x8000) << 16, rest = h.bits & 0x7fff;
    uint32_t bits;
    if (rest >= 0x7c00) {
        bits = 0x7f800000 | (rest & 0x3ff) << 13;
    } else if (rest >= 0x400) {
        bits = (rest << 13) + 0x38000000;
    } else {
        const float subnormal = float(rest) * 0x1p-24f;
        std::memcpy(&bits, &subnormal, 4);
    }
    bits |= sign;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

// Rounds to nearest, ties to even; overflow gives infinity.
inline half float_to_half(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const uint16_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return half{uint16_t(sign | 0x7fff)};
    if (bits >= 0x477ff000) return half{uint16_t(sign | 0x7c00)};  // 65520 and more
    if (bits < 0x38800000) {                                       // below the least normal, 2^-14
        float scaled;
        std::memcpy(&scaled, &bits, 4);
        // Adding 2^23 2^-24 = 0.5 puts the unit of fp16's subnormals in the last place of the sum.
        scaled += 0.5f;
        uint32_t sum;
        std::memcpy(&sum, &scaled, 4);
        return half{uint16_t(sign | (sum - 0x3f000000))};
    }
    bits += 0xfff + (bits >> 13 & 1);
    return half{uint16_t(sign | (bits - 0x38000000) >> 13)};
}

}  // namespace simt

#define threadIdx (simt::indices().thread)
#define blockIdx (simt::indices().block)
#define blockDim (simt::indices().block_dim)
#define gridDim (simt::indices().grid_dim)
