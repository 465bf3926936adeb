// Fibers: many flows of control on one OS thread, each with a stack of its own, switched by hand. The sanitizers are told
// of every switch.
#pragma once
#include <cstddef>
#include <memory>

namespace cusim {

class Fiber {
 public:
  Fiber(size_t stack_bytes, void (*body)(void*), void* argument);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume();  // from the thread that made it: runs until the fiber yields; its body must never return
  void yield();   // from inside the fiber

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cusim
