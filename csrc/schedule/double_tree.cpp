// Double tree: two binary trees at once, each carrying half of the data, in lanes of their own.
//
// In one tree half of the ranks are leaves, which receive little and forward nothing. So the second tree has other
// leaves: a rank that has children in one tree has none in the other, and all ports are busy.
//
// all_reduce, N bytes, n ranks, 2 chunks, trees of height h = floor(log2 n):
//   rounds 0 .. h-1    up: a parent folds both children's sums and its own value in one step and sends the sum on
//   rounds h .. 2h-1   down: the root's finished chunk is forwarded untouched
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

// A binary search tree over positions 1..n. A position's level is its number of trailing zero bits: odd positions are
// leaves and every subtree is a range of positions.
struct Tree {
  int n;

  int root() const { return static_cast<int>(std::bit_floor(static_cast<unsigned>(n))); }
  static int low_bit(int position) { return position & -position; }
  // One level up if that is still in the tree, else the next ancestor to the left, which always is. 0: the root's.
  int parent(int position) const {
    const int bit = low_bit(position), up = (position ^ bit) | (bit << 1);
    return up <= n ? up : position ^ bit;
  }
  std::vector<int> children(int position) const {
    std::vector<int> found;
    int bit = low_bit(position) / 2;
    if (bit) found.push_back(position - bit);
    while (bit && position + bit > n) bit /= 2;  // the right subtree is cut off at n: its root lies lower
    if (bit) found.push_back(position + bit);
    return found;
  }
  int depth(int position) const {
    int d = 0;
    for (; position != root(); position = parent(position)) ++d;
    return d;
  }
  int height(int position) const {
    int h = 0;
    for (int child : children(position)) h = std::max(h, 1 + height(child));
    return h;
  }
};

// Members 0..n-1 of a group stand at positions 1..n of tree 0 and one place further left, around the end, in tree 1:
// that turns odd positions into even ones, leaves into inner nodes.
int position_of(int member, int tree, int n) { return (member - tree + n) % n + 1; }
int member_at(int position, int tree, int n) { return (position - 1 + tree) % n; }

Lane all_reduce_lane(int tree, int rank, int n) {
  const Tree t{n};
  const int position = position_of(rank, tree, n), top = t.height(t.root());
  const int parent = position == t.root() ? -1 : member_at(t.parent(position), tree, n);
  std::vector<int> children;
  for (int child : t.children(position)) children.push_back(member_at(child, tree, n));
  std::ranges::sort(children);

  std::vector<Step> steps;
  // Going up, a message belongs to the round in which its parent can have all of its children's.
  if (!children.empty())
    steps.push_back({StepKind::recv_reduce, tree, t.height(position) - 1, children, parent < 0});
  if (parent >= 0) {
    steps.push_back({StepKind::send, tree, t.height(t.parent(position)) - 1, {parent}, false});
    steps.push_back({StepKind::recv, tree, top + t.depth(position) - 1, {parent}, true});
  }
  for (int child : children) steps.push_back({StepKind::send, tree, top + t.depth(position), {child}, true});
  return {std::move(steps)};
}

// The members of the two trees are the ranks after the root, around the ring.
Lane broadcast_lane(int tree, int rank, int n, int root) {
  const int members = n - 1;
  const Tree t{members};
  const auto rank_at = [&](int position) { return (root + 1 + member_at(position, tree, members)) % n; };
  std::vector<Step> steps;
  if (rank == root) return {{{StepKind::send, tree, 0, {rank_at(t.root())}, true}}};
  const int position = position_of((rank - root - 1 + n) % n, tree, members);
  const int depth = t.depth(position), parent = position == t.root() ? root : rank_at(t.parent(position));
  steps.push_back({StepKind::recv, tree, depth, {parent}, true});
  for (int child : t.children(position))
    steps.push_back({StepKind::send, tree, depth + 1, {rank_at(child)}, true});
  return {std::move(steps)};
}

}  // namespace

bool supports(Collective c, int) { return c == Collective::all_reduce || c == Collective::broadcast; }

Schedule make(Collective c, int rank, int size, int root) {
  const bool reduces = c == Collective::all_reduce;
  Schedule s;
  s.chunks = kTrees;
  for (int tree = 0; tree < kTrees; ++tree)
    s.lanes.push_back(reduces ? all_reduce_lane(tree, rank, size) : broadcast_lane(tree, rank, size, root));
  const Tree t{size};
  s.lossy_encodes = reduces ? t.height(t.root()) + 1 : 1;
  return s;
}

}  // namespace gw::double_tree
