// Greedy suppression of many boxes that mostly lie apart: each box is compared with the survivors near it only.
//
// Boxes of about one size are kept in a grid of their own, by the cell of their centre. If the IoU of two boxes is
// greater than t, neither width nor height is less than t times the other box's, and the centres are so near that the
// overlap can be t times the larger width and height. So few sizes and few cells have to be looked at.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../iou.h"

namespace labelenc {

template <typename T>
struct BoxColumns {
  const T *x0, *y0, *x1, *y1, *area;
};

template <typename T>
class BoxGrid {
 public:
  BoxGrid(const BoxColumns<T>& boxes, int64_t n, T offset, T threshold)
      : boxes_(boxes), n_(n), offset_(offset), threshold_(threshold) {
    // A ratio that rounding can't lift to the threshold.
    least_ratio_ = static_cast<double>(threshold) * (1 - 1e-5);
    size_steps_ = static_cast<int>(std::ceil(std::log2(1 / least_ratio_)));
    while ((int64_t(1) << bits_) < 2 * n) {
      ++bits_;
    }
    table_.resize(size_t(1) << bits_);
    cell_of_.assign(n, -1);
    for (int64_t i = 0; i < n; ++i) {
      const Box box = at(i);
      if (box.active) {
        cell_of_[i] = insert(key_of(box));
        ++counts_[cell_of_[i]];
      }
    }
    begins_.assign(counts_.size() + 1, 0);
    for (size_t c = 0; c < counts_.size(); ++c) {
      begins_[c + 1] = begins_[c] + counts_[c];
    }
  }

  // Share of all pairs that would be compared if all boxes survived, from a few boxes.
  double share_near() const {
    constexpr int64_t kSamples = 64;
    double near = 0;
    for (int64_t k = 0; k < kSamples; ++k) {
      const Box box = at(k * n_ / kSamples);
      visit_near(box, [&](int32_t cell) {
        near += static_cast<double>(counts_[cell]);
        return false;
      });
    }
    return near / (static_cast<double>(kSamples) * static_cast<double>(n_));
  }

  // Calls survives(i) for the survivors, in order.
  template <typename Survives>
  void for_survivors(const Survives& survives) const {
    std::vector<int64_t> filled(begins_.begin(), begins_.end() - 1);
    std::vector<Stored> stored(begins_.back());
    for (int64_t i = 0; i < n_; ++i) {
      const Box box = at(i);
      const Stored own{boxes_.x0[i], boxes_.y0[i], boxes_.x1[i], boxes_.y1[i], boxes_.area[i]};
      const bool removed = visit_near(box, [&](int32_t cell) {
        return std::any_of(
            stored.begin() + begins_[cell], stored.begin() + filled[cell], [&](const Stored& better) {
              return overlaps(
                  better.x0, better.y0, better.x1, better.y1, better.area, own.x0, own.y0, own.x1, own.y1, own.area,
                  offset_, threshold_);
            });
      });
      if (!removed) {
        survives(i);
        if (box.active) {
          stored[filled[cell_of_[i]]++] = own;
        }
      }
    }
  }

 private:
  static constexpr double kRounding = 1e-15;

  struct Stored {
    T x0, y0, x1, y1, area;
  };

  // size is the power of two above the longer side. A box without area, or with one that is not finite, is not
  // active: for no threshold of 0 or more does it remove a box or is removed.
  struct Box {
    double x, y, width, height;
    int size;
    bool active;
  };

  struct Key {
    int32_t size, x, y;
    bool operator==(const Key& other) const { return size == other.size && x == other.x && y == other.y; }
  };

  struct Entry {
    Key key;
    int32_t cell = -1;
  };

  Box at(int64_t i) const {
    const double x0 = boxes_.x0[i], y0 = boxes_.y0[i], x1 = boxes_.x1[i], y1 = boxes_.y1[i];
    const T width = boxes_.x1[i] - boxes_.x0[i] + offset_, height = boxes_.y1[i] - boxes_.y0[i] + offset_;
    const bool active = width > 0 && height > 0 && boxes_.area[i] < std::numeric_limits<T>::infinity();
    int size = 0;
    if (active) {
      std::frexp(static_cast<double>(std::max(width, height)), &size);
    }
    return {(x0 + x1 + offset_) / 2, (y0 + y1 + offset_) / 2, static_cast<double>(width),
            static_cast<double>(height), size, active};
  }

  // Far away from 0 cells run together, which is slow but not wrong.
  static int32_t cell_index(double position, int size) {
    constexpr double kMost = 1 << 30;
    const double index = std::floor(std::ldexp(position, 1 - size));
    return static_cast<int32_t>(std::min(std::max(index, -kMost), kMost));
  }

  static Key key_of(const Box& box) { return {box.size, cell_index(box.x, box.size), cell_index(box.y, box.size)}; }

  uint64_t slot_of(const Key& key) const {
    uint64_t hash = static_cast<uint32_t>(key.x) | static_cast<uint64_t>(static_cast<uint32_t>(key.y)) << 32;
    hash = (hash ^ static_cast<uint64_t>(key.size + 2048) * 0x9E3779B97F4A7C15u) * 0xD6E8FEB86659FD93u;
    hash = (hash ^ hash >> 32) * 0xD6E8FEB86659FD93u;
    return hash >> (64 - bits_);
  }

  int32_t find(const Key& key) const {
    const uint64_t mask = table_.size() - 1;
    uint64_t slot = slot_of(key);
    while (table_[slot].cell >= 0 && !(table_[slot].key == key)) {
      slot = (slot + 1) & mask;
    }
    return table_[slot].cell;
  }

  int32_t insert(const Key& key) {
    const uint64_t mask = table_.size() - 1;
    uint64_t slot = slot_of(key);
    while (table_[slot].cell >= 0 && !(table_[slot].key == key)) {
      slot = (slot + 1) & mask;
    }
    if (table_[slot].cell < 0) {
      table_[slot] = {key, static_cast<int32_t>(counts_.size())};
      counts_.push_back(0);
      if (std::find(sizes_.begin(), sizes_.end(), key.size) == sizes_.end()) {
        sizes_.push_back(key.size);
      }
    }
    return table_[slot].cell;
  }

  // How far apart along one axis the centres of a box of this length and of one of at most `most` can be:
  // (a + b) / 2 - t max(a, b), at its largest.
  double reach(double length, double most) const {
    const double other = most < length || least_ratio_ < 0.5 ? most : length;
    return std::max((length + other) / 2 - least_ratio_ * std::max(length, other), 0.0) * (1 + 1e-5);
  }

  // Calls visit with the cells that may hold boxes overlapping this one enough, until it returns true.
  template <typename Visit>
  bool visit_near(const Box& box, const Visit& visit) const {
    if (!box.active) {
      return false;
    }
    for (const int size : sizes_) {
      if (std::abs(size - box.size) > size_steps_) {
        continue;
      }
      const double most = std::ldexp(1.0, size);
      const double dx = reach(box.width, most) + kRounding * std::abs(box.x);
      const double dy = reach(box.height, most) + kRounding * std::abs(box.y);
      const int32_t x_last = cell_index(box.x + dx, size), y_last = cell_index(box.y + dy, size);
      for (int32_t y = cell_index(box.y - dy, size); y <= y_last; ++y) {
        for (int32_t x = cell_index(box.x - dx, size); x <= x_last; ++x) {
          const int32_t cell = find({size, x, y});
          if (cell >= 0 && visit(cell)) {
            return true;
          }
        }
      }
    }
    return false;
  }

  BoxColumns<T> boxes_;
  int64_t n_;
  T offset_, threshold_;
  double least_ratio_;
  int size_steps_;
  int bits_ = 4;
  std::vector<Entry> table_;
  std::vector<int32_t> cell_of_;
  std::vector<int64_t> counts_, begins_;
  std::vector<int> sizes_;
};

}  // namespace labelenc
