// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011). Every random choice of the
// library is a pure function of (seed, row key, where it is used), so that it does not depend on
// batch, device, thread count or order. Host and device code share this header.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DPAD_HOST_DEVICE __host__ __device__
#else
#define DPAD_HOST_DEVICE
#endif

namespace dpad {

struct PhiloxCounter {
  uint32_t word[4];
};

struct PhiloxKey {
  uint32_t word[2];
};

// What a stream of random numbers is for; part of the key, so streams never overlap.
enum class Stream : uint32_t { kSuffix = 1, kNoise = 2, kOrder = 3 };

DPAD_HOST_DEVICE constexpr PhiloxCounter philox(PhiloxCounter c, PhiloxKey k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c.word[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * c.word[2];
    c = {{static_cast<uint32_t>(b >> 32) ^ c.word[1] ^ k.word[0], static_cast<uint32_t>(b),
          static_cast<uint32_t>(a >> 32) ^ c.word[3] ^ k.word[1], static_cast<uint32_t>(a)}};
    k.word[0] += 0x9E3779B9u;
    k.word[1] += 0xBB67AE85u;
  }
  return c;
}

DPAD_HOST_DEVICE constexpr uint32_t low32(int64_t v) {
  return static_cast<uint32_t>(static_cast<uint64_t>(v));
}

DPAD_HOST_DEVICE constexpr uint32_t high32(int64_t v) {
  return static_cast<uint32_t>(static_cast<uint64_t>(v) >> 32);
}

// The key of one row's stream: a draw under the seed itself, so 64-bit row keys mix fully.
DPAD_HOST_DEVICE constexpr PhiloxKey stream_key(int64_t seed, int64_t row_key, Stream stream) {
  const PhiloxCounter mixed =
      philox({{low32(row_key), high32(row_key), static_cast<uint32_t>(stream), 0}},
             {{low32(seed), high32(seed)}});
  return {{mixed.word[0], mixed.word[1]}};
}

// The 32-bit words that decide on the suffix distances 4 `quad` to 4 `quad` + 3 of block `block`,
// draw `redraw`.
DPAD_HOST_DEVICE constexpr PhiloxCounter suffix_words(PhiloxKey key, int64_t quad, int64_t block,
                                                      int64_t redraw) {
  return philox({{low32(quad), low32(block), low32(redraw), 0}}, key);
}

}  // namespace dpad
