// Under a sanitizer: its report is followed by the kernel, block and thread that ran.
#include "runtime.h"

#include <cstdio>

#if defined(__SANITIZE_ADDRESS__) || defined(DDU_SIMT_TSAN)
extern "C" void __sanitizer_set_death_callback(void (*callback)(void));

namespace simt {
namespace {

void name_the_thread() {
    const Worker* w = worker_or_null();
    if (!w || !w->current) return;
    const Dim b = w->indices.block;
    std::fprintf(stderr, "ddu: simt: %s, block (%u, %u, %u), thread %u\n", kernel_name(*w), b.x, b.y, b.z, w->current->id);
}

[[maybe_unused]] const bool installed = (__sanitizer_set_death_callback(name_the_thread), true);

}  // namespace
}  // namespace simt
#endif
