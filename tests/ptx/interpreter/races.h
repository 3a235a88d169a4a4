// Who has read and written a byte, and who knows of it: a happens-before check of shared memory among the threads of
// a block, and of global memory among the blocks of a launch (which nothing orders). Loads and stores go through the generic proxy,
// bulk copies and warpgroup products through the async proxy: what comes before one of these also needs a proxy fence on its way
// (PTX ISA, "Proxy-preserved base causality order"). From them to loads and stores their completion is one.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace ptx {

// A vector clock has an entry a thread. The 32 clocks of a warp tick together.
using Clock = std::vector<uint32_t>;

// What a thread knows to have been done, and what of that a proxy fence has come after.
struct Known {
    Clock all, fenced;
};

// To the greater of each.
void join(Clock& to, const Clock& from);

enum Proxy : uint8_t { GENERIC, ASYNC };

class SharedRaces {
  public:
    void begin(uint32_t threads, size_t bytes);
    // What is wrong with the access, or null.
    const char* read(uint32_t thread, Proxy proxy, uint32_t offset, uint32_t bytes);
    const char* write(uint32_t thread, Proxy proxy, uint32_t offset, uint32_t bytes);
    // All these know what each knows.
    void meet(const std::vector<uint32_t>& threads);
    void release(uint32_t thread, Known& to);
    void acquire(uint32_t thread, const Known& from);
    // fence.proxy.async
    void fence(uint32_t thread);

    uint32_t other = 0;  // of the last race

  private:
    struct Read {
        uint32_t clock = 0, lanes = 0, generic = 0;  // lanes
    };
    struct Write {
        uint32_t thread = 0, clock = 0;
        Proxy proxy = GENERIC;
    };
    uint32_t threads_ = 0, warps_ = 0;
    std::vector<Known> known_;
    std::vector<uint32_t> now_;  // by warp
    std::vector<Write> writes_;
    std::vector<Read> reads_;  // [byte][warp]
};

class GlobalRaces {
  public:
    void begin(uint64_t from, uint64_t bytes);
    const char* read(uint32_t block, uint64_t address, uint32_t bytes);
    const char* write(uint32_t block, uint64_t address, uint32_t bytes);
    // Whether any block has written there.
    bool written(uint64_t address, uint32_t bytes);

  private:
    struct Region {
        uint64_t bytes;
        std::vector<uint32_t> readers, writers;  // block + 1; readers: ~0 for several
    };
    Region* find(uint64_t address, uint64_t& at);
    std::map<uint64_t, Region> regions_;
};

}  // namespace ptx
