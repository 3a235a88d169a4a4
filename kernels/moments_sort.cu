// Which pixels of a batch a fit counts, sorted by class: a counting sort of each image, stable, so that what kernels/moments.cu sums
// over depends on the image alone.
//
//   moments_keys     a pixel's key: its label, unless it has a class but is not finite or weighs nothing; its rank among equal keys of
//                    its segment (256 pixels), and how many of each key a segment has. Where pixels have weights w = r^2, their roots
//                    r = p_y^16, p_y the softmax of a pixel's logits at its label; 0 below 2^-32 and where a logit is not finite
//   moments_offsets  where each key's pixels start, and the table of chunks: up to 512 pixels of one class of one image
//   moments_place    the pixels in that order
#include "common/moments.cuh"

namespace {

constexpr int WARPS = SEGMENT / 32;
constexpr int TOGETHER = 8;  // pixels of which a lane has 16 bytes under way
constexpr int COUNTS = 16;   // loads of counts under way at once

// The square root of a pixel's weight, 0 where it is too small.
DEVICE float root_of(const MomentsParams& p, int64_t at, int label) {
    const float* logits = p.logits + at * p.logit_stride;
    const double own = double(logits[label]);
    // 1 / p_y, in f64 so that every device weighs alike; NaN where a logit is not finite, by the second term.
    double inverse = 0.0;
#pragma unroll 1
    for (int c = 0; c < p.classes; ++c) inverse += exp(double(logits[c]) - own) + 0.0 * double(logits[c]);
    double power = 1.0 / inverse;
#pragma unroll
    for (int i = 0; i < 4; ++i) power *= power;
    return power >= 0x1p-32 ? float(power) : 0.0f;
}

// Grid (segments, batch), blocks of 256, 2176 bytes of shared memory: how many of each key each warp has; a thread has one pixel.
DEVICE void find_keys(const MomentsParams& p) {
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const Shared<uint8_t> counts = smem<uint8_t>(0);
    for (int i = thread; i < WARPS * KEYS; i += SEGMENT) counts[i] = 0;
    const int cell = blockIdx.x * SEGMENT + thread;
    const int64_t image = int64_t(blockIdx.y) * p.cells, at = image + cell;
    int key = cell < p.cells ? p.labels[at] : NO_PIXEL;

    // A warp reads a pixel together, and several at once.
    const half* features = p.features + (image + cell - lane) * p.feature_stride;
    const int last = p.cells - 1 - (cell - lane);
    uint32_t broken = 0;  // a bit per pixel of the warp
#pragma unroll 1
    for (int first = 0; first < 32; first += TOGETHER) {
        uint32_t bits[TOGETHER] = {};
#pragma unroll 1
        for (int c = lane * 8; c < p.channels; c += 256) {
            Half8 values[TOGETHER];
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i) {
                // Without a branch: of every pixel, behind the last one of it again.
                const int pixel = first + i < last ? first + i : last;
                values[i] = load16<Half8>(features + pixel * p.feature_stride + c);
            }
            // An exponent of ones carries into the sign's place.
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) bits[i] |= (values[i].pair[j] & 0x7c007c00u) + 0x04000400u;
            }
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) broken |= vote((bits[i] & 0x80008000u) != 0) ? 1u << (first + i) : 0u;
    }
    if (key < p.classes && (broken >> lane & 1) != 0) key = NON_FINITE;
    if (p.weighted && key < p.classes) {
        const float root = root_of(p, at, key);
        p.roots[at] = root;
        if (root == 0.0f) key = NO_PIXEL;
    }

    // The lanes whose key is this one's.
    uint32_t equal = 0xffffffffu;
#pragma unroll
    for (int bit = 0; bit < 9; ++bit) {
        const uint32_t set = vote((key >> bit & 1) != 0);
        equal &= key >> bit & 1 ? set : ~set;
    }
    const uint32_t before = equal & ((1u << lane) - 1);
    sync_threads();
    if (before == 0) counts[warp * KEYS + key] = uint8_t(count_bits(equal));
    sync_threads();
    int rank = count_bits(before);
    for (int other = 0; other < warp; ++other) rank += counts[other * KEYS + key];
    int32_t* segment = p.offsets + (int64_t(blockIdx.y) * p.segments + blockIdx.x) * KEYS;
    for (int k = thread; k < KEYS; k += SEGMENT) {
        int n = 0;
#pragma unroll
        for (int other = 0; other < WARPS; ++other) n += counts[other * KEYS + k];
        segment[k] = n;
    }
    if (cell < p.cells) {
        p.keys[at] = uint16_t(key);
        p.ranks[at] = uint8_t(rank);
    }
}

// Grid batch, blocks of 288, 1152 bytes of shared memory; a thread has a key.
DEVICE void find_offsets(const MomentsParams& p) {
    const Shared<int32_t> shared = smem<int32_t>(0);
    const int key = threadIdx.x;
    if (key < KEYS) {
        int32_t* count = p.offsets + int64_t(blockIdx.x) * p.segments * KEYS + key;
        int before = 0;
#pragma unroll 1
        for (int first = 0; first < p.segments; first += COUNTS) {
            int n[COUNTS];
#pragma unroll
            for (int i = 0; i < COUNTS; ++i) n[i] = first + i < p.segments ? count[int64_t(first + i) * KEYS] : 0;
#pragma unroll
            for (int i = 0; i < COUNTS; ++i) {
                if (first + i < p.segments) count[int64_t(first + i) * KEYS] = before;
                before += n[i];
            }
        }
        shared[key] = before;
    }
    sync_threads();
    if (key >= KEYS) return;
    int start = 0, chunk = 0;
    for (int other = 0; other < key; ++other) {
        const int n = shared[other];
        start += n;
        if (other < p.classes) chunk += (n + CHUNK - 1) / CHUNK;
    }
    const int n = shared[key];
    int32_t* totals = p.totals + int64_t(blockIdx.x) * 3 * KEYS;
    totals[key] = n;
    totals[KEYS + key] = start;
    totals[2 * KEYS + key] = chunk;
    int32_t* chunks = p.chunks + int64_t(blockIdx.x) * p.slots * 4;
    if (key < p.classes) {
        for (int done = 0; done < n; done += CHUNK, ++chunk) {
            chunks[chunk * 4] = key;
            chunks[chunk * 4 + 1] = start + done;
            chunks[chunk * 4 + 2] = n - done < CHUNK ? n - done : CHUNK;
            chunks[chunk * 4 + 3] = 0;
        }
    } else if (key == NO_PIXEL) {
        for (; chunk < p.slots; ++chunk) chunks[chunk * 4 + 2] = 0;
    }
}

// Grid (segments, batch), blocks of 256; a thread has one pixel.
DEVICE void place_pixels(const MomentsParams& p) {
    const int cell = blockIdx.x * SEGMENT + threadIdx.x;
    if (cell >= p.cells) return;
    const int64_t image = blockIdx.y, at = image * p.cells + cell;
    const int key = p.keys[at];
    if (key >= p.classes) return;
    const int start = p.totals[image * 3 * KEYS + KEYS + key];
    const int before = p.offsets[(image * p.segments + blockIdx.x) * KEYS + key];
    p.sorted[image * p.cells + start + before + p.ranks[at]] = cell;
}

}  // namespace

KERNEL_BLOCKS(moments_keys, MomentsParams, 256, 4, find_keys)
KERNEL(moments_offsets, MomentsParams, 288, find_offsets)
KERNEL(moments_place, MomentsParams, 256, place_pixels)
