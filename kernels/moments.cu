// Count, mean and scatter of the features of each class, image by image, folded into running moments:
//
//   n_c, mu_c = sum z / n_c, S_c = sum (z - mu_c)(z - mu_c)^T   over the pixels z of class c, z fp16 [batch, cells, D]
//
// or, where pixels have weights w = r^2 (their roots r of 0 to 1; a pixel of weight 0 is left out),
//
//   W_c = sum w, V_c = sum w^2, mu_c = sum w z / W_c, S_c = sum w (z - mu_c)(z - mu_c)^T
//
// Every sum has a fixed order that depends on the image alone: no atomics, the same bits every run, whatever the batch.
//   moments_roots    r = p_y^16, p_y the softmax of a pixel's logits at its label; 0 below 2^-32, for a label that is no class
//                    and where a logit is not finite
//   moments_keys     a pixel's key: its label, unless it has a class but is not finite or weighs nothing; its rank among equal keys of
//                    its segment (256 pixels), and how many of each key a segment has
//   moments_offsets  where each key's pixels start (a stable counting sort), and the table of chunks: up to 512 pixels
//                    of one class of one image
//   moments_place    the pixels in that order
//   moments_sums     of a chunk: f64 sums, least and greatest value of each channel; W, V and the greatest r
//   moments_shifts   of an image's class: mean in f64; shift = that mean in f32; scale 2^e that brings the greatest
//                    |z - shift| of a channel times the greatest r to 2^14 .. 2^15; W and V
//   moments_syrk     of a chunk, for a 64 x 64 block of the lower triangle: sum x_i x_j on tensor cores, where
//                    x = (z - shift) scale r is split in two fp16 terms (at this scale the low one shares the accumulator):
//                    low high + high low + high high in f32 over 16 pixels, these sums over 64, and these over the chunk:
//                    in one long sum, a channel that is nearly always the same rounds the same way every time
//   moments_fold     S_c += T + d d^T n n' / (n + n') for each image in order (Chan, Golub and LeVeque 1979), in f64, T the
//                    chunks' sums in order, d the difference of the means; W for n where there are weights
//   moments_means    the same for means, counts, W and V
#include "common/arch.cuh"

struct MomentsParams {
    const half* features;   // [batch, cells, feature_stride], a pixel at a multiple of 16 bytes
    const uint8_t* labels;  // [batch, cells]; below `classes`: a class
    const float* logits;    // [batch, cells, logit_stride], read by moments_roots
    float* roots;           // [batch, cells]: square roots of the weights, if `weighted`; else every pixel weighs 1
    uint16_t* keys;         // [batch, cells]
    uint8_t* ranks;         // [batch, cells]
    int32_t* offsets;       // [batch, segments, KEYS]: counts, then their exclusive sums over the segments
    int32_t* totals;        // [batch, 3, KEYS]: pixels of each key; where they start in `sorted`; a class's first chunk
    int32_t* chunks;        // [batch, slots, 4]: class, start in `sorted`, pixels (0: no chunk), 0
    int32_t* sorted;        // [batch, cells]
    double* sums;           // [batch, slots, D]
    double* slot_weights;   // [batch, slots, 3]: W, V, the greatest root; if `weighted`, as is the next
    double* image_weights;  // [batch, classes, 2]: W, V
    float* extremes;        // [batch, slots, 2, D]
    double* image_mean;     // [batch, classes, D]
    float* shifts;          // [batch, classes, D, 2]: shift, scale
    float* partial;         // [batch, slots, blocks, 64, 64]
    int64_t* count;         // [257], running, as are the next three: pixels of each label, and those that are not finite
    double* weights;        // [classes, 2]: W, V; if `weighted`
    double* mean;           // [classes, D]
    double* scatter;        // [classes, D, D], the lower triangle
    int32_t batch, cells, feature_stride, logit_stride, channels, classes, segments, slots, blocks, weighted;
};

namespace {

constexpr int SEGMENT = 256, CHUNK = 512;
// A key is the label, or one of these.
constexpr int NON_FINITE = 256, NO_PIXEL = 257, KEYS = 258;

// Grid (segments, batch), blocks of 256; a thread has one pixel.
DEVICE void find_roots(const MomentsParams& p) {
    const int cell = blockIdx.x * SEGMENT + threadIdx.x;
    if (cell >= p.cells) return;
    const int64_t at = int64_t(blockIdx.y) * p.cells + cell;
    const int label = p.labels[at];
    float root = 0.0f;
    if (label < p.classes) {
        const float* logits = p.logits + at * p.logit_stride;
        const double own = double(logits[label]);
        // 1 / p_y, in f64 so that every device weighs alike; NaN where a logit is not finite, by the second term.
        double inverse = 0.0;
#pragma unroll 1
        for (int c = 0; c < p.classes; ++c) inverse += exp(double(logits[c]) - own) + 0.0 * double(logits[c]);
        double power = 1.0 / inverse;
#pragma unroll
        for (int i = 0; i < 4; ++i) power *= power;
        if (power >= 0x1p-32) root = float(power);
    }
    p.roots[at] = root;
}

// Grid (segments, batch), blocks of 256, 512 bytes of shared memory; a thread has one pixel.
DEVICE void find_keys(const MomentsParams& p) {
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int64_t image = int64_t(blockIdx.y) * p.cells;
    const int cell0 = blockIdx.x * SEGMENT;
    int thread_key = NO_PIXEL;
    // A warp reads a pixel of a known class together.
    for (int i = 0; i < 32; ++i) {
        const int cell = cell0 + warp * 32 + i;
        if (cell >= p.cells) break;
        int key = p.labels[image + cell];
        if (key < p.classes) {
            bool broken = false;
            for (int c = lane * 8; c < p.channels; c += 256) {
                const Half8 h = load16<Half8>(p.features + (image + cell) * p.feature_stride + c);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    broken |= (h.pair[j] & 0x7c00u) == 0x7c00u || (h.pair[j] & 0x7c000000u) == 0x7c000000u;
                }
            }
            if (vote(broken)) key = NON_FINITE;
        }
        if (lane == i) thread_key = key;
    }
    if (p.weighted && thread_key < p.classes && p.roots[image + cell0 + thread] == 0.0f) thread_key = NO_PIXEL;
    const Shared<uint16_t> keys = smem<uint16_t>(0);
    keys[thread] = uint16_t(thread_key);
    sync_threads();
    int rank = 0;
    for (int i = 0; i < SEGMENT; ++i) rank += keys[i] == thread_key && i < thread;
    int32_t* counts = p.offsets + (int64_t(blockIdx.y) * p.segments + blockIdx.x) * KEYS;
    for (int key = thread; key < KEYS; key += SEGMENT) {
        int n = 0;
        for (int i = 0; i < SEGMENT; ++i) n += keys[i] == key;
        counts[key] = n;
    }
    if (cell0 + thread < p.cells) {
        p.keys[image + cell0 + thread] = uint16_t(thread_key);
        p.ranks[image + cell0 + thread] = uint8_t(rank);
    }
}

// Grid batch, blocks of 256, 1152 bytes of shared memory; a thread has a key or two.
DEVICE void find_offsets(const MomentsParams& p) {
    const Shared<int32_t> shared = smem<int32_t>(0);
    for (int key = threadIdx.x; key < KEYS; key += 256) {
        int32_t* count = p.offsets + int64_t(blockIdx.x) * p.segments * KEYS + key;
        int before = 0;
        for (int segment = 0; segment < p.segments; ++segment) {
            const int n = count[int64_t(segment) * KEYS];
            count[int64_t(segment) * KEYS] = before;
            before += n;
        }
        shared[key] = before;
    }
    sync_threads();
    int32_t* totals = p.totals + int64_t(blockIdx.x) * 3 * KEYS;
    int32_t* chunks = p.chunks + int64_t(blockIdx.x) * p.slots * 4;
    for (int key = threadIdx.x; key < KEYS; key += 256) {
        int start = 0, chunk = 0;
        for (int other = 0; other < key; ++other) {
            const int n = shared[other];
            start += n;
            if (other < p.classes) chunk += (n + CHUNK - 1) / CHUNK;
        }
        const int n = shared[key];
        totals[key] = n;
        totals[KEYS + key] = start;
        totals[2 * KEYS + key] = chunk;
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
}

// Grid (segments, batch), blocks of 256; a thread has one pixel.
DEVICE void place(const MomentsParams& p) {
    const int cell = blockIdx.x * SEGMENT + threadIdx.x;
    if (cell >= p.cells) return;
    const int64_t image = blockIdx.y, at = image * p.cells + cell;
    const int key = p.keys[at];
    if (key >= p.classes) return;
    const int start = p.totals[image * 3 * KEYS + KEYS + key];
    const int before = p.offsets[(image * p.segments + blockIdx.x) * KEYS + key];
    p.sorted[image * p.cells + start + before + p.ranks[at]] = cell;
}

// Grid (slots, batch), blocks of 256; a thread has two channels.
DEVICE void add_up(const MomentsParams& p) {
    const int64_t image = blockIdx.y, slot = image * p.slots + blockIdx.x;
    const int n = p.chunks[slot * 4 + 2], c = threadIdx.x * 2;
    if (n == 0 || c >= p.channels) return;
    const int32_t* cells = p.sorted + image * p.cells + p.chunks[slot * 4 + 1];
    double sum[2] = {}, weight = 0.0, squares = 0.0;
    float greatest = 0.0f;
    float low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
#pragma unroll 4
    for (int i = 0; i < n; ++i) {
        const int64_t cell = image * p.cells + cells[i];
        const Float2 z = unpack(*reinterpret_cast<const uint32_t*>(p.features + cell * p.feature_stride + c));
        double w = 1.0;
        if (p.weighted) {
            const float root = p.roots[cell];
            w = double(root) * double(root);
            weight += w;
            squares += w * w;
            greatest = fmaxf(greatest, root);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            sum[j] += w * double(z.v[j]);
            low[j] = fminf(low[j], z.v[j]);
            high[j] = fmaxf(high[j], z.v[j]);
        }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        p.sums[slot * p.channels + c + j] = sum[j];
        p.extremes[slot * 2 * p.channels + c + j] = low[j];
        p.extremes[(slot * 2 + 1) * p.channels + c + j] = high[j];
    }
    if (p.weighted && threadIdx.x == 0) {
        p.slot_weights[slot * 3] = weight;
        p.slot_weights[slot * 3 + 1] = squares;
        p.slot_weights[slot * 3 + 2] = double(greatest);
    }
}

// Grid (classes, batch), blocks of 256 over the channels.
DEVICE void find_shifts(const MomentsParams& p) {
    const int64_t image = blockIdx.y;
    const int c = blockIdx.x;
    const int32_t* totals = p.totals + image * 3 * KEYS;
    const int n = totals[c];
    if (n == 0) return;
    const int64_t first = image * p.slots + totals[2 * KEYS + c], end = first + (n + CHUNK - 1) / CHUNK;
    double weight = n;
    float greatest = 1.0f;
    if (p.weighted) {
        double squares = 0.0;
        weight = 0.0;
        greatest = 0.0f;
        for (int64_t slot = first; slot < end; ++slot) {
            weight += p.slot_weights[slot * 3];
            squares += p.slot_weights[slot * 3 + 1];
            greatest = fmaxf(greatest, float(p.slot_weights[slot * 3 + 2]));
        }
        if (threadIdx.x == 0) {
            p.image_weights[(image * p.classes + c) * 2] = weight;
            p.image_weights[(image * p.classes + c) * 2 + 1] = squares;
        }
    }
    for (int i = threadIdx.x; i < p.channels; i += 256) {
        double sum = 0.0;
        float low = INFINITY, high = -INFINITY;
        for (int64_t slot = first; slot < end; ++slot) {
            sum += p.sums[slot * p.channels + i];
            low = fminf(low, p.extremes[slot * 2 * p.channels + i]);
            high = fmaxf(high, p.extremes[(slot * 2 + 1) * p.channels + i]);
        }
        const double mean = sum / weight;
        const float shift = float(mean), magnitude = fmaxf(high - shift, shift - low) * greatest;
        int exponent = 15;  // of a channel that is constant
        frexpf(magnitude, &exponent);
        const int64_t at = (image * p.classes + c) * p.channels + i;
        p.image_mean[at] = mean;
        p.shifts[2 * at] = shift;
        p.shifts[2 * at + 1] = magnitude > 0.0f ? ldexpf(1.0f, 15 - exponent) : 1.0f;
    }
}

constexpr int BLOCK = 64;           // rows and columns of S
constexpr int STEP = 32;            // pixels in shared memory at once
constexpr int TILE = STEP * BLOCK;  // halves: [pixel][channel], chunks of 8 permuted by pixel % 8
constexpr int THREADS = 128;        // warps 2 x 2, 32 x 32 of the block each
constexpr int CELLS_AT = 4 * TILE * 2, SHIFTS_AT = CELLS_AT + CHUNK * 4, ROOTS_AT = SHIFTS_AT + 2 * BLOCK * 8;
static_assert(ROOTS_AT + CHUNK * 4 == 21504, "as in the launch file (tests/twins.rs)");

DEVICE int x_at(int pixel, int chunk) { return pixel * BLOCK + ((chunk ^ (pixel & 7)) << 3); }

DEVICE void add(float (&to)[2][4][4], const float (&from)[2][4][4]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) to[i / 16][i / 4 % 4][i % 4] += from[i / 16][i / 4 % 4][i % 4];
}

// Grid (slots, blocks, batch), blocks of 128, 21504 bytes of shared memory: tiles of rows (high, low) and of columns,
// the chunk's cells, shifts and scales of rows and columns, the chunk's roots.
DEVICE void syrk(const MomentsParams& p) {
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int64_t image = blockIdx.z, slot = image * p.slots + blockIdx.x;
    const int32_t* chunk = p.chunks + slot * 4;
    const int c = chunk[0], start = chunk[1], n = chunk[2];
    if (n == 0) return;
    int row_panel = 0, column_panel = blockIdx.y;
    while (column_panel > row_panel) column_panel -= ++row_panel;
    const bool diagonal = row_panel == column_panel;

    const Shared<int32_t> cells = smem<int32_t>(CELLS_AT);
    const Shared<float> roots = smem<float>(ROOTS_AT);
    for (int i = thread; i < n; i += THREADS) cells[i] = p.sorted[image * p.cells + start + i];
    for (int i = thread; i < n; i += THREADS) roots[i] = p.weighted ? p.roots[image * p.cells + cells[i]] : 1.0f;
    const Shared<Float2> shifts = smem<Float2>(SHIFTS_AT);
    {
        const int channel = (thread < BLOCK ? row_panel : column_panel) * BLOCK + thread % BLOCK;
        const float* from = p.shifts + ((image * p.classes + c) * p.channels + channel) * 2;
        shifts[thread] = channel < p.channels ? Float2{{from[0], from[1]}} : Float2{};
    }
    sync_threads();

    // This thread brings chunk `group` of pixels thread / 8, + 16 of the rows, then of the columns.
    const int group = thread % 8, pixel = thread / 8;
    const int passes = diagonal ? 2 : 4;
    const half* features = p.features + image * p.cells * p.feature_stride;
    Half8 raw[4];
    auto load = [&](int first) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = first + pixel + i % 2 * 16, channel = (i < 2 ? row_panel : column_panel) * BLOCK + group * 8;
            if (i < passes && at < n && channel < p.channels) {
                raw[i] = load16<Half8>(features + int64_t(cells[at]) * p.feature_stride + channel);
            }
        }
    };
    auto convert = [&](int first) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i >= passes) continue;
            const int row = pixel + i % 2 * 16, channel = (i < 2 ? row_panel : column_panel) * BLOCK + group * 8;
            Half8 high = {}, low = {};
            if (first + row < n && channel < p.channels) {
                float x[8], rounded[8];
                const float root = roots[first + row];
                unpack(raw[i], x);
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    const Float2 shift = shifts[i / 2 * BLOCK + group * 8 + j];
                    x[j] = (x[j] - shift.v[0]) * shift.v[1] * root;
                }
                high = pack(x);
                unpack(high, rounded);
#pragma unroll
                for (int j = 0; j < 8; ++j) x[j] -= rounded[j];
                low = pack(x);
            }
            const Shared<Half8> to = smem<Half8>(i / 2 * 2 * TILE * 2);
            to[x_at(row, group) / 8] = high;
            to[(TILE + x_at(row, group)) / 8] = low;
        }
    };

    const int wm = warp / 2 * 32, wn = warp % 2 * 32;
    const bool above = diagonal && wn > wm;
    const Shared<half> rows = smem<half>(0), columns = smem<half>(diagonal ? 0 : 2 * TILE * 2);
    float middle[2][4][4] = {}, total[2][4][4] = {};  // over 64 pixels, over all
    load(0);
    for (int first = 0; first < n; first += STEP) {
        convert(first);
        sync_threads();
        load(first + STEP);
        if (!above) {
#pragma unroll 1  // for the registers
            for (int step = 0; step < STEP / 16; ++step) {
                float sum[2][4][4] = {};
                uint32_t a[2][4], b[2][4][2];  // one term of the rows, both of the columns
                auto read_rows = [&](int term) {
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const int at = x_at(step * 16 + lane / 16 * 8 + lane % 8, wm / 8 + i * 2 + lane / 8 % 2);
                        ldmatrix_x4_transposed(a[i], rows + (term * TILE + at));
                    }
                };
                auto read_columns = [&](int term) {
#pragma unroll
                    for (int j = 0; j < 4; j += 2) {
                        uint32_t two[4];
                        const int at = x_at(step * 16 + lane / 8 % 2 * 8 + lane % 8, wn / 8 + j + lane / 16);
                        ldmatrix_x4_transposed(two, columns + (term * TILE + at));
                        b[term][j][0] = two[0];
                        b[term][j][1] = two[1];
                        b[term][j + 1][0] = two[2];
                        b[term][j + 1][1] = two[3];
                    }
                };
                auto multiply = [&](int term) {
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
#pragma unroll
                        for (int j = 0; j < 4; ++j) mma_m16n8k16(sum[i][j], a[i], b[term][j]);
                    }
                };
                read_columns(0);
                read_rows(1);
                multiply(0);
                read_columns(1);
                read_rows(0);
                multiply(1);
                multiply(0);
                add(middle, sum);
            }
            if (first / STEP % 2 == 1 || first + STEP >= n) {
                add(total, middle);
#pragma unroll
                for (int i = 0; i < 32; ++i) middle[i / 16][i / 4 % 4][i % 4] = 0.0f;
            }
        }
        sync_threads();  // every thread has read what the next pixels overwrite
    }
    if (above) return;
    Float2* out = reinterpret_cast<Float2*>(p.partial + (slot * p.blocks + blockIdx.y) * BLOCK * BLOCK);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = wm + i * 16 + lane / 4 + h * 8, column = wn + j * 8 + lane % 4 * 2;
                out[(row * BLOCK + column) / 2] = Float2{{total[i][j][2 * h], total[i][j][2 * h + 1]}};
            }
        }
    }
}

// A class's running count (W where there are weights) and one channel's running mean, image after image.
struct Running {
    double n, mean;

    // An image's mean minus the running one, before it is folded in.
    DEVICE double mean_delta(double image_mean) const { return image_mean - mean; }
    DEVICE void fold(double image_n, double image_mean) {
        mean = n > 0.0 ? mean + (image_mean - mean) * (image_n / (n + image_n)) : image_mean;
        n += image_n;
    }
};

// Grid (16 blocks, classes), blocks of 256; a thread has one element of the lower triangle.
DEVICE void fold(const MomentsParams& p) {
    int row_panel = 0, column_panel = blockIdx.x / 16;
    const int block = column_panel, element = blockIdx.x % 16 * 256 + threadIdx.x;
    while (column_panel > row_panel) column_panel -= ++row_panel;
    const int i = row_panel * BLOCK + element / BLOCK, j = column_panel * BLOCK + element % BLOCK;
    if (i >= p.channels || j > i) return;
    const int64_t c = blockIdx.y;
    double* out = p.scatter + (c * p.channels + i) * p.channels + j;
    const double n = p.weighted ? p.weights[c * 2] : double(p.count[c]);
    Running row = {n, p.mean[c * p.channels + i]}, column = {n, p.mean[c * p.channels + j]};
    double scatter = *out;
    for (int64_t image = 0; image < p.batch; ++image) {
        const int32_t* totals = p.totals + image * 3 * KEYS;
        const int pixels = totals[c];
        if (pixels == 0) continue;
        const double n_image = p.weighted ? p.image_weights[(image * p.classes + c) * 2] : double(pixels);
        const int64_t first = image * p.slots + totals[2 * KEYS + c];
        double products = 0.0;
        for (int64_t slot = first; slot < first + (pixels + CHUNK - 1) / CHUNK; ++slot) {
            products += double(p.partial[(slot * p.blocks + block) * BLOCK * BLOCK + element]);
        }
        const int64_t at = (image * p.classes + c) * p.channels;
        const double mean_i = p.image_mean[at + i], mean_j = p.image_mean[at + j];
        const float *shift_i = p.shifts + (at + i) * 2, *shift_j = p.shifts + (at + j) * 2;
        // About the image's mean: the shift is that mean rounded to f32.
        products =
            products / (double(shift_i[1]) * double(shift_j[1])) - n_image * (mean_i - double(shift_i[0])) * (mean_j - double(shift_j[0]));
        if (row.n > 0.0) products += row.mean_delta(mean_i) * column.mean_delta(mean_j) * (row.n * (n_image / (row.n + n_image)));
        scatter += products;
        row.fold(n_image, mean_i);
        column.fold(n_image, mean_j);
    }
    *out = scatter;
}

// Grid 257, blocks of 256 over the channels; after moments_fold, which reads the old means. From block `classes` on:
// counts alone, of the pixels that have no class.
DEVICE void means(const MomentsParams& p) {
    const int64_t c = blockIdx.x;
    const bool weighted = p.weighted && c < p.classes;
    int64_t count = p.count[c];
    const double n = weighted ? p.weights[c * 2] : double(count);
    for (int64_t image = 0; image < p.batch; ++image) count += p.totals[image * 3 * KEYS + c];
    for (int i = threadIdx.x; c < p.classes && i < p.channels; i += 256) {
        Running running = {n, p.mean[c * p.channels + i]};
#pragma unroll 1
        for (int64_t image = 0; image < p.batch; ++image) {
            const int pixels = p.totals[image * 3 * KEYS + c];
            const int64_t at = image * p.classes + c;
            if (pixels) running.fold(weighted ? p.image_weights[at * 2] : double(pixels), p.image_mean[at * p.channels + i]);
        }
        p.mean[c * p.channels + i] = running.mean;
    }
    sync_threads();  // every thread has read the old count and weight
    if (threadIdx.x == 0) p.count[c] = count;
    if (weighted && threadIdx.x < 2) {
        double sum = p.weights[c * 2 + threadIdx.x];
        for (int64_t image = 0; image < p.batch; ++image) {
            if (p.totals[image * 3 * KEYS + c]) sum += p.image_weights[(image * p.classes + c) * 2 + threadIdx.x];
        }
        p.weights[c * 2 + threadIdx.x] = sum;
    }
}

}  // namespace

KERNEL(moments_roots, MomentsParams, 256, find_roots)
KERNEL(moments_keys, MomentsParams, 256, find_keys)
KERNEL(moments_offsets, MomentsParams, 256, find_offsets)
KERNEL(moments_place, MomentsParams, 256, place)
KERNEL(moments_sums, MomentsParams, 256, add_up)
KERNEL(moments_shifts, MomentsParams, 256, find_shifts)
KERNEL(moments_syrk, MomentsParams, THREADS, syrk)
KERNEL_BLOCKS(moments_fold, MomentsParams, 256, 1, fold)
KERNEL_BLOCKS(moments_means, MomentsParams, 256, 1, means)
