# The target dpad_stable: torch's stable-ABI headers and libraries. torch is located, never imported
# (that takes seconds), and find_package(Torch) is not needed.
if(NOT DPAD_TORCH_DIR)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c
      "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE DPAD_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT EXISTS "${DPAD_TORCH_DIR}/include/torch/csrc/stable/library.h")
  message(FATAL_ERROR "torch >= 2.11 was not found for ${Python3_EXECUTABLE}. Install it first "
    "(for example: pip install torch), or set DPAD_TORCH_DIR to the folder of the torch package.")
endif()
file(STRINGS "${DPAD_TORCH_DIR}/version.py" version_line REGEX "^__version__")
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" DPAD_TORCH_VERSION "${version_line}")
if(DPAD_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "torch ${DPAD_TORCH_VERSION} is too old: dpad needs torch >= 2.11.")
endif()

add_library(dpad_stable INTERFACE)
target_include_directories(dpad_stable SYSTEM INTERFACE "${DPAD_TORCH_DIR}/include")
target_compile_definitions(dpad_stable INTERFACE TORCH_TARGET_VERSION=0x020B000000000000ULL)
target_compile_options(dpad_stable INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-ffile-prefix-map=${DPAD_TORCH_DIR}/include/=>)
# By full path: the record is the bare soname, which torch has loaded by then.
target_link_libraries(dpad_stable INTERFACE "${DPAD_TORCH_DIR}/lib/libtorch_cpu.so")
set(CMAKE_SKIP_RPATH ON)
