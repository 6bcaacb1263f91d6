// Convolutions for XLA's CPU programs by oneDNN 3: forward, gradient of the
// images, gradient of the kernel. NHWC and HWIO, float32 and bfloat16.
//
// A batch is divided into parts. The calling thread and helpers on XLA's own
// thread pool take them from a counter and run each as a single-threaded oneDNN
// primitive: there is no second thread pool, and no deadlock if XLA runs several
// handlers at once, since a late helper finds nothing left to do. The division
// depends only on the shapes, and kernel gradients of the parts are summed in
// order. Results are therefore deterministic bit for bit, independent of the
// load and the number of threads.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
// From the OpenMP library that oneDNN uses.
extern "C" int omp_get_max_threads();
extern "C" void omp_set_num_threads(int);
#endif

namespace ffi = xla::ffi;
using dnnl::memory;

namespace {

enum class Kind : int64_t { kForward, kInputGradient, kKernelGradient };

// A part must be worth the start of a primitive (about 2 us), and for a kernel
// gradient also the cost of adding it to the others.
constexpr double kFlopsOfAPart = 8e6;
constexpr int64_t kMostParts = 32;
constexpr int64_t kPixelsOfAGradient = 1024;
constexpr int64_t kGradientsAtLeast = 4;

struct Shape {
  int64_t images, height, width, channels;
  int64_t kernel_height, kernel_width;
  int64_t out_height, out_width, out_channels;
  int64_t stride_height, stride_width;
  int64_t top, bottom, left, right;
  bool bfloat16;

  std::vector<int64_t> Key(Kind kind) const {
    return {static_cast<int64_t>(kind), images, height, width, channels,
            kernel_height, kernel_width, out_height, out_width, out_channels,
            stride_height, stride_width, top, bottom, left, right, bfloat16};
  }
};

// Makes oneDNN single-threaded until the end of the block.
class SingleThreaded {
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
 public:
  SingleThreaded() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThreaded() { omp_set_num_threads(before_); }

 private:
  int before_;
#else
 public:
  SingleThreaded() {}  // Without a pool of its own, oneDNN uses the caller.
#endif
};

// Not destroyed, because threads of XLA may outlive static objects.
dnnl::engine& Engine() {
  static auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::stream& Stream() {
  thread_local dnnl::stream stream(Engine());
  return stream;
}

// Memory that is kept for later calls: new pages in each call would cost more
// than a small convolution. Blocks are never freed; their number is the largest
// number in use at once.
class Workspace {
 public:
  explicit Workspace(size_t size) {
    if (size == 0) return;
    {
      std::lock_guard<std::mutex> lock(Mutex());
      auto& blocks = Blocks();
      auto found = blocks.lower_bound(size);
      if (found == blocks.end() && !blocks.empty()) found = --blocks.end();
      if (found != blocks.end()) {
        size_ = found->first;
        data_ = found->second;
        blocks.erase(found);
      }
    }
    if (size_ < size) {
      std::free(data_);
      size_ = (size + 4095) / 4096 * 4096;
      data_ = static_cast<char*>(std::aligned_alloc(64, size_));
      if (data_ == nullptr) throw std::bad_alloc();
    }
  }
  ~Workspace() {
    if (data_ == nullptr) return;
    std::lock_guard<std::mutex> lock(Mutex());
    Blocks().emplace(size_, data_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  char* data() const { return data_; }

 private:
  static std::mutex& Mutex() {
    static auto* mutex = new std::mutex;
    return *mutex;
  }
  static std::multimap<size_t, char*>& Blocks() {
    static auto* blocks = new std::multimap<size_t, char*>;
    return *blocks;
  }

  char* data_ = nullptr;
  size_t size_ = 0;
};

// A primitive and the layout of its scratch memory, which each caller provides,
// so that any number of threads can run it at once.
struct Primitive {
  dnnl::primitive primitive;
  memory::desc scratch;

  void Run(std::unordered_map<int, memory> arguments) const {
    Workspace workspace(scratch.get_size());
    arguments.emplace(DNNL_ARG_SCRATCHPAD,
                      memory(scratch, Engine(), workspace.data()));
    primitive.execute(Stream(), arguments);
  }
};

// How oneDNN convolves one part of a batch.
struct Plan {
  Primitive convolution;
  Primitive reorder;  // Between the kernel in HWIO and in oneDNN's layout.
  memory::desc images, kernel, out, hwio;
  bool reorders;

  size_t KernelSize() const { return (kernel.get_size() + 63) / 64 * 64; }

  void Convolve(Kind kind, char* images_data, char* kernel_data,
                char* out_data) const {
    static constexpr int kArguments[3][3] = {
        {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
        {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
        {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST}};
    const int* names = kArguments[static_cast<int>(kind)];
    convolution.Run({{names[0], memory(images, Engine(), images_data)},
                     {names[1], memory(kernel, Engine(), kernel_data)},
                     {names[2], memory(out, Engine(), out_data)}});
  }

  void Reorder(const memory::desc& from, char* source, const memory::desc& to,
               char* target) const {
    reorder.Run({{DNNL_ARG_FROM, memory(from, Engine(), source)},
                 {DNNL_ARG_TO, memory(to, Engine(), target)}});
  }
};

std::unique_ptr<Plan> MakePlan(Kind kind, const Shape& s) {
  using tag = memory::format_tag;
  using type = memory::data_type;
  auto plan = std::make_unique<Plan>();
  const type dtype = s.bfloat16 ? type::bf16 : type::f32;
  const type kernel_dtype = kind == Kind::kKernelGradient ? type::f32 : dtype;
  const memory::dims kernel_dims{s.out_channels, s.channels, s.kernel_height,
                                 s.kernel_width};
  plan->images = {{s.images, s.channels, s.height, s.width}, dtype, tag::nhwc};
  plan->out = {{s.images, s.out_channels, s.out_height, s.out_width},
               dtype,
               tag::nhwc};
  plan->hwio = {kernel_dims, kernel_dtype, tag::hwio};
  const memory::desc free{kernel_dims, kernel_dtype, tag::any};
  const memory::desc forward_free{kernel_dims, dtype, tag::any};
  const memory::dims strides{s.stride_height, s.stride_width};
  const memory::dims low{s.top, s.left}, high{s.bottom, s.right};
  const auto algorithm = dnnl::algorithm::convolution_direct;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attributes.set_fpmath_mode(dnnl::fpmath_mode::strict);

  const dnnl::convolution_forward::primitive_desc forward(
      Engine(), dnnl::prop_kind::forward_training, algorithm, plan->images,
      forward_free, plan->out, strides, low, high, attributes);
  switch (kind) {
    case Kind::kForward:
      plan->kernel = forward.weights_desc();
      plan->convolution = {dnnl::convolution_forward(forward),
                           forward.scratchpad_desc()};
      break;
    case Kind::kInputGradient: {
      const dnnl::convolution_backward_data::primitive_desc backward(
          Engine(), algorithm, plan->images, free, plan->out, strides, low,
          high, forward, attributes);
      plan->kernel = backward.weights_desc();
      plan->convolution = {dnnl::convolution_backward_data(backward),
                           backward.scratchpad_desc()};
      break;
    }
    case Kind::kKernelGradient: {
      const dnnl::convolution_backward_weights::primitive_desc backward(
          Engine(), algorithm, plan->images, free, plan->out, strides, low,
          high, forward, attributes);
      plan->kernel = backward.diff_weights_desc();
      plan->convolution = {dnnl::convolution_backward_weights(backward),
                           backward.scratchpad_desc()};
      break;
    }
  }
  plan->reorders = plan->kernel != plan->hwio;
  if (plan->reorders) {
    const bool back = kind == Kind::kKernelGradient;
    const dnnl::reorder::primitive_desc reorder(
        Engine(), back ? plan->kernel : plan->hwio, Engine(),
        back ? plan->hwio : plan->kernel, attributes);
    plan->reorder = {dnnl::reorder(reorder), reorder.scratchpad_desc()};
  }
  return plan;
}

const Plan& GetPlan(Kind kind, const Shape& shape) {
  static auto* mutex = new std::mutex;
  static auto* plans = new std::map<std::vector<int64_t>, std::unique_ptr<Plan>>;
  std::lock_guard<std::mutex> lock(*mutex);
  auto& plan = (*plans)[shape.Key(kind)];
  if (plan == nullptr) plan = MakePlan(kind, shape);
  return *plan;
}

// Calls f(part) for all parts, in any order, helped by XLA's pool.
template <typename F>
void Parallel(ffi::ThreadPool& pool, int64_t parts, const F& f) {
  struct Shared {
    const F* f;
    int64_t parts;
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
    std::string error;

    void Work() {
      for (int64_t part; (part = next.fetch_add(1)) < parts;) {
        try {
          SingleThreaded single_threaded;
          (*f)(part);
        } catch (const std::exception& caught) {
          std::lock_guard<std::mutex> lock(mutex);
          error = caught.what();
        }
        if (done.fetch_add(1) + 1 == parts) {
          std::lock_guard<std::mutex> lock(mutex);
          all_done.notify_one();
        }
      }
    }
  };
  // A helper that starts after the end of this call does not access f.
  auto shared = std::make_shared<Shared>();
  shared->f = &f;
  shared->parts = parts;
  const int64_t helpers = std::min(parts, pool.num_threads()) - 1;
  for (int64_t i = 0; i < helpers; ++i) {
    pool.Schedule([shared] { shared->Work(); });
  }
  shared->Work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == parts; });
  if (!shared->error.empty()) throw std::runtime_error(shared->error);
}

int64_t CountParts(Kind kind, const Shape& s) {
  const int64_t pixels = s.images * s.out_height * s.out_width;
  const double flops = 2.0 * pixels * s.out_channels * s.channels *
                       s.kernel_height * s.kernel_width;
  int64_t parts = std::min<double>(flops / kFlopsOfAPart, kMostParts);
  if (kind == Kind::kKernelGradient) {
    parts = std::min(
        parts, std::max(pixels / kPixelsOfAGradient, kGradientsAtLeast));
  }
  return std::clamp<int64_t>(parts, 1, s.images);
}

// Equal parts of the batch, and their kernel or gradients in oneDNN's layout.
struct Group {
  const Plan* plan;
  int64_t parts;
  size_t kernel_offset;
};

void AddParts(ffi::ThreadPool& pool, char* data, size_t size, int64_t parts) {
  constexpr int64_t kBlock = 1 << 14;
  const int64_t count = size / sizeof(float);
  float* total = reinterpret_cast<float*>(data);
  Parallel(pool, (count + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t end = std::min(count, (block + 1) * kBlock);
    for (int64_t part = 1; part < parts; ++part) {
      const float* other = total + part * count;
      for (int64_t i = block * kBlock; i < end; ++i) total[i] += other[i];
    }
  });
}

void Convolve(Kind kind, ffi::ThreadPool& pool, const Shape& shape,
              char* images, char* kernel, char* out) {
  const bool is_sum = kind == Kind::kKernelGradient;
  const int64_t parts = CountParts(kind, shape);
  const int64_t share = (shape.images + parts - 1) / parts;
  const int64_t size = shape.bfloat16 ? 2 : 4;
  const int64_t image_size =
      size * shape.height * shape.width * shape.channels;
  const int64_t out_size =
      size * shape.out_height * shape.out_width * shape.out_channels;

  SingleThreaded single_threaded;  // Also while plans are made.
  std::vector<Group> groups;
  size_t kernels = 0;
  const auto add_group = [&](int64_t images_of_a_part, int64_t count) {
    if (images_of_a_part == 0 || count == 0) return;
    Shape part = shape;
    part.images = images_of_a_part;
    const Plan& plan = GetPlan(kind, part);
    groups.push_back({&plan, count, kernels});
    kernels += plan.KernelSize() * (is_sum ? count : 1);
  };
  add_group(share, shape.images / share);
  add_group(shape.images % share, 1);

  const bool in_place =
      groups.size() == 1 && !groups[0].plan->reorders &&
      (!is_sum || groups[0].parts == 1);
  Workspace workspace(in_place ? 0 : kernels);
  char* const preferred = in_place ? kernel : workspace.data();
  if (!is_sum && !in_place) {
    for (const Group& group : groups) {
      char* const target = preferred + group.kernel_offset;
      if (group.plan->reorders) {
        group.plan->Reorder(group.plan->hwio, kernel, group.plan->kernel,
                            target);
      } else {
        std::memcpy(target, kernel, group.plan->hwio.get_size());
      }
    }
  }

  const int64_t total_parts =
      groups[0].parts + (groups.size() > 1 ? groups[1].parts : 0);
  Parallel(pool, total_parts, [&](int64_t part) {
    const Group& group = groups[part < groups[0].parts ? 0 : 1];
    const int64_t of_group = part < groups[0].parts ? part : 0;
    group.plan->Convolve(
        kind, images + part * share * image_size,
        preferred + group.kernel_offset +
            (is_sum ? of_group * group.plan->KernelSize() : 0),
        out + part * share * out_size);
  });
  if (!is_sum || in_place) return;

  AddParts(pool, preferred, groups[0].plan->KernelSize(), groups[0].parts);
  const size_t hwio_size = groups[0].plan->hwio.get_size();
  Workspace rest(groups.size() > 1 ? hwio_size : 0);
  for (const Group& group : groups) {
    char* const target = &group == &groups[0] ? kernel : rest.data();
    char* const source = preferred + group.kernel_offset;
    if (group.plan->reorders) {
      group.plan->Reorder(group.plan->kernel, source, group.plan->hwio, target);
    } else {
      std::memcpy(target, source, hwio_size);
    }
  }
  if (groups.size() > 1) {
    float* total = reinterpret_cast<float*>(kernel);
    const float* other = reinterpret_cast<float*>(rest.data());
    const size_t count = hwio_size / sizeof(float);
    for (size_t i = 0; i < count; ++i) total[i] += other[i];
  }
}

using Numbers = ffi::Span<const int64_t>;

ffi::Error Handle(Kind kind, ffi::ThreadPool pool, const ffi::AnyBuffer& images,
                  const ffi::AnyBuffer& kernel, const ffi::AnyBuffer& out,
                  Numbers strides, Numbers padding) {
  const auto i = images.dimensions(), k = kernel.dimensions(),
             o = out.dimensions();
  if (i.size() != 4 || k.size() != 4 || o.size() != 4 || strides.size() != 2 ||
      padding.size() != 4) {
    return ffi::Error::InvalidArgument("A convolution must be of rank 4.");
  }
  const Shape shape{i[0],       i[1],       i[2],       i[3],
                    k[0],       k[1],       o[1],       o[2],
                    o[3],       strides[0], strides[1], padding[0],
                    padding[1], padding[2], padding[3],
                    images.element_type() == ffi::BF16};
  try {
    Convolve(kind, pool, shape, static_cast<char*>(images.untyped_data()),
             static_cast<char*>(kernel.untyped_data()),
             static_cast<char*>(out.untyped_data()));
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
  return ffi::Error::Success();
}

using Given = ffi::AnyBuffer;
using Made = ffi::Result<ffi::AnyBuffer>;

ffi::Error Forward(ffi::ThreadPool pool, Given images, Given kernel, Made out,
                   Numbers strides, Numbers padding) {
  return Handle(Kind::kForward, pool, images, kernel, *out, strides, padding);
}

ffi::Error InputGradient(ffi::ThreadPool pool, Given out, Given kernel,
                         Made images, Numbers strides, Numbers padding) {
  return Handle(Kind::kInputGradient, pool, *images, kernel, out, strides,
                padding);
}

ffi::Error KernelGradient(ffi::ThreadPool pool, Given images, Given out,
                          Made kernel, Numbers strides, Numbers padding) {
  return Handle(Kind::kKernelGradient, pool, images, *kernel, out, strides,
                padding);
}

auto Bind() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<Numbers>("strides")
      .Attr<Numbers>("padding");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(OnednnForward, Forward, Bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(OnednnInputGradient, InputGradient, Bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(OnednnKernelGradient, KernelGradient, Bind());

// Whether oneDNN uses an instruction set on this processor.
static int Has(dnnl::cpu_isa wanted) {
  const int isa = static_cast<int>(dnnl::get_effective_cpu_isa());
  return (isa & static_cast<int>(wanted)) == static_cast<int>(wanted);
}

extern "C" int OnednnHasBfloat16() {
  return Has(dnnl::cpu_isa::avx512_core_bf16);
}

extern "C" int OnednnHasAvx512() { return Has(dnnl::cpu_isa::avx512_core); }
