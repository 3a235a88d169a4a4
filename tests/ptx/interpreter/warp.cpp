// What lanes and warps do together: shuffles, votes, barriers.
#include <vector>

#include "handlers.h"

namespace ptx {
namespace {

// The lanes of a membermask must all be here.
void members(Block& block, Warp& w, const Instruction& ins, uint32_t row, uint32_t mask) {
    const uint32_t want = one(block, w, ins, row, mask);
    if ((mask & want) != mask) block.fail(ins, "executed by a lane that the membermask lacks");
    if ((want & w.alive) != mask) block.fail(ins, "lanes of the membermask are elsewhere");
}

template <bool BUTTERFLY> bool shuffle(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    members(block, w, ins, ins.s[3], mask);
    uint32_t out[32], good = 0, defined = 0;
    for (uint32_t l = 0; l < 32; ++l) {
        const uint32_t b = w.row(ins.s[1])[l] & 31, c = w.row(ins.s[2])[l], segment = c >> 8 & 31, clamp = c & 31;
        const uint32_t most = (l & segment) | (clamp & ~segment), low = l & segment;
        uint32_t j = BUTTERFLY ? l ^ b : low | (b & ~segment);
        if (j <= most) {
            good |= 1u << l;
        } else {
            j = l;
        }
        out[l] = w.row(ins.s[0])[j];
        defined |= (w.defined[ins.s[0]] >> j & mask >> j & 1) << l;
    }
    write_check(block, w, ins, ins.d);
    for (int l = 0; l < 32; ++l) {
        if (mask >> l & 1) w.row(ins.d)[l] = out[l];
    }
    w.defined[ins.d] = (w.defined[ins.d] & ~mask) | (defined & mask);
    if (ins.s[4] != FULL) {
        w.p[ins.s[4]] = (w.p[ins.s[4]] & ~mask) | (good & mask);
        w.p_defined[ins.s[4]] |= mask;
    }
    return true;
}

bool ballot(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    members(block, w, ins, ins.s[1], mask);
    write_check(block, w, ins, ins.d);
    const bool defined = !(mask & ~w.p_defined[ins.s[0]]);
    for (int l = 0; l < 32; ++l) {
        if (mask >> l & 1) w.row(ins.d)[l] = w.p[ins.s[0]] & mask;
    }
    w.defined[ins.d] = (w.defined[ins.d] & ~mask) | (defined ? mask : 0);
    return true;
}

// Barriers order memory between all threads of these warps.
void meet(Block& block, uint32_t warps) {
    std::vector<uint32_t> threads;
    for (const Warp& w : block.warps) {
        for (uint32_t l = 0; l < 32; ++l) {
            if (warps >> w.index & 1 && w.alive >> l & 1) threads.push_back(block.thread(w.index * 32 + l));
        }
    }
    block.cluster->races.meet(threads);
}

bool warp_sync(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    members(block, w, ins, ins.s[0], mask);
    if (block.options.races) meet(block, 1u << w.index);
    return true;
}

bool barrier(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    if (w.passed) {
        w.passed = false;
        return true;
    }
    if (mask != w.alive) block.fail(ins, "a barrier in divergent code");
    const uint32_t id = one(block, w, ins, ins.s[0], mask);
    if (id > 15) block.fail(ins, "no such barrier");
    uint32_t threads = 0;
    if (ins.count > 1) {
        threads = one(block, w, ins, ins.s[1], mask);
        if (!threads || threads % 32 || threads > block.launch.threads) block.fail(ins, "thread count of a barrier");
    } else {
        for (const Warp& other : block.warps) threads += 32 * (other.state != Warp::ENDED);
        if (threads != (block.launch.threads + 31) / 32 * 32) block.note(ins, "a barrier of all threads after some have ended");
    }
    Barrier& b = block.barriers[id];
    if (b.arrived && b.expected != threads) block.fail(ins, "a barrier with another count than it has");
    b.expected = threads;
    b.arrived += 32;
    b.waiting |= 1u << w.index;
    w.state = Warp::AT_BARRIER;
    if (b.arrived == b.expected) {
        if (block.options.races) meet(block, b.waiting);
        for (Warp& other : block.warps) {
            if (b.waiting >> other.index & 1) {
                other.passed = true;
                other.state = Warp::READY;
            }
        }
        b = {};
        w.passed = false;
        return true;
    }
    return false;
}

// What the module's variables hold is all that a kernel can say.
bool trap(Block& block, Warp&, const Instruction& ins, uint32_t) {
    std::string text = "trap";
    for (const Variable& v : block.launch.kernel->variables) {
        text += "; " + v.name + " =";
        for (uint32_t word : *v.words) text += " " + std::to_string(word);
    }
    block.fail(ins, text);
}

}  // namespace

void warp_handlers(Handlers& h) {
    h["shfl.sync.bfly.b32"] = &shuffle<true>;
    h["shfl.sync.idx.b32"] = &shuffle<false>;
    h["vote.sync.ballot.b32"] = &ballot;
    h["bar.warp.sync"] = &warp_sync;
    h["bar.sync"] = &barrier;
    h["barrier.sync"] = &barrier;
    h["trap"] = &trap;
}

}  // namespace ptx
