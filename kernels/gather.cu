// Features and labels of the pixels in a list: only those that the sample of a fit takes are copied to the host.
//
// features fp16 [pixels, stride], a pixel at a multiple of 16 bytes; labels u8 [pixels]; rows i32 [count]; output fp16
// [count, channels], channels a multiple of 8; picked u8 [count]. A row that is no pixel becomes NaN, its label void (255).
// Grid ceil(count channels / 8 / 256), blocks of 256; a thread moves 16 bytes.
#include "common/division.cuh"

struct GatherParams {
    const half* features;
    const uint8_t* labels;
    const int32_t* rows;
    half* output;
    uint8_t* picked;
    Divisor chunks;  // of a pixel: 16 bytes each
    int32_t threads, pixels, stride;
};

DEVICE void copy_rows(const GatherParams& p) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= uint32_t(p.threads)) return;
    const int at = quotient(i, p.chunks), chunk = i - at * p.chunks.divisor, row = p.rows[at];
    Half8 values = {{0x7e007e00u, 0x7e007e00u, 0x7e007e00u, 0x7e007e00u}};
    const bool valid = row >= 0 && row < p.pixels;
    if (valid) values = load16<Half8>(p.features + int64_t(row) * p.stride + chunk * 8);
    if (chunk == 0) p.picked[at] = valid ? p.labels[row] : uint8_t(255);
    store16(p.output + int64_t(i) * 8, values);
}

KERNEL(gather, GatherParams, 256, copy_rows)
