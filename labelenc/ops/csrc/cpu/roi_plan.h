// Everything about the regions of one RoIAlign that all channels have in common.
#pragma once

#include "../roi_align_arguments.h"
#include "../roi_sampling.h"
#include "channel_block.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace labelenc {

// Cells of a row that are moved together between a map and a block of channels.
constexpr int64_t kTileCells = kBlock;

// One image of one level, its regions [first, last) and which tiles of kTileCells cells these take part of.
struct RoiGroup {
  int64_t level, image;
  int64_t height, width, row_tiles;
  int64_t first = 0, last = 0;
  std::vector<uint8_t> touched;
};

template <typename T>
struct RoiTaps {
  const RoiTap<T>* first;
  const RoiTap<T>* last;

  const RoiTap<T>* begin() const { return first; }
  const RoiTap<T>* end() const { return last; }
};

template <typename T>
class RoiPlan {
 public:
  RoiPlan(
      const std::vector<Tensor>& features, const Tensor& rois, const Tensor& levels,
      const RoiAlignSettings& settings)
      : bins_high(settings.bins_high), bins_wide(settings.bins_wide), images_(features[0].size(0)) {
    for (int64_t level = 0; level < static_cast<int64_t>(features.size()); ++level) {
      const int64_t height = features[level].size(2), width = features[level].size(3);
      for (int64_t image = 0; image < images_; ++image) {
        groups.push_back({level, image, height, width, (width + kTileCells - 1) / kTileCells, 0, 0, {}});
      }
    }
    const auto* corners = static_cast<const T*>(rois.const_data_ptr());
    const auto* level = static_cast<const int64_t*>(levels.const_data_ptr());
    const int64_t count = rois.size(0);
    assign(corners, level, count, settings);
    begins_.push_back(0);
    for (RoiGroup& group : groups) {
      if (group.first < group.last) {
        group.touched.assign(group.height * group.row_tiles, 0);
      }
      for (int64_t i = group.first; i < group.last; ++i) {
        prepare(corners + 5 * rows[i], group, settings);
      }
    }
  }

  // Of region i in the order of `rows`.
  RoiTaps<T> vertical(int64_t region, int64_t bin) const {
    return taps_of((bins_high + bins_wide) * region + bin);
  }

  RoiTaps<T> horizontal(int64_t region, int64_t bin) const {
    return taps_of((bins_high + bins_wide) * region + bins_high + bin);
  }

  int64_t bins_high, bins_wide;
  // Level by level, image by image; those without regions too.
  std::vector<RoiGroup> groups;
  // Which RoI each region is: by group, and from top to bottom in a group, so that neighbours share the cache.
  std::vector<int64_t> rows;
  // Multiplications for each channel.
  int64_t work = 0;

 private:
  RoiTaps<T> taps_of(int64_t bin) const {
    return {taps_.data() + begins_[bin], taps_.data() + begins_[bin + 1]};
  }

  void assign(const T* corners, const int64_t* level, int64_t count, const RoiAlignSettings& settings) {
    std::vector<int64_t> group(count);
    std::vector<T> top(count);
    const auto level_count = static_cast<int64_t>(settings.scales.size());
    for (int64_t i = 0; i < count; ++i) {
      const T* roi = corners + 5 * i;
      STD_TORCH_CHECK(
          roi[0] >= 0 && roi[0] < static_cast<T>(images_), "rois name an image ", roi[0], "; allowed: 0 to ",
          images_ - 1);
      STD_TORCH_CHECK(
          level[i] >= 0 && level[i] < level_count, "levels name a level ", level[i], "; allowed: 0 to ",
          level_count - 1);
      group[i] = level[i] * images_ + static_cast<int64_t>(roi[0]);
      top[i] = is_finite_region(roi + 1) ? roi[2] : T(0);
    }
    rows.resize(count);
    std::iota(rows.begin(), rows.end(), 0);
    std::stable_sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) {
      return group[a] != group[b] ? group[a] < group[b] : top[a] < top[b];
    });
    for (int64_t i = 0; i < count; ++i) {
      RoiGroup& of_region = groups[group[rows[i]]];
      of_region.last = i + 1;
      of_region.first = i > 0 && group[rows[i]] == group[rows[i - 1]] ? of_region.first : i;
    }
  }

  void prepare(const T* roi, RoiGroup& group, const RoiAlignSettings& settings) {
    const bool finite = is_finite_region(roi + 1);
    const T scale = static_cast<T>(settings.scales[group.level]);
    const auto y = roi_axis(roi[2], roi[4], finite, scale, bins_high, settings.sampling_ratio, group.height);
    const auto x = roi_axis(roi[1], roi[3], finite, scale, bins_wide, settings.sampling_ratio, group.width);
    const size_t begin = taps_.size();
    append(y, bins_high);
    const size_t middle = taps_.size();
    append(x, bins_wide);
    for (size_t row = begin; row < middle; ++row) {
      uint8_t* touched = group.touched.data() + taps_[row].cell * group.row_tiles;
      for (size_t column = middle; column < taps_.size(); ++column) {
        touched[taps_[column].cell / kTileCells] = 1;
      }
    }
    work += static_cast<int64_t>((middle - begin) * (taps_.size() - middle));
  }

  void append(const RoiAxis<T>& axis, int64_t bins) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      const size_t begin = taps_.size();
      taps_.resize(begin + most_taps(axis, bin));
      taps_.resize(begin + find_taps(axis, bin, taps_.data() + begin));
      begins_.push_back(static_cast<int64_t>(taps_.size()));
    }
  }

  int64_t images_;
  std::vector<RoiTap<T>> taps_;
  // Where the taps of a bin begin: for each region its rows of bins, then its columns.
  std::vector<int64_t> begins_;
};

}  // namespace labelenc
