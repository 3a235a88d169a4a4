// Count, mean and scatter of the features of each class, image by image, folded into running moments:
//
//   n_c, mu_c = sum z / n_c, S_c = sum (z - mu_c)(z - mu_c)^T   over the pixels z of class c, z fp16 [batch, cells, D]
//
// or, where pixels have weights w = r^2 (their roots r of 0 to 1; a pixel of weight 0 is left out),
//
//   W_c = sum w, V_c = sum w^2, mu_c = sum w z / W_c, S_c = sum w (z - mu_c)(z - mu_c)^T
//
// kernels/moments_sort.cu says which pixels those are; common/moments.cuh what both work on.
//   moments_sums     of a chunk (up to 512 pixels of one class of one image): f64 sums, least and greatest value of each channel; W, V
//                    and the greatest r
//   moments_shifts   of an image's class: mean in f64; shift = that mean in f32; scale 2^e that brings the greatest
//                    |z - shift| of a channel times the greatest r to 2^14 .. 2^15; W and V. Also keeps what the class had before
//   moments_syrk     of a chunk, for a 64 x 64 block of the lower triangle: sum x_i x_j on tensor cores, where
//                    x = (z - shift) scale r is split in two fp16 terms (at this scale the low one shares the accumulator):
//                    low high + high low + high high in f32 over 16 pixels, these sums over 64, and these over the chunk:
//                    in one long sum, a channel that is nearly always the same rounds the same way every time
//   moments_fold     S_c += T + d d^T n n' / (n + n') for each image in order (Chan, Golub and LeVeque 1979), in f64, T the
//                    chunks' sums in order, d the difference of the means; W for n where there are weights. The same for
//                    means, counts, W and V
#include "common/moments.cuh"

namespace {

constexpr int SUMS = 256;  // threads of moments_sums
constexpr int LOADS = 4;   // of 16 bytes, that one has under way
constexpr int CHUNK_ROOTS_AT = CHUNK * 4, SUMS_AT = CHUNK_ROOTS_AT + CHUNK * 4, LOW_AT = SUMS_AT + 8 * SUMS * 8,
              HIGH_AT = LOW_AT + 8 * SUMS * 4, WEIGHTS_AT = HIGH_AT + 8 * SUMS * 4;
static_assert(WEIGHTS_AT + SUMS / 2 * 3 * 8 == 39936, "as in the launch file (tests/twins.rs)");

// Grid (slots, batch), blocks of 256, 39936 bytes of shared memory: the chunk's cells and roots, each thread's sums, least and greatest
// values, and of a lane its weights. A thread has eight channels of every lanes-th pixel: lanes = 256 / (D / 8), 128 at most.
DEVICE void add_up(const MomentsParams& p) {
    const int thread = threadIdx.x;
    const int64_t image = blockIdx.y, slot = image * p.slots + blockIdx.x;
    const int n = p.chunks[slot * 4 + 2];
    if (n == 0) return;
    const int32_t* sorted = p.sorted + image * p.cells + p.chunks[slot * 4 + 1];
    const Shared<int32_t> cells = smem<int32_t>(0);
    const Shared<float> roots = smem<float>(CHUNK_ROOTS_AT);
    for (int i = thread; i < n; i += SUMS) {
        const int cell = sorted[i];
        cells[i] = cell;
        if (p.weighted) roots[i] = p.roots[image * p.cells + cell];
    }
    sync_threads();

    const int groups = p.groups.divisor, lane = quotient(thread, p.groups), group = thread - lane * groups;
    const half* features = p.features + image * p.cells * p.feature_stride + group * 8;
    double sum[8] = {}, weight = 0.0, squares = 0.0;
    float greatest = 0.0f, low[8], high[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        low[j] = INFINITY;
        high[j] = -INFINITY;
    }
    if (lane < p.lanes) {
#pragma unroll 1
        for (int first = lane; first < n; first += LOADS * p.lanes) {
            Half8 values[LOADS];
#pragma unroll
            for (int i = 0; i < LOADS; ++i) {
                // Behind the last pixel it again, which weighs nothing.
                const int at = first + i * p.lanes < n ? first + i * p.lanes : n - 1;
                values[i] = load16<Half8>(features + int64_t(cells[at]) * p.feature_stride);
            }
#pragma unroll
            for (int i = 0; i < LOADS; ++i) {
                const int at = first + i * p.lanes;
                double w = at < n ? 1.0 : 0.0;
                if (p.weighted && at < n) {
                    const float root = roots[at];
                    w = double(root) * double(root);
                    weight += w;
                    squares += w * w;
                    greatest = fmaxf(greatest, root);
                }
                float z[8];
                unpack(values[i], z);
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    sum[j] += w * double(z[j]);
                    low[j] = fminf(low[j], z[j]);
                    high[j] = fmaxf(high[j], z[j]);
                }
            }
        }
    }

    const Shared<double> sums = smem<double>(SUMS_AT), weights = smem<double>(WEIGHTS_AT);
    const Shared<float> lows = smem<float>(LOW_AT), highs = smem<float>(HIGH_AT);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        sums[j * SUMS + thread] = sum[j];
        lows[j * SUMS + thread] = low[j];
        highs[j * SUMS + thread] = high[j];
    }
    if (p.weighted && group == 0 && lane < p.lanes) {
        weights[lane * 3] = weight;
        weights[lane * 3 + 1] = squares;
        weights[lane * 3 + 2] = double(greatest);
    }
    sync_threads();
    for (int i = thread; i < p.channels; i += SUMS) {
        const int j = quotient(i, p.groups), c = (i - j * groups) * 8 + j;
        double total = 0.0;
        float least = INFINITY, most = -INFINITY;
        for (int from = j * SUMS + i - j * groups; from < j * SUMS + p.lanes * groups; from += groups) {
            total += sums[from];
            least = fminf(least, lows[from]);
            most = fmaxf(most, highs[from]);
        }
        p.sums[slot * p.channels + c] = total;
        p.extremes[slot * 2 * p.channels + c] = least;
        p.extremes[(slot * 2 + 1) * p.channels + c] = most;
    }
    if (p.weighted && thread < 3) {
        double total = 0.0;
        for (int i = 0; i < p.lanes; ++i) total = thread < 2 ? total + weights[i * 3 + thread] : fmax(total, weights[i * 3 + 2]);
        p.slot_weights[slot * 3 + thread] = total;
    }
}

// Grid (classes, batch), blocks of 256 over the channels.
DEVICE void find_shifts(const MomentsParams& p) {
    const int64_t image = blockIdx.y;
    const int c = blockIdx.x;
    const int32_t* totals = p.totals + image * 3 * KEYS;
    if (image == 0) {
        for (int i = threadIdx.x; i < p.channels; i += 256) p.mean_before[c * p.channels + i] = p.mean[c * p.channels + i];
        if (threadIdx.x == 0) p.weight_before[c] = p.weighted ? p.weights[c * 2] : double(p.count[c]);
    }
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

// Of channel j of a group of eight: two of every group of a panel side by side, so that a warp that reads 16 bytes meets each bank once.
DEVICE int shift_at(int panel, int group, int j) { return panel * BLOCK + j / 2 * 16 + group * 2 + j % 2; }

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
    for (int i = thread; p.weighted && i < n; i += THREADS) roots[i] = p.roots[image * p.cells + cells[i]];
    // Scale and -shift scale: the scale is a power of two, so that z scale - shift scale rounds as (z - shift) scale does.
    const Shared<Float2> shifts = smem<Float2>(SHIFTS_AT);
    {
        const int channel = (thread < BLOCK ? row_panel : column_panel) * BLOCK + thread % BLOCK;
        const float* from = p.shifts + ((image * p.classes + c) * p.channels + channel) * 2;
        shifts[shift_at(thread / BLOCK, thread % BLOCK / 8, thread % 8)] =
            channel < p.channels ? Float2{{from[1], -from[0] * from[1]}} : Float2{};
    }
    sync_threads();

    // This thread brings chunk `group` of pixels thread / 8, + 16 of the rows, then of the columns.
    const int group = thread % 8, pixel = thread / 8, own = x_at(pixel, group);
    const int channel[2] = {row_panel * BLOCK + group * 8, column_panel * BLOCK + group * 8};
    const bool live[2] = {channel[0] < p.channels, !diagonal && channel[1] < p.channels};
    // Addresses as numbers: the compiler would take these sums apart and make them anew for each load.
    const uint64_t image_at = reinterpret_cast<uint64_t>(p.features + image * p.cells * p.feature_stride);
    const uint64_t from[2] = {image_at + (live[0] ? channel[0] : 0) * 2, image_at + (live[1] ? channel[1] : 0) * 2};
    const uint32_t stride = p.feature_stride * 2;
    Half8 raw[2][2];
    // No branch but a block's: behind the last pixel or channel it again, which `convert` leaves out.
    auto load = [&](int first) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int at = first + pixel + i * 16;
            const uint32_t cell = cells[at < n ? at : n - 1];
            raw[0][i] = load16<Half8>(reinterpret_cast<const void*>(from[0] + uint64_t(cell) * stride));
            if (!diagonal) raw[1][i] = load16<Half8>(reinterpret_cast<const void*>(from[1] + uint64_t(cell) * stride));
        }
    };
    // Both pixels of a panel, whose shifts are read once.
    auto convert = [&](int first, int panel) {
        Float2 shift[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) shift[j] = shifts[shift_at(panel, group, j)];
        const Shared<Half8> to = smem<Half8>((panel * 2 * TILE + own) * 2);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int at = first + pixel + i * 16;
            float x[8], rounded[8];
            unpack(raw[panel][i], x);
#pragma unroll
            for (int j = 0; j < 8; ++j) x[j] = fmaf(x[j], shift[j].v[0], shift[j].v[1]);
            if (p.weighted) {
                const float root = roots[at < n ? at : n - 1];
#pragma unroll
                for (int j = 0; j < 8; ++j) x[j] *= root;
            }
            const Half8 high = pack(x);
            unpack(high, rounded);
#pragma unroll
            for (int j = 0; j < 8; ++j) x[j] -= rounded[j];
            // 16 pixels are a multiple of 8: the same permutation.
            to[i * 16 * BLOCK / 8] = high;
            to[(TILE + i * 16 * BLOCK) / 8] = pack(x);
            if (at >= n) {
                to[i * 16 * BLOCK / 8] = Half8{};
                to[(TILE + i * 16 * BLOCK) / 8] = Half8{};
            }
        }
    };
    // Channels behind the last stay 0.
#pragma unroll
    for (int panel = 0; panel < 2; ++panel) {
        if (live[panel] || (panel == 1 && diagonal)) continue;
        const Shared<Half8> to = smem<Half8>((panel * 2 * TILE + own) * 2);
#pragma unroll
        for (int i = 0; i < 4; ++i) to[i * 16 * BLOCK / 8] = Half8{};
    }

    const int wm = warp / 2 * 32, wn = warp % 2 * 32;
    const bool above = diagonal && wn > wm;
    // Of a lane's rows of the matrices that it loads: 16 pixels are a multiple of 8, so that a step moves them without permuting.
    const Shared<half> tile = smem<half>(0);
    int rows_at[2], columns_at[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        rows_at[i] = x_at(lane / 16 * 8 + lane % 8, wm / 8 + i * 2 + lane / 8 % 2);
        columns_at[i] = (diagonal ? 0 : 2 * TILE) + x_at(lane / 8 % 2 * 8 + lane % 8, wn / 8 + i * 2 + lane / 16);
    }
    float middle[2][4][4] = {}, total[2][4][4] = {};  // over 64 pixels, over all
    load(0);
    for (int first = 0; first < n; first += STEP) {
        if (live[0]) convert(first, 0);
        if (live[1]) convert(first, 1);
        sync_threads();
        load(first + STEP);
        if (!above) {
#pragma unroll
            for (int step = 0; step < STEP * BLOCK; step += 16 * BLOCK) {
                float sum[2][4][4] = {};
                uint32_t a[2][4], b[2][4][2];  // one term of the rows, both of the columns
                auto read_rows = [&](int term) {
#pragma unroll
                    for (int i = 0; i < 2; ++i) ldmatrix_x4_transposed(a[i], tile + (rows_at[i] + step) + term * TILE);
                };
                auto read_columns = [&](int term) {
#pragma unroll
                    for (int j = 0; j < 4; j += 2) {
                        uint32_t two[4];
                        ldmatrix_x4_transposed(two, tile + (columns_at[j / 2] + step) + term * TILE);
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

    // An image's part of the count, with it; its mean minus the running one, before it is folded in.
    DEVICE double share(double image_n) const { return image_n / (n + image_n); }
    DEVICE double mean_delta(double image_mean) const { return image_mean - mean; }
    DEVICE void fold(double image_n, double image_mean, double share) {
        mean = n > 0.0 ? mean + (image_mean - mean) * share : image_mean;
        n += image_n;
    }
};

// 1 / x of a power of two, exact.
DEVICE float reciprocal(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = 0x7f000000u - bits;
    memcpy(&x, &bits, 4);
    return x;
}

// By a block of 256, for a class: its mean, count and weights; by that of class 0 the counts of the pixels that have no class as well.
DEVICE void fold_means(const MomentsParams& p, int64_t c) {
    const int thread = threadIdx.x;
    for (int i = thread; i < p.channels; i += 256) {
        Running running = {p.weight_before[c], p.mean_before[c * p.channels + i]};
#pragma unroll 1
        for (int64_t image = 0; image < p.batch; ++image) {
            const int pixels = p.totals[image * 3 * KEYS + c];
            const int64_t at = image * p.classes + c;
            if (pixels) {
                const double mean = p.image_mean[at * p.channels + i], n = p.weighted ? p.image_weights[at * 2] : double(pixels);
                running.fold(n, mean, running.share(n));
            }
        }
        p.mean[c * p.channels + i] = running.mean;
    }
    if (p.weighted && thread < 2) {
        double sum = p.weights[c * 2 + thread];
        for (int64_t image = 0; image < p.batch; ++image) {
            if (p.totals[image * 3 * KEYS + c]) sum += p.image_weights[(image * p.classes + c) * 2 + thread];
        }
        p.weights[c * 2 + thread] = sum;
    }
    auto count_pixels = [&](int64_t label) {
        int64_t count = p.count[label];
        for (int64_t image = 0; image < p.batch; ++image) count += p.totals[image * 3 * KEYS + label];
        p.count[label] = count;
    };
    if (thread == 0) count_pixels(c);
    for (int label = p.classes + thread; c == 0 && label <= NON_FINITE; label += 256) count_pixels(label);
}

// Grid (16 blocks + 1, classes), blocks of 256; a thread has one element of the lower triangle, the last block the means.
DEVICE void fold(const MomentsParams& p) {
    if (int(blockIdx.x) == p.blocks * 16) return fold_means(p, blockIdx.y);
    int row_panel = 0, column_panel = blockIdx.x / 16;
    const int block = column_panel, element = blockIdx.x % 16 * 256 + threadIdx.x;
    while (column_panel > row_panel) column_panel -= ++row_panel;
    const int i = row_panel * BLOCK + element / BLOCK, j = column_panel * BLOCK + element % BLOCK;
    if (i >= p.channels || j > i) return;
    const int64_t c = blockIdx.y;
    double* out = p.scatter + (c * p.channels + i) * p.channels + j;
    const double n = p.weight_before[c];
    Running row = {n, p.mean_before[c * p.channels + i]}, column = {n, p.mean_before[c * p.channels + j]};
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
        products = products * (double(reciprocal(shift_i[1])) * double(reciprocal(shift_j[1]))) -
                   n_image * (mean_i - double(shift_i[0])) * (mean_j - double(shift_j[0]));
        const double share = row.share(n_image);
        if (row.n > 0.0) products += row.mean_delta(mean_i) * column.mean_delta(mean_j) * (row.n * share);
        scatter += products;
        row.fold(n_image, mean_i, share);
        column.fold(n_image, mean_j, share);
    }
    *out = scatter;
}

}  // namespace

KERNEL_BLOCKS(moments_sums, MomentsParams, SUMS, 2, add_up)
KERNEL(moments_shifts, MomentsParams, 256, find_shifts)
KERNEL(moments_syrk, MomentsParams, THREADS, syrk)
KERNEL_BLOCKS(moments_fold, MomentsParams, 256, 1, fold)
