// Batch norm with ReLU for XLA's CPU programs: forward and gradients of one
// training step. Channels last, float32 and bfloat16, statistics in float32.
//
// The rows (pixels) are cut into blocks, as the shape alone decides. The calling
// thread and helpers on XLA's own pool take them from a counter: first all
// blocks for the sums, then all for the elements, last block first because it is
// still in the cache. A sum over the rows is one of blocks, added in their
// order. So the bits of a result depend neither on the load nor on the number of
// threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

#define BATCH_NORM_INLINE inline __attribute__((always_inline))

// ---------------------------------------------------------------- the vectors

// A block should be worth the taking, and its sums what it costs to add them.
constexpr int64_t kNumbersOfABlock = 1 << 14;
constexpr int64_t kRowsOfABlock = 128;

// Numbers that are read before the next channels: few enough for the first level
// of the cache.
constexpr int64_t kNumbersAtOnce = 1 << 12;

// Every vector must divide the width of a row, see Widths.
constexpr int64_t kLanes = 16;
constexpr int64_t kLeastWidth = 64;

using Bfloat16 = uint16_t;

struct Of512Bits {
  typedef float Float __attribute__((vector_size(64)));
  typedef uint32_t Bits __attribute__((vector_size(64)));
  typedef uint16_t Half __attribute__((vector_size(32)));
};

struct Of256Bits {
  typedef float Float __attribute__((vector_size(32)));
  typedef uint32_t Bits __attribute__((vector_size(32)));
  typedef uint16_t Half __attribute__((vector_size(16)));
};

// For what is left of an array at its end.
struct Single {
  typedef float Float;
  typedef uint32_t Bits;
  typedef uint16_t Half;
};

template <typename To, typename From>
BATCH_NORM_INLINE void Reinterpret(const From& from, To& to) {
  static_assert(sizeof(To) == sizeof(From), "");
  std::memcpy(&to, &from, sizeof(to));
}

BATCH_NORM_INLINE void Convert(const uint16_t& from, uint32_t& to) {
  to = from;
}
BATCH_NORM_INLINE void Convert(const uint32_t& from, uint16_t& to) {
  to = from;
}
template <typename From, typename To>
BATCH_NORM_INLINE void Convert(const From& from, To& to) {
  to = __builtin_convertvector(from, To);
}

// Vectors are passed by reference: by value their ABI depends on the target.
template <typename V>
BATCH_NORM_INLINE void Load(const float* from, typename V::Float& to) {
  std::memcpy(&to, from, sizeof(to));
}

template <typename V>
BATCH_NORM_INLINE void Load(const Bfloat16* from, typename V::Float& to) {
  typename V::Half half;
  std::memcpy(&half, from, sizeof(half));
  typename V::Bits bits;
  Convert(half, bits);
  bits = bits << 16;
  Reinterpret(bits, to);
}

template <typename V>
BATCH_NORM_INLINE void Store(const typename V::Float& from, float* to) {
  std::memcpy(to, &from, sizeof(from));
}

// Rounds to the nearest, and to even between two.
template <typename V>
BATCH_NORM_INLINE void Store(const typename V::Float& from, Bfloat16* to) {
  typename V::Bits bits;
  Reinterpret(from, bits);
  const typename V::Bits high = bits >> 16;
  const typename V::Bits rounded = (bits + 0x7fff + (high & 1)) >> 16;
  const typename V::Bits result = from != from ? (high | 0x40) : rounded;
  typename V::Half half;
  Convert(result, half);
  std::memcpy(to, &half, sizeof(half));
}

// ------------------------------------------------------------------ the loops

enum class Step { kSums, kNormalize, kGradientSums, kGradient };

// The arguments of a step. Of the parameters there is one for each lane.
template <typename Element>
struct Arguments {
  const Element* x = nullptr;
  const Element* dy = nullptr;
  Element* out = nullptr;
  const float* mean = nullptr;
  const float* factor = nullptr;
  const float* bias = nullptr;
  const float* slope = nullptr;   // Of the gradient in x - mean,
  const float* offset = nullptr;  // and where x = mean.
  float* sums = nullptr;          // 2 of each lane.
};

// A step for kCount vectors of each row, from a lane on.
template <Step kStep, typename V, int kCount, typename Element>
BATCH_NORM_INLINE void Tile(const Arguments<Element>& a, int64_t width,
                            int64_t position, int64_t lane, int64_t rows) {
  using Float = typename V::Float;
  constexpr int64_t kSize = sizeof(Float) / sizeof(float);
  constexpr bool kIsSum =
      kStep == Step::kSums || kStep == Step::kGradientSums;
  Float mean[kCount], factor[kCount], bias[kCount], slope[kCount],
      offset[kCount], first[kCount], second[kCount];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    const int64_t at = lane + i * kSize;
    if constexpr (kStep != Step::kSums) {
      Load<V>(a.mean + at, mean[i]);
      Load<V>(a.factor + at, factor[i]);
      Load<V>(a.bias + at, bias[i]);
    }
    if constexpr (kStep == Step::kGradient) {
      Load<V>(a.slope + at, slope[i]);
      Load<V>(a.offset + at, offset[i]);
    }
    if constexpr (kIsSum) {
      Load<V>(a.sums + at, first[i]);
      Load<V>(a.sums + width + at, second[i]);
    }
  }
  const Float zero = {};
  for (int64_t row = 0; row < rows; ++row) {
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      const int64_t at = position + row * width + lane + i * kSize;
      Float x;
      Load<V>(a.x + at, x);
      if constexpr (kStep == Step::kSums) {
        first[i] += x;
        second[i] += x * x;
      } else {
        const Float centred = x - mean[i];
        const Float y = centred * factor[i] + bias[i];
        if constexpr (kStep == Step::kNormalize) {
          // What is not a number stays so.
          const Float relu = y <= zero ? zero : y;
          Store<V>(relu, a.out + at);
        } else {
          Float dy;
          Load<V>(a.dy + at, dy);
          dy = y > zero ? dy : zero;
          if constexpr (kStep == Step::kGradientSums) {
            first[i] += dy;
            second[i] += dy * centred;
          } else {
            const Float dx =
                dy * factor[i] - (centred * slope[i] + offset[i]);
            Store<V>(dx, a.out + at);
          }
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    const int64_t at = lane + i * kSize;
    if constexpr (kIsSum) {
      Store<V>(first[i], a.sums + at);
      Store<V>(second[i], a.sums + width + at);
    }
  }
}

// A step for the numbers from begin to end, which begins a row.
template <Step kStep, typename V, typename Element>
BATCH_NORM_INLINE void Block(const Arguments<Element>& a, int64_t width,
                             int64_t begin, int64_t end) {
  constexpr int64_t kSize = sizeof(typename V::Float) / sizeof(float);
  constexpr int kCount = 4;
  const int64_t most = std::max<int64_t>(1, kNumbersAtOnce / width);
  while (end - begin >= width) {
    const int64_t rows =
        width <= kCount * kSize ? (end - begin) / width
                                : std::min(most, (end - begin) / width);
    int64_t lane = 0;
    for (; lane + kCount * kSize <= width; lane += kCount * kSize) {
      Tile<kStep, V, kCount>(a, width, begin, lane, rows);
    }
    for (; lane < width; lane += kSize) {
      Tile<kStep, V, 1>(a, width, begin, lane, rows);
    }
    begin += rows * width;
  }
  for (int64_t lane = 0; lane < end - begin; ++lane) {
    Tile<kStep, Single, 1>(a, width, begin, lane, 1);
  }
}

template <typename V, typename Element>
BATCH_NORM_INLINE void AnyBlock(Step step, const Arguments<Element>& a,
                                int64_t width, int64_t begin, int64_t end) {
  switch (step) {
    case Step::kSums:
      return Block<Step::kSums, V>(a, width, begin, end);
    case Step::kNormalize:
      return Block<Step::kNormalize, V>(a, width, begin, end);
    case Step::kGradientSums:
      return Block<Step::kGradientSums, V>(a, width, begin, end);
    case Step::kGradient:
      return Block<Step::kGradient, V>(a, width, begin, end);
  }
}

template <typename Element>
using RunBlock = void (*)(Step, const Arguments<Element>&, int64_t, int64_t,
                          int64_t);

template <typename Element>
void RunAnywhere(Step step, const Arguments<Element>& a, int64_t width,
                 int64_t begin, int64_t end) {
  AnyBlock<Of256Bits>(step, a, width, begin, end);
}

#ifdef __x86_64__
template <typename Element>
__attribute__((target("avx2,fma"))) void RunAvx2(
    Step step, const Arguments<Element>& a, int64_t width, int64_t begin,
    int64_t end) {
  AnyBlock<Of256Bits>(step, a, width, begin, end);
}

template <typename Element>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))) void
RunAvx512(Step step, const Arguments<Element>& a, int64_t width, int64_t begin,
          int64_t end) {
  AnyBlock<Of512Bits>(step, a, width, begin, end);
}
#endif

// The code for the processor that this runs on, whatever it was compiled on.
template <typename Element>
RunBlock<Element> Choose() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    const bool is_wide = __builtin_cpu_supports("avx512f") &&
                         __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("avx512dq") &&
                         __builtin_cpu_supports("avx512vl");
    return is_wide ? RunAvx512<Element> : RunAvx2<Element>;
  }
#endif
  return RunAnywhere<Element>;
}

// ---------------------------------------------------------------- the threads

inline void Pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

// Calls first(part) for all parts in any order, then between(), then
// second(part) for all parts from the last on, helped by XLA's pool. None of
// them may throw.
class ParallelTwice : public std::enable_shared_from_this<ParallelTwice> {
 public:
  using Part = std::function<void(int64_t)>;

  ParallelTwice(int64_t parts, Part first, std::function<void()> between,
                Part second)
      : parts_(parts),
        first_(std::move(first)),
        between_(std::move(between)),
        second_(std::move(second)) {}

  void Run(ffi::ThreadPool& pool) {
    const int64_t helpers = std::min(parts_, pool.num_threads()) - 1;
    for (int64_t i = 0; i < helpers; ++i) {
      // A helper that starts after the end of this call finds no part left.
      pool.Schedule([self = shared_from_this()] { self->Work(); });
    }
    Work();
    Await([this] { return done_.load() == 2 * parts_; });
  }

 private:
  void Work() {
    for (int64_t i; (i = next_.fetch_add(1)) < 2 * parts_;) {
      if (i < parts_) {
        first_(i);
      } else {
        Await([this] { return is_between_done_.load(); });
        second_(2 * parts_ - 1 - i);
      }
      const int64_t done = done_.fetch_add(1) + 1;
      if (done == parts_) {
        between_();
        is_between_done_.store(true);
      }
      if (done == parts_ || done == 2 * parts_) {
        std::lock_guard<std::mutex> lock(mutex_);
        changed_.notify_all();
      }
    }
  }

  // Waits for threads that are at work, never for one that is yet to start.
  template <typename Condition>
  void Await(const Condition& condition) {
    for (int i = 0; i < kSpins; ++i) {
      if (condition()) return;
      Pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, condition);
  }

  static constexpr int kSpins = 1000;  // Some microseconds.

  const int64_t parts_;
  const Part first_;
  const std::function<void()> between_;
  const Part second_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::atomic<bool> is_between_done_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
};

// ---------------------------------------------------------------- the kernels

// Narrow rows are taken several at once, so that a vector never ends within.
struct Shape {
  int64_t numbers, channels, width, block, blocks;

  Shape(int64_t rows, int64_t channels) : channels(channels) {
    numbers = rows * channels;
    width = std::lcm(channels, kLanes);
    width *= (kLeastWidth + width - 1) / width;
    block = std::max(kNumbersOfABlock, kRowsOfABlock * channels);
    block = (block + width - 1) / width * width;
    blocks = (numbers + block - 1) / block;
  }
  int64_t rows() const { return numbers / channels; }
};

// The sums of the blocks of each lane, as sums of each channel. Both results are
// zero before.
void AddBlocks(const Shape& s, const std::vector<float>& sums,
               std::vector<double>& lanes, std::vector<double>& channels) {
  for (int64_t block = 0; block < s.blocks; ++block) {
    const float* of_block = sums.data() + block * 2 * s.width;
    for (int64_t i = 0; i < 2 * s.width; ++i) lanes[i] += of_block[i];
  }
  for (int64_t kind = 0; kind < 2; ++kind) {
    for (int64_t from = 0; from < s.width; from += s.channels) {
      for (int64_t i = 0; i < s.channels; ++i) {
        channels[kind * s.channels + i] += lanes[kind * s.width + from + i];
      }
    }
  }
}

// One parameter for each lane.
class Lanes {
 public:
  explicit Lanes(const Shape& s) : channels_(s.channels), values_(s.width) {}
  template <typename F>
  void Fill(const F& f) {
    for (int64_t i = 0; i < channels_; ++i) values_[i] = f(i);
    for (size_t i = channels_; i < values_.size(); ++i) {
      values_[i] = values_[i - channels_];
    }
  }
  const float* data() const { return values_.data(); }

 private:
  int64_t channels_;
  std::vector<float> values_;
};

float Inverse(float variance, float epsilon) {
  return 1 / std::sqrt(variance + epsilon);
}

// Runs two steps on all blocks. Between them `between` gets the sums of the first,
// by kind and channel.
template <typename Element, typename F>
void RunTwice(ffi::ThreadPool& pool, const Shape& s, const Arguments<Element>& a,
              Step first, const F& between, Step second) {
  static const RunBlock<Element> run = Choose<Element>();
  std::vector<float> sums(s.blocks * 2 * s.width);
  std::vector<double> lanes(2 * s.width), total(2 * s.channels);
  const auto run_block = [&](Step step, int64_t block) {
    Arguments<Element> of_block = a;
    of_block.sums = sums.data() + block * 2 * s.width;
    run(step, of_block, s.width, block * s.block,
        std::min(s.numbers, (block + 1) * s.block));
  };
  std::make_shared<ParallelTwice>(
      s.blocks, [&](int64_t block) { run_block(first, block); },
      [&] {
        AddBlocks(s, sums, lanes, total);
        between(total);
      },
      [&](int64_t block) { run_block(second, block); })
      ->Run(pool);
}

template <typename Element>
void Normalize(ffi::ThreadPool& pool, const Shape& s, const Element* x,
               const float* scale, const float* bias, float epsilon, Element* y,
               float* mean, float* variance) {
  Lanes means(s), factors(s), biases(s);
  Arguments<Element> a;
  a.x = x;
  a.out = y;
  a.mean = means.data();
  a.factor = factors.data();
  a.bias = biases.data();
  RunTwice(
      pool, s, a, Step::kSums,
      [&](const std::vector<double>& total) {
        for (int64_t i = 0; i < s.channels; ++i) {
          const double first = total[i] / s.rows();
          const double second = total[s.channels + i] / s.rows();
          mean[i] = first;
          variance[i] = std::max(0.0, second - first * first);
          if (second != second) variance[i] = second;
        }
        means.Fill([&](int64_t i) { return mean[i]; });
        factors.Fill([&](int64_t i) {
          return Inverse(variance[i], epsilon) * scale[i];
        });
        biases.Fill([&](int64_t i) { return bias[i]; });
      },
      Step::kNormalize);
}

template <typename Element>
void Differentiate(ffi::ThreadPool& pool, const Shape& s, const Element* x,
                   const float* scale, const float* bias, const float* mean,
                   const float* variance, const Element* dy, float epsilon,
                   Element* dx, float* dscale, float* dbias) {
  Lanes means(s), factors(s), biases(s), slopes(s), offsets(s);
  means.Fill([&](int64_t i) { return mean[i]; });
  factors.Fill(
      [&](int64_t i) { return Inverse(variance[i], epsilon) * scale[i]; });
  biases.Fill([&](int64_t i) { return bias[i]; });
  Arguments<Element> a;
  a.x = x;
  a.dy = dy;
  a.out = dx;
  a.mean = means.data();
  a.factor = factors.data();
  a.bias = biases.data();
  a.slope = slopes.data();
  a.offset = offsets.data();
  RunTwice(
      pool, s, a, Step::kGradientSums,
      [&](const std::vector<double>& total) {
        for (int64_t i = 0; i < s.channels; ++i) {
          dbias[i] = total[i];
          dscale[i] = total[s.channels + i] * Inverse(variance[i], epsilon);
        }
        offsets.Fill([&](int64_t i) {
          return factors.data()[i] * (total[i] / s.rows());
        });
        slopes.Fill([&](int64_t i) -> double {
          // A variance that was cut off at 0 does not depend on x.
          if (variance[i] == 0) return 0;
          const double inverse = Inverse(variance[i], epsilon);
          return factors.data()[i] * inverse * inverse *
                 (total[s.channels + i] / s.rows());
        });
      },
      Step::kGradient);
}

using Given = ffi::AnyBuffer;
using Made = ffi::Result<ffi::AnyBuffer>;

Shape ShapeOf(const ffi::AnyBuffer& x) {
  const auto sizes = x.dimensions();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < sizes.size(); ++i) rows *= sizes[i];
  return Shape(rows, sizes.back());
}

const float* Floats(const ffi::AnyBuffer& buffer) {
  return static_cast<const float*>(buffer.untyped_data());
}
float* Floats(Made& buffer) {
  return static_cast<float*>(buffer->untyped_data());
}

template <typename F>
ffi::Error Handle(const ffi::AnyBuffer& x, const F& f) {
  try {
    if (x.element_type() == ffi::BF16) {
      f(Bfloat16());
    } else {
      f(float());
    }
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("Batch norm: ") + error.what());
  }
  return ffi::Error::Success();
}

ffi::Error Forward(ffi::ThreadPool pool, Given x, Given scale, Given bias,
                   Made y, Made mean, Made variance, float epsilon) {
  return Handle(x, [&](auto element) {
    using Element = decltype(element);
    Normalize(pool, ShapeOf(x), static_cast<const Element*>(x.untyped_data()),
              Floats(scale), Floats(bias), epsilon,
              static_cast<Element*>(y->untyped_data()), Floats(mean),
              Floats(variance));
  });
}

ffi::Error Gradient(ffi::ThreadPool pool, Given x, Given scale, Given bias,
                    Given mean, Given variance, Given dy, Made dx, Made dscale,
                    Made dbias, float epsilon) {
  return Handle(x, [&](auto element) {
    using Element = decltype(element);
    Differentiate(pool, ShapeOf(x),
                  static_cast<const Element*>(x.untyped_data()), Floats(scale),
                  Floats(bias), Floats(mean), Floats(variance),
                  static_cast<const Element*>(dy.untyped_data()), epsilon,
                  static_cast<Element*>(dx->untyped_data()), Floats(dscale),
                  Floats(dbias));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(BatchNormForward, Forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<float>("epsilon"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(BatchNormGradient, Gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<float>("epsilon"));
