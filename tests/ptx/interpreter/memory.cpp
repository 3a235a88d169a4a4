// Loads, stores, and the packing of registers.
#include <cstring>

#include "handlers.h"

namespace ptx {

void full(Block& block, const Instruction& ins, uint32_t mask) {
    if (mask != FULL) block.fail(ins, "not executed by all lanes of the warp");
}

void write_check(Block& block, Warp& w, const Instruction& ins, uint32_t row) {
    if (!w.uses_wgmma) return;
    if (w.locked[row]) block.fail(ins, "writes a register of a wgmma.mma_async that is not waited for");
    w.written[row] = w.clock;
}

uint64_t lane64(Warp& w, uint32_t row, int l) {
    uint64_t v;
    std::memcpy(&v, reinterpret_cast<uint8_t*>(w.row(row)) + l * 8, 8);
    return v;
}

// All lanes of the mask have one value of a word.
uint32_t one(Block& block, Warp& w, const Instruction& ins, uint32_t row, uint32_t mask) {
    const uint32_t v = w.row(row)[std::countr_zero(mask)];
    for (int l = 0; l < 32; ++l) {
        if (mask >> l & 1 && w.row(row)[l] != v) block.fail(ins, "an operand that differs between lanes");
    }
    if (mask & ~w.defined[row]) block.fail(ins, "an undefined operand");
    return v;
}

void check_write(Block& block, const Instruction& ins, uint32_t offset, uint32_t bytes, const char* who) {
    uint8_t seen = 0;
    for (uint32_t i = 0; i < bytes; ++i) seen |= block.shadow[offset + i];
    if (seen & ARRIVING)
        block.fail(ins,
                   std::string(who) + " writes shared memory that an asynchronous copy is under way to, byte " + std::to_string(offset));
    if (seen & BARRIER) block.fail(ins, std::string(who) + " writes an mbarrier");
    for (uint32_t i = offset / 16; i <= (offset + bytes - 1) / 16; ++i) {
        if (block.readers[i])
            block.fail(ins, std::string(who) + " writes shared memory that a wgmma.mma_async or a tensor store under way reads, byte " +
                                std::to_string(offset));
    }
}

namespace {

template <Space S> bool load(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    constexpr bool NARROW = S == SHARED || S == CLUSTER;
    const uint32_t bytes = ins.bytes * ins.count;
    if (mask & ~w.defined[ins.s[0]]) block.fail(ins, "an undefined address");
    uint32_t defined_lanes = 0;
    uint64_t raw[32][4];
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        const uint64_t wide = (NARROW ? uint64_t(w.row(ins.s[0])[l]) : lane64(w, ins.s[0], l)) + uint64_t(ins.imm);
        uint64_t address = NARROW ? uint32_t(wide) : wide;
        bool defined = true;
        uint32_t offset = 0;
        const uint8_t* from = source<S>(block, ins, address, bytes, defined, offset);
        std::memcpy(raw[l], from, bytes);
        if (S == GLOBAL && ins.shape && block.options.races && block.global_races->written(address, bytes)) {
            block.note(ins, "RACE: ld.global.nc of what this launch writes");
        }
        const uint32_t thread = w.index * 32 + uint32_t(l);
        if (S == CLUSTER) block.touch_of(owner(block, ins, address), ins, false, true, thread, offset, bytes);
        if (S == GLOBAL || S == SHARED) block.touch(ins, false, NARROW, thread, NARROW ? offset : address, bytes);
        defined_lanes |= uint32_t(defined) << l;
        // Elements of a vector are not all undefined where one is.
        if (!defined && ins.count > 1) defined_lanes &= ~(1u << l);
    }
    for (uint32_t k = 0; k < ins.count; ++k) {
        const uint32_t row = ins.list[k];
        write_check(block, w, ins, row);
        for (int l = 0; l < 32; ++l) {
            if (!(mask >> l & 1)) continue;
            uint64_t v = 0;
            std::memcpy(&v, reinterpret_cast<uint8_t*>(raw[l]) + k * ins.bytes, ins.bytes);
            if (ins.is_signed && ins.bytes < 8) v = uint64_t(int64_t(v << (64 - 8 * ins.bytes)) >> (64 - 8 * ins.bytes));
            if (ins.wide[k] == 64) {
                std::memcpy(reinterpret_cast<uint8_t*>(w.row(row)) + l * 8, &v, 8);
            } else {
                w.row(row)[l] = ins.wide[k] == 16 ? uint16_t(v) : uint32_t(v);
            }
        }
        w.defined[row] = (w.defined[row] & ~mask) | (defined_lanes & mask);
        if (ins.wide[k] == 64) w.defined[row + 1] &= ~mask;
    }
    return true;
}

template <Space S> bool store(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    const uint32_t bytes = ins.bytes * ins.count;
    if (mask & ~w.defined[ins.s[0]]) block.fail(ins, "an undefined address");
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        const uint64_t address = (S == SHARED ? uint64_t(w.row(ins.s[0])[l]) : lane64(w, ins.s[0], l)) + uint64_t(ins.imm);
        uint8_t raw[32];
        uint32_t undefined = 0;  // elements
        for (uint32_t k = 0; k < ins.count; ++k) {
            const uint32_t row = ins.list[k];
            const uint64_t v = ins.wide[k] == 64 ? lane64(w, row, l) : w.row(row)[l];
            std::memcpy(raw + k * ins.bytes, &v, ins.bytes);
            undefined |= (~w.defined[row] >> l & 1) << k;
        }
        if (S == GLOBAL) {
            std::memcpy(block.global(address, bytes, bytes, ins), raw, bytes);
            block.touch(ins, true, false, w.index * 32 + uint32_t(l), address, bytes);
            if (undefined) block.note(ins, "stores an undefined value", "lane " + std::to_string(l));
        } else {
            const uint32_t offset = block.at(uint32_t(address), bytes, bytes, ins);
            check_write(block, ins, offset, bytes, "st");
            block.touch(ins, true, true, w.index * 32 + uint32_t(l), offset, bytes);
            std::memcpy(block.shared.data() + offset, raw, bytes);
            for (uint32_t i = 0; i < bytes; ++i) block.shadow[offset + i] = undefined >> (i / ins.bytes) & 1 ? UNDEFINED : 0;
        }
    }
    return true;
}

bool unpack32(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    for (int k = 0; k < 2; ++k) {
        write_check(block, w, ins, ins.list[k]);
        for (int l = 0; l < 32; ++l) {
            if (mask >> l & 1) w.row(ins.list[k])[l] = uint16_t(w.row(ins.s[0])[l] >> 16 * k);
        }
        w.defined[ins.list[k]] = (w.defined[ins.list[k]] & ~mask) | (w.defined[ins.s[0]] & mask);
    }
    return true;
}

bool pack32(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    write_check(block, w, ins, ins.d);
    for (int l = 0; l < 32; ++l) {
        if (mask >> l & 1) w.row(ins.d)[l] = uint16_t(w.row(ins.list[0])[l]) | w.row(ins.list[1])[l] << 16;
    }
    w.defined[ins.d] = (w.defined[ins.d] & ~mask) | (w.defined[ins.list[0]] & w.defined[ins.list[1]] & mask);
    return true;
}

bool unpack64(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    for (int k = 0; k < 2; ++k) {
        // Of a pair of which one half alone is defined: see pack64.
        const uint32_t half = k == 0 ? w.defined[ins.s[0] + 1] : 0;
        write_check(block, w, ins, ins.list[k]);
        for (int l = 0; l < 32; ++l) {
            if (mask >> l & 1) w.row(ins.list[k])[l] = uint32_t(lane64(w, ins.s[0], l) >> 32 * k);
        }
        w.defined[ins.list[k]] = (w.defined[ins.list[k]] & ~mask) | ((w.defined[ins.s[0]] | half) & mask);
    }
    return true;
}

bool pack64(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    write_check(block, w, ins, ins.d);
    for (int l = 0; l < 32; ++l) {
        const uint64_t v = w.row(ins.list[0])[l] | uint64_t(w.row(ins.list[1])[l]) << 32;
        if (mask >> l & 1) std::memcpy(reinterpret_cast<uint8_t*>(w.row(ins.d)) + l * 8, &v, 8);
    }
    w.defined[ins.d] = (w.defined[ins.d] & ~mask) | (w.defined[ins.list[0]] & w.defined[ins.list[1]] & mask);
    // The second row's bits say that the lower half at least is defined.
    w.defined[ins.d + 1] = (w.defined[ins.d + 1] & ~mask) | (w.defined[ins.list[0]] & mask);
    return true;
}

}  // namespace

void memory_handlers(Handlers& h) {
    h["ld.global"] = &load<GLOBAL>;
    h["ld.shared"] = &load<SHARED>;
    h["ld.shared::cluster"] = &load<CLUSTER>;
    h["ld.param"] = &load<PARAM>;
    h["st.global"] = &store<GLOBAL>;
    h["st.shared"] = &store<SHARED>;
    h["unpack.b32"] = &unpack32;
    h["pack.b32"] = &pack32;
    h["unpack.b64"] = &unpack64;
    h["pack.b64"] = &pack64;
}

}  // namespace ptx
