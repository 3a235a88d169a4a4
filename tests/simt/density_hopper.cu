// Hopper's density kernel as -DKERNEL_FILE=... has it (tests/simt/main.rs takes barriers and waits out of it): two or three
// warpgroups, more blocks than the ring holds.
#include KERNEL_FILE

constexpr int P = 200, ROOM = 384;
struct Kernel {
    const char* name;
    int threads, shared_bytes;
    uint32_t blocks;
} const KERNELS[] = {{"density_hopper", Tile256::THREADS, Tile256::shared_bytes(), 1},
                     {"density_hopper_192", Tile192::THREADS, Tile192::shared_bytes(), 2}};
// Where row and chunk of a block lie, in halves; where a panel's row lies.
int row_place(int row) { return PANEL - 1 - row; }
int place(int row, int chunk) { return row_place(row) * BK + ((chunk ^ (row_place(row) & 7)) << 3); }
#include "density.h"
