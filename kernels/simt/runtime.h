// What the runtime's own files share: the running worker, its block, warps and threads.
#pragma once
#include <string>
#include <vector>

#include "fiber.h"
#include "hopper.h"
#include "simt.h"
#include "sums.h"

namespace simt {

enum class Schedule : uint32_t { FORWARD = 0, REVERSE = 1, RANDOM = 2 };

// A cp.async in flight.
struct Copy {
    void* destination;
    const void* source;
    unsigned bytes, source_bytes;
};

// A wgmma in flight, as one of its threads knows it.
struct Product {
    InFlight* accumulator;
    uint64_t a, b;  // matrix descriptors; a 0: in registers
    unsigned n;
    uint64_t checksum;  // of a and b; a warp's first lane has it
    Site site;
};

// Which box of a tensor a copy takes.
struct TensorCopy {
    const TensorMap* map = nullptr;
    int32_t at[4] = {};
    uint16_t offsets[2] = {};
};

// A copy to a tensor in flight.
struct TensorStore {
    TensorCopy to;
    const char* source;
    uint32_t bytes;
    uint64_t checksum;
    Site site;
};

// What a thread waits for; the site says where in the kernel.
struct Wait {
    const char* what = nullptr;
    Site site;
    int64_t byte = -1;  // of an mbarrier: where it lies in shared memory, and the parity waited for
    int parity = 0;
};

struct Thread {
    Fiber fiber;
    uint32_t id = 0;
    bool done = false;
    Wait wait;
    std::vector<Copy> copies;       // in order of issue
    std::vector<uint32_t> groups;   // committed: number of copies in each group in flight
    uint32_t uncommitted = 0;       // copies since the last commit
    std::vector<Product> products;  // as for the copies
    std::vector<uint32_t> product_groups;
    uint32_t open_products = 0;
    uint64_t fences = 0;              // wgmma.fence so far
    std::vector<TensorStore> stores;  // as for the copies
    std::vector<uint32_t> store_groups;
    uint32_t open_stores = 0;
};

struct Barrier {
    uint32_t arrived = 0;
    uint32_t threads = 0;  // expected; fixed by the first to arrive
    uint32_t generation = 0;
    uint32_t waiting[32] = {};  // lanes of each warp
    Site site;
    char edge[2] = {};  // ThreadSanitizer's happens-before edges, of even and odd generations
};

struct Warp {
    uint32_t ready = 0;    // lanes that can run
    uint32_t arrived = 0;  // lanes at the collective
    const char* what = nullptr;
    Site site;
    void* operand[32] = {};
    uint32_t generation = 0;
    char edge[2] = {};
};

// Four warps; `arrived` lanes are at the collective.
struct Warpgroup {
    uint32_t arrived = 0;
    const char* what = nullptr;
    Site site;
    void* operand[128] = {};
};

// A bulk copy in flight; without a source a tensor copy.
struct BulkCopy {
    char* destination;
    const void* source;
    uint32_t bytes;
    TensorCopy tensor;
};

// Plain arrays: what libc does to a vector ThreadSanitizer would count as the lane's own accesses.
struct MBarrier {
    static constexpr uint32_t COPIES = 16;
    uint64_t offset = 0;                 // in the arena
    uint32_t arrivals = 0, missing = 0;  // a phase takes; this one still needs
    int64_t bytes = 0;                   // expected in this phase
    uint32_t phase = 0;                  // that has not ended
    BulkCopy copy[COPIES];
    uint32_t copies = 0;
    uint32_t waiting[32] = {};  // lanes of each warp
    char edge[2] = {};          // ThreadSanitizer's, of even and odd phases
};

struct Launch;
struct Worker;

// Blocks that run together, each a worker's; of one launched without clusters a block alone.
struct Cluster {
    std::vector<Worker*> blocks;                      // by rank
    uint32_t arrived = 0, ended = 0, generation = 0;  // threads at the barrier, and those that have left the kernel
    char edge[2] = {};
};

// A block and its threads. One OS thread runs the blocks of a cluster in turn.
struct Worker {
    Fiber self;  // of the OS thread
    Launch* launch = nullptr;
    Cluster* cluster = nullptr;
    uint32_t at_cluster[32] = {};  // lanes of each warp that wait at its barrier
    Indices indices = {};
    uint32_t threads = 0, warps = 0, done = 0;
    uint32_t ready_warps = 0;
    Thread* current = nullptr;
    std::vector<Thread> thread;
    Warp warp[32];
    Barrier barrier[16];
    Warpgroup group[8];
    MBarrier mbarrier[64];
    uint32_t mbarriers = 0;
    uint64_t random = 0;
    uint64_t counts[COUNTS] = {};
    bool failed = false;
    char start = 0, end = 0;  // edges from the worker to a block's threads and back
    // Shared memory (memory.cpp): the data, and one state per byte.
    char* arena_pages = nullptr;
    char* arena = nullptr;
    size_t arena_bytes = 0;
    uint64_t arena_base = 0;  // its address in the GPU's window of shared memory
    std::vector<uint8_t> arena_state;
    // The stack on which a fault is reported.
    std::vector<char> signal_stack, fault_stack;
    uintptr_t fault_address = 0;
};

Worker& worker();
Worker* worker_or_null();

// Ends the launch with `message`, prefixed by kernel, block and thread; does not return.
[[noreturn]] void fail(const std::string& message);
std::string where(const Site& site);

// memory.cpp
void arena_begin(Worker& w, size_t bytes);
void arena_end(Worker& w);
void install_fault_handler(Worker& w);
// A copy's destination: poisoned and unreadable from its issue on, until it is marked written.
void mark_in_flight(Worker& w, const char* what, void* destination, size_t bytes, const Site& site);
void mark_written(Worker& w, const void* p, size_t bytes);
// A fiber stack of `bytes`, a guard page below it; never freed (workers are kept).
char* allocate_stack(size_t bytes);
// A description of what lies at a global address; empty where no buffer is near.
std::string describe_address(uintptr_t address);
// A description of the first buffer with a damaged guard byte; empty if none.
std::string damaged_guard();

// Bytes of another block's arena: as `check_read` there; `what` says who reads.
void check_written(const Worker& w, const char* what, size_t offset, size_t bytes);
// Offset in the running block's arena of a valid range; ends the launch otherwise.
size_t arena_offset(const char* what, const void* p, size_t bytes);

// cluster.cpp: opens the barrier where nobody is missing.
void settle(Cluster& cluster);

// hopper.cpp
// Poisons the destination; `barrier` counts the bytes.
void begin_copy(void* destination, uint32_t bytes, void* barrier, const void* source, const TensorCopy& tensor, const Site& site);
// tensor.cpp
// Rows of a box (im2col: pixels).
uint32_t tensor_rows(const TensorMap& map);
// Row i of a box to shared memory; how many bytes of it came from `source`, the others are zeros.
uint32_t land_row(const TensorCopy& copy, uint32_t i, char* row, const char*& source);

// collectives.cpp
// DDU_SIMT_SUMS: the tensor cores whose sums of products are played (sums.h); unset, products are added one after another in f32.
extern const char* const wanted_sums;
extern const sums::Cut* const cut_off;
void rendezvous(const char* what, void* operand, const Site& site, void (*compute)(Warp&));
// runtime.cpp: gives the processor to another thread; returns when this one is ready again.
void block_current(const Wait& wait);
// In the random schedule, sometimes lets other threads go first.
void yield_current(const Site& site);
// "kernel, block (x, y, z), thread i".
std::string name(const Worker& w, uint32_t thread);
void make_ready(Worker& w, uint32_t warp, uint32_t lanes);

inline void edge_release([[maybe_unused]] void* edge) {
#if defined(DDU_SIMT_TSAN)
    __tsan_release(edge);
#endif
}
inline void edge_acquire([[maybe_unused]] void* edge) {
#if defined(DDU_SIMT_TSAN)
    __tsan_acquire(edge);
#endif
}

}  // namespace simt
