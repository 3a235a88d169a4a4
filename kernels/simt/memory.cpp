// Memory and its guards.
//
// Global buffers end (up to alignment) at a page that cannot be touched and start after another, so
// that an access outside ends the launch; the bytes between buffer and page hold a pattern that is
// checked after every launch. Under AddressSanitizer they come from malloc, whose red zones are exact.
// A fresh buffer, and a block's arena of shared memory, holds NaN in every float format (all ones).
// Each byte of the arena has a state: unwritten, written, or the target of a copy in flight.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "api.h"
#include "runtime.h"

namespace simt {
namespace {

const size_t PAGE = size_t(sysconf(_SC_PAGESIZE));
constexpr size_t ARENA_PAGES = 256 << 10;  // more than any GPU of the list gives; whole pages, which may have 64 KiB
constexpr unsigned char POISON = 0xff, GUARD = 0xa5;
enum State : uint8_t { UNWRITTEN, WRITTEN, IN_FLIGHT };

struct Buffer {
    char* pages;  // first usable page
    size_t pages_bytes;
    char* data;
    size_t bytes;
};

std::mutex buffers_mutex;
std::map<uintptr_t, Buffer> buffers;

// `bytes` (whole pages) between two pages that cannot be touched; nullptr if there is no memory.
char* guarded_pages(size_t bytes) {
    void* p = mmap(nullptr, bytes + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    char* usable = static_cast<char*>(p) + PAGE;
    if (mprotect(usable, bytes, PROT_READ | PROT_WRITE)) {
        munmap(p, bytes + 2 * PAGE);
        return nullptr;
    }
    return usable;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(DDU_SIMT_TSAN)  // they report faults themselves
struct sigaction previous_segv, previous_bus;

// Runs as ordinary code of the faulting fiber, on a stack of its own.
void report_fault() {
    Worker& w = worker();
    char hex[32];
    std::snprintf(hex, sizeof hex, "0x%zx", size_t(w.fault_address));
    const uintptr_t arena = reinterpret_cast<uintptr_t>(w.arena_pages);
    const uintptr_t a = w.fault_address;
    if (a + PAGE >= arena && a < arena + ARENA_PAGES + PAGE) {
        fail("access outside shared memory (" + std::to_string(w.arena_bytes) + " bytes), at offset " +
             std::to_string(int64_t(a - reinterpret_cast<uintptr_t>(w.arena))));
    }
    for (auto& t : w.thread) {
        const uintptr_t stack = reinterpret_cast<uintptr_t>(t.fiber.stack);
        if (a < stack && a + PAGE >= stack) fail("the thread's local variables overflow its stack");
    }
    const std::string near = describe_address(a);
    fail("out-of-bounds access to global memory at " + std::string(hex) + (near.empty() ? ", in no buffer" : ", " + near));
}

void on_fault(int signal, siginfo_t* info, void* context) {
    Worker* w = worker_or_null();
    if (!w || !w->current || w->failed) {
        // Not a fault of a kernel: passed to the previous handler.
        sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
        return;
    }
    w->fault_address = reinterpret_cast<uintptr_t>(info->si_addr);
    auto* machine = &static_cast<ucontext_t*>(context)->uc_mcontext;
    const uintptr_t top = reinterpret_cast<uintptr_t>(w->fault_stack.data() + w->fault_stack.size()) & ~uintptr_t(63);
#if defined(__x86_64__)
    machine->gregs[REG_RSP] = top - 8;
    machine->gregs[REG_RIP] = reinterpret_cast<uintptr_t>(report_fault);
#else
    machine->sp = top;
    machine->pc = reinterpret_cast<uintptr_t>(report_fault);
#endif
}
#endif

std::string range_error(const char* what, const void* p, size_t bytes, const Worker& w) {
    return std::string(what) + " of " + std::to_string(bytes) + " bytes at offset " + std::to_string(static_cast<const char*>(p) - w.arena);
}

}  // namespace

size_t arena_offset(const char* what, const void* p, size_t bytes) {
    Worker& w = worker();
    const uintptr_t offset = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(w.arena);
    if (offset > w.arena_bytes || bytes > w.arena_bytes - offset) {
        fail("out-of-bounds " + range_error(what, p, bytes, w) + " of " + std::to_string(w.arena_bytes) + " bytes of shared memory");
    }
    if (offset % (bytes > 16 ? 16 : bytes)) fail("misaligned " + range_error(what, p, bytes, w) + " of shared memory");
    return offset;
}

char* allocate_stack(size_t bytes) {
    char* stack = guarded_pages(bytes);
    if (!stack) {
        std::fputs("ddu: simt: no memory for the stacks of the threads\n", stderr);
        std::abort();
    }
    return stack;
}

void arena_begin(Worker& w, size_t bytes) {
    if (!w.arena_pages) w.arena_pages = guarded_pages(ARENA_PAGES);
    if (!w.arena_pages || bytes > ARENA_PAGES || bytes % 128) {
        std::fputs("ddu: simt: shared memory must be a multiple of 128 bytes, at most 256 KiB\n", stderr);
        std::abort();
    }
    w.arena = w.arena_pages + ARENA_PAGES - bytes;
    w.arena_bytes = bytes;
    // As after static shared memory of any size: a kernel that assumes address 0 fails.
    w.arena_base = (w.indices.block.x % 4 + 1) * 1024;
    std::memset(w.arena, POISON, bytes);
    w.arena_state.assign(bytes, UNWRITTEN);
}

void arena_end(Worker& w) { w.arena_bytes = 0; }

void* arena(size_t offset) { return worker().arena + offset; }

void check_written(const Worker& w, const char* what, size_t offset, size_t bytes) {
    const uint8_t* state = w.arena_state.data() + offset;
    for (size_t i = 0; i < bytes; ++i) {
        if (state[i] == WRITTEN) continue;
        fail(range_error(what, w.arena + offset, bytes, w) +
             (state[i] == UNWRITTEN ? " of shared memory that nobody has written (missing store, or missing barrier before the read)"
                                    : " of shared memory with a copy in flight (missing wait, or missing barrier)"));
    }
}

void check_read(const void* p, size_t bytes) { check_written(worker(), "read", arena_offset("read", p, bytes), bytes); }

void check_write(void* p, size_t bytes) {
    uint8_t* state = worker().arena_state.data() + arena_offset("write", p, bytes);
    for (size_t i = 0; i < bytes; ++i) {
        if (state[i] == IN_FLIGHT) fail(range_error("write", p, bytes, worker()) + " of shared memory with a copy in flight");
        state[i] = WRITTEN;
    }
}

void mark_in_flight(Worker& w, const char* what, void* destination, size_t bytes, const Site& site) {
    uint8_t* state = w.arena_state.data() + arena_offset(what, destination, bytes);
    for (size_t i = 0; i < bytes; ++i) {
        if (state[i] == IN_FLIGHT) fail(range_error(what, destination, bytes, w) + " onto a copy in flight at " + where(site));
        state[i] = IN_FLIGHT;
    }
    std::memset(destination, POISON, bytes);
}

void mark_written(Worker& w, const void* p, size_t bytes) {
    std::memset(w.arena_state.data() + (static_cast<const char*>(p) - w.arena), WRITTEN, bytes);
}

void cp_async(void* destination, const void* source, unsigned bytes, unsigned source_bytes, Site site) {
    Worker& w = worker();
    if ((bytes != 4 && bytes != 8 && bytes != 16) || source_bytes > bytes) fail("cp.async of a size that does not exist at " + where(site));
    if (source_bytes && reinterpret_cast<uintptr_t>(source) % bytes) fail("cp.async from a misaligned address at " + where(site));
    mark_in_flight(w, "cp.async", destination, bytes, site);
#if defined(DDU_SIMT_TSAN)
    __tsan_write_range(destination, bytes);
#endif
    w.current->copies.push_back({destination, source, bytes, source_bytes});
    ++w.current->uncommitted;
    count(CP_ASYNC);
}

void cp_async_commit() {
    Thread& t = *worker().current;
    t.groups.push_back(t.uncommitted);
    t.uncommitted = 0;
}

void cp_async_wait(unsigned pending) {
    Worker& w = worker();
    Thread& t = *w.current;
    while (t.groups.size() > pending) {
        const uint32_t copies = t.groups.front();
        for (uint32_t i = 0; i < copies; ++i) {
            const Copy& copy = t.copies[i];
#if defined(DDU_SIMT_TSAN)
            __tsan_read_range(copy.source, copy.source_bytes);
            __tsan_write_range(copy.destination, copy.bytes);
#endif
            std::memcpy(copy.destination, copy.source, copy.source_bytes);
            std::memset(static_cast<char*>(copy.destination) + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
            mark_written(w, copy.destination, copy.bytes);
        }
        t.copies.erase(t.copies.begin(), t.copies.begin() + copies);
        t.groups.erase(t.groups.begin());
    }
}

void install_fault_handler(Worker& w) {
#if defined(__SANITIZE_ADDRESS__) || defined(DDU_SIMT_TSAN)
    (void)w;  // the sanitizer reports faults itself; sanitizer.cpp adds kernel, block and thread
#else
    if (w.signal_stack.empty()) {
        w.signal_stack.resize(64 << 10);
        w.fault_stack.resize(64 << 10);
    }
    stack_t alternative = {};
    alternative.ss_sp = w.signal_stack.data();
    alternative.ss_size = w.signal_stack.size();
    sigaltstack(&alternative, nullptr);
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        // Not masked while handled: the handler is left without returning through the kernel's code.
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
    });
#endif
}

std::string describe_address(uintptr_t address) {
    std::lock_guard lock(buffers_mutex);
    std::string nearest;
    uintptr_t least = 1 << 20;
    for (auto& [start, buffer] : buffers) {
        const uintptr_t end = start + buffer.bytes;
        const std::string name = "a buffer of " + std::to_string(buffer.bytes) + " bytes";
        if (address >= end && address - end < least) {
            least = address - end;
            nearest = std::to_string(least) + " bytes past the end of " + name;
        } else if (address < start && start - address < least) {
            least = start - address;
            nearest = std::to_string(least) + " bytes before " + name;
        }
    }
    return nearest;
}

std::string damaged_guard() {
    std::lock_guard lock(buffers_mutex);
    for (auto& [start, buffer] : buffers) {
        const char* end = buffer.pages + buffer.pages_bytes;
        for (const char* p = buffer.pages; p < end; ++p) {
            if (p == buffer.data) p += buffer.bytes;
            if (p >= end) break;
            if (static_cast<unsigned char>(*p) == GUARD) continue;
            const bool after = p > buffer.data;
            return "out-of-bounds store to global memory, " + std::to_string(after ? p - buffer.data - buffer.bytes : buffer.data - p) +
                   (after ? " bytes past the end of" : " bytes before") + " a buffer of " + std::to_string(buffer.bytes) + " bytes";
        }
    }
    return "";
}

}  // namespace simt

extern "C" {

void* ddu_simt_alloc(uint64_t bytes) {
    using namespace simt;
    Buffer buffer{};
    buffer.bytes = bytes;
#if defined(__SANITIZE_ADDRESS__)
    buffer.data = static_cast<char*>(std::malloc(bytes));
    if (!buffer.data) return nullptr;
    buffer.pages = buffer.data;
    buffer.pages_bytes = bytes;
#else
    if (bytes > SIZE_MAX / 2) return nullptr;
    buffer.pages_bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    if (!buffer.pages_bytes) buffer.pages_bytes = PAGE;
    buffer.pages = guarded_pages(buffer.pages_bytes);
    if (!buffer.pages) return nullptr;
    buffer.data = buffer.pages + buffer.pages_bytes - (bytes + 15) / 16 * 16;
    std::memset(buffer.pages, GUARD, buffer.data - buffer.pages);
    char* end = buffer.data + bytes;
    std::memset(end, GUARD, buffer.pages + buffer.pages_bytes - end);
#endif
    std::memset(buffer.data, POISON, bytes);
    std::lock_guard lock(buffers_mutex);
    buffers[reinterpret_cast<uintptr_t>(buffer.data)] = buffer;
    return buffer.data;
}

void ddu_simt_free(void* data) {
    using namespace simt;
    std::lock_guard lock(buffers_mutex);
    auto found = buffers.find(reinterpret_cast<uintptr_t>(data));
    if (found == buffers.end()) return;
#if defined(__SANITIZE_ADDRESS__)
    std::free(found->second.data);
#else
    munmap(found->second.pages - PAGE, found->second.pages_bytes + 2 * PAGE);
#endif
    buffers.erase(found);
}
}
