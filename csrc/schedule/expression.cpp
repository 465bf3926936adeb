#include "schedule/expression.hpp"

#include <algorithm>

namespace gw {

ExpressionId Expressions::intern(Node node) {
  const auto [it, fresh] =
      ids_.try_emplace({node.kind, node.arguments}, static_cast<ExpressionId>(nodes_.size()));
  if (fresh) nodes_.push_back(std::move(node));
  return it->second;
}

ExpressionId Expressions::input(int rank, int chunk) {
  std::vector<int> times(static_cast<size_t>(ranks_), 0);
  times[static_cast<size_t>(rank)] = 1;
  return intern({Kind::input, {rank, chunk}, std::move(times), chunk, 0, 0});
}

ExpressionId Expressions::sum(const std::vector<ExpressionId>& terms) {
  Node total{Kind::sum, terms, std::vector<int>(static_cast<size_t>(ranks_), 0), node(terms[0]).chunk, 0, 0};
  for (ExpressionId t : terms) {
    const Node& term = node(t);
    for (size_t r = 0; r < total.times.size(); ++r) total.times[r] += term.times[r];
    if (term.chunk != total.chunk) total.chunk = -1;
    total.encodes = std::max(total.encodes, term.encodes);
    total.sums = std::max(total.sums, term.sums + 1);
  }
  return intern(std::move(total));
}

ExpressionId Expressions::encoded(ExpressionId value) {
  Node copy = node(value);
  copy.kind = Kind::encoded;
  copy.arguments = {value};
  ++copy.encodes;
  return intern(std::move(copy));
}

bool Expressions::is_full_sum(ExpressionId value, int chunk) const {
  return value != kNothing && node(value).chunk == chunk &&
         std::ranges::all_of(node(value).times, [](int times) { return times == 1; });
}

std::pair<int, int> Expressions::origin(ExpressionId value) const {
  while (value != kNothing && node(value).kind == Kind::encoded) value = node(value).arguments[0];
  if (value == kNothing || node(value).kind != Kind::input) return {-1, -1};
  return {node(value).arguments[0], node(value).arguments[1]};
}

int Expressions::encodes(ExpressionId value) const { return value == kNothing ? 0 : node(value).encodes; }

int Expressions::nested_sums(ExpressionId value) const { return value == kNothing ? 0 : node(value).sums; }

std::string Expressions::text(ExpressionId value) const {
  if (value == kNothing) return "nothing";
  const Node& v = node(value);
  if (v.kind == Kind::input) return std::to_string(v.arguments[0]);
  if (v.kind == Kind::encoded) return text(v.arguments[0]);
  std::string folded;
  for (size_t i = 0; i < v.arguments.size(); ++i) {
    const std::string term = text(v.arguments[i]);
    const bool bare = term.find('+') == std::string::npos;
    if (i == 0)
      folded = bare || v.arguments.size() == 1 ? term : "(" + term + ")";
    else
      folded = (i == 1 ? folded : "(" + folded + ")") + "+" + (bare ? term : "(" + term + ")");
  }
  return folded;
}

}  // namespace gw
