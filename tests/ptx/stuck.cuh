// Two phases of two arrivals; of the second phase one never comes (SOUND: it comes). For simt (tests/simt/hopper.cu) and, by nvcc with a
// bound of its waits, for the PTX interpreter (stuck.cu).
#pragma once
#include "../../kernels/common/hopper.cuh"

#if HOPPER
template <bool SOUND> DEVICE void two_phases() {
    const Shared<MBarrier> barrier = smem<MBarrier>(72);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 2);
        mbarrier_init_fence();
    }
    sync_threads();
    const bool arrives = threadIdx.x == 0 || threadIdx.x == 32;
    if (arrives) mbarrier_arrive(barrier);
    mbarrier_wait(barrier, 0);
    sync_threads();  // nobody is a phase behind
    if (arrives && (SOUND || threadIdx.x == 0)) mbarrier_arrive(barrier);
    mbarrier_wait(barrier, 1);
}
#endif
