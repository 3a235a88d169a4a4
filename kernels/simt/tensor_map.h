// What a tensor map is where there is no GPU: 128 bytes that say what was given to cuTensorMapEncodeTiled or
// cuTensorMapEncodeIm2col. On a GPU they are the driver's own, which only its copies can read. Three write these: the launches
// (src/device/launch/tensor_map.rs, the same fields), the stand-in driver (tests/cuda/driver.cpp) and tests; two read them: the
// simt device (tensor.cpp) and the PTX interpreter (tests/ptx/interpreter/tensors.cpp).
#pragma once
#include <cstdint>

namespace simt {

// Of fp16 values, without interleave, zeros outside the tensor. Dimensions, coordinates and corners: the innermost first.
struct TensorMap {
    enum Mode : uint32_t { NONE, TILED, IM2COL };
    enum Swizzle : uint32_t { PLAIN, BYTES_128 };

    uint64_t address;  // of element 0, a multiple of 16
    uint32_t mode, rank;
    uint64_t strides[3];  // bytes from an element of dimension 1, 2, 3 to the next: multiples of 16
    uint32_t sizes[4];
    uint32_t box[4];                // tiled: elements of each dimension; im2col: channels, pixels of a copy
    uint32_t steps[4];              // elements from one that is taken to the next ("element strides")
    int32_t lower[2], upper[2];     // im2col: corners of the box of first taps, in W and H, from the image's own corners
    uint32_t swizzle, reserved[5];  // 0
};
static_assert(sizeof(TensorMap) == 128, "as CUtensorMap");

}  // namespace simt
