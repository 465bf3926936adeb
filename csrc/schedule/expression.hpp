// Symbolic values: what a chunk holds, as a formula over the ranks' inputs. Equal formulas have equal ids, so two
// chunks whose ids agree hold the same bits, whatever the inputs and whatever deterministic codec is used.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace gw {

using ExpressionId = int;
inline constexpr ExpressionId kNothing = -1;  // memory that holds no value yet

class Expressions {
 public:
  explicit Expressions(int ranks) : ranks_(ranks) {}

  ExpressionId input(int rank, int chunk);
  ExpressionId sum(const std::vector<ExpressionId>& terms);  // left to right
  ExpressionId encoded(ExpressionId value);                  // through a codec once

  // Every rank's input exactly once, nothing else, all of one chunk.
  bool is_full_sum(ExpressionId value, int chunk) const;
  // The input that a value is, encoded or not; {-1, -1} if it is a sum.
  std::pair<int, int> origin(ExpressionId value) const;
  int encodes(ExpressionId value) const;       // the most that any input in it went through
  int nested_sums(ExpressionId value) const;   // the same for sums
  std::string text(ExpressionId value) const;  // "((0+1)+2)+3": ranks, without the encodes

 private:
  enum class Kind : int { input, sum, encoded };
  struct Node {
    Kind kind;
    std::vector<int> arguments;  // input: rank, chunk; else ids
    std::vector<int> times;      // how often each rank's input occurs
    int chunk;                   // of all inputs; -1 if they differ
    int encodes, sums;
  };
  ExpressionId intern(Node node);
  const Node& node(ExpressionId id) const { return nodes_[static_cast<size_t>(id)]; }

  int ranks_;
  std::vector<Node> nodes_;
  std::map<std::pair<Kind, std::vector<int>>, ExpressionId> ids_;
};

}  // namespace gw
