// Double tree: two binary trees at once, each carrying half of the data, in lanes of their own.
//
// In one tree half of the ranks are leaves, which receive little and forward nothing. So the second tree has other
// leaves: a rank that has children in one tree has none in the other, and all ports are busy.
//
// all_reduce, N bytes, n ranks, 2 chunks, trees of height h = floor(log2 n):
//   rounds 0 .. h-1    up: a parent folds both children's sums and its own value in one step and sends the sum on
//   rounds h .. 2h-1   down: the root's finished chunk is forwarded untouched
// Ranks that the topology calls slow send and receive N, not up to 2 N: they hang as leaves below both trees. But in an
// all_reduce the first of them stands above the root of one tree and next below that of the other, so that its link is
// used both ways from the first segment to the last.
// broadcast: the root feeds two such trees over the other n-1 ranks; 1 + floor(log2(n-1)) rounds.
// Cost: 2 h rounds, at most 2 N bytes a rank (broadcast: N); pipelined in segments it needs little more than the
// bytes of the busiest port.
// Order of sums: a node's left subtree, itself, its right subtree (ranks ascending among the three), so the tree sets
// the brackets: (0+1)+2. A value is re-encoded at every level: up to h + 1 times.
// Source: Sanders, Speck and Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan", 2009.
#include <algorithm>
#include <bit>

#include "schedule/schedule.hpp"

namespace gw::double_tree {
namespace {

constexpr int kTrees = 2;

// Over `places` 0 .. n-1.
struct Tree {
  std::vector<int> parent;  // -1: the root
  std::vector<std::vector<int>> children;
  int root = 0;

  explicit Tree(int n) : parent(static_cast<size_t>(n), -1), children(static_cast<size_t>(n)) {}
  void hang(int child, int below) {
    parent[static_cast<size_t>(child)] = below;
    children[static_cast<size_t>(below)].push_back(child);
  }
  const std::vector<int>& below(int place) const { return children[static_cast<size_t>(place)]; }
  int above(int place) const { return parent[static_cast<size_t>(place)]; }
  int depth(int place) const {
    int d = 0;
    for (; above(place) >= 0; place = above(place)) ++d;
    return d;
  }
  int height(int place) const {
    int h = 0;
    for (int child : below(place)) h = std::max(h, 1 + height(child));
    return h;
  }
};

// A binary search tree over positions 1..n. A position's level is its number of trailing zero bits: odd positions are
// leaves and every subtree is a range of positions. Place 0 stands at position 1 of tree 0, and one place further left,
// around the end, in tree 1: that turns odd positions into even ones, leaves into inner nodes. Places n .. all-1 then
// hang below leaves; with `to_root` the first of them goes to the root, in tree 0 above it.
Tree make_tree(int tree, int n, int all, bool to_root) {
  Tree t(all);
  const auto place_at = [&](int position) { return (position - 1 + tree) % n; };
  for (int position = 1; position <= n; ++position) {
    // One level up if that is still in the tree, else the next ancestor to the left, which always is.
    const int bit = position & -position, up = (position ^ bit) | (bit << 1);
    const int parent = up <= n ? up : position ^ bit;
    if (parent == 0)
      t.root = place_at(position);
    else
      t.hang(place_at(position), place_at(parent));
  }
  for (int extra = n; extra < all; ++extra) {
    if (to_root && extra == n) {
      if (tree == 0) {
        t.hang(t.root, extra);
        t.root = extra;
      } else {
        t.hang(extra, t.root);
      }
      continue;
    }
    // the place with the fewest children, the lowest of those: one that is a leaf, as long as there is one
    int best = t.root;
    for (int position = n; position >= 1; --position)
      if (t.below(place_at(position)).size() <= t.below(best).size()) best = place_at(position);
    t.hang(extra, best);
  }
  return t;
}

Lane all_reduce_lane(int tree, const Tree& t, const std::vector<int>& rank_at, int place) {
  const int top = t.height(t.root), parent = t.above(place);
  const auto rank_of = [&](int p) { return rank_at[static_cast<size_t>(p)]; };
  std::vector<int> children;
  for (int child : t.below(place)) children.push_back(rank_of(child));
  std::ranges::sort(children);

  std::vector<Step> steps;
  // Going up, a message belongs to the round in which its parent can have all of its children's.
  if (!children.empty())
    steps.push_back({StepKind::recv_reduce, tree, t.height(place) - 1, children, parent < 0});
  if (parent >= 0) {
    steps.push_back({StepKind::send, tree, t.height(parent) - 1, {rank_of(parent)}, false});
    steps.push_back({StepKind::recv, tree, top + t.depth(place) - 1, {rank_of(parent)}, true});
  }
  for (int child : children) steps.push_back({StepKind::send, tree, top + t.depth(place), {child}, true});
  return {std::move(steps)};
}

// The trees are over the ranks after the root, which feeds both.
Lane broadcast_lane(int tree, const Tree& t, const std::vector<int>& rank_at, int place, int root) {
  const auto rank_of = [&](int p) { return rank_at[static_cast<size_t>(p)]; };
  if (place < 0) return {{{StepKind::send, tree, 0, {rank_of(t.root)}, true}}};
  const int depth = t.depth(place), parent = t.above(place);
  std::vector<Step> steps;
  steps.push_back({StepKind::recv, tree, depth, {parent < 0 ? root : rank_of(parent)}, true});
  for (int child : t.below(place)) steps.push_back({StepKind::send, tree, depth + 1, {rank_of(child)}, true});
  return {std::move(steps)};
}

}  // namespace

bool supports(Collective c, int) { return c == Collective::all_reduce || c == Collective::broadcast; }

Schedule make(const Part& part) {
  const bool reduces = part.collective == Collective::all_reduce;
  // In ring order, from the root on for a broadcast, which is not in the trees; the slow ones last.
  std::vector<int> rank_at = ring_order(part.topology, part.size);
  if (!reduces) {
    std::ranges::rotate(rank_at, std::ranges::find(rank_at, part.root));
    rank_at.erase(rank_at.begin());
  }
  const auto quick = [&](int rank) {
    return part.topology.slow.empty() || !part.topology.slow[static_cast<size_t>(rank)];
  };
  const auto slow = std::ranges::stable_partition(rank_at, quick);
  const int all = static_cast<int>(rank_at.size());
  int inner = all - static_cast<int>(slow.size());
  if (inner == 0) inner = all;
  const auto found = std::ranges::find(rank_at, part.rank);
  const int place = found == rank_at.end() ? -1 : static_cast<int>(found - rank_at.begin());

  Schedule s;
  s.chunks = kTrees;
  s.lossy_encodes = 1;
  for (int tree = 0; tree < kTrees; ++tree) {
    const Tree t = make_tree(tree, inner, all, reduces);
    s.lanes.push_back(reduces ? all_reduce_lane(tree, t, rank_at, place)
                              : broadcast_lane(tree, t, rank_at, place, part.root));
    if (reduces) s.nested_sums = std::max(s.nested_sums, t.height(t.root));
  }
  if (reduces) s.lossy_encodes = s.nested_sums + 1;
  return s;
}

}  // namespace gw::double_tree
