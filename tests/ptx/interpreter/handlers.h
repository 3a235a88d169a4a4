// What the handlers of instructions share.
#pragma once
#include "block.h"

namespace ptx {

using Handlers = std::map<std::string, Handler>;
void memory_handlers(Handlers& h);
void warp_handlers(Handlers& h);
void copy_handlers(Handlers& h);
void matrix_handlers(Handlers& h);
void warpgroup_handlers(Handlers& h);
void tensor_handlers(Handlers& h);
void cluster_handlers(Handlers& h);

// Fails unless all lanes are there.
void full(Block& block, const Instruction& ins, uint32_t mask);
// Before a register is written.
void write_check(Block& block, Warp& w, const Instruction& ins, uint32_t row);
uint64_t lane64(Warp& w, uint32_t row, int l);
// The value of an operand that all lanes of the mask must share.
uint32_t one(Block& block, Warp& w, const Instruction& ins, uint32_t row, uint32_t mask);
// Before a byte of shared memory is written by `who`.
void check_write(Block& block, const Instruction& ins, uint32_t offset, uint32_t bytes, const char* who);
// Starts a bulk copy of a thread.
void begin_bulk(Block& block, const Instruction& ins, uint32_t thread, Bulk bulk);
// What a tensor copy brings.
void land_box(Block& block, const Bulk& bulk);
// Ends the phase of an mbarrier where nothing is missing.
void turn(Block& block, MBarrier& b);

// The bytes, and whether they are defined.
enum Space { GLOBAL, SHARED, PARAM, CLUSTER };

// The block of the cluster that an address of the shared::cluster window lies in, and the address there.
Block& owner(Block& block, const Instruction& ins, uint64_t& address);

template <Space S> inline const uint8_t* source(Block& block, const Instruction& ins, uint64_t address, uint32_t bytes, bool& defined,
                                                uint32_t& offset) {
    if (S == GLOBAL) return block.global(address, bytes, bytes, ins);
    if (S == PARAM) {
        const auto& params = block.launch.params;
        const uint64_t base = block.launch.kernel->param_base;
        if (address < base || address - base + bytes > params.size()) block.fail(ins, "outside the parameter");
        if ((address - base) % bytes) block.fail(ins, "misaligned parameter address");
        return params.data() + (address - base);
    }
    Block& from = S == CLUSTER ? owner(block, ins, address) : block;
    offset = from.at(address, bytes, bytes, ins);
    uint8_t seen = 0;
    for (uint32_t i = 0; i < bytes; ++i) seen |= from.shadow[offset + i];
    if (seen & ARRIVING) block.fail(ins, "reads shared memory that an asynchronous copy is under way to, byte " + std::to_string(offset));
    if (seen & BARRIER) block.fail(ins, "reads an mbarrier");
    defined = !(seen & UNDEFINED);
    return from.shared.data() + offset;
}

void widen(const uint16_t* from, float* to, int n);
// d[16][n] += a b.
void multiply(const float (&a)[16][16], const float* b, float* d, int n, const Options& options);
void fragment(Warp& w, const uint32_t* registers, float (&a)[16][16]);

}  // namespace ptx
