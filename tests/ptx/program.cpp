// A program that runs a kernel of a PTX file in the interpreter, for main.rs:
//
//   program operations                            the operations of lanes.cpp and the classes of their operands
//   program instructions                          all others: as decode.cpp calls them
//   program run FILE THREADS SHARED OUT IN [SEED]  the file's first kernel on one block, or one cluster, its parameter two addresses: OUT words
//                                                 to write, and what the file IN holds. Where the parameter is larger, tensor maps
//                                                 come first in it, and first in IN, with addresses from the start of the rest
//                                                 or, where bit 63 is set, from that of the words to write.
//
// Prints the words in hexadecimal; then a line "note ..." for each thing that the ISA leaves undefined; or the error, and
// fails. With a seed it looks for races too.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

#include "interpreter/block.h"

namespace {

std::string contents(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

int run(char** argument, bool seeded) {
    const std::vector<ptx::Kernel> kernels = ptx::parse(contents(argument[0]), "test.ptx");
    std::string in = contents(argument[4]);
    const size_t maps_bytes = kernels.at(0).params_bytes - 16;
    std::vector<uint8_t> maps(in.begin(), in.begin() + int64_t(maps_bytes));
    in.erase(0, maps_bytes);
    // As from an allocation: at a multiple of 256.
    const size_t out_bytes = size_t(std::atoi(argument[3])) * 4, in_bytes = (in.size() + 255) / 256 * 256;
    auto* out = static_cast<uint8_t*>(std::aligned_alloc(256, (out_bytes + 255) / 256 * 256));
    auto* data = static_cast<uint8_t*>(std::aligned_alloc(256, in_bytes + 256));
    std::memset(out, 0xee, out_bytes);
    std::memcpy(data, in.data(), in.size());
    const uint64_t addresses[2] = {reinterpret_cast<uint64_t>(out), reinterpret_cast<uint64_t>(data)};
    ptx::Launch launch{&kernels.at(0), {1, 1, 1}, uint32_t(std::atoi(argument[1])), uint32_t(std::atoi(argument[2])), {}, {}};
    for (size_t i = 0; i < maps_bytes; i += sizeof(simt::TensorMap)) {
        auto* map = reinterpret_cast<simt::TensorMap*>(maps.data() + i);
        const uint64_t of_out = uint64_t(1) << 63;
        map->address = (map->address & of_out ? addresses[0] : addresses[1]) + (map->address & ~of_out);
    }
    launch.cluster = launch.grid[0] = kernels.at(0).cluster;
    launch.params = std::move(maps);
    launch.params.resize(maps_bytes + sizeof addresses);
    std::memcpy(launch.params.data() + maps_bytes, addresses, sizeof addresses);
    launch.memory = {{addresses[0], addresses[0] + out_bytes}, {addresses[1], addresses[1] + in.size()}};
    if (addresses[0] > addresses[1]) std::swap(launch.memory[0], launch.memory[1]);
    ptx::Options options;
    options.workers = 1;
    if (seeded) {
        options.seed = std::atoi(argument[5]);
        options.races = true;
    }
    ptx::Notes notes;
    const ptx::Result result = ptx::execute(launch, options, notes);
    if (result.error.empty()) {
        for (size_t i = 0; i < out_bytes; i += 4) {
            uint32_t word;
            std::memcpy(&word, out + i, 4);
            std::printf("%08x\n", word);
        }
    } else {
        std::printf("%s\n", result.error.c_str());
    }
    for (auto& [key, note] : notes) std::printf("note %s: %s\n", key.second.c_str(), note.first.c_str());
    std::free(out);
    std::free(data);
    return !result.error.empty();
}

}  // namespace

int main(int count, char** argument) {
    try {
        if (count > 1 && std::string(argument[1]) == "operations") {
            for (auto& [name, entry] : ptx::table()) std::printf("%s %s\n", name.c_str(), entry.operands.c_str());
            return 0;
        }
        if (count > 1 && std::string(argument[1]) == "instructions") {
            for (const std::string& name : ptx::special_names()) std::printf("%s\n", name.c_str());
            return 0;
        }
        if (count > 6) return run(argument + 2, count > 7);
    } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
        return 1;
    }
    std::fprintf(stderr, "see the head of program.cpp\n");
    return 2;
}
