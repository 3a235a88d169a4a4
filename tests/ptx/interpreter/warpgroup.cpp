// Warpgroup products: they are computed at their wait; until then their registers and their part of shared memory are locked.
#include <bit>
#include <functional>

#include "handlers.h"

namespace ptx {
namespace {

// The shared address of an operand's element [n][k], K-major, by the matrix descriptor; n a row of a or a column of b.
struct Descriptor {
    uint32_t start, leading, stride, base_offset, swizzle;
    explicit Descriptor(uint64_t v)
        : start(uint32_t(v & 0x3fff) << 4),
          leading(uint32_t(v >> 16 & 0x3fff) << 4),
          stride(uint32_t(v >> 32 & 0x3fff) << 4),
          base_offset(uint32_t(v >> 49 & 7)),
          swizzle(uint32_t(v >> 62)) {}
    // Of eight halves (16 bytes): rows of 128 bytes, chunk bits 4..6 exchanged with row bits 7..9.
    uint32_t chunk(uint32_t n, uint32_t k) const {
        const uint32_t linear = start + n / 8 * stride + n % 8 * 128 + k * 2;
        return linear ^ (linear >> 7 & 7) << 4;
    }
};

void for_chunks(Block& block, const Instruction& ins, uint64_t descriptor, uint32_t rows,
                const std::function<void(uint32_t n, uint32_t k, uint32_t offset)>& f) {
    const Descriptor b(descriptor);
    if (b.swizzle != 1) block.fail(ins, "a swizzle other than of 128 bytes");
    if (b.base_offset) block.fail(ins, "a base offset");
    // The pattern starts at multiples of 1024 bytes where the base offset is 0.
    if (b.stride % 1024) block.fail(ins, "a stride that is no multiple of the swizzle's period");
    if ((b.start >> 7 & 7) != 0) block.fail(ins, "the matrix does not start with the swizzle's period, and the base offset is 0");
    for (uint32_t n = 0; n < rows; ++n) {
        for (uint32_t k = 0; k < 16; k += 8) f(n, k, block.at(b.chunk(n, k), 16, 16, ins));
    }
}

bool wgmma(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    full(block, ins, mask);
    const uint64_t b = lane64(w, ins.s[0], 0);
    for (int l = 1; l < 32; ++l) {
        if (lane64(w, ins.s[0], l) != b) block.fail(ins, "a descriptor that differs between lanes");
    }
    const bool in_shared = ins.list2.empty();
    const uint64_t a = in_shared ? lane64(w, ins.s[2], 0) : 0;
    for (int l = 1; l < 32 && in_shared; ++l) {
        if (lane64(w, ins.s[2], l) != a) block.fail(ins, "a descriptor that differs between lanes");
    }
    if (~w.defined[ins.s[0]] || ~w.p_defined[ins.s[1]] || (in_shared && ~w.defined[ins.s[2]])) block.fail(ins, "an undefined operand");
    const uint32_t p = w.p[ins.s[1]];
    if (p != 0 && p != FULL) block.fail(ins, "scale-d differs between lanes");
    // All warps of the group issue the same.
    auto& all = block.products[w.index / 4];
    if (w.issued < all.size()) {
        if (all[w.issued] != std::array<uint64_t, 3>{ins.id, a, b}) block.fail(ins, "the warps of the group issue other products");
    } else {
        all.push_back({ins.id, a, b});
    }
    ++w.issued;
    bool accumulate = p != 0;
    for (uint32_t row : ins.list) {
        if (w.locked[row] == 1) block.fail(ins, "writes an a operand of a product under way");
        if (w.shape[row] && w.shape[row] != ins.shape && w.multiplied[row] > w.fenced) {
            block.fail(ins, "a product of n" + std::to_string(ins.shape) + " on the accumulator of one of n" +
                                std::to_string(w.shape[row]) + ", no wgmma.fence between");
        }
        w.shape[row] = ins.shape;
        w.multiplied[row] = w.clock;
        if (!w.locked[row] && w.written[row] > w.fenced) block.fail(ins, "an accumulator was written since the last wgmma.fence");
        if (accumulate && !w.lock_depth[row] && ~w.defined[row]) block.fail(ins, "an undefined accumulator");
    }
    for (uint32_t row : ins.list2) {
        if (w.locked[row] > 1) block.fail(ins, "reads the accumulator of a product under way");
        if (w.written[row] > w.fenced) block.fail(ins, "an a operand was written since the last wgmma.fence");
        if (~w.defined[row]) block.note(ins, "an undefined a operand");
    }
    if (!w.fenced) block.fail(ins, "no wgmma.fence before it");
    for (uint32_t row : ins.list) {
        w.locked[row] = ins.shape;
        ++w.lock_depth[row];
        w.defined[row] = 0;  // until it is waited for
    }
    for (uint32_t row : ins.list2) {
        w.locked[row] = 1;
        ++w.lock_depth[row];
    }
    auto take = [&](const char* undefined) {
        return [&block, &w, &ins, undefined](uint32_t, uint32_t, uint32_t offset) {
            uint8_t seen = 0;
            for (int i = 0; i < 16; ++i) seen |= block.shadow[offset + i];
            if (seen & ARRIVING) block.fail(ins, "reads shared memory that an asynchronous copy is under way to");
            if (seen & UNDEFINED) block.note(ins, undefined);
            ++block.readers[offset / 16];
            block.touch(ins, false, true, w.index * 32, offset, 16, ASYNC);
        };
    };
    for_chunks(block, ins, b, ins.shape, take("b is undefined"));
    // Which warp reads which rows of a the ISA does not say.
    if (in_shared) for_chunks(block, ins, a, 64, take("a is undefined"));
    w.products.push_back({&ins, a, b, accumulate, w.group});
    return true;
}

bool wgmma_fence(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    full(block, ins, mask);
    w.fenced = w.clock++;
    return true;
}

bool wgmma_commit(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    full(block, ins, mask);
    ++w.group;
    return true;
}

bool wgmma_wait(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    full(block, ins, mask);
    size_t n = 0;
    for (; n < w.products.size(); ++n) {
        const Product& product = w.products[n];
        if (product.group + uint32_t(ins.imm) >= w.group) break;
        const Instruction& p = *product.ins;
        const int columns = p.shape;
        float a[16][16];
        static thread_local float b[16 * 128], d[16 * 128];
        if (!p.list2.empty()) {
            fragment(w, &p.list2[0], a);
        } else {
            const uint32_t first = w.index % 4 * 16;
            for_chunks(block, p, product.a, 64, [&](uint32_t row, uint32_t k, uint32_t offset) {
                if (row / 16 * 16 == first) widen(reinterpret_cast<const uint16_t*>(block.shared.data() + offset), &a[row - first][k], 8);
                --block.readers[offset / 16];
                block.touch(p, false, true, w.index * 32, offset, 16, ASYNC);
            });
        }
        for_chunks(block, p, product.b, p.shape, [&](uint32_t row, uint32_t k, uint32_t offset) {
            float v[8];
            widen(reinterpret_cast<const uint16_t*>(block.shared.data() + offset), v, 8);
            for (uint32_t i = 0; i < 8; ++i) b[(k + i) * columns + row] = v[i];
            --block.readers[offset / 16];
            block.touch(p, false, true, w.index * 32, offset, 16, ASYNC);
        });
        auto place = [&](int i, int l) { return (l / 4 + i / 2 % 2 * 8) * columns + i / 4 * 8 + l % 4 * 2 + i % 2; };
        for (int i = 0; i < columns / 2; ++i) {
            for (int l = 0; l < 32; ++l) d[place(i, l)] = product.accumulate ? std::bit_cast<float>(w.row(p.list[i])[l]) : 0.0f;
        }
        multiply(a, b, d, columns, block.options);
        for (int i = 0; i < columns / 2; ++i) {
            const uint32_t row = p.list[i];
            for (int l = 0; l < 32; ++l) w.row(row)[l] = std::bit_cast<uint32_t>(d[place(i, l)]);
            if (!--w.lock_depth[row]) {
                w.locked[row] = 0;
                w.defined[row] = FULL;
            }
        }
        for (uint32_t row : p.list2) {
            if (!--w.lock_depth[row]) w.locked[row] = 0;
        }
    }
    w.products.erase(w.products.begin(), w.products.begin() + int64_t(n));
    return true;
}

bool set_registers(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    full(block, ins, mask);
    const int64_t wanted = ins.imm;
    if (wanted < 24 || wanted > 256 || wanted % 8) block.fail(ins, "a count of registers");
    if (ins.shape ? wanted < w.registers : wanted > w.registers) block.fail(ins, "the wrong way");
    const int64_t change = (wanted - w.registers) * 32;
    if (change > block.free_registers) {
        w.state = Warp::AT_REGISTERS;
        return false;
    }
    block.free_registers -= change;
    w.registers = uint32_t(wanted);
    ++w.register_changes;
    for (Warp& other : block.warps) {
        if (other.state == Warp::AT_REGISTERS) other.state = Warp::READY;
    }
    return true;
}

}  // namespace

void warpgroup_handlers(Handlers& h) {
    h["setmaxnreg"] = &set_registers;
    h["wgmma"] = &wgmma;
    h["wgmma.fence.sync.aligned"] = &wgmma_fence;
    h["wgmma.commit_group.sync.aligned"] = &wgmma_commit;
    h["wgmma.wait_group.sync.aligned"] = &wgmma_wait;
}

}  // namespace ptx
