// A launch: its blocks, or clusters of them, shared out among OS threads.
#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "block.h"

namespace ptx {

Result execute(const Launch& launch, const Options& options, Notes& notes) {
    Result result;
    const uint64_t blocks = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
    result.reached.resize(launch.kernel->code.size());
    const uint64_t clusters = blocks / launch.cluster;
    std::atomic<uint64_t> next = 0;
    std::mutex mutex;
    GlobalRaces global_races;
    for (const Range& range : launch.memory) {
        if (options.races) global_races.begin(range.from, range.to - range.from);
    }
    auto work = [&] {
        Notes own;
        std::deque<Block> members;
        Cluster cluster;
        for (uint32_t rank = 0; rank < launch.cluster; ++rank) {
            Block& block = members.emplace_back(launch, options, own);
            block.global_races = &global_races;
            cluster.blocks.push_back(&block);
        }
        std::string error;
        try {
            for (uint64_t i; (i = next++) < clusters;) {
                // In reverse where the order is by chance.
                const uint64_t number = options.seed >= 0 ? clusters - 1 - i : i;
                cluster.begin(uint32_t(number * launch.cluster));
                cluster.run();
            }
        } catch (const std::runtime_error& e) {
            error = e.what();
            next = clusters;
        }
        std::lock_guard lock(mutex);
        if (result.error.empty()) result.error = error;
        for (const Block& block : members) {
            result.instructions += block.instructions;
            result.lanes += block.lanes;
            for (size_t i = 0; i < block.reached.size(); ++i) {
                if (block.reached[i]) result.reached[i] = true;
            }
        }
        for (auto& [key, note] : own) {
            Note& n = notes[key];
            if (!n.times) n.first = note.first;
            n.times += note.times;
        }
    };
    const int workers = int(std::min<uint64_t>(clusters, uint64_t(options.workers)));
    std::vector<std::thread> threads;
    for (int i = 1; i < workers; ++i) threads.emplace_back(work);
    work();
    for (auto& t : threads) t.join();
    return result;
}

}  // namespace ptx
