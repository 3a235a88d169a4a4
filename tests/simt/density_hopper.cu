// Hopper's density kernel as -DKERNEL_FILE=... has it (tests/simt/main.rs takes barriers and waits out of it): two warpgroups,
// more blocks than the ring holds.
#include KERNEL_FILE

#define KERNEL_NAME "density_hopper"
#define KERNEL_THREADS THREADS
#define KERNEL_SHARED Tile<2>::shared_bytes()
constexpr int P = 200, ROOM = 256;
// Where row and chunk of a block lie, in halves; where a panel's row lies.
int row_place(int row) { return PANEL - 1 - row; }
int place(int row, int chunk) { return row_place(row) * BK + ((chunk ^ (row_place(row) & 7)) << 3); }
#include "density.h"
