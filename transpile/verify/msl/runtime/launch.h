// The calls from Python: buffers, a launch, what was counted.
#pragma once
#include "exchange.h"
#include "memory.h"

static void set_attributes(Fiber &fiber, const u32 *group) {
  u32(&v)[16][4] = fiber.thread.values;
  const u32 *size = launch->threads;
  const u32 position[3] = {fiber.id % size[0], fiber.id / size[0] % size[1],
                           fiber.id / size[0] / size[1]};
  for (int k = 0; k < 3; k++) {
    v[POSITION_IN_GRID][k] = group[k] * size[k] + position[k];
    v[GROUP_IN_GRID][k] = group[k];
    v[POSITION_IN_GROUP][k] = position[k];
    v[THREADS_PER_GROUP][k] = size[k];
    v[GROUPS_PER_GRID][k] = launch->groups[k];
    v[THREADS_PER_GRID][k] = launch->groups[k] * size[k];
    v[GRID_ORIGIN][k] = 0;
  }
  v[INDEX_IN_GROUP][0] = fiber.id;
  v[INDEX_IN_SIMDGROUP][0] = fiber.lane;
  v[SIMDGROUP_IN_GROUP][0] = fiber.simdgroup;
  v[SIMDGROUPS_PER_GROUP][0] = simdgroup_count;
  v[THREADS_PER_SIMDGROUP][0] = LANES;
  v[QUADGROUP_IN_GROUP][0] = fiber.id / 4;
  v[INDEX_IN_QUADGROUP][0] = fiber.id % 4;
}

static void begin_group() {
  done_count = barrier_count = 0;
  first_epoch = (epoch[DEVICE] > epoch[THREADGROUP] ? epoch[DEVICE] : epoch[THREADGROUP]) + 1;
  epoch[DEVICE] = epoch[THREADGROUP] = first_epoch;
  for (u32 i = 0; i < used_regions; i++) {
    Region &region = regions[i];
    if (region.kind == THREADGROUP) { memset(region.first, 0xff, region.end - region.first); }
  }
  ready_groups = 0;
  for (u32 s = 0; s < simdgroup_count; s++) {
    SimdGroup &group = simdgroups[s];
    const u32 lanes = thread_count - s * LANES;
    group.exists = group.ready = lanes >= LANES ? ~0u : (1u << lanes) - 1;
    group.waiting = group.done = 0;
    group.parity = 0;
    group.epoch[DEVICE] = group.epoch[THREADGROUP] = 1;
    ready_groups |= 1u << s;
  }
}

static void run_group() {
  begin_group();
  begin_segments();
  for (u32 i = 0; i < thread_count; i++) {
    Fiber &fiber = fibers[i];
    fiber.id = i;
    fiber.simdgroup = i / LANES;
    fiber.lane = i % LANES;
    fiber.state = State::ready;
    fiber.path = 0;
    fiber.line = 0;
    fiber.run = Run{};
    set_attributes(fiber, group_position);
    prepare_stack(fiber);
  }
  current = &fibers[launch->reversed ? thread_count - 1 : 0];
  kt_switch(&main_stack, current->stack_pointer);
}

// A buffer of `size` bytes; the address of its first byte, which is `offset` modulo 256.
extern "C" void *kt_add_buffer(u64 size, u64 offset, u32 shift, int read_only, int coherent,
                             const char *name) {
  Region &region = add_region(size, offset, DEVICE, shift, name);
  region.read_only = read_only;
  region.coherent = coherent;
  return region.first;
}

extern "C" void kt_drop_buffers() { drop_regions(); }

// Region `index` (buffers in the order they were added, then threadgroup variables), whose size is
// put into `size`; null past the last.
extern "C" const Counters *kt_counters(u32 index, u64 *size) {
  if (index >= used_regions) { return nullptr; }
  *size = regions[index].end - regions[index].first;
  return &regions[index].counters;
}

// Null, or what went wrong; "@" and a number stand for a place in the module.
extern "C" const char *kt_launch(Launch *call, void **buffers) {
  launch = call;
  failed = combining = false;
  epoch[DEVICE] = epoch[THREADGROUP] = 0;
  if (!fibers[0].stack) { make_stacks(); }
  thread_count = call->threads[0] * call->threads[1] * call->threads[2];
  simdgroup_count = (thread_count + LANES - 1) / LANES;
  for (u32 i = 0; i < thread_count; i++) { fibers[i].thread.buffers = buffers; }
  const u32 *groups = call->groups;
  const u64 total = u64(groups[0]) * groups[1] * groups[2];
  for (u64 i = 0; i < total && !failed; i++) {
    const u64 group = call->reversed ? total - 1 - i : i;
    group_position[0] = u32(group % groups[0]);
    group_position[1] = u32(group / groups[0] % groups[1]);
    group_position[2] = u32(group / groups[0] / groups[1]);
    run_group();
  }
  return failed ? message : nullptr;
}
