// nvcc -ptx -arch=sm_90a -DDDU_WAIT_TRIES=N: the wait of hopper.cuh that gives up.
#include "stuck.cuh"

struct Params {
    uint32_t* out;  // [128]
    const void* in;
};

DEVICE void wait(const Params& p) {
    two_phases<MADE_SOUND>();
    p.out[threadIdx.x] = threadIdx.x;
}

KERNEL(stuck, Params, 128, wait)
