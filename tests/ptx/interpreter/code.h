// A kernel's PTX, decoded.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace ptx {

constexpr uint32_t FULL = 0xffffffffu;

struct Block;
struct Warp;
struct Instruction;
// Executes an instruction for the lanes of `mask`; false: it cannot go on yet and is to be executed again.
using Handler = bool (*)(Block&, Warp&, const Instruction&, uint32_t mask);

enum Kind : uint8_t { PLAIN, BRANCH, RETURN };

struct Instruction {
    Handler run = nullptr;
    Kind kind = PLAIN;
    int32_t guard = -1;  // predicate register
    bool negated = false;
    uint32_t d = 0, s[5] = {};                // rows (128 bytes of the register file; 64-bit registers take two), or predicates
    int64_t imm = 0;                          // an address's offset, a count
    uint8_t bytes = 0, count = 1, shape = 0;  // of an access: an element's, elements; of a wgmma: N
    bool is_signed = false;
    std::vector<uint32_t> list, list2;  // the registers of a vector operand
    std::vector<uint8_t> wide;          // of those of `list`: 64 bits, 32, 16
    uint32_t next = 0, target = 0;      // instructions
    uint32_t line = 0, file = 0, source_line = 0, id = 0;
    std::string text;
};

// A variable in global memory, of the module: all its kernels have it.
struct Variable {
    std::string name;
    std::shared_ptr<std::vector<uint32_t>> words;
    uint64_t address() const { return reinterpret_cast<uint64_t>(words->data()); }
};

struct Kernel {
    std::string name, module;
    uint32_t params_bytes = 0, threads = 0;
    uint32_t cluster = 1;  // .reqnctapercluster
    std::vector<Instruction> code;
    uint32_t rows = 0, predicates = 0;
    uint32_t shared_base = 0;  // address of ddu_arena
    uint64_t param_base = 0;   // of the parameter: of the generic window as well
    // Rows and predicates that hold constants.
    std::vector<std::pair<uint32_t, uint32_t>> words;
    std::vector<std::pair<uint32_t, uint64_t>> doubles;
    std::vector<std::pair<uint32_t, bool>> flags;
    std::map<std::string, uint32_t> specials;  // %tid.x ..: rows
    std::map<uint32_t, std::string> files;
    std::vector<Variable> variables;
};

// An instruction that takes registers to a register, lane by lane (lanes.cpp): its handler, and a letter an operand, the
// destination first (w and d: 32- and 64-bit rows, p: predicate).
struct Entry {
    Handler run;
    std::string operands;
};
const std::map<std::string, Entry>& table();
// All others, which decode.cpp knows: memory, barriers, copies, matrices.
Handler special(const std::string& name);
std::vector<std::string> special_names();

std::vector<Kernel> parse(const std::string& text, const std::string& module);

}  // namespace ptx
