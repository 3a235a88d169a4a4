// Operations and their operands.
#include "builder.h"

namespace ptx {
namespace {

std::vector<std::string> braced(const std::string& s) {
    return s.size() > 1 && s[0] == '{' ? split(s.substr(1, s.size() - 2)) : std::vector<std::string>{s};
}

}  // namespace

// Loads, stores, and moves between a register and its parts.
bool Builder::decode_access(Draft& draft, const std::string& op, const std::vector<std::string>& o) {
    Instruction& ins = draft.ins;
    std::vector<std::string> parts = split(op, '.');
    // Nothing here is kept in registers behind the program's back.
    if (parts.size() > 1 && parts[1] == "volatile") parts.erase(parts.begin() + 1);
    const std::string& type = parts.back();
    if (parts[0] == "ld" || parts[0] == "st") {
        const bool load = parts[0] == "ld";
        const std::string space = parts[1];
        size_t i = 2;
        // Read-only while the kernel runs: races.cpp holds the launch to it.
        if (parts[i] == "nc") ++i, ins.shape = 1;
        if (parts[i] == "v2" || parts[i] == "v4") ++i;
        if (i + 1 != parts.size()) bad("a qualifier of " + op);
        need(o, 2);
        const std::vector<std::string> values = braced(o[load ? 0 : 1]);
        ins.bytes = uint8_t(std::stoi(type.substr(1)) / 8);
        ins.is_signed = type[0] == 's';
        ins.count = uint8_t(values.size());
        if (values.size() != size_t(parts[i - 1][0] == 'v' ? parts[i - 1][1] - '0' : 1)) bad("elements of " + op);
        for (const std::string& v : values) {
            uint64_t number;
            const char c = value(v, number) ? (ins.bytes == 8 ? 'd' : 'w') : v == "_" ? '_' : find(v).first;
            if (c == '_') bad("a sink");
            ins.list.push_back(operand(c == 'h' ? 'w' : c, v));
            ins.wide.push_back(c == 'd' ? 64 : c == 'h' ? 16 : 32);
        }
        // Shared addresses are 32 bits wide, or 64.
        const std::string address_text = o[load ? 1 : 0];
        char c = starts(space, "shared") ? 'w' : 'd';
        uint64_t number;
        const std::string base = trim(address_text.substr(1, address_text.find_first_of("+]") - 1));
        if (!value(base, number) && find(base).first != c) bad("address of another width");
        address(ins, address_text, c, 0);
        ins.run = special(parts[0] + "." + space);
    } else if (parts[0] == "mov" && (o[0][0] == '{' || o[1][0] == '{')) {
        const bool split_up = o[0][0] == '{';
        for (const std::string& v : braced(o[split_up ? 0 : 1])) ins.list.push_back(v == "_" ? rows(1) : operand('w', v));
        if (ins.list.size() != 2) bad("a vector of two");
        (split_up ? ins.s[0] : ins.d) = operand(type == "b64" ? 'd' : 'w', o[split_up ? 1 : 0]);
        ins.run = special((split_up ? "unpack." : "pack.") + type);
    } else if (parts[0] == "cvta") {
        ins.d = operand('d', o[0]);
        ins.s[0] = operand('d', o[1]);
        if (op != "cvta.to.global.u64" && op != "cvta.param.u64") bad(op);
        ins.run = table().at("mov.b64").run;
    } else {
        return false;
    }
    return true;
}

// What lanes and warps do together.
bool Builder::decode_warp(Draft& draft, const std::string& op, const std::vector<std::string>& o) {
    Instruction& ins = draft.ins;
    const std::vector<std::string> parts = split(op, '.');
    if (parts[0] == "shfl") {
        if (parts[1] != "sync") bad(op);
        const std::vector<std::string> d = split(o[0], '|');
        ins.d = operand('w', d[0]);
        ins.s[4] = d.size() > 1 ? operand('p', d[1]) : FULL;
        for (int i = 0; i < 4; ++i) ins.s[i] = operand('w', o[i + 1]);
        ins.run = special(op);
    } else if (op == "vote.sync.ballot.b32") {
        ins.d = operand('w', o[0]);
        ins.s[0] = operand('p', o[1]);
        ins.s[1] = operand('w', o[2]);
        ins.run = special(op);
    } else if (op == "bar.warp.sync") {
        ins.s[0] = operand('w', o[0]);
        ins.run = special(op);
    } else if (op == "mapa.shared::cluster.u32") {
        ins.d = operand('w', o[0]);
        ins.s[0] = operand('w', o[1]);
        ins.s[1] = operand('w', o[2]);
        ins.run = special("mapa");
    } else if (op == "barrier.cluster.arrive.release.aligned" || op == "barrier.cluster.wait.acquire.aligned") {
        ins.run = special("barrier.cluster." + parts[2]);
    } else if (op == "bar.sync" || op == "barrier.sync") {
        ins.s[0] = operand('w', o[0]);
        ins.count = uint8_t(o.size());
        if (o.size() > 1) ins.s[1] = operand('w', o[1]);
        ins.run = special(op);
    } else {
        return false;
    }
    return true;
}

// A warp's matrices.
bool Builder::decode_matrices(Draft& draft, const std::string& op, const std::vector<std::string>& o) {
    Instruction& ins = draft.ins;
    if (starts(op, "ldmatrix.sync.aligned.m8n8.x4.")) {
        for (const std::string& v : braced(o[0])) ins.list.push_back(operand('w', v));
        address(ins, o[1], 'w', 0);
        if (ins.list.size() != 4) bad("fragments of ldmatrix");
        ins.shape = op.find(".trans") != std::string::npos;
        ins.run = special("ldmatrix");
    } else if (op == "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32") {
        need(o, 4);
        for (const std::string& v : braced(o[0])) ins.list.push_back(operand('w', v));  // d
        for (int i = 1; i < 4; ++i) {
            for (const std::string& v : braced(o[i])) ins.list2.push_back(operand('w', v));  // a, b, c
        }
        if (ins.list.size() != 4 || ins.list2.size() != 10) bad("fragments of mma");
        ins.run = special("mma");
    } else {
        return false;
    }
    return true;
}

// Asynchronous copies and mbarriers.
bool Builder::decode_asynchronous(Draft& draft, const std::string& op, const std::vector<std::string>& o) {
    Instruction& ins = draft.ins;
    // There is room for one offset: that of a cp.async's source.
    auto plain = [&](const std::string& s, char c, int slot) {
        address(ins, s, c, slot);
        if (ins.imm) bad("an offset");
    };
    // [map, {coordinates}]
    auto tensor = [&](const std::string& s) {
        if (s.size() < 2 || s[0] != '[') bad("no tensor: " + s);
        const std::vector<std::string> place = split(s.substr(1, s.size() - 2));
        need(place, 2);
        ins.s[1] = operand('d', place[0]);
        for (const std::string& v : braced(place[1])) ins.list.push_back(operand('w', v));
    };
    if (op == "cp.async.cg.shared.global") {
        plain(o[0], 'w', 0);
        address(ins, o[1], 'd', 1);
        ins.bytes = uint8_t(std::stoi(o[2]));
        if (ins.bytes != 16) bad("cp.async.cg of other than 16 bytes");
        ins.s[2] = o.size() > 3 ? operand('w', o[3]) : constant('w', ins.bytes);
        ins.run = special(op);
    } else if (op == "cp.async.wait_group" || op == "cp.async.bulk.wait_group.read" || op == "wgmma.wait_group.sync.aligned") {
        ins.imm = std::stoi(o[0]);
        ins.run = special(op);
    } else if (op == "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes") {
        plain(o[0], 'w', 0);
        plain(o[1], 'd', 1);
        ins.s[2] = operand('w', o[2]);
        plain(o[3], 'w', 3);
        ins.run = special("cp.async.bulk");
    } else if (op == "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group") {
        need(o, 2);
        tensor(o[0]);
        plain(o[1], 'w', 0);
        if (ins.list.size() != 3) bad("coordinates of " + op);
        ins.run = special("cp.async.bulk.tensor.store");
    } else if (starts(op, "cp.async.bulk.tensor.")) {
        const std::vector<std::string> parts = split(op, '.');
        const size_t rank = size_t(parts[4][0] - '0');
        ins.is_signed = parts[7] == "im2col";
        const std::string form = ins.is_signed ? "im2col" : "tile";
        if (op != "cp.async.bulk.tensor." + parts[4] + ".shared::cluster.global." + form + ".mbarrier::complete_tx::bytes") bad(op);
        need(o, ins.is_signed ? 4 : 3);
        plain(o[0], 'w', 0);
        tensor(o[1]);
        plain(o[2], 'w', 3);
        if (ins.is_signed) {
            for (const std::string& v : braced(o[3])) ins.list2.push_back(operand('w', v));
        }
        if (ins.list.size() != rank || rank > 4 || ins.list2.size() != (ins.is_signed ? rank - 2 : 0)) bad("coordinates of " + op);
        ins.run = special("cp.async.bulk.tensor");
    } else if (op == "prefetch.tensormap") {
        plain(o[0], 'd', 0);
        ins.run = special(op);
    } else if (op == "mbarrier.init.shared::cta.b64") {
        plain(o[0], 'w', 0);
        ins.s[1] = operand('w', o[1]);
        ins.run = special("mbarrier.init");
    } else if (op == "mbarrier.arrive.shared::cta.b64" || op == "mbarrier.arrive.expect_tx.shared::cta.b64") {
        if (o[0] != "_") bad("a state");
        plain(o[1], 'w', 0);
        ins.s[1] = o.size() > 2 ? operand('w', o[2]) : constant('w', 0);
        ins.run = special("mbarrier.arrive");
    } else if (op == "mbarrier.try_wait.parity.shared::cta.b64") {
        ins.d = operand('p', o[0]);
        plain(o[1], 'w', 0);
        ins.s[1] = operand('w', o[2]);
        ins.run = special("mbarrier.try_wait");
    } else {
        return false;
    }
    return true;
}

// Warpgroups.
bool Builder::decode_warpgroup(Draft& draft, const std::string& op, const std::vector<std::string>& o) {
    Instruction& ins = draft.ins;
    const std::vector<std::string> parts = split(op, '.');
    if (starts(op, "setmaxnreg.")) {
        ins.imm = std::stoi(o[0]);
        ins.shape = parts[1] == "inc";
        ins.run = special("setmaxnreg");
    } else if (starts(op, "wgmma.mma_async.sync.aligned.m64n")) {
        const std::string shape = parts[4];
        ins.shape = uint8_t(std::stoi(shape.substr(4, shape.find('k') - 4)));
        if (shape.substr(shape.find('k')) != "k16" || parts[5] != "f32" || parts[6] != "f16" || parts[7] != "f16") bad(op);
        // What warpgroup.cpp has room for.
        if (ins.shape == 0 || ins.shape % 8 || ins.shape > 128) bad(op);
        // The left operand in registers, or a descriptor of where it lies.
        const bool registers = o[1][0] == '{';
        need(o, registers ? 7 : 8);
        for (const std::string& v : braced(o[0])) ins.list.push_back(operand('w', v));
        if (registers) {
            for (const std::string& v : braced(o[1])) ins.list2.push_back(operand('w', v));
        } else {
            ins.s[2] = operand('d', o[1]);
        }
        if (ins.list.size() != ins.shape / 2u || ins.list2.size() != (registers ? 4 : 0)) bad("fragments of wgmma");
        if (o[4] != "1" || o[5] != "1" || o[6] != "0" || o.back() != "0") bad("scales and transposition of wgmma");
        ins.s[0] = operand('d', o[2]);
        ins.s[1] = operand('p', o[3]);
        ins.run = special("wgmma");
    } else {
        return false;
    }
    return true;
}

void Builder::decode(Draft& draft, const std::string& op, const std::vector<std::string>& o) {
    Instruction& ins = draft.ins;
    if (op == "bra" || op == "bra.uni") {
        ins.kind = BRANCH;
        draft.target = o.at(0);
    } else if (op == "ret" || op == "exit") {
        ins.kind = RETURN;
    } else if (decode_access(draft, op, o) || decode_warp(draft, op, o) || decode_matrices(draft, op, o) ||
               decode_asynchronous(draft, op, o) || decode_warpgroup(draft, op, o)) {
        return;
    } else if (special(op)) {
        need(o, 0);
        ins.run = special(op);
    } else {
        auto found = table().find(op);
        uint64_t number;
        // The low word of a wider register.
        if (op == "cvt.s64.s32" && !value(o[1], number) && find(o[1]).first == 'd') found = table().find(op + "/64");
        if (found == table().end()) bad("unknown instruction " + op);
        const std::string& classes = found->second.operands;
        need(o, classes.size());
        ins.run = found->second.run;
        ins.d = operand(classes[0], o[0]);
        for (size_t i = 1; i < classes.size(); ++i) ins.s[i - 1] = operand(classes[i], o[i]);
    }
}

}  // namespace ptx
