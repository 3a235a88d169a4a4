// Clusters of blocks: their barrier, the addresses of each other's shared memory, and in which order they go. A block goes on until it
// needs another; by chance they change places sooner.
#include <algorithm>
#include <bit>
#include <stdexcept>

#include "handlers.h"

namespace ptx {

void Cluster::begin(uint32_t first) {
    const Launch& launch = blocks[0]->launch;
    arrived = phase = 0;
    coming = past = {};
    for (uint32_t rank = 0; rank < blocks.size(); ++rank) {
        Block& block = *blocks[rank];
        const uint64_t number = first + rank, xy = uint64_t(launch.grid[0]) * launch.grid[1];
        block.cluster = this;
        block.rank = rank;
        block.number = uint32_t(number);
        block.begin(uint32_t(number % launch.grid[0]), uint32_t(number % xy / launch.grid[0]), uint32_t(number / xy), number);
    }
    const Block& block = *blocks[0];
    if (block.options.races) races.begin(uint32_t(blocks.size() * block.warps.size() * 32), blocks.size() * block.shared.size());
}

void Cluster::run() {
    const bool shuffled = blocks[0]->options.seed >= 0;
    for (;;) {
        std::vector<Block*> ready;
        for (Block* block : blocks) {
            if (!block->ended() && block->ready()) ready.push_back(block);
        }
        if (ready.empty()) break;
        const size_t turn = shuffled && ready.size() > 1 ? blocks[0]->random() % ready.size() : 0;
        ready[turn]->run();
    }
    if (!std::all_of(blocks.begin(), blocks.end(), [](const Block* block) { return block->ended(); })) {
        std::string text = "deadlock:";
        for (const Block* block : blocks) text += block->waiting();
        throw std::runtime_error(text);
    }
    for (Block* block : blocks) block->end();
}

void Cluster::settle() {
    uint32_t alive = 0;
    for (const Block* block : blocks) {
        for (const Warp& w : block->warps) alive += uint32_t(std::popcount(w.alive));
    }
    if (!arrived || arrived < alive) return;
    arrived = 0;
    ++phase;
    past = coming;
    for (Block* block : blocks) {
        for (Warp& w : block->warps) {
            if (w.state == Warp::AT_CLUSTER) w.state = Warp::READY;
        }
    }
}

// The window: 2^24 bytes a block, the executing one's first, where shared addresses of its own lie.
constexpr uint32_t WINDOW = 24;

Block& owner(Block& block, const Instruction& ins, uint64_t& address) {
    const uint64_t window = address >> WINDOW;
    address &= (1u << WINDOW) - 1;
    if (!window) return block;
    if (window > block.cluster->blocks.size()) block.fail(ins, "an address of no block of the cluster");
    Block& other = *block.cluster->blocks[window - 1];
    if (other.ended()) block.fail(ins, "reads the shared memory of a block that has ended");
    return other;
}

namespace {

bool mapa(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    write_check(block, w, ins, ins.d);
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        const uint32_t address = w.row(ins.s[0])[l], rank = w.row(ins.s[1])[l];
        if (address >> WINDOW) block.fail(ins, "mapa of what is no shared address of the block's own");
        if (rank >= block.cluster->blocks.size()) block.fail(ins, "no block " + std::to_string(rank) + " in the cluster");
        w.row(ins.d)[l] = address | (rank + 1) << WINDOW;
    }
    w.defined[ins.d] = (w.defined[ins.d] & ~mask) | (w.defined[ins.s[0]] & w.defined[ins.s[1]] & mask);
    return true;
}

bool arrive(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    Cluster& cluster = *block.cluster;
    if (mask != w.alive) block.fail(ins, "a barrier in divergent code");
    if (w.cluster_phase) block.fail(ins, "arrives at the cluster's barrier again, without a wait between");
    w.cluster_phase = cluster.phase + 1;
    for (uint32_t l = 0; l < 32 && block.options.races; ++l) {
        if (mask >> l & 1) cluster.races.release(block.thread(w.index * 32 + l), cluster.coming);
    }
    cluster.arrived += uint32_t(std::popcount(mask));
    cluster.settle();
    return true;
}

bool wait(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    Cluster& cluster = *block.cluster;
    if (mask != w.alive) block.fail(ins, "a barrier in divergent code");
    if (!w.cluster_phase) block.fail(ins, "waits at the cluster's barrier without having arrived");
    if (cluster.phase < w.cluster_phase) {
        w.state = Warp::AT_CLUSTER;
        return false;
    }
    w.cluster_phase = 0;
    for (uint32_t l = 0; l < 32 && block.options.races; ++l) {
        if (mask >> l & 1) cluster.races.acquire(block.thread(w.index * 32 + l), cluster.past);
    }
    return true;
}

}  // namespace

void cluster_handlers(Handlers& h) {
    h["mapa"] = &mapa;
    h["barrier.cluster.arrive"] = &arrive;
    h["barrier.cluster.wait"] = &wait;
}

}  // namespace ptx
