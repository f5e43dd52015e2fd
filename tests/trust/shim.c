// Counts allocations, and refuses the one whose number is asked for. Loaded before everything else
// (LD_PRELOAD); a process of Python talks to it by ctypes. It sees what the operators and torch's
// CPU allocator ask for: aligned_alloc, posix_memalign, and operator new out of dpad's modules.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_long seen, refused_at;

// The next `number`th allocation fails; 0: none does. Returns how many were seen since the last call.
long trust_refuse(long number) {
  atomic_store(&refused_at, number);
  return atomic_exchange(&seen, 0);
}

static int refuse(void) {
  const long number = atomic_fetch_add(&seen, 1) + 1;
  return number == atomic_load(&refused_at);
}

static void* real(const char* name) { return dlsym(RTLD_NEXT, name); }

void* aligned_alloc(size_t alignment, size_t size) {
  static void* (*next)(size_t, size_t);
  if (next == NULL) next = (void* (*)(size_t, size_t))real("aligned_alloc");
  if (refuse()) {
    errno = ENOMEM;
    return NULL;
  }
  return next(alignment, size);
}

int posix_memalign(void** out, size_t alignment, size_t size) {
  static int (*next)(void**, size_t, size_t);
  if (next == NULL) next = (int (*)(void**, size_t, size_t))real("posix_memalign");
  if (refuse()) return ENOMEM;
  return next(out, alignment, size);
}

// operator new(unsigned long): what a std::vector calls. A null pointer will not do, so the refusal
// is that of a size no allocator has.
void* _Znwm(size_t size) {
  static void* (*next)(size_t);
  if (next == NULL) next = (void* (*)(size_t))real("_Znwm");
  Dl_info caller;
  if (atomic_load(&refused_at) != 0 && dladdr(__builtin_return_address(0), &caller) != 0 &&
      strstr(caller.dli_fname, "/dpad/_C") != NULL && refuse()) {
    return next(((size_t)-1) >> 1);
  }
  return next(size);
}
