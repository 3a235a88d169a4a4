// PTX text to kernels.
#include <cctype>
#include <cstring>
#include <stdexcept>

#include "builder.h"

namespace ptx {
namespace {

struct Reader {
    const std::string& text;
    size_t at = 0;
    uint32_t line = 1;

    bool end() const { return at >= text.size(); }
    void step() {
        if (text[at] == '\n') ++line;
        ++at;
    }
    void blank() {
        while (!end()) {
            if (isspace(static_cast<unsigned char>(text[at]))) {
                step();
            } else if (text.compare(at, 2, "//") == 0) {
                while (!end() && text[at] != '\n') ++at;
            } else {
                break;
            }
        }
    }
    std::string until(const char* stops) {
        std::string out;
        while (!end() && !std::strchr(stops, text[at])) {
            out += text[at];
            step();
        }
        return out;
    }
};

}  // namespace

std::vector<Kernel> parse(const std::string& text, const std::string& module) {
    std::vector<Kernel> kernels;
    std::map<uint32_t, std::string> files;
    std::vector<Variable> variables;
    uint32_t shared_base = 1024;
    Reader r{text};
    while (r.blank(), !r.end()) {
        const uint32_t line = r.line;
        std::string word = r.until(" \t\n");
        if (word == ".file") {
            const std::string rest = r.until("\n");
            const size_t quote = rest.find('"');
            std::string name = rest.substr(quote + 1, rest.rfind('"') - quote - 1);
            const size_t slash = name.find("kernels/");
            files[uint32_t(std::stoi(rest))] = slash == std::string::npos ? name : name.substr(slash);
            continue;
        }
        if (word == ".section") {
            r.until("}");
            r.step();
            continue;
        }
        if (word == ".extern") {
            // At no better alignment than the text declares.
            const std::string rest = r.until("\n");
            const size_t at = rest.find(".shared .align ");
            if (at == std::string::npos) continue;
            const uint32_t alignment = uint32_t(std::stoi(rest.substr(at + 15)));
            shared_base = alignment;
            while (shared_base < 1024) shared_base += 2 * alignment;
            continue;
        }
        if (word == ".global") {
            // ".align 4 .b8 NAME[BYTES]", of 0s.
            const std::string rest = r.until(";");
            const size_t name = rest.find_last_of(" \t") + 1, bracket = rest.find('[', name);
            if (bracket == std::string::npos || rest.find(" .b8 ") == std::string::npos)
                throw std::runtime_error(module + ":" + std::to_string(line) + ": a variable that is no array of bytes");
            const size_t bytes = std::stoul(rest.substr(bracket + 1));
            variables.push_back({rest.substr(name, bracket - name), std::make_shared<std::vector<uint32_t>>((bytes + 3) / 4)});
            r.step();
            continue;
        }
        if (word != ".visible") {
            r.until("\n");
            continue;
        }
        Builder b;
        b.kernel.shared_base = shared_base;
        b.kernel.module = module;
        b.kernel.variables = variables;
        std::string head = r.until("{");
        const size_t entry = head.find(".entry");
        if (entry == std::string::npos) throw std::runtime_error(module + ":" + std::to_string(line) + ": not an entry");
        const size_t bracket = head.find('(');
        b.kernel.name = trim(head.substr(entry + 6, bracket - entry - 6));
        // At no better alignment than the text declares.
        const size_t aligned = head.find(".param .align ");
        b.kernel.param_base = 0x200 + (aligned == std::string::npos ? 8 : std::stoull(head.substr(aligned + 14)));
        const size_t size = head.find("_param_0[");
        b.kernel.params_bytes = uint32_t(std::stoi(head.substr(size + 9)));
        if (const size_t at = head.find(".maxntid"); at != std::string::npos) b.kernel.threads = uint32_t(std::stoi(head.substr(at + 8)));
        if (const size_t at = head.find(".reqnctapercluster"); at != std::string::npos)
            b.kernel.cluster = uint32_t(std::stoi(head.substr(at + 18)));
        r.step();
        b.open();
        while (true) {
            r.blank();
            b.line = r.line;
            const char c = text[r.at];
            if (c == '{') {
                r.step();
                b.open();
            } else if (c == '}') {
                r.step();
                b.scope = b.scope->parent;
                if (!b.scope) break;
            } else if (c == '.') {
                word = r.until(" \t\n");
                if (word == ".loc") {
                    const std::string rest = r.until("\n");
                    char* end;
                    b.file = uint32_t(std::strtol(rest.c_str(), &end, 10));
                    b.source_line = uint32_t(std::strtol(end, nullptr, 10));
                } else if (word == ".reg") {
                    const std::string rest = trim(r.until(";"));
                    r.step();
                    const size_t space = rest.find_first_of(" \t");
                    for (const std::string& name : split(rest.substr(space))) b.declare(rest.substr(0, space), name);
                } else if (word == ".pragma") {
                    r.until(";");
                    r.step();
                } else {
                    b.bad("directive " + word);
                }
            } else {
                // A label, or an instruction.
                const size_t from = r.at;
                size_t i = from;
                while (i < text.size() && (isalnum(static_cast<unsigned char>(text[i])) || text[i] == '$' || text[i] == '_')) ++i;
                if (i > from && text[i] == ':' && text[i + 1] != ':') {
                    b.scope->labels[text.substr(from, i - from)] = uint32_t(b.code.size());
                    while (r.at <= i) r.step();
                } else {
                    b.instruction(trim(r.until(";")));
                    r.step();
                }
            }
        }
        b.lay_out();
        kernels.push_back(std::move(b.kernel));
    }
    for (Kernel& kernel : kernels) kernel.files = files;
    return kernels;
}

}  // namespace ptx
