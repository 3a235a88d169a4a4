// Under a sanitizer: its report is followed by the kernel, block and thread that ran.
#include "runtime.h"

#include <cstdio>

#if defined(__SANITIZE_ADDRESS__) || defined(DDU_SIMT_TSAN)
extern "C" void __sanitizer_set_death_callback(void (*callback)(void));

// A thread that fails is abandoned, so what its frames own leaks.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

// The Rust code around a launch is not instrumented, so its locks are no edges to ThreadSanitizer; where it
// hands memory on through libc's functions it would be reported. No kernel's stack has a Rust frame.
extern "C" const char* __tsan_default_suppressions() { return "race:^_R\nrace:library/std/\nrace:library/core/\nrace:library/alloc/\n"; }

namespace simt {
namespace {

void name_the_thread() {
    const Worker* w = worker_or_null();
    if (!w || !w->current) return;
    std::fprintf(stderr, "ddu: simt: in %s\n", name(*w, w->current->id).c_str());
}

[[maybe_unused]] const bool installed = (__sanitizer_set_death_callback(name_the_thread), true);

}  // namespace
}  // namespace simt
#endif
