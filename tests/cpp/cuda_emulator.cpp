#include "cuda_emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace dpad::cuda::emulator {
namespace {

constexpr size_t kStack = 96 << 10, kGuard = 256;
constexpr unsigned char kPoison = 0xFF;  // NaN as a float, -1 as an integer

struct Copy {
  void* to;
  const void* from;
  bool valid;
};

enum class State { kReady, kAtBarrier, kAtExchange, kDone };

// A context only starts a fiber; jumps switch between fibers without a system call.
struct Fiber {
  ucontext_t context;
  jmp_buf at;
  bool started = false;
  std::vector<char> stack = std::vector<char>(kStack);
  State state = State::kReady;
  void* mine = nullptr;
  void (*act)(void* const*) = nullptr;
  bool vote = false, verdict = false;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

class Block {
 public:
  Block(const Launch& launch, const std::function<void()>& kernel)
      : launch_(launch),
        kernel_(kernel),
        fibers_(launch.threads),
        memory_((launch.shared_bytes + 2 * kGuard) / 16 + 2) {}

  void run(int64_t x, int64_t y, int64_t z, std::mt19937& random) {
    std::fill(bytes(), bytes() + memory_.size() * 16, kPoison);
    std::vector<int> order(launch_.threads);
    std::iota(order.begin(), order.end(), 0);
    if (launch_.order == Order::kBackward) std::reverse(order.begin(), order.end());
    place = {0, x, y, z, &launch_};
    for (Fiber& fiber : fibers_) start(fiber);
    int left = launch_.threads;
    while (left > 0) {
      if (launch_.order == Order::kShuffled) std::shuffle(order.begin(), order.end(), random);
      bool moved = false;
      for (const int thread : order) {
        if (fibers_[thread].state != State::kReady) continue;
        moved = true;
        enter(thread);
        if (!error.empty()) throw std::runtime_error(error);
        if (fibers_[thread].state == State::kDone) --left;
        if (fibers_[thread].state != State::kAtExchange) continue;
        // Unless shuffled, the first warp that can go on does: it runs as far ahead as it may.
        if (try_exchange(thread / 32 * 32) && launch_.order != Order::kShuffled) break;
      }
      if (!moved && left > 0) release_barrier();
    }
    for (size_t i = 0; i < memory_.size() * 16; ++i) {
      const bool inside = i >= kGuard && i < kGuard + launch_.shared_bytes;
      if (!inside && bytes()[i] != kPoison) throw std::runtime_error("write outside shared memory");
    }
  }

  unsigned char* shared() { return bytes() + kGuard; }
  Fiber& current() { return fibers_[place.thread]; }
  [[gnu::noinline]] void leave() {
    if (_setjmp(current().at) == 0) _longjmp(scheduler_, 1);
  }

  Place place{};
  std::string error;

 private:
  struct alignas(16) Word {
    unsigned char bytes[16];
  };

  static void body();

  unsigned char* bytes() { return memory_.data()->bytes; }

  void start(Fiber& fiber) {
    fiber.state = State::kReady;
    fiber.started = false;
    fiber.open.clear();
    fiber.groups.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, body, 0);
  }

  [[gnu::noinline]] void enter(int thread) {
    place.thread = thread;
    Fiber& fiber = current();
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    setcontext(&fiber.context);
  }

  bool try_exchange(int first) {
    void* lanes[32];
    for (int lane = 0; lane < 32; ++lane) {
      const Fiber& fiber = fibers_.at(first + lane);
      if (fiber.state != State::kAtExchange) return false;
      if (fiber.act != fibers_[first].act) throw std::runtime_error("the lanes of a warp diverge");
      lanes[lane] = fiber.mine;
    }
    fibers_[first].act(lanes);
    for (int lane = 0; lane < 32; ++lane) fibers_[first + lane].state = State::kReady;
    return true;
  }

  void release_barrier() {
    bool verdict = false;
    for (const Fiber& fiber : fibers_) {
      if (fiber.state == State::kAtExchange) throw std::runtime_error("a warp waits for its lanes");
      if (fiber.state == State::kDone) throw std::runtime_error("a thread left before a barrier");
      verdict = verdict || fiber.vote;
    }
    for (Fiber& fiber : fibers_) fiber.state = State::kReady, fiber.verdict = verdict;
  }

  const Launch& launch_;
  const std::function<void()>& kernel_;
  std::vector<Fiber> fibers_;
  std::vector<Word> memory_;
  jmp_buf scheduler_;
};

// Places in global memory that packs of this launch were read from or written to, by first byte.
struct Touched {
  const char* end;
  int64_t block;  // kSeveral: read by more than one
  bool written;
};
constexpr int64_t kSeveral = -1;

class Accesses {
 public:
  // False where another block was there and one of the two writes.
  bool note(const char* at, size_t bytes, int64_t block, bool writes) {
    auto next = places_.lower_bound(at);
    if (next != places_.begin() && std::prev(next)->second.end > at) --next;
    for (; next != places_.end() && next->first < at + bytes; ++next) {
      Touched& there = next->second;
      if (there.block == block) continue;
      if (writes || there.written) return false;
      there.block = kSeveral;
    }
    Touched& mine = places_.try_emplace(at, Touched{at + bytes, block, false}).first->second;
    mine.end = std::max(mine.end, at + bytes);
    mine.written = mine.written || writes;
    return true;
  }
  void clear() { places_.clear(); }

 private:
  std::map<const char*, Touched> places_;
};

Block* block = nullptr;
Accesses accesses;

void Block::body() {
  block->kernel_();
  block->current().state = State::kDone;
  block->leave();
}

void fail(const std::string& what) {
  block->error = what;
  block->leave();
}

}  // namespace

void run(const Launch& launch, const std::function<void()>& kernel) {
  Block state(launch, kernel);
  std::mt19937 random(12345);
  std::vector<int64_t> order(launch.grid_x * launch.grid_y * launch.grid_z);
  std::iota(order.begin(), order.end(), int64_t{0});
  if (launch.order == Order::kBackward) std::reverse(order.begin(), order.end());
  if (launch.order == Order::kShuffled) std::shuffle(order.begin(), order.end(), random);
  struct Entered {
    explicit Entered(Block& state) { block = &state, accesses.clear(); }
    ~Entered() { block = nullptr; }
  } const entered(state);
  for (const int64_t i : order) {
    state.run(i % launch.grid_x, i / launch.grid_x % launch.grid_y,
              i / (launch.grid_x * launch.grid_y), random);
  }
}

const Place& place() { return block->place; }

unsigned char* shared() { return block->shared(); }

bool any_in_block(bool value) {
  Fiber& fiber = block->current();
  fiber.vote = value;
  fiber.state = State::kAtBarrier;
  block->leave();
  return fiber.verdict;
}

void wait_for_block() { any_in_block(false); }

void exchange(void* mine, void (*act)(void* const*)) {
  Fiber& fiber = block->current();
  fiber.mine = mine;
  fiber.act = act;
  fiber.state = State::kAtExchange;
  block->leave();
}

void expect_in_shared(const void* at, size_t bytes) {
  const auto* byte = static_cast<const unsigned char*>(at);
  const unsigned char* begin = block->shared();
  if (byte < begin || byte + bytes > begin + block->place.launch->shared_bytes) {
    fail("an address outside shared memory");
  }
  expect_aligned(at, 16);
}

void expect_aligned(const void* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes == 0) return;
  const std::string what = "an address that is not aligned to " + std::to_string(bytes) + " bytes";
  if (block == nullptr) throw std::runtime_error(what);
  fail(what);
}

void note_access(const void* at, size_t bytes, bool writes) {
  if (block == nullptr) return;
  const auto* byte = static_cast<const unsigned char*>(at);
  const Place& p = block->place;
  const bool shared = byte >= block->shared() && byte < block->shared() + p.launch->shared_bytes;
  const int64_t own = (p.block_z * p.launch->grid_y + p.block_y) * p.launch->grid_x + p.block_x;
  if (shared || accesses.note(static_cast<const char*>(at), bytes, own, writes)) return;
  fail("two blocks meet in global memory");
}

void queue_copy(void* to, const void* from, bool valid) {
  expect_in_shared(to, 16);
  expect_aligned(from, 16);
  block->current().open.push_back({to, from, valid});
}

void commit_copies() {
  Fiber& fiber = block->current();
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void wait_copies(size_t newest) {
  Fiber& fiber = block->current();
  for (; fiber.groups.size() > newest; fiber.groups.pop_front()) {
    for (const Copy& copy : fiber.groups.front()) {
      if (copy.valid) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
  }
}

}  // namespace dpad::cuda::emulator
