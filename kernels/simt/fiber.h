// Fibers: a stack and a saved stack pointer each, switched by a few instructions. The sanitizers are
// told of every switch: AddressSanitizer so that it knows the stack, ThreadSanitizer so that a CUDA
// thread is a thread of its own, with no edge from the switch itself.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(DDU_SIMT_TSAN)  // this file is compiled without instrumentation, see runtime.cpp
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(const void* address, unsigned long bytes);  // not in the header
extern "C" void __tsan_write_range(void* address, unsigned long bytes);
#endif

namespace simt {

#if !defined(__linux__) || !(defined(__x86_64__) || defined(__aarch64__))
#error "the simt device needs Linux on x86-64 or aarch64 (the fiber switch of kernels/simt/fiber.h)"
#endif

// Saves the callee-saved registers on the stack, its pointer at *from, and goes on where `to` stands.
extern "C" void ddu_simt_switch(void** from, void* to);

#if defined(__x86_64__)
constexpr size_t SWITCH_FRAME = 6;  // words below the return address
#define DDU_SIMT_SWITCH                                                                      \
    asm(".text\n.globl ddu_simt_switch\n.type ddu_simt_switch,@function\nddu_simt_switch:\n" \
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"           \
        "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"                                               \
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"            \
        ".size ddu_simt_switch,.-ddu_simt_switch\n")
#else
constexpr size_t SWITCH_FRAME = 20;  // x19..x30, d8..d15
#define DDU_SIMT_SWITCH                                                                      \
    asm(".text\n.globl ddu_simt_switch\n.type ddu_simt_switch,%function\nddu_simt_switch:\n" \
        "sub sp, sp, #160\n"                                                                 \
        "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"             \
        "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"        \
        "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\n"        \
        "stp d14, d15, [sp, #144]\nmov x9, sp\nstr x9, [x0]\nmov sp, x1\n"                   \
        "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"             \
        "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"        \
        "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\n"        \
        "ldp d14, d15, [sp, #144]\nadd sp, sp, #160\nret\n"                                  \
        ".size ddu_simt_switch,.-ddu_simt_switch\n")
#endif

struct Fiber {
    void* sp = nullptr;
    char* stack = nullptr;  // lowest usable byte; the OS thread's own fiber has none of its own
    size_t stack_bytes = 0;
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
#endif
#if defined(DDU_SIMT_TSAN)
    void* tsan = nullptr;
#endif

    // Makes the next switch to this fiber enter `entry` on an empty stack.
    void start(void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(stack, stack_bytes);
        fake_stack = nullptr;
#endif
        auto* top = reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(stack + stack_bytes) & ~uintptr_t(15));
        for (int i = 1; i <= 32; ++i) top[-i] = 0;
#if defined(__x86_64__)
        // After `ret` the stack is 8 modulo 16, as after a call.
        top[-2] = reinterpret_cast<uintptr_t>(entry);
        sp = top - 2 - SWITCH_FRAME;
#else
        sp = top - SWITCH_FRAME;
        static_cast<uintptr_t*>(sp)[11] = reinterpret_cast<uintptr_t>(entry);  // x30
#endif
    }
};

// Leaves `from` for `to`; returns when somebody switches back. `last`: `from` never runs again.
inline void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool last = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(DDU_SIMT_TSAN)
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
    ddu_simt_switch(&from.sp, to.sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

}  // namespace simt
