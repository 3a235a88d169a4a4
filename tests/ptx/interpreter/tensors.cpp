// Tensor copies: the box of a tensor in global memory that a map and coordinates name, to shared memory, or from there (PTX ISA, "Tensors",
// "cp.async.bulk.tensor"). It walks the box as the ISA draws it, element of the outer dimensions by element. Maps are those of
// kernels/simt/tensor_map.h.
#include <cstring>

#include "handlers.h"

namespace ptx {
namespace {

using simt::TensorMap;

// The map at a generic address, which is one of the parameter.
const TensorMap& map_at(Block& block, const Instruction& ins, uint64_t address) {
    const auto& params = block.launch.params;
    const uint64_t base = block.launch.kernel->param_base;
    if (address < base || address - base + sizeof(TensorMap) > params.size()) block.fail(ins, "a tensor map outside the parameter");
    if (address % 64) block.fail(ins, "a tensor map that is no multiple of 64");
    const auto& map = *reinterpret_cast<const TensorMap*>(params.data() + (address - base));
    if (map.mode != TensorMap::TILED && map.mode != TensorMap::IM2COL) block.fail(ins, "no tensor map there");
    return map;
}

const TensorMap& map_of(Block& block, Warp& w, const Instruction& ins, uint32_t row, int l) {
    if (!(w.defined[row] >> l & 1)) block.fail(ins, "an undefined operand");
    return map_at(block, ins, lane64(w, row, l));
}

bool prefetch(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    for (int l = 0; l < 32; ++l) {
        if (mask >> l & 1) map_of(block, w, ins, ins.s[0], l);
    }
    return true;
}

// Goes through the rows of a box in order: `f(number, address of the first channel that is wanted, bytes of it that are inside)`.
template <class F> void for_rows(const Box& box, F f) {
    const TensorMap& m = box.map;
    int64_t address = int64_t(m.address) + box.at[0] * 2;
    int64_t left = int64_t(m.sizes[0]) - box.at[0];
    if (box.at[0] < 0) left = 0;
    const uint32_t most = uint32_t(left < 0 ? 0 : left < int64_t(m.box[0]) ? left : int64_t(m.box[0])) * 2;
    auto row = [&](uint32_t number, const int64_t (&at)[4]) {
        bool inside = true;
        int64_t from = address;
        for (uint32_t d = 1; d < m.rank; ++d) {
            inside = inside && at[d] >= 0 && at[d] < int64_t(m.sizes[d]);
            from += at[d] * int64_t(m.strides[d - 1]);
        }
        f(number, uint64_t(from), inside ? most : 0);
    };
    int64_t at[4] = {0, box.at[1], box.at[2], box.at[3]};
    if (m.mode == TensorMap::TILED) {
        uint32_t number = 0;
        for (uint32_t z = 0; z < (m.rank > 3 ? m.box[3] : 1); ++z) {
            for (uint32_t y = 0; y < (m.rank > 2 ? m.box[2] : 1); ++y) {
                for (uint32_t x = 0; x < m.box[1]; ++x) row(number++, {0, at[1] + x, at[2] + y, at[3] + z});
            }
        }
        return;
    }
    for (uint32_t number = 0; number < m.box[1]; ++number) {
        row(number, {0, at[1] + box.offsets[0], at[2] + box.offsets[1], at[3]});
        at[1] += m.steps[1];
        if (at[1] <= int64_t(m.sizes[1]) - 1 + m.upper[0]) continue;
        at[1] = m.lower[0];
        at[2] += m.steps[2];
        if (at[2] <= int64_t(m.sizes[2]) - 1 + m.upper[1]) continue;
        at[2] = m.lower[1];
        ++at[3];
    }
}

uint32_t bytes_of(const TensorMap& m) {
    uint32_t rows = 1;
    for (uint32_t d = 1; d < m.rank; ++d) rows *= m.box[d];
    return (m.mode == TensorMap::IM2COL ? m.box[1] : rows) * m.box[0] * 2;
}

// Of lane l's map and coordinates; offsets are left to the caller.
Box box_of(Block& block, Warp& w, const Instruction& ins, int l, bool im2col) {
    Box box{map_of(block, w, ins, ins.s[1], l), {}, {}};
    if ((box.map.mode == TensorMap::IM2COL) != im2col) block.fail(ins, "a tensor map of the other mode");
    if (box.map.rank != ins.list.size()) block.fail(ins, "a tensor map of another rank");
    for (size_t i = 0; i < ins.list.size(); ++i) box.at[i] = int32_t(w.row(ins.list[i])[l]);
    return box;
}

bool tensor(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    const bool im2col = ins.is_signed;
    uint32_t defined = w.defined[ins.s[0]] & w.defined[ins.s[3]];
    for (uint32_t row : ins.list) defined &= w.defined[row];
    for (uint32_t row : ins.list2) defined &= w.defined[row];
    if (mask & ~defined) block.fail(ins, "an undefined operand");
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        Box box = box_of(block, w, ins, l, im2col);
        const TensorMap& m = box.map;
        for (size_t i = 0; i < ins.list2.size(); ++i) box.offsets[i] = uint16_t(w.row(ins.list2[i])[l]);
        for (int i = 0; im2col && i < 2; ++i) {
            const int64_t from = m.lower[i], to = int64_t(m.sizes[i + 1]) - 1 + m.upper[i];
            if (box.at[i + 1] < from || box.at[i + 1] > to) block.fail(ins, "the first pixel lies outside the bounding box");
            if ((box.at[i + 1] - from) % m.steps[i + 1]) block.fail(ins, "the first pixel lies between those of the traversal stride");
            if (box.offsets[i] > 255) block.fail(ins, "an offset above 255");
        }
        const uint32_t bytes = bytes_of(m), to = block.at(w.row(ins.s[0])[l], bytes, 128, ins);
        const uint32_t thread = w.index * 32 + uint32_t(l);
        for_rows(box, [&](uint32_t, uint64_t from, uint32_t inside) {
            if (!inside) return;
            block.global(from, inside, 16, ins);
            block.touch(ins, false, false, thread, from, inside);
        });
        begin_bulk(block, ins, thread, {0, to, bytes, w.row(ins.s[3])[l], &ins, {}, box});
    }
    return true;
}

// To a tensor. It reads shared memory and writes at the wait for its group.
bool store(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    uint32_t defined = w.defined[ins.s[0]];
    for (uint32_t row : ins.list) defined &= w.defined[row];
    if (mask & ~defined) block.fail(ins, "an undefined operand");
    for (int l = 0; l < 32; ++l) {
        if (!(mask >> l & 1)) continue;
        const Box box = box_of(block, w, ins, l, false);
        const TensorMap& m = box.map;
        const uint32_t bytes = bytes_of(m), from = block.at(w.row(ins.s[0])[l], bytes, 128, ins);
        uint8_t seen = 0;
        for (uint32_t i = 0; i < bytes; ++i) seen |= block.shadow[from + i];
        if (seen & ARRIVING) block.fail(ins, "reads shared memory that an asynchronous copy is under way to");
        if (seen & BARRIER) block.fail(ins, "reads an mbarrier");
        if (seen & UNDEFINED) block.note(ins, "stores an undefined value");
        for_rows(box, [&](uint32_t, uint64_t to, uint32_t inside) {
            if (inside) block.global(to, inside, 16, ins);
        });
        for (uint32_t i = 0; i < bytes; i += 16) ++block.readers[(from + i) / 16];
        block.touch(ins, false, true, w.index * 32 + uint32_t(l), from, bytes, ASYNC);
        w.stores[l].push_back({box, from, bytes, &ins});
    }
    return true;
}

bool store_commit(Block&, Warp& w, const Instruction&, uint32_t mask) {
    for (int l = 0; l < 32; ++l) {
        if (mask >> l & 1) w.store_commits[l].push_back(uint32_t(w.stores[l].size()));
    }
    return true;
}

void leave(Block& block, const Store& s, uint32_t thread) {
    const TensorMap& m = s.box.map;
    block.touch(*s.ins, false, true, thread, s.from, s.bytes, ASYNC);
    for_rows(s.box, [&](uint32_t number, uint64_t to, uint32_t inside) {
        if (inside) block.touch(*s.ins, true, false, thread, to, inside);
        for (uint32_t i = 0; i < inside; ++i) {
            uint32_t at = block.base + s.from + number * m.box[0] * 2 + i;
            if (m.swizzle == TensorMap::BYTES_128) at ^= (at >> 7 & 7) << 4;
            reinterpret_cast<uint8_t*>(to)[i] = block.shared[at - block.base];
        }
    });
    for (uint32_t i = 0; i < s.bytes; i += 16) --block.readers[(s.from + i) / 16];
}

bool store_wait(Block& block, Warp& w, const Instruction& ins, uint32_t mask) {
    for (int l = 0; l < 32; ++l) {
        auto& ends = w.store_commits[l];
        if (!(mask >> l & 1) || ends.size() <= size_t(ins.imm)) continue;
        const size_t done = ends.size() - size_t(ins.imm);
        const uint32_t n = ends[done - 1];
        for (uint32_t i = 0; i < n; ++i) leave(block, w.stores[l][i], w.index * 32 + uint32_t(l));
        w.stores[l].erase(w.stores[l].begin(), w.stores[l].begin() + n);
        ends.erase(ends.begin(), ends.begin() + int64_t(done));
        for (uint32_t& end : ends) end -= n;
    }
    return true;
}

}  // namespace

void land_box(Block& block, const Bulk& b) {
    const TensorMap& m = b.box.map;
    for_rows(b.box, [&](uint32_t number, uint64_t from, uint32_t inside) {
        for (uint32_t i = 0; i < m.box[0] * 2; ++i) {
            // Bits 4 .. 6 of the address are exchanged with bits 7 .. 9.
            uint32_t to = block.base + b.to + number * m.box[0] * 2 + i;
            if (m.swizzle == TensorMap::BYTES_128) to ^= (to >> 7 & 7) << 4;
            block.shared[to - block.base] = i < inside ? reinterpret_cast<const uint8_t*>(from)[i] : 0;
        }
    });
}

void tensor_handlers(Handlers& h) {
    h["prefetch.tensormap"] = &prefetch;
    h["cp.async.bulk.tensor"] = &tensor;
    h["cp.async.bulk.tensor.store"] = &store;
    h["cp.async.bulk.commit_group"] = &store_commit;
    h["cp.async.bulk.wait_group.read"] = &store_wait;
}

}  // namespace ptx
