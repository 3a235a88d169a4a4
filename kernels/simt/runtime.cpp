// The scheduler and the launch: OS threads take blocks (of a launch in clusters: clusters, whose blocks take turns), a block's threads
// take turns. A block goes on until all its threads wait; in the random schedule sometimes less far.
//
// Order. Forward: the lowest block, warp and lane that can run, staying with a warp while it can;
// reverse: the highest; random: any, seeded. Each is a legal order of the hardware, so a kernel that
// needs a barrier it does not have computes something else in at least one of them.
//
// The files of the runtime are never instrumented by ThreadSanitizer: what they do for a lane they
// declare themselves, and barriers are the only edges between threads.
#include "runtime.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "api.h"

DDU_SIMT_SWITCH;

namespace simt {

struct Launch {
    const Kernel* kernel;
    const void* params;
    Dim grid;
    uint32_t threads;
    size_t shared_bytes;
    Schedule schedule;
    uint64_t seed;
    uint32_t cluster;             // blocks
    std::vector<uint64_t> order;  // of clusters
    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::string error;
    uint64_t counts[COUNTS] = {};
};

namespace {

constexpr size_t STACK_BYTES = 64 << 10;
thread_local Worker* this_worker = nullptr;
const Kernel* kernels = nullptr;

uint64_t next_random(uint64_t& state) {  // xorshift64
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

uint32_t lowest(uint32_t mask) { return __builtin_ctz(mask); }
uint32_t highest(uint32_t mask) { return 31 - __builtin_clz(mask); }

uint32_t any(uint32_t mask, uint64_t& random) {
    const uint32_t turn = next_random(random) & 31;
    const uint32_t rotated = turn ? mask >> turn | mask << (32 - turn) : mask;
    return (lowest(rotated) + turn) & 31;
}

// The next thread to run, taken off the ready ones; nullptr if all wait or are done.
Thread* pick(Worker& w) {
    if (!w.ready_warps) return nullptr;
    uint32_t warp = w.current ? w.current->id / 32 : 0, lane;
    const bool stays = w.current && w.warp[warp].ready;
    switch (w.launch->schedule) {
        case Schedule::FORWARD:
            if (!stays) warp = lowest(w.ready_warps);
            lane = lowest(w.warp[warp].ready);
            break;
        case Schedule::REVERSE:
            if (!stays) warp = highest(w.ready_warps);
            lane = highest(w.warp[warp].ready);
            break;
        default:
            if (!stays || next_random(w.random) % 64 == 0) warp = any(w.ready_warps, w.random);
            lane = any(w.warp[warp].ready, w.random);
    }
    w.warp[warp].ready &= ~(1u << lane);
    if (!w.warp[warp].ready) w.ready_warps &= ~(1u << warp);
    return &w.thread[warp * 32 + lane];
}

void run_thread(Worker& w, Thread& t) {
    w.current = &t;
    w.indices.thread = {t.id, 0, 0};
}

// The body of every fiber: one CUDA thread from start to end.
void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    Worker& w = *this_worker;
    Thread& t = *w.current;
    edge_acquire(&w.start);
    w.launch->kernel->run(w.launch->params);
    if (t.uncommitted || !t.groups.empty()) fail("the thread ends with a cp.async that was never waited for");
    if (!t.stores.empty()) fail("the thread ends with a tensor store that was never waited for");
    if (!t.products.empty()) fail("the thread ends with a wgmma that was never waited for");
    edge_release(&w.end);
    t.done = true;
    ++w.done;
    ++w.cluster->ended;
    settle(*w.cluster);
    Thread* next = pick(w);
    if (next) run_thread(w, *next);
    switch_fiber(t.fiber, next ? next->fiber : w.self, true);
    __builtin_unreachable();
}

std::string deadlock(Worker& w) {
    std::string message = "a wait that never comes:";
    int named = 0;
    // One line: each distinct place once, with the first thread that waits there.
    std::vector<std::pair<std::string, uint32_t>> places;
    for (auto& t : w.thread) {
        if (t.id >= w.threads) break;
        std::string place = t.done ? "has left the kernel" : std::string("waits in ") + t.wait.what;
        if (!t.done && t.wait.byte >= 0) {
            place += " at byte " + std::to_string(t.wait.byte) + ", parity " + std::to_string(t.wait.parity) + ",";
        }
        if (!t.done) place += " at " + where(t.wait.site);
        auto same = std::find_if(places.begin(), places.end(), [&](auto& p) { return p.first == place; });
        if (same == places.end()) places.push_back({place, t.id});
    }
    for (auto& [place, id] : places) {
        message += (named++ ? ", thread " : " thread ") + std::to_string(id) + " " + place;
    }
    const bool divergent = places.size() > 1;
    return (divergent ? "divergent barrier or collective: " : "") + message;
}

void report(Worker& w, const std::string& message) {
    Launch& launch = *w.launch;
    const std::string text = name(w, w.current ? w.current->id : 0) + ": " + message;
    std::lock_guard lock(launch.mutex);
    if (launch.error.empty()) launch.error = text;
    launch.failed = true;
}

void begin_block(Worker& w, Dim block) {
    Launch& launch = *w.launch;
    w.indices.block = block;
    w.done = 0;
    w.current = nullptr;
    w.ready_warps = 0;
    for (uint32_t i = 0; i < w.warps; ++i) {
        w.warp[i].arrived = 0;
        w.warp[i].ready = 0;
    }
    for (auto& barrier : w.barrier) barrier.arrived = 0;
    for (auto& group : w.group) group.arrived = 0;
    for (auto& lanes : w.at_cluster) lanes = 0;
    w.mbarriers = 0;
    for (uint32_t i = 0; i < w.threads; ++i) {
        Thread& t = w.thread[i];
        t.done = false;
        t.copies.clear();
        t.groups.clear();
        t.uncommitted = 0;
        t.products.clear();
        t.product_groups.clear();
        t.open_products = 0;
        t.fences = 0;
        t.fiber.start(thread_main);
#if defined(DDU_SIMT_TSAN)
        __tsan_set_fiber_name(t.fiber.tsan, name(w, i).c_str());
#endif
        make_ready(w, i / 32, 1u << i % 32);
    }
    arena_begin(w, launch.shared_bytes);
    edge_release(&w.start);
}

// Until its threads all wait or have ended.
void resume(Worker& w) {
    this_worker = &w;
    Thread* next = pick(w);
    run_thread(w, *next);
    switch_fiber(w.self, next->fiber);
}

void end_block(Worker& w) {
    this_worker = &w;
    edge_acquire(&w.end);
    arena_end(w);
}

// Cluster i of the launch, by `blocks`.
void run_cluster(Cluster& cluster, uint64_t i, uint64_t& random) {
    const Launch& launch = *cluster.blocks[0]->launch;
    const uint32_t size = uint32_t(cluster.blocks.size());
    const uint64_t plane = uint64_t(launch.grid.x) * launch.grid.y;
    cluster.arrived = cluster.ended = 0;
    for (uint32_t rank = 0; rank < size; ++rank) {
        Worker& w = *cluster.blocks[rank];
        this_worker = &w;
        const uint64_t number = i * size + rank;
        w.random = (launch.seed + 1) * 0x9e3779b97f4a7c15 ^ (number + 1) * 0xbf58476d1ce4e5b9;
        if (!w.random) w.random = 1;
        begin_block(w, {uint32_t(number % launch.grid.x), uint32_t(number % plane / launch.grid.x), uint32_t(number / plane)});
    }
    bool failed = false;
    while (!failed) {
        std::vector<Worker*> ready;
        for (Worker* block : cluster.blocks) {
            if (block->ready_warps) ready.push_back(block);
        }
        if (ready.empty()) break;
        Worker* next = ready.front();
        if (launch.schedule == Schedule::REVERSE) next = ready.back();
        if (launch.schedule == Schedule::RANDOM && ready.size() > 1) next = ready[next_random(random) % ready.size()];
        resume(*next);
        failed = next->failed;
    }
    for (Worker* block : cluster.blocks) {
        this_worker = block;
        if (!failed && block->done != block->threads) {
            report(*block, deadlock(*block));
            failed = true;
        }
        end_block(*block);
    }
}

void open_fibers(Worker& w) {
    pthread_attr_t attributes;
    void* bottom;
    size_t bytes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &bytes);
    pthread_attr_destroy(&attributes);
    w.self.stack = static_cast<char*>(bottom);
    w.self.stack_bytes = bytes;
#if defined(DDU_SIMT_TSAN)
    w.self.tsan = __tsan_get_current_fiber();
    for (uint32_t i = 0; i < w.threads; ++i) w.thread[i].fiber.tsan = __tsan_create_fiber(0);
#endif
}

void close_fibers([[maybe_unused]] Worker& w) {
#if defined(DDU_SIMT_TSAN)
    for (uint32_t i = 0; i < w.threads; ++i) __tsan_destroy_fiber(w.thread[i].fiber.tsan);
#endif
}

// Workers own megabytes of stacks: they are kept between launches.
std::mutex idle_mutex;
std::vector<std::unique_ptr<Worker>> idle;

std::unique_ptr<Worker> take_worker(uint32_t threads) {
    std::unique_ptr<Worker> w;
    {
        std::lock_guard lock(idle_mutex);
        if (!idle.empty()) {
            w = std::move(idle.back());
            idle.pop_back();
        }
    }
    if (!w) w = std::make_unique<Worker>();
    while (w->thread.size() < threads) {
        Thread t;
        t.id = w->thread.size();
        t.fiber.stack_bytes = STACK_BYTES;
        t.fiber.stack = allocate_stack(STACK_BYTES);
        w->thread.push_back(std::move(t));
    }
    return w;
}

void run_worker(Launch& launch) {
    std::vector<std::unique_ptr<Worker>> owned;
    Cluster cluster;
    for (uint32_t rank = 0; rank < launch.cluster; ++rank) {
        owned.push_back(take_worker(launch.threads));
        Worker& w = *owned.back();
        cluster.blocks.push_back(&w);
        w.cluster = &cluster;
        w.launch = &launch;
        w.threads = launch.threads;
        w.warps = (launch.threads + 31) / 32;
        w.failed = false;
        w.indices.block_dim = {launch.threads, 1, 1};
        w.indices.grid_dim = launch.grid;
        std::fill(std::begin(w.counts), std::end(w.counts), 0);
        this_worker = &w;
        open_fibers(w);
        install_fault_handler(w);
    }
    uint64_t random = launch.seed * 0xbf58476d1ce4e5b9 | 1;
    while (!launch.failed) {
        const uint64_t turn = launch.next++;
        if (turn >= launch.order.size()) break;
        run_cluster(cluster, launch.order[turn], random);
    }
    for (auto& w : owned) close_fibers(*w);
    this_worker = nullptr;
    std::lock_guard lock(launch.mutex);
    std::lock_guard idle_lock(idle_mutex);
    for (auto& w : owned) {
        for (int i = 0; i < COUNTS; ++i) launch.counts[i] += w->counts[i];
        w->cluster = nullptr;
        idle.push_back(std::move(w));
    }
}

}  // namespace

Worker& worker() { return *this_worker; }
Worker* worker_or_null() { return this_worker; }
const Indices& indices() { return this_worker->indices; }
std::string name(const Worker& w, uint32_t thread) {
    const Dim b = w.indices.block;
    return std::string(w.launch->kernel->name) + ", block (" + std::to_string(b.x) + ", " + std::to_string(b.y) + ", " +
           std::to_string(b.z) + "), thread " + std::to_string(thread);
}
void count(Count what) { ++this_worker->counts[what]; }

std::string where(const Site& site) {
    std::string file = site.file_name();
    const size_t slash = file.rfind('/');
    if (slash != std::string::npos) file = file.substr(slash + 1);
    return file + ":" + std::to_string(site.line());
}

void make_ready(Worker& w, uint32_t warp, uint32_t lanes) {
    if (!lanes) return;
    w.warp[warp].ready |= lanes;
    w.ready_warps |= 1u << warp;
}

void block_current(const Wait& wait) {
    Worker& w = *this_worker;
    Thread& t = *w.current;
    t.wait = wait;
    Thread* next = pick(w);
    // Nobody can run and this thread waits: the worker's own fiber says who waits where.
    if (next) run_thread(w, *next);
    if (next == &t) return;
    switch_fiber(t.fiber, next ? next->fiber : w.self);
}

void yield_current(const Site& site) {
    Worker& w = *this_worker;
    if (w.launch->schedule != Schedule::RANDOM || next_random(w.random) % 2) return;
    Thread& t = *w.current;
    make_ready(w, t.id / 32, 1u << t.id % 32);
    t.wait = {"its turn", site};
    w.current = nullptr;  // the next thread may come from any warp
    // Or from any block.
    if (w.cluster->blocks.size() > 1 && next_random(w.random) % 4 == 0) return switch_fiber(t.fiber, w.self);
    Thread* next = pick(w);
    run_thread(w, *next);
    if (next != &t) switch_fiber(t.fiber, next->fiber);
}

void fail(const std::string& message) {
    Worker& w = *this_worker;
    report(w, message);
    w.failed = true;
    switch_fiber(w.current->fiber, w.self, true);
    __builtin_unreachable();
}

Register::Register(const char* name, uint32_t params_bytes, uint32_t threads, void (*run)(const void*))
    : kernel{name, params_bytes, threads, run, kernels} {
    kernels = &kernel;
}

}  // namespace simt

// --- the C interface (api.h) -------------------------------------------------

extern "C" {

int ddu_simt_launch(DduSimtLaunch* request, char* error, uint64_t error_bytes) {
    using namespace simt;
    std::string problem;
    const Kernel* kernel = kernels;
    while (kernel && std::strcmp(kernel->name, request->kernel) != 0) kernel = kernel->next;
    const uint64_t blocks = uint64_t(request->grid_x) * request->grid_y * request->grid_z;
    if (wanted_sums && !cut_off) {
        problem = std::string("DDU_SIMT_SUMS: expected ") + sums::NAMES + ", found " + wanted_sums;
    } else if (!kernel) {
        problem = std::string("no kernel is called ") + request->kernel;
    } else if (kernel->params_bytes != request->params_bytes) {
        problem = std::string(kernel->name) + ": takes " + std::to_string(kernel->params_bytes) + " bytes of parameters, was given " +
                  std::to_string(request->params_bytes);
    } else if (kernel->threads != request->threads || request->threads % 32 || request->threads > 1024) {
        problem = std::string(kernel->name) + ": has blocks of " + std::to_string(kernel->threads) + " threads, was launched with " +
                  std::to_string(request->threads);
    } else if (blocks == 0) {
        problem = std::string(kernel->name) + ": empty grid";
    } else if (const uint32_t cluster = std::max(request->cluster, 1u); cluster > 8 || request->grid_x % cluster) {
        problem = std::string(kernel->name) + ": a grid of " + std::to_string(request->grid_x) + " blocks in clusters of " +
                  std::to_string(cluster) + ": expected whole ones, of at most 8";
    } else {
        Launch launch;
        launch.kernel = kernel;
        launch.params = request->params;
        launch.grid = {request->grid_x, request->grid_y, request->grid_z};
        launch.threads = request->threads;
        launch.shared_bytes = request->shared_bytes;
        launch.schedule = static_cast<Schedule>(request->schedule);
        launch.seed = request->seed;
        launch.cluster = std::max(request->cluster, 1u);
        const uint64_t clusters = blocks / launch.cluster;
        launch.order.resize(clusters);
        uint64_t random = (request->seed + 1) * 0x9e3779b97f4a7c15 | 1;
        for (uint64_t i = 0; i < clusters; ++i) launch.order[i] = i;
        if (launch.schedule == Schedule::REVERSE) std::reverse(launch.order.begin(), launch.order.end());
        if (launch.schedule == Schedule::RANDOM) {
            for (uint64_t i = clusters; i > 1; --i) std::swap(launch.order[i - 1], launch.order[next_random(random) % i]);
        }
        const uint64_t workers = std::clamp<uint64_t>(request->workers, 1, clusters);
        std::vector<std::thread> pool;
        std::string refused;
        try {
            for (uint64_t i = 0; i < workers; ++i) pool.emplace_back([&] { run_worker(launch); });
        } catch (const std::system_error& error) {
            // Fewer workers run all blocks as well.
            if (pool.empty()) refused = std::string(kernel->name) + ": no thread can be started: " + error.what();
        }
        for (auto& thread : pool) thread.join();
        std::copy(std::begin(launch.counts), std::end(launch.counts), request->counts);
        problem = refused.empty() ? launch.error : refused;
        if (problem.empty()) {
            const std::string guard = damaged_guard();
            if (!guard.empty()) problem = std::string(kernel->name) + ": " + guard;
        }
    }
    if (problem.empty()) return 0;
    const size_t n = std::min<size_t>(problem.size(), error_bytes - 1);
    std::memcpy(error, problem.data(), n);
    error[n] = 0;
    return 1;
}

const char* ddu_simt_kernel(uint32_t i, uint32_t* params_bytes, uint32_t* threads) {
    const simt::Kernel* kernel = simt::kernels;
    while (kernel && i--) kernel = kernel->next;
    if (!kernel) return nullptr;
    *params_bytes = kernel->params_bytes;
    *threads = kernel->threads;
    return kernel->name;
}
}
