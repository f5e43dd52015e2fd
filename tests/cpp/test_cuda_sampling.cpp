// The kernels of confidence, uniform and unmask_ in the emulator against the CPU's: tokens, draws
// and canvases bit for bit, scores within float32 sums, in every order of threads and blocks.
#include <algorithm>
#include <cmath>

#include "cpu/confidence.h"
#include "cpu/uniform.h"
#include "cpu/unmask.h"
#include "cuda/confidence.cuh"
#include "cuda/uniform.cuh"
#include "cuda/unmask.cuh"
#include "values.h"

using namespace dpad;
using namespace dpad::test;
using cuda::emulator::Order;
using Ints = std::vector<int64_t>;
using Doubles = std::vector<double>;

namespace {

constexpr Order kOrders[] = {Order::kForward, Order::kBackward, Order::kShuffled};

struct Sampler {
  Values logits;
  int64_t rows, vocab, stride;
  Ints suppress, exclude, position, offsets, rng, token;
  Doubles temperature, noise, scores[3];
  bool round_to_dtype = false;

  Sampler(DType dtype, int64_t n, int64_t ids, uint32_t seed, float scale = 3)
      : logits(Values::normal(dtype, n * (ids + 5) + 16, seed, scale)),
        rows(n),
        vocab(ids),
        stride((ids + 7) / 8 * 8) {
    for (int64_t r = 0; r < rows; ++r) position.push_back((int64_t{1} << 34) + 3 * r);
    offsets = {0, rows / 2, rows / 2, rows};
    rng = {1, 2, 3, 4, 5, 6, -7, int64_t{1} << 50, 9};
    temperature = {0.0, 0.0, 0.0};
  }

  ConfidenceParams params() {
    ConfidenceParams p{};
    p.logits = logits.data(), p.logits_stride = stride;
    p.position = position.data(), p.l_offsets = offsets.data(), p.rng = rng.data();
    p.temperature = temperature.data();
    p.suppress = suppress.data(), p.suppress_count = static_cast<int64_t>(suppress.size());
    p.exclude = exclude.data(), p.exclude_count = static_cast<int64_t>(exclude.size());
    if (!noise.empty()) p.noise = noise.data(), p.noise_stride = vocab;
    token.assign(rows, -7);
    for (Doubles& score : scores) score.assign(rows, -7);
    p.token = token.data(), p.probability = scores[0].data();
    p.margin = scores[1].data(), p.entropy = scores[2].data();
    p.batch = 3, p.rows = rows, p.vocab = vocab;
    p.round_to_dtype = round_to_dtype, p.dtype = logits.dtype();
    return p;
  }

  template <class T, int N>
  void emulate(Order order) {
    const ConfidenceParams p = params();
    const int chunks = cuda::confidence_chunks(p);
    std::vector<unsigned long long> parts(rows * chunks * cuda::kFoundWords, ~0ull);
    cuda::emulator::run({rows * chunks, 1, 1, cuda::kThreads, 0, order},
                        [&] { cuda::confidence_kernel<T, N>(p, chunks, parts.data()); });
    if (chunks == 1) return;
    cuda::emulator::run({(rows + 7) / 8, 1, 1, cuda::kThreads, 0, order},
                        [&] { cuda::confidence_merge_kernel<T>(p, chunks, parts.data()); });
  }

  void emulate(Order order, bool wide) {
    switch (logits.dtype()) {
      case DType::kFloat32:
        return wide ? emulate<float, 4>(order) : emulate<float, 1>(order);
      case DType::kBFloat16:
        return wide ? emulate<cuda::BFloat16, 8>(order) : emulate<cuda::BFloat16, 1>(order);
      case DType::kFloat16:
        return wide ? emulate<cuda::Float16, 8>(order) : emulate<cuda::Float16, 1>(order);
    }
  }

  // The CPU's result, then the emulator's: wide and narrow, in every order.
  void check() {
    CAPTURE(static_cast<int>(logits.dtype()), rows, vocab, temperature[2]);
    const ConfidenceParams p = params();
    run_items(p, 0, rows, cpu::confidence_scratch, cpu::confidence);
    const Ints want = token;
    const Doubles expected[3] = {scores[0], scores[1], scores[2]};
    Doubles first[3];
    for (const Order order : kOrders) {
      for (const bool wide : {false, true}) {
        emulate(order, wide);
        REQUIRE(token == want);
        for (int s = 0; s < 3; ++s) {
          for (int64_t r = 0; r < rows; ++r) {
            const double a = scores[s][r], b = expected[s][r];
            CAPTURE(s, r, a, b, wide);
            REQUIRE(std::isnan(a) == std::isnan(b));
            if (!std::isnan(a)) REQUIRE(std::abs(a - b) <= 1e-6 * std::abs(b) + 2e-7);
          }
        }
        // Every order gives the same bits; lanes of other widths sum in another order.
        if (!wide) continue;
        for (int s = 0; s < 3; ++s) {
          if (order == Order::kForward) first[s] = scores[s];
          REQUIRE(std::memcmp(first[s].data(), scores[s].data(), rows * sizeof(double)) == 0);
        }
      }
    }
  }
};

}  // namespace

TEST_CASE("confidence kernel: vocabularies around its chunks and packs") {
  for (const DType dtype : kTypes) {
    for (const int64_t vocab : {1, 7, 300, 8191, 8192, 8195}) {
      Sampler c(dtype, 2, vocab, 1);
      c.check();
      if (vocab < 100) continue;
      c.temperature = {0.3, 0, 1.0};
      c.suppress = {vocab - 1, 5, 5, 0}, c.exclude = {5, 3, vocab / 2};
      c.check();
    }
  }
}

TEST_CASE("confidence kernel: several chunks, ties across them, given noise, rounding") {
  Sampler c(DType::kBFloat16, 3, 3 * cuda::kChunk - 100, 2);
  for (const int64_t id : {20001, 9000, 12}) {
    for (int64_t r = 0; r < 3; ++r) c.logits.set(r * c.stride + id, 30);
  }
  c.check();
  CHECK(c.token == Ints{12, 12, 12});
  c.suppress = {12, 9000};
  c.round_to_dtype = true;
  c.check();
  CHECK(c.token == Ints{20001, 20001, 20001});
  c.temperature = {2.0, 0, 0.5};
  for (int64_t i = 0; i < c.rows * c.vocab; ++i) c.noise.push_back(std::sin(i * 0.7) * 20);
  c.check();
}

TEST_CASE("confidence kernel: more chunks than a warp has lanes") {
  Sampler c(DType::kFloat32, 1, 33 * cuda::kChunk + 5, 4);
  c.temperature = {0, 0, 0.8};
  c.check();
}

TEST_CASE("confidence kernel: NaN, infinities, nothing to choose") {
  const int64_t vocab = cuda::kChunk + 50;
  Sampler c(DType::kFloat32, 6, vocab, 3);
  c.logits.set(20, NAN);
  c.logits.set(c.stride + cuda::kChunk + 3, INFINITY);
  for (int64_t i = 0; i < vocab; ++i) {
    c.logits.set(2 * c.stride + i, -INFINITY);
    c.logits.set(3 * c.stride + i, i == cuda::kChunk + 1 ? 1.0f : -INFINITY);
    c.logits.set(4 * c.stride + i, NAN);
  }
  c.suppress = {1, 0};
  c.check();
  CHECK(c.token[2] == 2);
  CHECK(c.scores[0][3] == 1);
  c.temperature = {1.0, 0, 1.0};
  c.check();
  // What only a device can meet: rows of no sequence, and no id left to choose.
  c.offsets = {0, 2, 2, 4};
  c.emulate(Order::kForward, true);
  CHECK((std::isnan(c.scores[0][5]) && c.token[5] == 0));
  c.suppress.resize(vocab);
  for (int64_t i = 0; i < vocab; ++i) c.suppress[i] = vocab - 1 - i;
  c.emulate(Order::kForward, false);
  CHECK((std::isnan(c.scores[0][0]) && c.token[0] == 0));
}

TEST_CASE("the kernel's noise has the bits of core/gumbel.h") {
  Sampler c(DType::kFloat32, 2, 64, 1);
  c.temperature = {0.7, 0, 1.5};
  const cuda::Noise noise(c.params(), 1, 2);
  const PhiloxKey key = stream_key(c.rng[6], c.rng[7], Stream::kNoise);
  for (int64_t id = 0; id < 100; ++id) {
    cuda::Best<double> best;
    CHECK(noise.may_reach(-INFINITY, 0.25f, cuda::Noise::high_word(noise.draw(id), id)));
    noise.consider(best, id, 0.25f, noise.draw(id));
    CHECK(noise.may_reach(best.value, 0.25f, cuda::Noise::high_word(noise.draw(id), id)));
    CHECK(best.id == id);
    CHECK(best.value == 0.25f + 1.5 * gumbel_noise(key, id, c.position[1], c.rng[8]));
  }
}

TEST_CASE("uniform kernel: the CPU's bits, NaN without a sequence") {
  const Ints offsets{0, 3, 3, 700}, rng{5, 6, 7, 0, 0, 0, -1, int64_t{1} << 40, 3};
  Ints position;
  for (int64_t i = 0; i < 702; ++i) position.push_back((i << 31) - 5);
  Doubles want(702, -1), got(702, -1);
  UniformParams p{position.data(), offsets.data(), rng.data(), want.data(), 3, 702};
  cpu::uniform(p);
  p.out = got.data();
  cuda::emulator::run({2, 1, 1, cuda::kThreads, 0}, [&] { cuda::uniform_kernel(p); });
  CHECK(std::equal(want.begin(), want.begin() + 700, got.begin()));
  CHECK((std::isnan(got[700]) && std::isnan(got[701])));
}

namespace {

constexpr int64_t kMask = 99, kLength = 40;

struct State {
  Ints canvas, committed_at, masks_left, status, forward;
  Doubles committed;
  bool operator==(const State&) const = default;
};

// Sequences of the given numbers of logit rows, on canvas rows of their own in falling order.
struct Commit {
  State state;
  Ints row, offsets{0}, position, token, quota, length, ends{2, 3};
  Doubles score, probability, rule_value;
  int64_t width, batch;
  Rule rule = Rule::kThreshold;
  Stop early_stop = Stop::kBlock;

  Commit(const Ints& counts, uint32_t seed, int64_t columns = kLength)
      : width(columns), batch(static_cast<int64_t>(counts.size())) {
    std::mt19937 bits(seed);
    const int64_t rows = batch + 1;
    for (int64_t i = 0; i < rows * width; ++i) state.canvas.push_back(bits() % 3 ? kMask : 7);
    state.committed_at.assign(rows * width, -1), state.committed.assign(rows * width, -1);
    state.masks_left.assign(rows, -5), state.status.assign(rows, -5);
    for (int64_t b = 0; b < rows; ++b) state.forward.push_back(bits() % 50);
    for (int64_t b = 0; b < batch; ++b) {
      row.push_back(batch - b);
      offsets.push_back(offsets.back() + counts[b]);
      const int64_t used = (counts[b] + width + 1) / 2;  // columns that the targets lie in
      Ints places(used);
      for (int64_t i = 0; i < used; ++i) places[i] = i;
      std::shuffle(places.begin(), places.end(), bits);
      for (int64_t i = 0; i < counts[b]; ++i) {
        position.push_back(places[i]);
        token.push_back(bits() % 5);
        score.push_back(bits() % 8 / 8.0);
        probability.push_back(bits() % 1000 / 1000.0);
      }
      rule_value.push_back(bits() % 9 / 8.0);
      quota.push_back(static_cast<int64_t>(bits() % 9) - 1);
      length.push_back(used + bits() % (width + 1 - used));
    }
  }

  UnmaskParams params(State& s) {
    UnmaskParams p{};
    p.canvas = s.canvas.data(), p.committed_at = s.committed_at.data();
    p.committed = s.committed.data(), p.masks_left = s.masks_left.data();
    p.status = s.status.data(), p.forward = s.forward.data(), p.canvas_stride = width;
    p.canvas_row = row.data(), p.l_offsets = offsets.data(), p.position = position.data();
    p.token = token.data(), p.score = score.data(), p.probability = probability.data();
    p.rule_value = rule_value.data(), p.quota = quota.data(), p.length = length.data();
    p.end_ids = ends.data(), p.end_count = 2, p.batch = batch;
    p.mask_id = kMask, p.fill_id = 2, p.rule = rule, p.early_stop = early_stop;
    p.canvas_rows = batch + 1, p.rows = offsets.back();
    return p;
  }

  State emulate(Order order) {
    State s = state;
    const UnmaskParams p = params(s);
    std::vector<int32_t> scratch(p.rows > cuda::kRanked ? p.rows : 0);
    cuda::emulator::run({batch, 1, 1, cuda::kThreads, 0, order},
                        [&] { cuda::unmask_kernel(p, scratch.data()); });
    return s;
  }

  State on_cpu() {
    State s = state;
    run_unmask(params(s));
    return s;
  }
};

}  // namespace

TEST_CASE("unmask kernel: the CPU's canvas and state by every rule") {
  for (int rule = 0; rule < 8; ++rule) {
    for (uint32_t seed = 0; seed < 12; ++seed) {
      Commit c({32, 0, 5, 1, 33}, seed);
      c.rule = static_cast<Rule>(rule);
      c.early_stop = static_cast<Stop>(seed % 3);
      if (seed % 2) std::fill(c.quota.begin(), c.quota.end(), 40);
      if (seed % 4 == 0) c.score[7] = NAN, c.score[34] = NAN;
      if (seed % 4 == 1)
        std::fill(c.rule_value.begin(), c.rule_value.end(), rule == 3 ? 50.0 : -1.0);
      CAPTURE(rule, seed);
      const State want = c.on_cpu();
      for (const Order order : kOrders) REQUIRE(c.emulate(order) == want);
    }
  }
}

TEST_CASE("unmask kernel: more rows than shared memory ranks") {
  Commit c({cuda::kRanked + 200, 3, cuda::kRanked}, 5, 1300);
  c.rule = Rule::kQuota;
  c.quota = {700, 2, 1000};
  const State want = c.on_cpu();
  for (const Order order : kOrders) CHECK(c.emulate(order) == want);
}

TEST_CASE("unmask kernel: a sequence without targets runs on") {
  Commit c({0, 4}, 6);
  const State out = c.emulate(Order::kShuffled);
  CHECK(out == c.on_cpu());
  CHECK(out.status[2] == static_cast<int64_t>(SequenceStatus::kRunning));
  CHECK(out.masks_left[2] == c.state.masks_left[2]);
  CHECK(out.forward[2] == c.state.forward[2] + 1);
}

TEST_CASE("unmask kernel: what is out of range ends as a status and nothing is written") {
  const Commit good({4, 6}, 3);
  const auto invalid = [&](const std::function<void(Commit&)>& change) {
    Commit c = good;
    change(c);
    const State out = c.emulate(Order::kShuffled);
    CHECK(out.canvas == c.state.canvas);
    CHECK(out.committed == c.state.committed);
    CHECK(out.status[2] == static_cast<int64_t>(SequenceStatus::kInvalid));
    CHECK(out.forward[2] == c.state.forward[2] + 1);
  };
  // Sequence 1 is changed as well, so that the canvas stays as it was: a quota of 0.
  const auto waits = [](Commit& c) { c.rule = Rule::kQuota, c.quota[1] = 0; };
  invalid([&](Commit& c) { waits(c), c.position[2] = kLength; });
  invalid([&](Commit& c) { waits(c), c.length[0] = c.position[2]; });
  invalid([&](Commit& c) { waits(c), c.position[0] = -1; });
  invalid([&](Commit& c) { waits(c), c.token[3] = kMask; });
  invalid([&](Commit& c) { waits(c), c.length[0] = kLength + 1; });
  invalid([&](Commit& c) { waits(c), c.offsets = {-3, 4, 10}; });
  invalid([&](Commit& c) { waits(c), c.offsets = {5, 4, 10}; });
  Commit c = good;
  c.row = {9, -1};
  CHECK(c.emulate(Order::kForward) == c.state);
}
