// A kernel under construction: scopes, registers, and the instructions in the order of the text.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "code.h"

namespace ptx {

// Without blanks at either end; in parts, but not inside brackets; whether it starts so.
std::string trim(const std::string& s);
std::vector<std::string> split(const std::string& s, char separator = ',');
bool starts(const std::string& s, const char* prefix);

struct Scope {
    Scope* parent;
    std::map<std::string, std::pair<char, uint32_t>> registers;  // class, row or predicate
    std::map<std::string, uint32_t> labels;
};

// Registers become rows of 32 lanes. Classes: p predicate, h 16 bits, w 32, d 64.
struct Builder {
    Kernel kernel;
    std::vector<std::unique_ptr<Scope>> scopes;
    Scope* scope = nullptr;
    std::map<std::pair<char, uint64_t>, uint32_t> constants;
    struct Draft {
        Instruction ins;
        std::string target;
        Scope* scope;
    };
    std::vector<Draft> code;
    uint32_t line = 0, file = 0, source_line = 0;

    [[noreturn]] void bad(const std::string& what) const;
    void open();
    uint32_t rows(uint32_t n) { return std::exchange(kernel.rows, kernel.rows + n); }
    void declare(const std::string& type, const std::string& name);
    std::pair<char, uint32_t> find(const std::string& name);
    // Whether an operand is a number; 0f.. and 0d.. are bits.
    bool value(const std::string& s, uint64_t& out);
    uint32_t constant(char c, uint64_t v);
    // Row or predicate of an operand that is to have class c (w: 32 or 16 bits).
    uint32_t operand(char c, const std::string& s);
    void address(Instruction& ins, std::string s, char c, int slot);
    void instruction(std::string s);
    void need(const std::vector<std::string>& o, size_t n) const;

    // decode.cpp: operation and operands; those by kind say whether it was theirs.
    void decode(Draft& draft, const std::string& op, const std::vector<std::string>& o);
    bool decode_access(Draft& draft, const std::string& op, const std::vector<std::string>& o);
    bool decode_warp(Draft& draft, const std::string& op, const std::vector<std::string>& o);
    bool decode_matrices(Draft& draft, const std::string& op, const std::vector<std::string>& o);
    bool decode_asynchronous(Draft& draft, const std::string& op, const std::vector<std::string>& o);
    bool decode_warpgroup(Draft& draft, const std::string& op, const std::vector<std::string>& o);
    // layout.cpp: the order of the blocks; ends the construction.
    void lay_out();
};

}  // namespace ptx
