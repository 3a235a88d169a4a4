// Which pixel of a mask each cell of the feature grid stands for, in integers.
//
// Cell i of h lies on row round(i (H - 1) / (h - 1)) of the H padded rows with align_corners (halves up; h = 1: row 0),
// else on row floor((2 i + 1) H / (2 h)); columns likewise. Outside the image: void (255). An image that was resized
// takes the mask's pixel under the centre of its pixel, floor((2 row + 1) mask_h / (2 image_h)).
// mask u8 [batch, mask_h, mask_w], label u8 [batch, h, w]. Grid ceil(cells / 256), blocks of 256; a thread has one cell.
#include "common/division.cuh"

// Where index i lies on another axis: floor((i step + start) / denominator), in lowest terms. src/device/launch/label_grid.rs has the rules.
struct Sampling {
    int32_t step, start;
    Divisor denominator;
};

struct LabelGridParams {
    const uint8_t* mask;
    uint8_t* label;
    Sampling padded_y, padded_x;  // cells to rows and columns of the padded image
    Sampling mask_y, mask_x;      // these to the mask's
    Divisor grid_h, grid_w;
    int32_t cells, image_h, image_w, mask_h, mask_w, unused;
};

DEVICE int sampled(int i, const Sampling& s) { return quotient(i * s.step + s.start, s.denominator); }

DEVICE void sample(const LabelGridParams& p) {
    const int cell = blockIdx.x * 256 + threadIdx.x;
    if (cell >= p.cells) return;
    const Place at = place(cell, p.grid_h, p.grid_w);
    const int y = sampled(at.y, p.padded_y), x = sampled(at.x, p.padded_x);
    uint8_t label = 255;
    if (y < p.image_h && x < p.image_w) label = p.mask[(at.image * p.mask_h + sampled(y, p.mask_y)) * p.mask_w + sampled(x, p.mask_x)];
    p.label[cell] = label;
}

KERNEL(label_grid, LabelGridParams, 256, sample)
