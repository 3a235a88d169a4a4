// The density kernel as -DKERNEL_FILE=... has it (tests/simt/main.rs takes barriers and waits out of it): two warps.
#include KERNEL_FILE

#define KERNEL_NAME "density_64"
#define KERNEL_THREADS Tile64::THREADS
#define KERNEL_SHARED Tile64::shared_bytes()
constexpr int P = 60, ROOM = 64;
// Where row and chunk of a block lie, in halves; where a panel's row lies.
int place(int row, int chunk) { return w_at(row, chunk); }
int row_place(int row) { return row; }
#include "density.h"
