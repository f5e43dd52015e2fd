// One tile of attention with the lanes along the rows: every lane computes its own row from its own
// data in a fixed order (online soft-max over steps of kTileKeys visible keys), so the bits of a
// row depend neither on its place in a tile nor on the other rows.
//
//   scores^T [keys][rows] = K [keys][dim] * Q^T [dim][rows]
//   out^T    [dim][rows]  = V^T [dim][keys] * weights^T [keys][rows]
//
// Both products broadcast one element of the cache and multiply it with two vectors of rows, so K
// and V are read as they lie; only 16-bit elements and masked caches are first widened.
#pragma once

#include "cpu/block_attention_micro.h"

namespace dpad::cpu {
namespace {

// Visible keys of one step.
struct Keys {
  int64_t count = 0;
  int64_t slots[kTileKeys];  // of the sequence, ascending
};

// K or V of one head.
template <typename T>
struct Cache {
  const T* base;
  int64_t stride;  // between slots
};

template <typename T>
class Attend {
 public:
  Attend(const BlockAttentionParams& p, const AttentionTile& tile, float* scratch)
      : p_(p), tile_(tile), dim_(p.head_dim), group_(p.num_heads / p.num_kv_heads) {
    const int64_t start = p.kv_start[tile.sequence];
    k_ = {
        static_cast<const T*>(p.k_cache) + start * p.k_slot_stride + tile.kv_head * p.k_head_stride,
        p.k_slot_stride};
    v_ = {
        static_cast<const T*>(p.v_cache) + start * p.v_slot_stride + tile.kv_head * p.v_head_stride,
        p.v_slot_stride};
    visible_ = p.key_mask != nullptr ? p.key_mask + start : nullptr;
    q_ = scratch;
    out_ = q_ + kTileRows * dim_;
    scores_ = out_ + kTileRows * dim_;
    wide_ = scores_ + kTileKeys * kTileRows;
  }

  void run() {
    const int64_t end = set_limits();
    pack_queries();
    Keys keys;
    for (int64_t next = 0; next < end;) {
      next = take_keys(next, end, keys);
      if (keys.count > 0) step(keys);
    }
    write();
  }

 private:
  int64_t query(int64_t r) const {
    return p_.q_offsets[tile_.sequence] + (tile_.first + r) / group_;
  }
  int64_t head(int64_t r) const { return tile_.kv_head * group_ + (tile_.first + r) % group_; }

  // Returns the end of the slots that some row may look at.
  int64_t set_limits() {
    const int64_t n = p_.n_keys[tile_.sequence];
    if (p_.key_limit == nullptr) return n;
    int64_t most = 0;
    least_limit_ = n;
    for (int64_t r = 0; r < kTileRows; ++r) {
      limits_[r] = 0;
      if (r >= tile_.count) continue;
      int64_t limit = p_.key_limit[query(r)];
      limit = limit < 0 ? 0 : limit > n ? n : limit;
      limits_[r] = limit;
      most = limit > most ? limit : most;
      least_limit_ = limit < least_limit_ ? limit : least_limit_;
    }
    return most;
  }

  // Calls body(first row, rows) for every vector of rows.
  template <typename Body>
  void for_vectors(Body body) const {
    for (int64_t r = 0; r < tile_.count; r += kWidth) {
      body(r, tile_.count - r < kWidth ? tile_.count - r : kWidth);
    }
  }

  void pack_queries() {
    const int64_t used = (tile_.count + kLanes - 1) / kLanes * kLanes * dim_;
    for (int64_t i = 0; i < used; i += kWidth) store(out_ + i, zero());
    for_vectors([&](int64_t first, int64_t rows) {
      const T* from[kWidth];
      for (int64_t r = 0; r < rows; ++r) {
        from[r] = static_cast<const T*>(p_.q) + query(first + r) * p_.q_row_stride +
                  head(first + r) * p_.q_head_stride;
      }
      pack_rows([&](int64_t r) { return from[r]; }, rows, dim_,
                q_ + first / kLanes * kLanes * dim_ + first % kLanes);
    });
    for (Softmax& state : state_) state = {set1(kMinusInfinity), zero(), zero()};
  }

  // The next visible slots from `next` on; returns where to go on.
  int64_t take_keys(int64_t next, int64_t end, Keys& keys) const {
    for (keys.count = 0; next < end && keys.count < kTileKeys; ++next) {
      if (visible_ != nullptr && !visible_[next]) continue;
      keys.slots[keys.count++] = next;
    }
    return next;
  }

  // float32 caches without a mask are read in place.
  bool in_place() const { return sizeof(T) == sizeof(float) && visible_ == nullptr; }

  // `count` keys from the `first` of the step on, as float32 [count][dim].
  Cache<float> key_block(const Keys& keys, int64_t first, int64_t count) {
    if constexpr (sizeof(T) == sizeof(float)) {
      if (in_place()) return {k_.base + keys.slots[first] * k_.stride, k_.stride};
    }
    for (int64_t i = 0; i < count; ++i) {
      widen(k_.base + keys.slots[first + i] * k_.stride, dim_, wide_ + i * dim_);
    }
    return {wide_, dim_};
  }

  // Dimensions c .. c + count - 1 of the step's values, as float32 [keys][count].
  Cache<float> value_panel(const Keys& keys, int64_t c, int64_t count) {
    if constexpr (sizeof(T) == sizeof(float)) {
      if (in_place()) return {v_.base + keys.slots[0] * v_.stride + c, v_.stride};
    }
    for (int64_t i = 0; i < keys.count; ++i) {
      widen(v_.base + keys.slots[i] * v_.stride + c, count, wide_ + i * kPanel);
    }
    return {wide_, kPanel};
  }

  // Calls body.operator()<vectors of rows>(sub-tile) for every sub-tile.
  template <typename Body>
  void for_sub_tiles(Body body) {
    for (int64_t sub = 0; sub * kLanes < tile_.count; ++sub) {
      const bool two = tile_.count - sub * kLanes > kWidth;
      two ? body.template operator()<2>(sub) : body.template operator()<1>(sub);
    }
  }

  void score_keys(const Keys& keys) {
    const Scale scale{set1(p_.scale)};
    for (int64_t i = 0; i < keys.count; i += kBlock) {
      const int64_t left = keys.count - i;
      const Cache<float> k = key_block(keys, i, left < kBlock ? left : kBlock);
      const Prefetch<T> prefetch{k_.base + (keys.slots[i] + kBlock) * k_.stride,
                                 v_.base + keys.slots[i] * v_.stride, k_.stride, v_.stride};
      for_sub_tiles([&]<int64_t N>(int64_t sub) {
        multiply_rows<F, N>(q_ + sub * kLanes * dim_, k.base, k.stride, left - 1, dim_, prefetch,
                            scale, scores_ + (sub * kTileKeys + i) * kLanes);
      });
    }
  }

  // How many of the step's keys row r may look at: those below its limit, which come first. Counts
  // are compared in float32, which holds them exactly; slots it would not.
  float keys_below_limit(const Keys& keys, int64_t r) const {
    int64_t low = 0, high = keys.count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      keys.slots[middle] < limits_[r] ? low = middle + 1 : high = middle;
    }
    return static_cast<float>(low);
  }

  void update_softmax(const Keys& keys) {
    const bool limited = p_.key_limit != nullptr && keys.slots[keys.count - 1] >= least_limit_;
    for (int64_t first = 0; first < tile_.count; first += kWidth) {
      float seen[kWidth];
      for (int64_t r = 0; limited && r < kWidth; ++r) seen[r] = keys_below_limit(keys, first + r);
      F limit = zero();
      if (limited) limit = load(seen);
      online_softmax(scores_ + first / kLanes * kTileKeys * kLanes + first % kLanes, keys.count,
                     limited ? &limit : nullptr, state_[first / kWidth]);
    }
  }

  void accumulate_pv(const Keys& keys) {
    const int64_t width = in_place() ? dim_ : kPanel;
    for (int64_t first = 0; first < dim_; first += width) {
      const int64_t count = dim_ - first < width ? dim_ - first : width;
      const Cache<float> v = value_panel(keys, first, count);
      for_sub_tiles([&]<int64_t N>(int64_t sub) {
        const float* weights = scores_ + sub * kTileKeys * kLanes;
        float* out = out_ + (sub * dim_ + first) * kLanes;
        int64_t c = 0;
        const auto accumulate_dims = [&]<int64_t C>() {
          for (; c + C <= count; c += C) {
            multiply_pv<N, C>(weights, v.base + c, v.stride, keys.count, state_ + sub * 2,
                              out + c * kLanes);
          }
        };
        accumulate_dims.template operator()<kBlock>();
        accumulate_dims.template operator()<4>();
        accumulate_dims.template operator()<1>();
      });
    }
  }

  void step(const Keys& keys) {
    score_keys(keys);
    update_softmax(keys);
    accumulate_pv(keys);
  }

  // A row that saw no key has sum 0 and becomes zeros.
  void write() {
    for_vectors([&](int64_t first, int64_t rows) {
      float inverse[kWidth];
      T* to[kWidth];
      store(inverse, state_[first / kWidth].sum);
      for (int64_t r = 0; r < rows; ++r) {
        inverse[r] = inverse[r] == 0.0f ? 0.0f : 1.0f / inverse[r];
        to[r] =
            static_cast<T*>(p_.out) + (query(first + r) * p_.num_heads + head(first + r)) * dim_;
      }
      unpack_rows(out_ + first / kLanes * kLanes * dim_ + first % kLanes, rows, dim_,
                  [&](int64_t r, int64_t d, F sums, int64_t count) {
                    const F done = sums * set1(inverse[r]);
                    count == kWidth ? store(to[r] + d, done) : store_part(to[r] + d, done, count);
                  });
    });
  }

  const BlockAttentionParams& p_;
  const AttentionTile tile_;
  const int64_t dim_, group_;
  Cache<T> k_, v_;
  const bool* visible_;      // of the sequence's slots, or null
  float *q_, *out_;          // [sub-tile][dim][kLanes]
  float* scores_;            // [sub-tile][kTileKeys][kLanes]
  float* wide_;              // [kBlock][dim] or [kTileKeys][kPanel], 16-bit elements widened
  int64_t least_limit_ = 0;  // of all rows
  int64_t limits_[kTileRows] = {};
  Softmax state_[kTileRows / kWidth];
};

}  // namespace

void DPAD_ISA(attend)(const BlockAttentionParams& p, const AttentionTile& tile, float* scratch) {
  with_type(p.dtype, [&]<typename T>() { Attend<T>(p, tile, scratch).run(); });
}

}  // namespace dpad::cpu
