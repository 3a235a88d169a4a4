// A block of threads: its faults and notes, its addresses, its start, and which warp goes next. Diverged lanes of a warp meet
// again at the least instruction (layout.cpp puts them in the order in which that is right).
#include "block.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "handlers.h"

namespace ptx {

namespace {

const Handlers& specials() {
    static const Handlers all = [] {
        Handlers h;
        memory_handlers(h);
        warp_handlers(h);
        copy_handlers(h);
        matrix_handlers(h);
        warpgroup_handlers(h);
        tensor_handlers(h);
        cluster_handlers(h);
        return h;
    }();
    return all;
}

}  // namespace

Handler special(const std::string& name) {
    auto found = specials().find(name);
    return found == specials().end() ? nullptr : found->second;
}

std::vector<std::string> special_names() {
    std::vector<std::string> names;
    for (auto& [name, handler] : specials()) names.push_back(name);
    return names;
}

std::string Block::where(const Instruction& ins) const {
    const Kernel& k = *launch.kernel;
    auto file = k.files.find(ins.file);
    char head[160];
    std::snprintf(head, sizeof head, "%s (block %u,%u,%u): %s:%u", k.name.c_str(), id[0], id[1], id[2], k.module.c_str(), ins.line);
    return std::string(head) + " [" + (file == k.files.end() ? "?" : file->second) + ":" + std::to_string(ins.source_line) + "] " +
           ins.text.substr(0, 120);
}

void Block::fail(const Instruction& ins, const std::string& what) const { throw std::runtime_error(where(ins) + ": " + what); }

void Block::note(const Instruction& ins, const std::string& kind, const std::string& what) {
    const Kernel& k = *launch.kernel;
    Note& n = notes[{k.name + " " + k.module + ":" + std::to_string(ins.line), kind}];
    if (!n.times++) n.first = where(ins) + " " + what;
}

void Block::touch(const Instruction& ins, bool write, bool in_shared, uint32_t thread, uint64_t address, uint32_t bytes, Proxy proxy) {
    touch_of(*this, ins, write, in_shared, thread, address, bytes, proxy);
}

void Block::touch_of(const Block& owner, const Instruction& ins, bool write, bool in_shared, uint32_t thread, uint64_t address,
                     uint32_t bytes, Proxy proxy) {
    if (!options.races) return;
    const char* race;
    if (in_shared) {
        const uint32_t at = uint32_t(address);
        const uint32_t from = owner.rank * uint32_t(owner.shared.size()) + at;
        auto& races = cluster->races;
        race = write ? races.write(this->thread(thread), proxy, from, bytes) : races.read(this->thread(thread), proxy, from, bytes);
    } else {
        race = write ? global_races->write(number, address, bytes) : global_races->read(number, address, bytes);
    }
    if (!race) return;
    note(ins, std::string("RACE: ") + race,
         "thread " + std::to_string(thread) +
             (in_shared ? " and " + std::to_string(cluster->races.other) + ", byte " + std::to_string(address) : ""));
}

uint8_t* Block::global(uint64_t address, uint32_t bytes, uint32_t alignment, const Instruction& ins) {
    if (address % alignment) fail(ins, "misaligned global address " + std::to_string(address));
    Range& last = recent[ins.id % recent.size()];
    if (address < last.from || address + bytes > last.to) {
        auto after =
            std::upper_bound(launch.memory.begin(), launch.memory.end(), address, [](uint64_t a, const Range& r) { return a < r.from; });
        for (const Variable& v : launch.kernel->variables) {
            if (address >= v.address() && address + bytes <= v.address() + v.words->size() * 4) return reinterpret_cast<uint8_t*>(address);
        }
        if (after == launch.memory.begin()) fail(ins, "global address outside every buffer");
        const Range& found = *std::prev(after);
        if (address + bytes > found.to) {
            fail(ins, "global address " + std::to_string(address - found.from) + " of a buffer of " +
                          std::to_string(found.to - found.from) + " bytes");
        }
        last = found;
    }
    return reinterpret_cast<uint8_t*>(address);
}

uint32_t Block::at(uint64_t address, uint32_t bytes, uint32_t alignment, const Instruction& ins) {
    if (address % alignment) fail(ins, "misaligned shared address " + std::to_string(address));
    if (address < base || address - base + bytes > shared.size()) {
        fail(ins, "shared address " + std::to_string(int64_t(address) - base) + " of " + std::to_string(shared.size()) + " bytes");
    }
    return uint32_t(address - base);
}

Block::Block(const Launch& launch, const Options& options, Notes& notes)
    : launch(launch), options(options), notes(notes), base(launch.kernel->shared_base) {
    const Kernel& k = *launch.kernel;
    shared.resize(launch.shared_bytes);
    shadow.resize(launch.shared_bytes);
    readers.resize(launch.shared_bytes / 16 + 1);
    reached.resize(k.code.size());
    bool uses_wgmma = false;
    const Handler wgmma = special("wgmma"), trap = special("trap");
    for (const Instruction& ins : k.code) {
        uses_wgmma |= ins.run == wgmma;
        traps |= ins.run == trap;
    }
    warps.resize((launch.threads + 31) / 32);
    for (uint32_t i = 0; i < warps.size(); ++i) {
        Warp& w = warps[i];
        w.index = i;
        w.file.resize(size_t(k.rows) * 32);
        w.p.resize(k.predicates);
        w.uses_wgmma = uses_wgmma;
        for (auto [row, v] : k.words) std::fill_n(w.row(row), 32, v);
        for (auto [row, v] : k.doubles) std::fill_n(reinterpret_cast<uint64_t*>(w.row(row)), 32, v);
        for (auto [at, v] : k.flags) w.p[at] = v ? FULL : 0;
    }
}

void Block::begin(uint32_t x, uint32_t y, uint32_t z, uint64_t number) {
    const Kernel& k = *launch.kernel;
    id[0] = x;
    id[1] = y;
    id[2] = z;
    random.seed(uint64_t(options.seed) * 1000003 + number);
    for (auto& b : barriers) b = {};
    mbarriers.clear();
    bulks.clear();
    next = 0;
    for (auto& p : products) p.clear();
    for (size_t i = 0; i < shared.size(); ++i) shared[i] = uint8_t(0xa5 + 37 * i);
    std::fill(shadow.begin(), shadow.end(), UNDEFINED);
    std::fill(readers.begin(), readers.end(), 0);
    const uint32_t each = 65536 / launch.threads / 8 * 8;  // of one block a multiprocessor
    free_registers = 0;
    for (Warp& w : warps) {
        w.defined.assign(k.rows, 0);
        w.p_defined.assign(k.predicates, 0);
        for (auto [row, v] : k.words) w.defined[row] = FULL;
        for (auto [row, v] : k.doubles) w.defined[row] = FULL;
        for (auto [at, v] : k.flags) w.p_defined[at] = FULL;
        if (w.uses_wgmma) {
            w.locked.assign(k.rows, 0);
            w.lock_depth.assign(k.rows, 0);
            w.written.assign(k.rows, 0);
            w.shape.assign(k.rows, 0);
            w.multiplied.assign(k.rows, 0);
        }
        w.clock = 1;
        w.fenced = 0;
        w.cluster_phase = 0;
        w.products.clear();
        w.group = w.issued = w.register_changes = 0;
        w.registers = each > 255 ? 255 : each;
        const uint32_t threads = std::min<uint32_t>(32, launch.threads - w.index * 32);
        w.alive = w.mask = threads == 32 ? FULL : (1u << threads) - 1;
        w.pc = 0;
        w.others.clear();
        w.state = Warp::READY;
        w.passed = w.timed_out = false;
        for (int l = 0; l < 32; ++l) {
            w.copies[l].clear();
            w.commits[l].clear();
            w.stores[l].clear();
            w.store_commits[l].clear();
        }
        for (const auto& [name, row] : k.specials) {
            w.defined[row] = FULL;
            for (uint32_t l = 0; l < 32; ++l) {
                uint32_t v;
                const uint32_t axis = uint32_t(name.back() - 'x');
                if (name == "%laneid") {
                    v = l;
                } else if (name[1] == 't') {
                    v = axis ? 0 : w.index * 32 + l;
                } else if (name[1] == 'c') {
                    v = id[axis];
                } else if (name.rfind("%nctaid", 0) == 0) {
                    v = launch.grid[axis];
                } else {
                    v = axis ? 1 : launch.threads;
                }
                w.row(row)[l] = v;
            }
        }
    }
}

void Block::wake_mbarriers() {
    for (Warp& w : warps) {
        if (w.state == Warp::AT_MBARRIER) w.state = Warp::READY;
    }
}

void Block::land(size_t i) {
    const Bulk b = bulks[i];
    bulks.erase(bulks.begin() + int64_t(i));
    if (b.from) {
        std::memcpy(shared.data() + b.to, reinterpret_cast<const void*>(b.from), b.bytes);
    } else {
        land_box(*this, b);
    }
    std::fill_n(shadow.begin() + b.to, b.bytes, 0);
    MBarrier& barrier = mbarriers.at(b.barrier);
    barrier.bytes -= b.bytes;
    if (options.races) {
        join(barrier.coming.all, b.known.all);
        join(barrier.coming.fenced, b.known.fenced);
    }
    turn(*this, barrier);
}

bool Block::step(Warp& w, int quantum) {
    const Instruction* code = launch.kernel->code.data();
    for (int i = 0; i < quantum; ++i) {
        // Diverged lanes: those at the least instruction go first, and take in whoever is there.
        if (!w.others.empty()) {
            auto lower = [](const Warp::Group& a, const Warp::Group& b) { return a.pc > b.pc; };
            if (!w.mask) {
                w.pc = w.others.back().pc;
                w.mask = w.others.back().mask;
                w.others.pop_back();
            } else if (w.others.back().pc < w.pc) {
                const Warp::Group first = w.others.back();
                w.others.back() = {w.pc, w.mask};
                std::sort(w.others.begin(), w.others.end(), lower);
                w.pc = first.pc;
                w.mask = first.mask;
            }
            while (!w.others.empty() && w.others.back().pc == w.pc) {
                w.mask |= w.others.back().mask;
                w.others.pop_back();
            }
        }
        const Instruction& ins = code[w.pc];
        uint32_t mask = w.mask;
        if (ins.guard >= 0) {
            if (mask & ~w.p_defined[ins.guard]) note(ins, "an undefined predicate");
            mask &= ins.negated ? ~w.p[ins.guard] : w.p[ins.guard];
        }
        ++instructions;
        lanes += uint32_t(std::popcount(mask));
        reached[ins.id] = true;
        if (ins.kind == PLAIN) {
            if (mask && !ins.run(*this, w, ins, mask)) return true;
            w.pc = ins.next;
        } else if (ins.kind == BRANCH) {
            const uint32_t stay = w.mask & ~mask;
            if (!stay) {
                w.pc = ins.target;
            } else if (!mask) {
                w.pc = ins.next;
            } else {
                const bool target_first = ins.target < ins.next;
                w.others.push_back(target_first ? Warp::Group{ins.next, stay} : Warp::Group{ins.target, mask});
                w.pc = target_first ? ins.target : ins.next;
                w.mask = target_first ? mask : stay;
                std::sort(w.others.begin(), w.others.end(), [](const Warp::Group& a, const Warp::Group& b) { return a.pc > b.pc; });
            }
        } else {
            w.alive &= ~mask;
            w.mask &= ~mask;
            for (int l = 0; l < 32; ++l) {
                if (!(mask >> l & 1)) continue;
                if (!w.copies[l].empty()) note(ins, "a thread ends with cp.async under way");
                if (!w.stores[l].empty()) note(ins, "a thread ends with a store of a tensor's box under way");
            }
            if (!w.products.empty()) note(ins, "a warp ends with wgmma.mma_async under way");
            if (w.cluster_phase) note(ins, "a thread ends between its arrival and its wait at the cluster's barrier");
            if (!w.mask && w.others.empty()) {
                w.state = Warp::ENDED;
                // A barrier of all threads no longer waits for it.
                cluster->settle();
                return true;
            }
            if (w.mask) w.pc = ins.next;
        }
    }
    return false;
}

bool Block::ended() const {
    return std::all_of(warps.begin(), warps.end(), [](const Warp& w) { return w.state == Warp::ENDED; });
}

bool Block::ready() const {
    const auto can = [&](const Warp& w) { return w.state == Warp::READY || (traps && w.state == Warp::AT_MBARRIER); };
    return !bulks.empty() || std::any_of(warps.begin(), warps.end(), can);
}

std::string Block::waiting() const {
    std::string text;
    for (const Warp& w : warps) {
        if (w.state == Warp::ENDED) continue;
        text += "\n  warp " + std::to_string(w.index) + " at " + where(launch.kernel->code[w.pc]);
    }
    return text;
}

void Block::run() {
    const bool shuffled = options.seed >= 0, alone = cluster->blocks.size() == 1;
    const size_t n = warps.size();
    while (!ended()) {
        if (std::none_of(warps.begin(), warps.end(), [](const Warp& w) { return w.state == Warp::READY; })) {
            if (!bulks.empty()) {
                land(shuffled ? random() % bulks.size() : 0);
                continue;
            }
            bool timed_out = false;
            for (Warp& w : warps) {
                if (!traps || w.state != Warp::AT_MBARRIER) continue;
                w.timed_out = timed_out = true;
                w.state = Warp::READY;
            }
            if (timed_out) continue;
            return;
        }
        if (shuffled && !bulks.empty() && random() % 8 == 0) land(random() % bulks.size());
        size_t i = shuffled ? random() % n : next++ % n;
        while (warps[i].state != Warp::READY) i = (i + 1) % n;
        if (!shuffled) next = i + 1;
        step(warps[i], shuffled ? int(random() % 200) + 1 : 1000);
        if (shuffled && !alone && random() % 8 == 0) return;
    }
}

void Block::end() {
    const size_t n = warps.size();
    const Instruction& last = launch.kernel->code.back();
    if (!bulks.empty()) note(last, "the block ends with cp.async.bulk under way");
    for (auto& b : barriers) {
        if (b.arrived) note(last, "the block ends with a barrier half full");
    }
    for (size_t g = 0; g * 4 + 3 < n; ++g) {
        for (size_t i = g * 4; i < g * 4 + 4; ++i) {
            if (warps[i].register_changes != warps[g * 4].register_changes || warps[i].issued != warps[g * 4].issued) {
                note(last, "the warps of a warpgroup differ in setmaxnreg or wgmma");
            }
        }
    }
}

}  // namespace ptx
