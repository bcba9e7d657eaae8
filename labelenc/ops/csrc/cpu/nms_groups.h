// Positions ordered by group, in the given order inside each, and where each group begins.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace labelenc {

struct Grouping {
  std::vector<int64_t> positions;
  std::vector<int64_t> begins;
};

inline Grouping group_positions(const int64_t* groups, int64_t n) {
  Grouping result;
  result.positions.resize(n);
  const auto [lowest, highest] = std::minmax_element(groups, groups + n);
  const int64_t low = *lowest;
  const uint64_t range = static_cast<uint64_t>(*highest) - static_cast<uint64_t>(low);
  if (range < static_cast<uint64_t>(4 * n + 1024)) {
    std::vector<int64_t> next(range + 2, 0);
    for (int64_t i = 0; i < n; ++i) {
      ++next[groups[i] - low + 1];
    }
    std::partial_sum(next.begin(), next.end(), next.begin());
    for (int64_t i = 0; i < n; ++i) {
      result.positions[next[groups[i] - low]++] = i;
    }
  } else {
    std::iota(result.positions.begin(), result.positions.end(), 0);
    std::stable_sort(
        result.positions.begin(), result.positions.end(),
        [groups](int64_t a, int64_t b) { return groups[a] < groups[b]; });
  }
  for (int64_t i = 0; i < n; ++i) {
    if (i == 0 || groups[result.positions[i]] != groups[result.positions[i - 1]]) {
      result.begins.push_back(i);
    }
  }
  result.begins.push_back(n);
  return result;
}

}  // namespace labelenc
