# fmt and pybind11, from PyPI (cmeel-fmt, pybind11) or the system. Never torch's own copies.
execute_process(
  COMMAND ${Python3_EXECUTABLE} -c
    "import sysconfig as s; print(s.get_paths()['purelib'] + '/cmeel.prefix')"
  OUTPUT_VARIABLE cmeel_prefix OUTPUT_STRIP_TRAILING_WHITESPACE)
execute_process(
  COMMAND ${Python3_EXECUTABLE} -c
    "import importlib.util as u; s = u.find_spec('cmeel_fmt') or u.find_spec('cmeel'); \
print(s.submodule_search_locations[0] + '/../cmeel.prefix' if s else '')"
  OUTPUT_VARIABLE cmeel_other OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
find_package(fmt 9 CONFIG QUIET HINTS ${cmeel_prefix} ${cmeel_other})
if(NOT fmt_FOUND)
  message(FATAL_ERROR "fmt >= 9 was not found. Install it with: pip install cmeel-fmt "
    "(or your system's package, e.g. libfmt-dev).")
endif()
if(DPAD_HOST)
  execute_process(COMMAND ${Python3_EXECUTABLE} -m pybind11 --cmakedir
    OUTPUT_VARIABLE pybind11_hint OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  find_package(pybind11 CONFIG QUIET HINTS ${pybind11_hint})
  if(NOT pybind11_FOUND)
    message(FATAL_ERROR "pybind11 was not found. Install it with: pip install pybind11 "
      "(or build without the host module: DPAD_HOST=0).")
  endif()
endif()
