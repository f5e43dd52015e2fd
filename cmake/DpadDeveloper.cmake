# Options every host target of ours shares: warnings, path hygiene, hardening, sanitizers.
add_library(dpad_options INTERFACE)
target_compile_options(dpad_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -ffile-prefix-map=${CMAKE_CURRENT_SOURCE_DIR}/=>)
# What costs nothing that can be measured (docs/reliability.md). FORTIFY needs optimisation, and the
# sanitizers do its work better.
set(DPAD_HARDENING -fstack-protector-strong)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND DPAD_HARDENING -fcf-protection)
endif()
if(NOT DPAD_HARDEN)
  set(DPAD_HARDENING -fno-stack-protector)
elseif(NOT DPAD_SANITIZE AND NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  list(APPEND DPAD_HARDENING -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
endif()
target_compile_options(dpad_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${DPAD_HARDENING}>)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  target_link_options(dpad_options INTERFACE -Wl,-z,relro,-z,now,-z,noexecstack)
endif()
if(DPAD_WERROR)
  target_compile_options(dpad_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(DPAD_SANITIZE)
  target_compile_options(dpad_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${DPAD_SANITIZE}
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g>)
  target_link_options(dpad_options INTERFACE -fsanitize=${DPAD_SANITIZE})
endif()
