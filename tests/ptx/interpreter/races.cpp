#include "races.h"

#include <algorithm>

namespace ptx {

void join(Clock& to, const Clock& from) {
    to.resize(from.size(), 0);
    for (size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], from[i]);
}

void SharedRaces::begin(uint32_t threads, size_t bytes) {
    threads_ = threads;
    warps_ = (threads + 31) / 32;
    known_.assign(warps_ * 32, {Clock(warps_ * 32, 0), Clock(warps_ * 32, 0)});
    now_.assign(warps_, 1);
    writes_.assign(bytes, {});
    reads_.assign(bytes * warps_, {});
}

const char* SharedRaces::read(uint32_t thread, Proxy proxy, uint32_t offset, uint32_t bytes) {
    const Known& known = known_[thread];
    const uint32_t warp = thread / 32;
    const char* found = nullptr;
    for (uint32_t i = offset; i < offset + bytes; ++i) {
        const Write& w = writes_[i];
        if (w.clock && w.thread != thread && known.all[w.thread] < w.clock) {
            other = w.thread;
            found = "reads what another thread wrote, unordered";
        } else if (w.clock && proxy == ASYNC && w.proxy == GENERIC && known.fenced[w.thread] < w.clock) {
            other = w.thread;
            found = "reads what a store wrote, no fence.proxy.async between";
        }
        Read& r = reads_[size_t(i) * warps_ + warp];
        if (r.clock != now_[warp]) r = {now_[warp], 0, 0};
        r.lanes |= 1u << thread % 32;
        if (proxy == GENERIC) r.generic |= 1u << thread % 32;
    }
    return found;
}

const char* SharedRaces::write(uint32_t thread, Proxy proxy, uint32_t offset, uint32_t bytes) {
    const Known& known = known_[thread];
    const char* found = nullptr;
    for (uint32_t i = offset; i < offset + bytes; ++i) {
        Write& w = writes_[i];
        if (w.clock && w.thread != thread && known.all[w.thread] < w.clock) {
            other = w.thread;
            found = "writes what another thread wrote, unordered";
        } else if (w.clock && proxy == ASYNC && w.proxy == GENERIC && known.fenced[w.thread] < w.clock) {
            other = w.thread;
            found = "writes what a store wrote, no fence.proxy.async between";
        }
        for (uint32_t warp = 0; warp < warps_; ++warp) {
            Read& r = reads_[size_t(i) * warps_ + warp];
            for (uint32_t lanes = r.lanes; lanes; lanes &= lanes - 1) {
                const uint32_t lane = uint32_t(__builtin_ctz(lanes)), reader = warp * 32 + lane;
                if (reader != thread && known.all[reader] < r.clock) {
                    other = reader;
                    found = "writes what another thread read, unordered";
                } else if (proxy == ASYNC && r.generic >> lane & 1 && known.fenced[reader] < r.clock) {
                    other = reader;
                    found = "writes what a load read, no fence.proxy.async between";
                }
            }
            r = {};
        }
        w = {thread, now_[thread / 32], proxy};
    }
    return found;
}

void SharedRaces::meet(const std::vector<uint32_t>& threads) {
    Known all;
    for (uint32_t t : threads) release(t, all);
    for (uint32_t t : threads) acquire(t, all);
}

void SharedRaces::release(uint32_t thread, Known& to) {
    join(to.all, known_[thread].all);
    join(to.fenced, known_[thread].fenced);
    to.all[thread] = std::max(to.all[thread], now_[thread / 32]);
    ++now_[thread / 32];
}

void SharedRaces::acquire(uint32_t thread, const Known& from) {
    if (from.all.empty()) return;  // nobody has released
    join(known_[thread].all, from.all);
    join(known_[thread].fenced, from.fenced);
}

void SharedRaces::fence(uint32_t thread) {
    Known& known = known_[thread];
    join(known.fenced, known.all);
    known.fenced[thread] = now_[thread / 32]++;
}

void GlobalRaces::begin(uint64_t from, uint64_t bytes) {
    regions_[from] = {bytes, std::vector<uint32_t>(bytes), std::vector<uint32_t>(bytes)};
}

GlobalRaces::Region* GlobalRaces::find(uint64_t address, uint64_t& at) {
    auto after = regions_.upper_bound(address);
    if (after == regions_.begin()) return nullptr;
    auto found = std::prev(after);
    at = address - found->first;
    return at < found->second.bytes ? &found->second : nullptr;
}

bool GlobalRaces::written(uint64_t address, uint32_t bytes) {
    uint64_t at;
    Region* r = find(address, at);
    for (uint64_t i = at; r && i < at + bytes && i < r->bytes; ++i) {
        if (r->writers[i]) return true;
    }
    return false;
}

const char* GlobalRaces::read(uint32_t block, uint64_t address, uint32_t bytes) {
    uint64_t at;
    Region* r = find(address, at);
    if (!r) return nullptr;
    const char* found = nullptr;
    for (uint64_t i = at; i < at + bytes && i < r->bytes; ++i) {
        if (r->writers[i] && r->writers[i] != block + 1) found = "reads what another block writes";
        r->readers[i] = r->readers[i] == 0 || r->readers[i] == block + 1 ? block + 1 : ~0u;
    }
    return found;
}

const char* GlobalRaces::write(uint32_t block, uint64_t address, uint32_t bytes) {
    uint64_t at;
    Region* r = find(address, at);
    if (!r) return nullptr;
    const char* found = nullptr;
    for (uint64_t i = at; i < at + bytes && i < r->bytes; ++i) {
        if (r->writers[i] && r->writers[i] != block + 1) found = "writes what another block writes";
        if (r->readers[i] && r->readers[i] != block + 1) found = "writes what another block reads";
        r->writers[i] = block + 1;
    }
    return found;
}

}  // namespace ptx
