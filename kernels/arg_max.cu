// The class that the network predicts for each cell of the feature grid: the first arg max of its logits.
//
// logits f32 [pixels, stride], stride a multiple of 4; label u8 [pixels]. Grid ceil(pixels / 256), blocks of 256; a thread
// has one pixel. NaN never wins; a pixel of NaN alone gets class 0.
#include "common/arch.cuh"

struct ArgMaxParams {
    const float* logits;
    uint8_t* label;
    int32_t pixels, classes, stride, unused;
};

DEVICE void first_greatest(const ArgMaxParams& p) {
    const int64_t pixel = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (pixel >= p.pixels) return;
    float max_logit = -INFINITY;
    int label = 0;
    for (int c = 0; c < p.classes; c += 4) {
        const Float4 v = load16<Float4>(p.logits + pixel * p.stride + c);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (c + j < p.classes && v.v[j] > max_logit) {
                max_logit = v.v[j];
                label = c + j;
            }
        }
    }
    p.label[pixel] = uint8_t(label);
}

KERNEL(arg_max, ArgMaxParams, 256, first_greatest)
