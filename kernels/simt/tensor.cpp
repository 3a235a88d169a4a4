// Tensor copies (PTX ISA, "Tensors", "cp.async.bulk.tensor"): a box of a tensor in global memory, found by a tensor map, to
// shared memory, where it lies row after row; rows of 128 bytes have their 16-byte chunks permuted by bits 7 .. 9 of the
// address. What lies outside the tensor arrives as zeros, and counts as bytes of the copy.
//
// Tiled: the box starts at the coordinates. Im2col: rows are pixels; the first is at the coordinates, the next ones follow
// in the box between the corners, W first, then H, then N, `steps` apart; each is read `offsets` further on.
//
// A store of a box is written at the wait for it, from bytes that must be those of its start: hardware reads them some time between the
// two.
#include <string>

#include "runtime.h"

namespace simt {
namespace {

const char* fault(const TensorMap& m, unsigned rank, bool im2col, const int32_t* at, const uint16_t* offsets) {
    if (m.mode != TensorMap::TILED && m.mode != TensorMap::IM2COL) return "what is no tensor map";
    if ((m.mode == TensorMap::IM2COL) != im2col) return "a tensor map of the other mode";
    if (m.rank != rank) return "a tensor map of another rank";
    for (unsigned i = 0; im2col && i < 2; ++i) {
        const int64_t first = m.lower[i], last = int64_t(m.sizes[i + 1]) - 1 + m.upper[i];
        if (at[i + 1] < first || at[i + 1] > last || (at[i + 1] - first) % m.steps[i + 1]) return "a first pixel outside the map's corners";
        // Eight bits each in rank 4.
        if (offsets[i] > 255) return "an offset above 255";
    }
    return nullptr;
}

// The tensor's coordinates of row i of the box, channels aside.
void place(const TensorCopy& c, uint32_t i, int64_t (&at)[4]) {
    const TensorMap& m = *c.map;
    if (m.mode == TensorMap::TILED) {
        for (uint32_t d = 1; d < m.rank; ++d) {
            at[d] = int64_t(c.at[d]) + i % m.box[d];
            i /= m.box[d];
        }
        return;
    }
    // The pixel's number in the whole sequence of boxes, from the number of the first.
    const int64_t w = (int64_t(m.sizes[1]) - 1 + m.upper[0] - m.lower[0]) / m.steps[1] + 1;
    const int64_t h = (int64_t(m.sizes[2]) - 1 + m.upper[1] - m.lower[1]) / m.steps[2] + 1;
    const int64_t first = (int64_t(c.at[3]) * h + (c.at[2] - m.lower[1]) / m.steps[2]) * w + (c.at[1] - m.lower[0]) / m.steps[1];
    const int64_t pixel = first + i;
    at[1] = m.lower[0] + pixel % w * m.steps[1] + c.offsets[0];
    at[2] = m.lower[1] + pixel / w % h * m.steps[2] + c.offsets[1];
    at[3] = pixel / (w * h);
}

}  // namespace

uint32_t tensor_rows(const TensorMap& map) {
    if (map.mode == TensorMap::IM2COL) return map.box[1];
    uint32_t rows = 1;
    for (uint32_t d = 1; d < map.rank; ++d) rows *= map.box[d];
    return rows;
}

namespace {

// Bytes of row i that lie inside the tensor, and where.
uint32_t inside(const TensorCopy& c, uint32_t i, char*& address) {
    const TensorMap& m = *c.map;
    int64_t at[4] = {};
    place(c, i, at);
    bool inside = c.at[0] >= 0 && c.at[0] < int64_t(m.sizes[0]);
    address = reinterpret_cast<char*>(m.address) + int64_t(c.at[0]) * 2;
    for (uint32_t d = 1; d < m.rank; ++d) {
        inside = inside && at[d] >= 0 && at[d] < int64_t(m.sizes[d]);
        address += at[d] * int64_t(m.strides[d - 1]);
    }
    const int64_t left = inside ? int64_t(m.sizes[0]) - c.at[0] : 0;
    return 2 * uint32_t(left < m.box[0] ? left : m.box[0]);
}

// Where the 16 bytes from byte `chunk` of a row on lie, from the row's start.
int64_t chunk_place(const TensorMap& m, const char* row, uint32_t chunk) {
    const uint64_t linear = arena_address(row) + chunk;
    const uint64_t to = m.swizzle == TensorMap::BYTES_128 ? linear ^ (linear >> 7 & 7) << 4 : linear;
    return int64_t(to - arena_address(row));
}

uint64_t checksum(const char* bytes, uint32_t count) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i += 8) {
        uint64_t word;
        std::memcpy(&word, bytes + i, 8);
        sum = (sum ^ word) * 0x9e3779b97f4a7c15;
    }
    return sum;
}

}  // namespace

uint32_t land_row(const TensorCopy& c, uint32_t i, char* row, const char*& source) {
    char* from;
    const uint32_t bytes = inside(c, i, from);
    source = from;
    // By chunks, of which the last may be cut off.
    for (uint32_t chunk = 0; chunk < c.map->box[0] * 2; chunk += 16) {
        char* to = row + chunk_place(*c.map, row, chunk);
        const uint32_t have = bytes > chunk ? (bytes - chunk < 16 ? bytes - chunk : 16) : 0;
        std::memcpy(to, source + chunk, have);
        std::memset(to + have, 0, 16 - have);
    }
    return bytes;
}

void tensor_copy(void* destination, const TensorMap& map, unsigned rank, bool im2col, const int32_t (&at)[4], const uint16_t (&offsets)[2],
                 void* barrier, Site site) {
    if (const char* what = fault(map, rank, im2col, at, offsets)) fail(std::string("a tensor copy by ") + what + ", at " + where(site));
    if (arena_address(destination) % 128) fail("a tensor copy to shared memory that is no multiple of 128, at " + where(site));
    TensorCopy copy = {&map, {at[0], at[1], at[2], at[3]}, {offsets[0], offsets[1]}};
    begin_copy(destination, tensor_rows(map) * map.box[0] * 2, barrier, nullptr, copy, site);
}

void tensor_store(const TensorMap& map, unsigned rank, const int32_t (&at)[4], const void* source, Site site) {
    if (const char* what = fault(map, rank, false, at, nullptr)) fail(std::string("a tensor store by ") + what + ", at " + where(site));
    if (arena_address(source) % 128) fail("a tensor store from shared memory that is no multiple of 128, at " + where(site));
    const uint32_t bytes = tensor_rows(map) * map.box[0] * 2;
    check_read(source, bytes);
#if defined(DDU_SIMT_TSAN)
    __tsan_read_range(source, bytes);
#endif
    const char* from = static_cast<const char*>(source);
    Thread& t = *worker().current;
    t.stores.push_back({{&map, {at[0], at[1], at[2], at[3]}, {}}, from, bytes, checksum(from, bytes), site});
    ++t.open_stores;
}

void store_commit() {
    Thread& t = *worker().current;
    t.store_groups.push_back(t.open_stores);
    t.open_stores = 0;
}

void store_wait_read(unsigned pending) {
    Thread& t = *worker().current;
    while (t.store_groups.size() > pending) {
        const uint32_t count = t.store_groups.front();
        for (uint32_t n = 0; n < count; ++n) {
            const TensorStore& store = t.stores[n];
            if (checksum(store.source, store.bytes) != store.checksum) {
                fail("shared memory was overwritten under a tensor store in flight, that of " + where(store.site));
            }
#if defined(DDU_SIMT_TSAN)
            __tsan_read_range(store.source, store.bytes);
#endif
            const TensorMap& m = *store.to.map;
            const uint32_t row_bytes = m.box[0] * 2;
            for (uint32_t i = 0; i < store.bytes / row_bytes; ++i) {
                char* to;
                const uint32_t inside_bytes = inside(store.to, i, to);
                const char* row = store.source + i * row_bytes;
#if defined(DDU_SIMT_TSAN)
                if (inside_bytes) __tsan_write_range(to, inside_bytes);
#endif
                for (uint32_t chunk = 0; chunk < inside_bytes; chunk += 16) {
                    std::memcpy(to + chunk, row + chunk_place(m, row, chunk), inside_bytes - chunk < 16 ? inside_bytes - chunk : 16);
                }
            }
        }
        t.stores.erase(t.stores.begin(), t.stores.begin() + count);
        t.store_groups.erase(t.store_groups.begin());
    }
}

}  // namespace simt
