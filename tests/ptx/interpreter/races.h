// Who has read and written a byte, and who knows of it: a happens-before check of shared memory among the threads of
// a block, and of global memory among the blocks of a launch (which nothing orders).
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace ptx {

// A vector clock has an entry a thread. The 32 clocks of a warp tick together.
using Clock = std::vector<uint32_t>;

class SharedRaces {
  public:
    void begin(uint32_t threads, size_t bytes);
    // What is wrong with the access, or null.
    const char* read(uint32_t thread, uint32_t offset, uint32_t bytes);
    const char* write(uint32_t thread, uint32_t offset, uint32_t bytes);
    // All these know what each knows.
    void meet(const std::vector<uint32_t>& threads);
    void release(uint32_t thread, Clock& to);
    void acquire(uint32_t thread, const Clock& from);

    uint32_t other = 0;  // of the last race

  private:
    struct Read {
        uint32_t clock = 0, lanes = 0;
    };
    struct Write {
        uint32_t thread = 0, clock = 0;
    };
    uint32_t threads_ = 0, warps_ = 0;
    std::vector<Clock> clocks_;
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
