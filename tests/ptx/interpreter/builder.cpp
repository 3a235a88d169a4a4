#include "builder.h"

#include <algorithm>
#include <stdexcept>

namespace ptx {

std::string trim(const std::string& s) {
    const size_t a = s.find_first_not_of(" \t\n\r"), b = s.find_last_not_of(" \t\n\r");
    return a == std::string::npos ? "" : s.substr(a, b - a + 1);
}

std::vector<std::string> split(const std::string& s, char separator) {
    std::vector<std::string> out;
    int depth = 0;
    std::string part;
    for (char c : s) {
        if (c == '{' || c == '[') ++depth;
        if (c == '}' || c == ']') --depth;
        if (c == separator && depth == 0) {
            out.push_back(trim(part));
            part.clear();
        } else {
            part += c;
        }
    }
    if (!trim(part).empty() || !out.empty()) out.push_back(trim(part));
    return out;
}

bool starts(const std::string& s, const char* prefix) { return s.rfind(prefix, 0) == 0; }

void Builder::bad(const std::string& what) const { throw std::runtime_error(kernel.module + ":" + std::to_string(line) + ": " + what); }

void Builder::need(const std::vector<std::string>& o, size_t n) const {
    if (o.size() != n) bad("expected " + std::to_string(n) + " operands");
}

void Builder::open() {
    scopes.push_back(std::make_unique<Scope>(Scope{scope, {}, {}}));
    scope = scopes.back().get();
}

void Builder::declare(const std::string& type, const std::string& name) {
    char c = type == ".pred" ? 'p' : type == ".b64" || type == ".f64" ? 'd' : type == ".b16" || type == ".f16" ? 'h' : 'w';
    if (c == 'w' && type != ".b32" && type != ".f32") bad("registers of type " + type);
    auto add = [&](const std::string& name) { scope->registers[name] = {c, c == 'p' ? kernel.predicates++ : rows(c == 'd' ? 2 : 1)}; };
    const size_t less = name.find('<');
    if (less == std::string::npos) return add(name);
    for (int i = 0; i < std::stoi(name.substr(less + 1)); ++i) add(name.substr(0, less) + std::to_string(i));
}

std::pair<char, uint32_t> Builder::find(const std::string& name) {
    for (Scope* s = scope; s; s = s->parent) {
        auto found = s->registers.find(name);
        if (found != s->registers.end()) return found->second;
    }
    if (starts(name, "%tid.") || starts(name, "%ctaid.") || starts(name, "%nctaid.") || starts(name, "%ntid.") || name == "%laneid") {
        auto found = kernel.specials.find(name);
        if (found == kernel.specials.end()) found = kernel.specials.emplace(name, rows(1)).first;
        return {'w', found->second};
    }
    bad("no register " + name);
}

bool Builder::value(const std::string& s, uint64_t& out) {
    if (s.empty()) return false;
    if (starts(s, "0f") || starts(s, "0F") || starts(s, "0d") || starts(s, "0D")) return out = std::stoull(s.substr(2), nullptr, 16), true;
    if (isdigit(s[0])) return out = std::stoull(s, nullptr, 0), true;
    if (s[0] == '-' && s.size() > 1 && isdigit(s[1])) return out = uint64_t(std::stoll(s, nullptr, 0)), true;
    if (s == "ddu_arena") return out = kernel.shared_base, true;
    if (s == kernel.name + "_param_0") return out = kernel.param_base, true;
    for (const Variable& variable : kernel.variables) {
        if (s == variable.name) return out = variable.address(), true;
    }
    return false;
}

uint32_t Builder::constant(char c, uint64_t v) {
    if (c != 'd' && c != 'p') v = uint32_t(v);
    auto found = constants.find({c, v});
    if (found != constants.end()) return found->second;
    uint32_t at;
    if (c == 'p') {
        kernel.flags.push_back({at = kernel.predicates++, v != 0});
    } else if (c == 'd') {
        kernel.doubles.push_back({at = rows(2), v});
    } else {
        kernel.words.push_back({at = rows(1), uint32_t(v)});
    }
    return constants[{c, v}] = at;
}

// Row or predicate of an operand that is to have class c (w: 32 or 16 bits).
uint32_t Builder::operand(char c, const std::string& s) {
    uint64_t v;
    if (value(s, v)) return constant(c, v);
    auto [found, at] = find(s);
    if ((found == 'h' ? 'w' : found) != c) bad("operand " + s + " is not of class " + c);
    return at;
}

void Builder::address(Instruction& ins, std::string s, char c, int slot) {
    if (s.size() < 2 || s[0] != '[' || s.back() != ']') bad("no address: " + s);
    s = s.substr(1, s.size() - 2);
    const size_t plus = s.find('+');
    const std::string base = trim(s.substr(0, plus));
    if (plus != std::string::npos) ins.imm = std::stoll(trim(s.substr(plus + 1)));
    ins.s[slot] = operand(c, base);
}

void Builder::instruction(std::string s) {
    Draft draft{{}, "", scope};
    Instruction& ins = draft.ins;
    ins.text = s;
    std::replace(ins.text.begin(), ins.text.end(), '\n', ' ');
    std::replace(ins.text.begin(), ins.text.end(), '\t', ' ');
    ins.line = line;
    ins.file = file;
    ins.source_line = source_line;
    if (s[0] == '@') {
        const size_t space = s.find_first_of(" \t");
        std::string guard = s.substr(1, space - 1);
        ins.negated = guard[0] == '!';
        ins.guard = int32_t(operand('p', guard.substr(ins.negated)));
        s = trim(s.substr(space));
    }
    const size_t space = s.find_first_of(" \t\n");
    const std::string op = s.substr(0, space);
    const std::vector<std::string> o = space == std::string::npos ? std::vector<std::string>{} : split(s.substr(space));
    decode(draft, op, o);
    if (ins.kind == PLAIN && !ins.run) bad("no such instruction: " + op);
    code.push_back(std::move(draft));
}

}  // namespace ptx
