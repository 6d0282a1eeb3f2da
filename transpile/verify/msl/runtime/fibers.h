// Switching between the threads of a threadgroup, and what it means when none can go on.
#pragma once
#include "state.h"

static void *main_stack;

extern "C" void kt_switch(void **save, void *to);
asm(R"(
.text
.globl kt_switch
.hidden kt_switch
.type kt_switch,@function
kt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size kt_switch,.-kt_switch
)");

static void switch_to(Fiber &next) {
  Fiber *from = current;
  current = &next;
  kt_switch(&from->stack_pointer, next.stack_pointer);
}

static void leave_to_main() { kt_switch(&current->stack_pointer, main_stack); }

// The message of the first fault ends the launch; the fibers are abandoned where they stand.
[[noreturn]] static void fail(const char *format, ...) {
  if (!failed) {
    failed = true;
    int used = snprintf(message, sizeof message, "threadgroup (%u,%u,%u) thread %u: ",
                        group_position[0], group_position[1], group_position[2], current->id);
    __builtin_va_list values;
    __builtin_va_start(values, format);
    vsnprintf(message + used, sizeof message - used, format, values);
    __builtin_va_end(values);
  }
  leave_to_main();
  abort();
}

static void set_ready(Fiber &fiber, bool ready) {
  SimdGroup &group = simdgroups[fiber.simdgroup];
  const u32 lane = 1u << fiber.lane, bit = 1u << fiber.simdgroup;
  group.ready = ready ? group.ready | lane : group.ready & ~lane;
  ready_groups = group.ready ? ready_groups | bit : ready_groups & ~bit;
}

// The next set bit after `at` in the order of this launch, around the end.
static u32 next_bit(u32 mask, u32 at) {
  if (!launch->reversed) {
    const u32 later = at < 31 ? mask & (~0u << (at + 1)) : 0;
    return __builtin_ctz(later ? later : mask);
  }
  const u32 earlier = mask & ((1u << at) - 1);
  return 31 - __builtin_clz(earlier ? earlier : mask);
}
static u32 first_bit(u32 mask) {
  return launch->reversed ? 31 - __builtin_clz(mask) : __builtin_ctz(mask);
}

static const char *doing(const Fiber &fiber, char *text, u64 size) {
  const char *format = fiber.state == State::exchanging ? "in a SIMD-group operation at line %d"
                       : fiber.state == State::at_barrier ? "at the barrier at line %d"
                       : fiber.state == State::done       ? "finished"
                                                          : "running";
  snprintf(text, size, format, fiber.line);
  return text;
}

// No thread can go on: some wait for others that are elsewhere or have returned.
[[noreturn]] static void stuck() {
  char text[96];
  for (u32 s = 0; s < simdgroup_count; s++) {
    const SimdGroup &group = simdgroups[s];
    if (!group.waiting) { continue; }
    const Fiber &waits = fibers[s * LANES + __builtin_ctz(group.waiting)];
    const Fiber &other = fibers[s * LANES + __builtin_ctz(group.exists & ~group.waiting)];
    fail("divergent SIMD-group operation: lane %u is at line %d while lane %u is %s", waits.lane,
         waits.line, other.lane, doing(other, text, sizeof text));
  }
  const Fiber *waits = nullptr, *other = nullptr;
  for (u32 i = 0; i < thread_count; i++) {
    if (fibers[i].state == State::at_barrier && !waits) { waits = &fibers[i]; }
    if (fibers[i].state != State::at_barrier && !other) { other = &fibers[i]; }
  }
  fail("barrier divergence: thread %u is at the barrier at line %d while thread %u is %s",
       waits ? waits->id : 0, waits ? waits->line : 0, other ? other->id : 0,
       other ? doing(*other, text, sizeof text) : "?");
}

// Lanes of the same SIMD group first: they meet soonest.
static Fiber &next_ready() {
  const u32 own = current->simdgroup;
  if (simdgroups[own].ready) {
    return fibers[own * LANES + next_bit(simdgroups[own].ready, current->lane)];
  }
  if (!ready_groups) { stuck(); }
  const u32 other = next_bit(ready_groups, own);
  return fibers[other * LANES + first_bit(simdgroups[other].ready)];
}

static void block() {
  set_ready(*current, false);
  switch_to(next_ready());
}

static void run_thread() {
  launch->entry(&current->thread);
  Fiber &fiber = *current;
  SimdGroup &group = simdgroups[fiber.simdgroup];
  fiber.state = State::done;
  group.done |= 1u << fiber.lane;
  done_count++;
  set_ready(fiber, false);
  if (barrier_count) {
    fail("barrier divergence: the thread returned while %u threads wait at the barrier at line %d",
         barrier_count, barrier_line);
  }
  if (group.waiting && group.waiting == (group.exists & ~group.done)) { stuck(); }
  if (done_count == thread_count) { leave_to_main(); }
  switch_to(next_ready());
  abort();
}

static void make_stacks() {
  // What is far below the lowest stack belongs to nobody either.
  char *stacks = (char *)map(nullptr, GUARD + MAX_THREADS * STACK, PROT_READ | PROT_WRITE);
  mprotect(stacks, GUARD, PROT_NONE);
  stacks += GUARD;
  for (u32 i = 0; i < MAX_THREADS; i++) {
    fibers[i].stack = stacks + i * STACK;
    mprotect(fibers[i].stack, 4096, PROT_NONE);  // an overflow is a fault
  }
}

static void prepare_stack(Fiber &fiber) {
  // Different offsets, so that the stacks' hot ends do not all fall into the same cache sets.
  void **top = (void **)(fiber.stack + STACK - 64 - fiber.id % 61 * 192);
  *--top = nullptr;
  *--top = (void *)run_thread;
  top -= 6;
  memset(top, 0, 6 * sizeof *top);
  fiber.stack_pointer = top;
}
