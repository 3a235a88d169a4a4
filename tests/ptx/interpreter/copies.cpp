// Asynchronous copies and the mbarriers that count them. cp.async lands at its wait; a bulk copy when every warp waits, or by
// chance: as late as the ISA lets it.
#include <algorithm>
#include <cstring>

#include "handlers.h"

namespace ptx {
namespace {

bool copy(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    if (mask & ~(w.defined[ins.s[0]] & w.defined[ins.s[1]] & w.defined[ins.s[2]])) block.fail(ins, "an undefined operand");
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        const uint32_t to = block.at(w.row(ins.s[0])[l], 16, 16, ins), bytes = w.row(ins.s[2])[l];
        const uint64_t from = lane64(w, ins.s[1], l) + uint64_t(ins.imm);
        if (bytes > 16) block.fail(ins, "a source size above the copy's");
        if (bytes) {
            block.global(from, bytes, 16, ins);
        } else if (from % 16) {
            block.note(ins, "cp.async of no bytes from a misaligned address");
        }
        check_write(block, ins, to, 16, "cp.async");
        block.touch(ins, true, true, w.index * 32 + uint32_t(l), to, 16);
        if (bytes) block.touch(ins, false, false, w.index * 32 + uint32_t(l), from, bytes);
        for (int i = 0; i < 16; ++i) block.shadow[to + i] = ARRIVING | UNDEFINED;
        w.copies[l].push_back({from, to, bytes, ins.id});
    }
    return true;
}

bool copy_commit(Block&, Warp& w, const Instruction&, uint32_t mask) {
    for (int l = 0; l < 32; ++l) {
        if (mask >> l & 1) w.commits[l].push_back(uint32_t(w.copies[l].size()));
    }
    return true;
}

bool copy_wait(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    for (int l = 0; l < 32; ++l) {
        auto& ends = w.commits[l];
        if (!(mask >> l & 1) || ends.size() <= size_t(ins.imm)) continue;
        const size_t done = ends.size() - size_t(ins.imm);
        const uint32_t n = ends[done - 1];
        for (uint32_t i = 0; i < n; ++i) {
            const Copy& c = w.copies[l][i];
            std::memset(block.shared.data() + c.to, 0, 16);
            std::memcpy(block.shared.data() + c.to, reinterpret_cast<const void*>(c.from), c.bytes);
            for (int k = 0; k < 16; ++k) block.shadow[c.to + k] = 0;
            // cp.async is not of the async proxy. From here on others know of it only through a barrier that comes later.
            block.touch(ins, true, true, w.index * 32 + uint32_t(l), c.to, 16);
        }
        w.copies[l].erase(w.copies[l].begin(), w.copies[l].begin() + n);
        ends.erase(ends.begin(), ends.begin() + int64_t(done));
        for (uint32_t& end : ends) end -= n;
    }
    return true;
}

MBarrier& mbarrier(Block& block, const Instruction& ins, uint32_t address) {
    block.at(address, 8, 8, ins);
    auto found = block.mbarriers.find(address);
    if (found == block.mbarriers.end()) block.fail(ins, "no mbarrier there");
    return found->second;
}

}  // namespace

void turn(Block& block, MBarrier& b) {
    if (b.pending || b.bytes) return;
    b.phase ^= 1;
    b.pending = b.expected;
    b.past = b.coming;
    block.wake_mbarriers();
}

void begin_bulk(Block& block, const Instruction& ins, uint32_t thread, Bulk bulk) {
    if (!mbarrier(block, ins, bulk.barrier).visible) block.note(ins, "no fence after mbarrier.init, before a bulk copy counts on it");
    check_write(block, ins, bulk.to, bulk.bytes, "cp.async.bulk");
    std::fill_n(block.shadow.begin() + bulk.to, bulk.bytes, ARRIVING | UNDEFINED);
    if (block.options.races) {
        block.touch(ins, true, true, thread, bulk.to, bulk.bytes, ASYNC);
        block.cluster->races.release(block.thread(thread), bulk.known);
    }
    block.bulks.push_back(std::move(bulk));
}

namespace {

bool bulk(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    if (mask & ~(w.defined[ins.s[0]] & w.defined[ins.s[1]] & w.defined[ins.s[2]] & w.defined[ins.s[3]]))
        block.fail(ins, "an undefined operand");
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        const uint32_t bytes = w.row(ins.s[2])[l], barrier = w.row(ins.s[3])[l];
        if (!bytes || bytes % 16) block.fail(ins, "a bulk copy of " + std::to_string(bytes) + " bytes");
        const uint32_t to = block.at(w.row(ins.s[0])[l], bytes, 16, ins);
        const uint64_t from = lane64(w, ins.s[1], l);
        block.global(from, bytes, 16, ins);
        const uint32_t thread = w.index * 32 + uint32_t(l);
        block.touch(ins, false, false, thread, from, bytes);
        begin_bulk(block, ins, thread, {from, to, bytes, barrier, &ins, {}, {}});
    }
    return true;
}

bool mbarrier_init(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        const uint32_t address = w.row(ins.s[0])[l], count = w.row(ins.s[1])[l];
        const uint32_t offset = block.at(address, 8, 8, ins);
        if (!count || count >= 1u << 20) block.fail(ins, "an arrival count of " + std::to_string(count));
        check_write(block, ins, offset, 8, "mbarrier.init");
        for (int i = 0; i < 8; ++i) block.shadow[offset + i] = BARRIER;
        block.mbarriers[address] = {count, count, 0, 0, {}, {}, w.index * 32 + uint32_t(l), false};
        block.touch(ins, true, true, w.index * 32 + uint32_t(l), offset, 8);
    }
    return true;
}

// Either fence makes the mbarriers that the thread has initialised visible to bulk copies.
bool init_fence(Block& block, Warp& w, const Instruction&, uint32_t mask) {
    for (auto& [address, b] : block.mbarriers) b.visible |= b.initialised_by / 32 == w.index && mask >> b.initialised_by % 32 & 1;
    return true;
}

bool proxy_fence(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    for (uint32_t l = 0; l < 32 && block.options.races; ++l) {
        if (mask >> l & 1) block.cluster->races.fence(block.thread(w.index * 32 + l));
    }
    return init_fence(block, w, ins, mask);
}

bool mbarrier_arrive(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        MBarrier& b = mbarrier(block, ins, w.row(ins.s[0])[l]);
        b.bytes += w.row(ins.s[1])[l];
        if (b.bytes >= 1 << 20) block.fail(ins, "a tx-count out of its range");
        if (!b.pending) block.fail(ins, "more arrivals than the phase awaits");
        --b.pending;
        if (block.options.races) {
            // The object itself was initialised before.
            block.touch(ins, false, true, w.index * 32 + uint32_t(l), w.row(ins.s[0])[l] - block.base, 8);
            block.cluster->races.release(block.thread(w.index * 32 + uint32_t(l)), b.coming);
        }
        turn(block, b);
    }
    return true;
}

bool mbarrier_try_wait(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    uint32_t done = 0;
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        const MBarrier& b = mbarrier(block, ins, w.row(ins.s[0])[l]);
        const uint32_t parity = w.row(ins.s[1])[l];
        if (parity > 1) block.fail(ins, "a parity of " + std::to_string(parity));
        // The phase of this parity is the one before the current.
        done |= uint32_t((b.phase ^ 1) == parity) << l;
    }
    if (!done && !w.timed_out) {
        w.state = Warp::AT_MBARRIER;
        return false;
    }
    w.timed_out = false;
    // It may time out.
    if (block.options.seed >= 0 && block.random() % 4 == 0) done = 0;
    for (int l = 0; l < 32 && block.options.races; ++l) {
        if (!(done >> l & 1)) continue;
        block.cluster->races.acquire(block.thread(w.index * 32 + uint32_t(l)), mbarrier(block, ins, w.row(ins.s[0])[l]).past);
    }
    w.p[ins.d] = (w.p[ins.d] & ~mask) | done;
    w.p_defined[ins.d] |= mask;
    return true;
}

}  // namespace

void copy_handlers(Handlers& h) {
    h["cp.async.cg.shared.global"] = &copy;
    h["cp.async.commit_group"] = &copy_commit;
    h["cp.async.wait_group"] = &copy_wait;
    h["cp.async.bulk"] = &bulk;
    h["mbarrier.init"] = &mbarrier_init;
    h["fence.mbarrier_init.release.cluster"] = &init_fence;
    h["fence.proxy.async.shared::cta"] = &proxy_fence;
    h["mbarrier.arrive"] = &mbarrier_arrive;
    h["mbarrier.try_wait"] = &mbarrier_try_wait;
}

}  // namespace ptx
