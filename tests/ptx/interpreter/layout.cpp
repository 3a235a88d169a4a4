// The order of a kernel's basic blocks: the least instruction of a diverged warp is the one to execute next ("thread
// frontiers"), so that every loop lies in one piece, before what follows it.
#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "builder.h"

namespace ptx {

void Builder::lay_out() {
    const uint32_t n = uint32_t(code.size());
    std::set<uint32_t> starts_at = {0};
    std::vector<uint32_t> target(n, n);
    for (uint32_t i = 0; i < n; ++i) {
        Draft& draft = code[i];
        if (draft.ins.kind == PLAIN) continue;
        starts_at.insert(i + 1);
        if (draft.ins.kind != BRANCH) continue;
        for (Scope* s = draft.scope; s; s = s->parent) {
            auto found = s->labels.find(draft.target);
            if (found != s->labels.end()) {
                target[i] = found->second;
                break;
            }
        }
        if (target[i] >= n) bad("no label " + draft.target);
        starts_at.insert(target[i]);
    }
    starts_at.erase(n);
    std::vector<uint32_t> first(starts_at.begin(), starts_at.end());
    const int blocks = int(first.size());
    auto block_of = [&](uint32_t i) { return int(std::upper_bound(first.begin(), first.end(), i) - first.begin()) - 1; };
    std::vector<std::vector<int>> next(blocks);
    for (int b = 0; b < blocks; ++b) {
        const uint32_t end = b + 1 < blocks ? first[b + 1] : n, last = end - 1;
        const Instruction& ins = code[last].ins;
        const bool always = ins.kind != PLAIN && ins.guard < 0;
        if (!always) {
            if (end == n) bad("the code does not end with ret");
            next[b].push_back(b + 1);
        }
        if (ins.kind == BRANCH) next[b].push_back(block_of(target[last]));
    }
    std::vector<int> order;
    std::function<void(const std::vector<int>&, const std::set<std::pair<int, int>>&, int)> arrange =
        [&](const std::vector<int>& nodes, const std::set<std::pair<int, int>>& cut, int entry) {
            std::set<int> inside(nodes.begin(), nodes.end());
            std::map<int, int> index, low;
            std::vector<int> stack;
            std::set<int> on;
            std::vector<std::vector<int>> parts;
            int count = 0;
            std::function<void(int)> visit = [&](int v) {
                index[v] = low[v] = count++;
                stack.push_back(v);
                on.insert(v);
                for (int w : next[v]) {
                    if (!inside.count(w) || cut.count({v, w})) continue;
                    if (!index.count(w)) {
                        visit(w);
                        low[v] = std::min(low[v], low[w]);
                    } else if (on.count(w)) {
                        low[v] = std::min(low[v], index[w]);
                    }
                }
                if (low[v] == index[v]) {
                    parts.emplace_back();
                    int w;
                    do {
                        w = stack.back();
                        stack.pop_back();
                        on.erase(w);
                        parts.back().push_back(w);
                    } while (w != v);
                }
            };
            visit(entry);
            for (int v : nodes) {
                if (!index.count(v)) visit(v);
            }
            std::reverse(parts.begin(), parts.end());
            std::set<int> seen;
            for (std::vector<int>& part : parts) {
                const int v = part[0];
                const bool loop = part.size() > 1 || (std::count(next[v].begin(), next[v].end(), v) && !cut.count({v, v}));
                if (!loop) {
                    order.push_back(v);
                    continue;
                }
                std::set<int> own(part.begin(), part.end());
                // The block by which the loop is entered.
                int header = own.count(entry) ? entry : -1;
                for (int u : nodes) {
                    for (int w : next[u]) {
                        if (header < 0 && !own.count(u) && own.count(w)) header = w;
                    }
                }
                std::set<std::pair<int, int>> more = cut;
                for (int u : part) more.insert({u, header});
                std::sort(part.begin(), part.end());
                arrange(part, more, header);
            }
        };
    std::vector<int> all(blocks);
    for (int b = 0; b < blocks; ++b) all[b] = b;
    arrange(all, {}, 0);
    if (int(order.size()) != blocks) bad("the layout lost a block");
    std::vector<uint32_t> place(n);
    uint32_t at = 0;
    for (int b : order) {
        for (uint32_t i = first[b]; i < (b + 1 < blocks ? first[b + 1] : n); ++i) place[i] = at++;
    }
    kernel.code.resize(n);
    for (uint32_t i = 0; i < n; ++i) {
        Instruction& ins = code[i].ins;
        ins.id = place[i];
        ins.next = i + 1 < n ? place[i + 1] : n;
        if (ins.kind == BRANCH) ins.target = place[target[i]];
        kernel.code[place[i]] = std::move(ins);
    }
}

}  // namespace ptx
