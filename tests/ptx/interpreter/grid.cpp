// A launch: its blocks, shared out among OS threads.
#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "block.h"

namespace ptx {

Result execute(const Launch& launch, const Options& options, Notes& notes) {
    Result result;
    const uint64_t blocks = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
    result.reached.resize(launch.kernel->code.size());
    std::atomic<uint64_t> next = 0;
    std::mutex mutex;
    GlobalRaces global_races;
    for (const Range& range : launch.memory) {
        if (options.races) global_races.begin(range.from, range.to - range.from);
    }
    auto work = [&] {
        Notes own;
        Block block(launch, options, own);
        block.global_races = &global_races;
        std::string error;
        try {
            for (uint64_t i; (i = next++) < blocks;) {
                // In reverse where the order is by chance.
                const uint64_t number = options.seed >= 0 ? blocks - 1 - i : i;
                const uint64_t xy = uint64_t(launch.grid[0]) * launch.grid[1];
                block.number = uint32_t(number);
                block.begin(uint32_t(number % launch.grid[0]), uint32_t(number % xy / launch.grid[0]), uint32_t(number / xy), number);
                block.run();
            }
        } catch (const std::runtime_error& e) {
            error = e.what();
            next = blocks;
        }
        std::lock_guard lock(mutex);
        if (result.error.empty()) result.error = error;
        result.instructions += block.instructions;
        result.lanes += block.lanes;
        for (size_t i = 0; i < block.reached.size(); ++i) {
            if (block.reached[i]) result.reached[i] = true;
        }
        for (auto& [key, note] : own) {
            Note& n = notes[key];
            if (!n.times) n.first = note.first;
            n.times += note.times;
        }
    };
    const int workers = int(std::min<uint64_t>(blocks, uint64_t(options.workers)));
    std::vector<std::thread> threads;
    for (int i = 1; i < workers; ++i) threads.emplace_back(work);
    work();
    for (auto& t : threads) t.join();
    return result;
}

}  // namespace ptx
