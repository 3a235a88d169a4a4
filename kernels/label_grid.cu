// Which pixel of a mask each cell of the feature grid stands for, in integers.
//
// Cell i of h lies on row round(i (H - 1) / (h - 1)) of the H padded rows with align_corners (halves up; h = 1: row 0),
// else on row floor((2 i + 1) H / (2 h)); columns likewise. Outside the image: void (255). An image that was resized
// takes the mask's pixel under the centre of its pixel, floor((2 row + 1) mask_h / (2 image_h)).
// mask u8 [batch, mask_h, mask_w], label u8 [batch, h, w]. Grid ceil(cells / 256), blocks of 256; a thread has one cell.
#include "common/arch.cuh"

struct LabelGridParams {
    const uint8_t* mask;
    uint8_t* label;
    int32_t batch, mask_h, mask_w, image_h, image_w, padded_h, padded_w, grid_h, grid_w;
    int32_t align_corners;
};

// The row (or column) of the mask, or -1.
DEVICE int64_t source(int64_t i, int64_t cells, int64_t padded, int64_t image, int64_t mask, bool align_corners) {
    int64_t place;
    if (!align_corners) {
        place = (2 * i + 1) * padded / (2 * cells);
    } else {
        place = cells == 1 ? 0 : (2 * i * (padded - 1) + (cells - 1)) / (2 * (cells - 1));
    }
    return place < image ? (2 * place + 1) * mask / (2 * image) : -1;
}

DEVICE void sample(const LabelGridParams& p) {
    const int64_t cell = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (cell >= int64_t(p.batch) * p.grid_h * p.grid_w) return;
    const int64_t n = cell / p.grid_w / p.grid_h;
    const bool align_corners = p.align_corners != 0;
    const int64_t row = source(cell / p.grid_w % p.grid_h, p.grid_h, p.padded_h, p.image_h, p.mask_h, align_corners);
    const int64_t column = source(cell % p.grid_w, p.grid_w, p.padded_w, p.image_w, p.mask_w, align_corners);
    p.label[cell] = row < 0 || column < 0 ? uint8_t(255) : p.mask[(n * p.mask_h + row) * p.mask_w + column];
}

KERNEL(label_grid, LabelGridParams, 256, sample)
