// The density kernel as -DKERNEL_FILE=... has it (tests/simt/main.rs takes barriers and waits out of it): two warps.
#include KERNEL_FILE

constexpr int P = 60, ROOM = 64;
struct Kernel {
    const char* name;
    int threads, shared_bytes;
    uint32_t blocks;
} const KERNELS[] = {{"density_64", Tile64::THREADS, Tile64::shared_bytes(), 1}};
// Where row and chunk of a block lie, in halves; where a panel's row lies.
int place(int row, int chunk) { return w_at(row, chunk); }
int row_place(int row) { return row; }
#include "density.h"
