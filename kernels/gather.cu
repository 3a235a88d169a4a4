// Features and labels of the pixels in a list: only those that the sample of a fit takes are copied to the host.
//
// features fp16 [pixels, stride], a pixel at a multiple of 16 bytes; labels u8 [pixels]; rows i32 [count]; output fp16
// [count, channels], channels a multiple of 8; picked u8 [count]. A row that is no pixel becomes NaN, its label void (255).
// Grid ceil(count channels / 8 / 256), blocks of 256; a thread moves 16 bytes.
#include "common/arch.cuh"

struct GatherParams {
    const half* features;
    const uint8_t* labels;
    const int32_t* rows;
    half* output;
    uint8_t* picked;
    int32_t pixels, count, stride, channels;
};

DEVICE void copy_rows(const GatherParams& p) {
    const int64_t at = int64_t(blockIdx.x) * 256 + threadIdx.x;
    const int chunks = p.channels / 8;
    if (at >= int64_t(p.count) * chunks) return;
    const int row = p.rows[at / chunks], chunk = int(at % chunks);
    Half8 values = {{0x7e007e00u, 0x7e007e00u, 0x7e007e00u, 0x7e007e00u}};
    const bool valid = row >= 0 && row < p.pixels;
    if (valid) values = load16<Half8>(p.features + int64_t(row) * p.stride + chunk * 8);
    if (chunk == 0) p.picked[at / chunks] = valid ? p.labels[row] : uint8_t(255);
    store16(p.output + at * 8, values);
}

KERNEL(gather, GatherParams, 256, copy_rows)
