# The kernels (torch-free, nvcc) and the module _C_cuda (their bindings, compiled by the host
# compiler, which reads torch's headers several times faster than nvcc).
add_library(dpad_cuda STATIC)
foreach(kernel ${DPAD_CUDA_KERNELS})
  target_sources(dpad_cuda PRIVATE csrc/cuda/${kernel}.cu)
endforeach()
add_library(_C_cuda MODULE csrc/torch/cuda/library.cpp csrc/torch/cuda/kernels.cpp
  $<TARGET_OBJECTS:dpad_bindings>)
target_include_directories(dpad_cuda PUBLIC csrc)
list(JOIN DPAD_HARDENING "," hardening)
target_compile_options(dpad_cuda PRIVATE
  "-Xcompiler=-Wall,-Wextra,${hardening},-ffile-prefix-map=${CMAKE_CURRENT_SOURCE_DIR}/=")

set_source_files_properties(csrc/torch/cuda/library.cpp PROPERTIES COMPILE_DEFINITIONS
  Py_LIMITED_API=0x030B0000)
# USE_CUDA declares torch's stream getter; the header needs nothing else of CUDA.
target_compile_definitions(_C_cuda PRIVATE USE_CUDA)
target_include_directories(_C_cuda PRIVATE ${Python3_INCLUDE_DIRS})
target_include_directories(_C_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
# The static runtime serves every minor release of its CUDA major. The stream getter lives in
# libtorch_cuda.so, which a CUDA torch loads through libtorch.so: that dependency has to be recorded
# although no symbol of libtorch.so itself is used.
target_link_libraries(_C_cuda PRIVATE dpad_cuda dpad_core dpad_options dpad_stable
  CUDA::cudart_static
  "-Wl,--push-state,--no-as-needed ${DPAD_TORCH_DIR}/lib/libtorch.so -Wl,--pop-state")
set_target_properties(_C_cuda PROPERTIES PREFIX "" SUFFIX ".abi3.so" LINKER_LANGUAGE CXX)
install(TARGETS _C_cuda LIBRARY DESTINATION dpad)
