// The CUDA stream of a TensorFlow stream, by a name that Horovod calls and TensorFlow 2.21 no longer exports.
#include "tensorflow/compiler/xla/stream_executor/stream.h"

struct CUstream_st;

namespace stream_executor::gpu {
CUstream_st* AsGpuStreamValue(Stream* stream) {
  return static_cast<CUstream_st*>(stream->platform_specific_handle().stream);
}
}  // namespace stream_executor::gpu
