// The host bodies of kernels/common/hopper.cuh (hopper.cpp): mbarriers, bulk and tensor copies, clusters, warpgroup
// matrix products.
#pragma once
#include <initializer_list>

#include "simt.h"
#include "tensor_map.h"

namespace simt {

// What a kernel sees of an mbarrier: 8 bytes of shared memory. The state is the runtime's.
struct alignas(8) MBarrierCell {
    uint64_t opaque;
};

// The address that a matrix descriptor holds. The arena starts at another one in each block, a multiple of 1024.
uint64_t arena_address(const void* p);

void mbarrier_init(void* barrier, int arrivals, Site site);
// Arrives; the phase also awaits `bytes` more.
void mbarrier_arrive(void* barrier, int bytes, Site site);
// Returns once the phase of this parity is over.
void mbarrier_wait(void* barrier, int parity, Site site);
// The destination is poisoned at once and holds the data when somebody's wait on the barrier finds the phase complete.
void bulk_copy(void* destination, const void* source, int bytes, void* barrier, Site site);

// A box of the tensor of a map (tensor.cpp), counted by `barrier`; `offsets` of an im2col map alone.
void tensor_copy(void* destination, const TensorMap& map, unsigned rank, bool im2col, const int32_t (&at)[4], const uint16_t (&offsets)[2],
                 void* barrier, Site site);

// The other way (tensor.cpp): what lies at `source` is written to the tensor at the wait for it, and must not have changed until then.
void tensor_store(const TensorMap& map, unsigned rank, const int32_t (&at)[4], const void* source, Site site);
void store_commit();
void store_wait_read(unsigned pending);

// Clusters (cluster.cpp). All threads of a cluster's blocks that have not ended.
void cluster_sync(Site site);
// Where block `rank` of the cluster has what lies at `p` here; ends the launch where nobody has written it, or the block has ended.
const void* cluster_read(const void* p, int rank, size_t bytes, Site site);

// What a thread must not do to an accumulator: touch it while a product is in flight, or start a product on it without a
// fence after touching it or after a product of another shape.
struct InFlight {
    uint32_t products = 0;
    uint64_t touched = 0;  // the thread's count of fences at the last touch
    unsigned n = 0;        // of the last product
    uint64_t fences = 0;   // the thread's count at that product
    bool unnamed = false;  // the wait that ended its last product does not name it
};
void touch(InFlight& state);

template <int N> class AccumulatorOf {
    float v[N / 2] = {};
    InFlight state;

  public:
    AccumulatorOf() { touch(state); }
    float& operator[](int i) {
        touch(state);
        return v[i];
    }
    float* values() { return v; }
    InFlight& in_flight() { return state; }
};

void wgmma_fence(Site site);
void wgmma_commit();
// `finished`: the accumulators that it names as ready to be read.
void wgmma_wait(unsigned pending, std::initializer_list<InFlight*> finished);
// The first `n` columns of d += (or =) a b, a in registers or, where that is null, in the shared memory of the descriptor `a_rows`;
// what lies in shared memory is read now and must be the same at the wait.
void wgmma_m64k16(float* d, InFlight& state, unsigned n, const uint32_t* a, uint64_t a_rows, uint64_t b, bool accumulate, Site site);

}  // namespace simt
