# Options every host target of ours shares: warnings, path hygiene, sanitizers.
add_library(dpad_options INTERFACE)
target_compile_options(dpad_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -ffile-prefix-map=${CMAKE_CURRENT_SOURCE_DIR}/=>)
if(DPAD_WERROR)
  target_compile_options(dpad_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(DPAD_SANITIZE)
  target_compile_options(dpad_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${DPAD_SANITIZE}
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g>)
  target_link_options(dpad_options INTERFACE -fsanitize=${DPAD_SANITIZE})
endif()
