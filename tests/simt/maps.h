// Tensor maps of fp16 values, for the programs of this folder: 64 channels a copy, 128-byte swizzle.
#pragma once
#include <initializer_list>

#include "../../kernels/simt/tensor_map.h"

// Sizes and, from the second dimension on, strides in values; the innermost first.
inline simt::TensorMap map_of(uint32_t mode, const void* data, std::initializer_list<int> sizes, std::initializer_list<int> strides) {
    simt::TensorMap m = {};
    m.address = reinterpret_cast<uint64_t>(data);
    m.mode = mode;
    m.rank = uint32_t(sizes.size());
    uint32_t i = 0;
    for (int size : sizes) {
        m.sizes[i] = uint32_t(size);
        m.steps[i++] = 1;
    }
    i = 0;
    for (int stride : strides) m.strides[i++] = uint64_t(stride) * 2;
    m.box[0] = 64;
    m.swizzle = simt::TensorMap::BYTES_128;
    return m;
}

// Of [z][y][x] rows x columns of 64.
inline simt::TensorMap tiled(const void* data, std::initializer_list<int> sizes, std::initializer_list<int> strides, int rows,
                             int columns) {
    simt::TensorMap m = map_of(simt::TensorMap::TILED, data, sizes, strides);
    m.box[1] = uint32_t(columns);
    m.box[2] = uint32_t(rows);
    return m;
}

// Of [n][h][w][c], pixels `pixel` values apart, under a filter that reaches from its first position `reach` further.
inline simt::TensorMap im2col(const void* data, int n, int h, int w, int c, int pixel, int padding, int reach, int stride, int pixels) {
    simt::TensorMap m = map_of(simt::TensorMap::IM2COL, data, {c, w, h, n}, {pixel, pixel * w, pixel * w * h});
    m.box[1] = uint32_t(pixels);
    for (int i = 0; i < 2; ++i) {
        m.steps[i + 1] = uint32_t(stride);
        m.lower[i] = -padding;
        m.upper[i] = padding - reach;
    }
    return m;
}
