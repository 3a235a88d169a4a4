// Features cut from above: y_k = min(x_k, limit_k); a value that is not finite stays what it is.
//
// x, y NHWC fp16, a pixel every in_stride / out_stride values, channels a multiple of 8; limits fp16 [channels].
// Grid ceil(pixels x channels / 8 / 256), blocks of 256; a thread has 8 channels of a pixel.
#include "common/division.cuh"

struct ClipParams {
    const half* input;
    const half* limits;
    half* output;
    Divisor groups;  // eight channels each
    int32_t threads, in_stride, out_stride;
};

DEVICE void cut(const ClipParams& p) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= uint32_t(p.threads)) return;
    const int pixel = quotient(i, p.groups), c = (i - pixel * p.groups.divisor) * 8;
    float x[8], limit[8];
    unpack(load16<Half8>(p.input + int64_t(pixel) * p.in_stride + c), x);
    unpack(load16<Half8>(p.limits + c), limit);
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = x[j] > limit[j] && x[j] < INFINITY ? limit[j] : x[j];
    store16(p.output + int64_t(pixel) * p.out_stride + c, pack(x));
}

KERNEL(clip, ClipParams, 256, cut)
