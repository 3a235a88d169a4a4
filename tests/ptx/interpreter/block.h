// What a block of threads is made of, and a launch of many.
#pragma once
#include <array>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "../../../kernels/simt/sums.h"
#include "../../../kernels/simt/tensor_map.h"
#include "code.h"
#include "races.h"

namespace ptx {

struct Range {
    uint64_t from, to;
};

struct Options {
    int64_t seed = -1;  // -1: warps in turn
    int workers = 2;
    bool races = false;  // look for them; with one worker
    // The tensor cores whose sums of products are played; null: the sums of 16 products and the accumulator are exact, then
    // rounded towards zero.
    const sums::Cut* sums = nullptr;
};

struct Launch {
    const Kernel* kernel;
    uint32_t grid[3], threads, shared_bytes;
    std::vector<uint8_t> params;
    std::vector<Range> memory;  // sorted: what the kernel may touch
    uint32_t cluster = 1;       // blocks of x that run together
};

// Things that the ISA leaves undefined, but after which one can go on; by instruction and kind.
struct Note {
    uint64_t times = 0;
    std::string first;
};
using Notes = std::map<std::pair<std::string, std::string>, Note>;

struct Result {
    std::string error;  // empty: done
    uint64_t instructions = 0, lanes = 0;
    std::vector<bool> reached;  // by instruction
};

Result execute(const Launch& launch, const Options& options, Notes& notes);

// A byte of shared memory.
enum Shadow : uint8_t {
    UNDEFINED = 1,  // nobody has written it
    ARRIVING = 2,   // an asynchronous copy to it is under way
    BARRIER = 4,    // of an mbarrier
};

struct Copy {  // cp.async, of one lane
    uint64_t from;
    uint32_t to, bytes, ins;
};
struct Box {  // of a tensor
    simt::TensorMap map = {};
    int32_t at[4] = {};
    uint16_t offsets[2] = {};
};
struct Bulk {
    uint64_t from;  // 0: of a tensor
    uint32_t to, bytes, barrier;
    const Instruction* ins;
    Known known;
    Box box;
};
struct MBarrier {
    uint32_t expected = 0, pending = 0;
    int64_t bytes = 0;
    uint32_t phase = 0;
    Known coming, past;  // what the arrivals of this phase know, and those of all before
    uint32_t initialised_by = 0;
    bool visible = false;  // to bulk copies
};
struct Store {  // of a box, from shared memory
    Box box;
    uint32_t from, bytes;
    const Instruction* ins;
};
struct Product {  // wgmma.mma_async
    const Instruction* ins;
    uint64_t a, b;  // descriptors; a 0: in registers
    bool accumulate;
    uint32_t group;
};

struct Warp {
    uint32_t index = 0;
    std::vector<uint32_t> file;     // rows of 32 words
    std::vector<uint32_t> defined;  // by row: a bit a lane
    std::vector<uint32_t> p, p_defined;
    // Of wgmma: by row, products in flight that read (1) or write it (its N), and the time of the last write.
    std::vector<uint8_t> locked;
    std::vector<uint8_t> lock_depth;
    std::vector<uint32_t> written;
    // The shape of the last product on it, and when that was.
    std::vector<uint8_t> shape;
    std::vector<uint32_t> multiplied;
    uint32_t clock = 0, fenced = 0;
    bool uses_wgmma = false;

    struct Group {
        uint32_t pc, mask;
    };
    uint32_t pc = 0, mask = 0, alive = 0;
    std::vector<Group> others;  // by pc, the lowest last
    enum { READY, AT_BARRIER, AT_MBARRIER, AT_REGISTERS, AT_CLUSTER, ENDED } state = READY;
    uint32_t cluster_phase = 0;  // of the cluster's barrier, that it has arrived at and not waited for: its number + 1
    bool passed = false;         // a barrier that it waits at has opened
    bool timed_out = false;      // the mbarrier that it waits at has not

    std::vector<Copy> copies[32];       // by lane: issued, in order
    std::vector<uint32_t> commits[32];  // ends of the committed groups in `copies`
    std::vector<Store> stores[32];      // the same
    std::vector<uint32_t> store_commits[32];

    std::vector<Product> products;
    uint32_t group = 0, waited = 0;  // groups committed, groups complete
    uint32_t issued = 0, registers = 0, register_changes = 0;

    uint32_t* row(uint32_t i) { return file.data() + size_t(i) * 32; }
};

struct Barrier {
    uint32_t expected = 0, arrived = 0;
    uint32_t waiting = 0;  // warps
};

// Blocks that run together, of a launch without clusters one alone.
struct Cluster {
    std::vector<Block*> blocks;       // by rank
    uint32_t arrived = 0, phase = 0;  // threads at its barrier
    Known coming, past;               // as those of an mbarrier
    SharedRaces races;                // of the shared memory of all, one block's after another's

    void begin(uint32_t first);
    void run();
    // Opens the barrier where nobody that lives is missing.
    void settle();
};

struct Block {
    const Launch& launch;
    const Options& options;
    Notes& notes;
    uint32_t id[3];
    std::vector<Warp> warps;
    std::vector<uint8_t> shared, shadow;
    uint32_t base;
    Barrier barriers[16];
    std::map<uint32_t, MBarrier> mbarriers;
    std::vector<Bulk> bulks;
    std::vector<std::array<uint64_t, 3>> products[32];  // by warpgroup: instruction, descriptors, in order
    std::vector<uint16_t> readers;                      // by shared byte / 16: products and stores in flight that read it
    int64_t free_registers = 0;
    bool traps = false;  // the kernel may: its waits end without result where nothing else can go on
    std::array<Range, 64> recent{};
    std::mt19937_64 random;
    uint64_t instructions = 0, lanes = 0;
    std::vector<bool> reached;
    GlobalRaces* global_races = nullptr;
    uint32_t number = 0;
    Cluster* cluster = nullptr;
    uint32_t rank = 0;

    Block(const Launch& launch, const Options& options, Notes& notes);
    void begin(uint32_t x, uint32_t y, uint32_t z, uint64_t number);
    // Goes on until nothing can without the other blocks of the cluster, by chance less far.
    void run();
    bool ended() const;
    // Whether `run` would do something.
    bool ready() const;
    // Where its warps wait, a line each.
    std::string waiting() const;
    // What is left at its end that should not be.
    void end();
    // Number of a thread among those of the cluster, for its races.
    uint32_t thread(uint32_t own) const { return rank * uint32_t(warps.size()) * 32 + own; }
    void wake_mbarriers();
    void land(size_t bulk);
    uint8_t* global(uint64_t address, uint32_t bytes, uint32_t alignment, const Instruction& ins);
    // Offset of a shared address.
    uint32_t at(uint64_t address, uint32_t bytes, uint32_t alignment, const Instruction& ins);
    [[noreturn]] void fail(const Instruction& ins, const std::string& what) const;
    // A thread's access, where races are looked for.
    void touch(const Instruction& ins, bool write, bool shared, uint32_t thread, uint64_t at, uint32_t bytes, Proxy proxy = GENERIC);
    // The same, of the shared memory of another block of the cluster.
    void touch_of(const Block& owner, const Instruction& ins, bool write, bool shared, uint32_t thread, uint64_t at, uint32_t bytes,
                  Proxy proxy = GENERIC);
    void note(const Instruction& ins, const std::string& kind, const std::string& what = "");
    std::string where(const Instruction& ins) const;

  private:
    size_t next = 0;  // warp, where they go in turn
    bool step(Warp& warp, int quantum);
};

}  // namespace ptx
