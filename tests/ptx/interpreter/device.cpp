// The interpreter behind the interface of the simt device (kernels/simt/api.h), so that the stand-in driver
// (tests/cuda/driver.cpp) runs on either. Of the simt device nothing else is used but sums.h: what tensor cores are known to do.
//
// Environment: DDU_PTX_DIR, the folder of the *.ptx; DDU_PTX_LOG, a file that gets counts, notes and errors at the end;
// DDU_PTX_UNREACHED=1, in it also every instruction that was not reached, nor another of its line of source; 2, those as well of
// whose line another was; DDU_PTX_GUARD, how many bytes at both ends of a buffer no kernel may touch; DDU_PTX_SEED=N, warps, quanta,
// landings and timeouts by chance, blocks in reverse; DDU_PTX_RACES=1 looks for races; DDU_PTX_SUMS=a100|h100, the tensor cores whose
// sums of products are played (kernels/simt/sums.h).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>

#include "../../../kernels/simt/api.h"
#include "block.h"

namespace {

int64_t number(const char* name, int64_t otherwise) {
    const char* value = std::getenv(name);
    return value && *value ? std::atoll(value) : otherwise;
}

[[noreturn]] void stop(const std::string& why) {
    std::fprintf(stderr, "ptx: %s\n", why.c_str());
    std::fflush(stderr);
    std::abort();
}

struct Tally {
    uint64_t launches = 0, instructions = 0;
    double seconds = 0;
    std::vector<bool> reached;
};

// Where it comes from; line 0: nvcc's own, such as the two ways of a 64-bit division. nvcc unrolls loops and clones them for
// cases that never come (no passes): what matters is whether a line of source was executed.
std::pair<uint32_t, uint32_t> origin(const ptx::Instruction& ins) { return {ins.file, ins.source_line}; }

struct World {
    std::vector<ptx::Kernel> kernels;
    ptx::Options options;
    std::mutex mutex;
    std::map<uint64_t, uint64_t> memory;
    ptx::Notes notes;
    std::map<std::string, Tally> tallies;
    std::vector<std::string> errors;

    World() {
        options.seed = number("DDU_PTX_SEED", -1);
        options.races = number("DDU_PTX_RACES", 0) != 0;
        if (const char* wanted = std::getenv("DDU_PTX_SUMS")) {
            options.sums = sums::named(wanted);
            if (!options.sums) stop(std::string("DDU_PTX_SUMS: expected ") + sums::NAMES + ", found " + wanted);
        }
        const char* folder = std::getenv("DDU_PTX_DIR");
        if (!folder) stop("DDU_PTX_DIR names no folder of PTX");
        std::set<std::filesystem::path> files;
        for (auto& entry : std::filesystem::directory_iterator(folder)) {
            if (entry.path().extension() == ".ptx") files.insert(entry.path());
        }
        for (auto& path : files) {
            std::stringstream text;
            text << std::ifstream(path).rdbuf();
            try {
                for (auto& kernel : ptx::parse(text.str(), path.filename().string())) kernels.push_back(std::move(kernel));
            } catch (const std::exception& error) {
                stop(error.what());
            }
        }
    }

    const ptx::Kernel* find(const std::string& name) const {
        for (auto& kernel : kernels) {
            if (kernel.name == name) return &kernel;
        }
        return nullptr;
    }

    ~World() {
        const char* path = std::getenv("DDU_PTX_LOG");
        std::FILE* out = path ? std::fopen(path, "a") : nullptr;
        if (!out) return;
        for (auto& [name, tally] : tallies) report(out, *find(name), tally);
        for (auto& [key, note] : notes)
            std::fprintf(out, "note %s, %llu times: %s\n", key.second.c_str(), static_cast<unsigned long long>(note.times),
                         note.first.c_str());
        for (auto& error : errors) std::fprintf(out, "ERROR %s\n", error.c_str());
        std::fclose(out);
    }

    // "kernel NAME launches N instructions N reached A of B (C)": of C that are of a line of source of which none else was.
    static void report(std::FILE* out, const ptx::Kernel& kernel, const Tally& tally) {
        std::set<std::pair<uint32_t, uint32_t>> known;
        size_t reached = 0, copies = 0;
        const size_t n = kernel.code.size();
        for (size_t i = 0; i < n; ++i) {
            if (!tally.reached[i]) continue;
            ++reached;
            known.insert(origin(kernel.code[i]));
        }
        for (size_t i = 0; i < n; ++i) {
            if (tally.reached[i]) continue;
            const ptx::Instruction& ins = kernel.code[i];
            const bool copy = !ins.source_line || known.count(origin(ins));
            copies += copy;
            if (number("DDU_PTX_UNREACHED", 0) > (copy ? 1 : 0)) {
                std::fprintf(out, "unreached %s:%u [%u] %s\n", kernel.module.c_str(), ins.line, ins.source_line, ins.text.c_str());
            }
        }
        std::fprintf(out, "kernel %s launches %llu instructions %llu reached %zu of %zu (%zu), %.1f s\n", kernel.name.c_str(),
                     static_cast<unsigned long long>(tally.launches), static_cast<unsigned long long>(tally.instructions), reached, n,
                     n - copies, tally.seconds);
    }
};

World& world() {
    static World all;
    return all;
}

}  // namespace

extern "C" {

const char* ddu_simt_kernel(uint32_t i, uint32_t* params_bytes, uint32_t* threads) {
    const World& w = world();
    if (i >= w.kernels.size()) return nullptr;
    *params_bytes = w.kernels[i].params_bytes;
    *threads = w.kernels[i].threads;
    return w.kernels[i].name.c_str();
}

void* ddu_simt_alloc(uint64_t bytes) {
    World& w = world();
    std::lock_guard lock(w.mutex);
    void* data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!data) return nullptr;
    std::memset(data, 0xff, bytes);
    w.memory[reinterpret_cast<uint64_t>(data)] = bytes;
    return data;
}

void ddu_simt_free(void* data) {
    World& w = world();
    std::lock_guard lock(w.mutex);
    w.memory.erase(reinterpret_cast<uint64_t>(data));
    std::free(data);
}

int ddu_simt_launch(DduSimtLaunch* request, char* error, uint64_t error_bytes) {
    World& w = world();
    std::lock_guard lock(w.mutex);
    const ptx::Kernel* kernel = w.find(request->kernel);
    if (!kernel || kernel->params_bytes != request->params_bytes || kernel->threads < request->threads)
        stop(std::string("a launch of ") + request->kernel + " that does not fit its PTX");
    const auto* params = static_cast<const uint8_t*>(request->params);
    ptx::Launch launch{kernel,
                       {request->grid_x, request->grid_y, request->grid_z},
                       request->threads,
                       uint32_t(request->shared_bytes),
                       {params, params + request->params_bytes},
                       {},
                       std::max(request->cluster, 1u)};
    if (launch.cluster > 8 || launch.grid[0] % launch.cluster) stop("a grid that is not of whole clusters of at most 8 blocks");
    const uint64_t guard = uint64_t(number("DDU_PTX_GUARD", 0));
    for (auto [address, bytes] : w.memory) {
        if (bytes >= 2 * guard) launch.memory.push_back({address + guard, address + bytes - guard});
    }
    ptx::Options options = w.options;
    options.workers = options.races ? 1 : int(request->workers);
    const auto start = std::chrono::steady_clock::now();
    const ptx::Result result = ptx::execute(launch, options, w.notes);
    Tally& tally = w.tallies[kernel->name];
    ++tally.launches;
    tally.instructions += result.instructions;
    tally.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    tally.reached.resize(kernel->code.size());
    for (size_t i = 0; i < tally.reached.size(); ++i) tally.reached[i] = tally.reached[i] || result.reached[i];
    if (result.error.empty()) return 0;
    w.errors.push_back(result.error);
    std::snprintf(error, error_bytes, "%s", result.error.c_str());
    return 1;
}
}
