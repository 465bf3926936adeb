#include "cusim/fiber.hpp"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
// ucontext would do, but asks the kernel for the signal mask at each switch: 20 times slower.
extern "C" void cusim_switch(void** save, void* load);
asm(R"(
.text
.globl cusim_switch
.hidden cusim_switch
.type cusim_switch,@function
cusim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cusim_switch,.-cusim_switch
)");
#endif

namespace cusim {

struct Fiber::State {
  void (*body)(void*);
  void* argument;
  char* mapping = nullptr;
  size_t mapped = 0, guard = 0;
#if defined(__x86_64__)
  void *mine = nullptr, *owner = nullptr;  // stack pointers
#else
  ucontext_t mine{}, owner{};
#endif
#if defined(__SANITIZE_ADDRESS__)
  void *my_fake = nullptr, *owner_fake = nullptr;
  const void* owner_bottom = nullptr;
  size_t owner_size = 0;
#endif
#if defined(__SANITIZE_THREAD__)
  void *my_thread = nullptr, *owner_thread = nullptr;
#endif

  char* bottom() const { return mapping + guard; }
  size_t size() const { return mapped - guard; }

  void enter() {
#if defined(__SANITIZE_THREAD__)
    owner_thread = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(my_thread, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&owner_fake, bottom(), size());
#endif
#if defined(__x86_64__)
    cusim_switch(&owner, mine);
#else
    swapcontext(&owner, &mine);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(owner_fake, nullptr, nullptr);
#endif
  }
  void back() {
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(owner_thread, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&my_fake, owner_bottom, owner_size);
#endif
#if defined(__x86_64__)
    cusim_switch(&mine, owner);
#else
    swapcontext(&mine, &owner);
#endif
    arrived();
  }
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(my_fake, &owner_bottom, &owner_size);
#endif
  }
};

namespace {
thread_local void* starting = nullptr;  // State of the fiber that runs for the first time
}

Fiber::Fiber(size_t stack_bytes, void (*body)(void*), void* argument) : state_(new State{body, argument}) {
  State& s = *state_;
  s.guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  s.mapped = s.guard + (stack_bytes + s.guard - 1) / s.guard * s.guard;
  void* memory =
      mmap(nullptr, s.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  s.mapping = static_cast<char*>(memory);
  mprotect(s.mapping, s.guard,
           PROT_NONE);  // a kernel that overruns its stack faults instead of spoiling another's
#if defined(__SANITIZE_THREAD__)
  s.my_thread = __tsan_create_fiber(0);
#endif
  constexpr auto start = +[] {
    auto* me = static_cast<State*>(starting);
    me->arrived();
    me->body(me->argument);
  };
#if defined(__x86_64__)
  auto** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(s.mapping + s.mapped)) & ~uintptr_t{15});
  *--top = nullptr;  // as if called: the stack is 16-byte aligned but for a return address
  *--top = reinterpret_cast<void*>(start);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  s.mine = top;
#else
  getcontext(&s.mine);
  s.mine.uc_stack = {s.bottom(), 0, s.size()};
  s.mine.uc_link = nullptr;
  makecontext(&s.mine, start, 0);
#endif
}

Fiber::~Fiber() {
#if defined(__SANITIZE_THREAD__)
  __tsan_destroy_fiber(state_->my_thread);
#endif
  munmap(state_->mapping, state_->mapped);
}

void Fiber::resume() {
  starting = state_.get();
  state_->enter();
}
void Fiber::yield() { state_->back(); }

}  // namespace cusim
