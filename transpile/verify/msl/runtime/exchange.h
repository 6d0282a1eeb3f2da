// SIMD-group operations and barriers: where threads wait for each other.
#pragma once
#include "fibers.h"

// The last lane has come: all must be at the same operation by the same way.
static void complete(SimdGroup &group) {
  const u32 base = u32(&group - simdgroups) * LANES;
  const Fiber &first = fibers[base + __builtin_ctz(group.waiting)];
  for (u32 rest = group.waiting; rest; rest &= rest - 1) {
    Fiber &lane = fibers[base + __builtin_ctz(rest)];
    if (lane.line != first.line || lane.operation != first.operation) {
      fail("divergent SIMD-group operation: lane %u is at line %d, lane %u at line %d", first.lane,
           first.line, lane.lane, lane.line);
    }
    if (lane.path != first.path) {
      fail("divergent simdgroup_load or simdgroup_store before line %d: lanes %u and %u came by "
           "different ways", first.line, first.lane, lane.lane);
    }
  }
  if (group.waiting != group.exists) {
    fail("SIMD-group operation at line %d with inactive lanes (active: 0x%08x)", first.line,
         group.waiting);
  }
  if (group.combine) {
    combining = true;
    group.combine(group.values[group.parity], group.results[group.parity], group.waiting);
    combining = false;
  }
  for (u32 rest = group.waiting; rest; rest &= rest - 1) {
    Fiber &lane = fibers[base + __builtin_ctz(rest)];
    lane.state = State::ready;
    lane.path = 0;
  }
  group.parity ^= 1;
  group.ready |= group.waiting;
  group.waiting = 0;
  ready_groups |= 1u << (base / LANES);
  launch->exchanges++;
}

enum Operation { SIMDGROUP_BARRIER = 100 };
enum Flags { MEM_DEVICE = 1, MEM_THREADGROUP = 2 };

static void end_simdgroup_barrier(const void *values, void *, u32) {
  SimdGroup &group = simdgroups[current->simdgroup];
  u32 flags;
  memcpy(&flags, (const char *)values + current->lane * SLOT, sizeof flags);
  group.epoch[DEVICE] += (flags & MEM_DEVICE) != 0;
  group.epoch[THREADGROUP] += (flags & MEM_THREADGROUP) != 0;
  launch->simdgroup_barriers++;
}

extern "C" {

u32 kt_lane() { return current->lane; }

void kt_fail(const char *reason, int line) {
  fail("%s at line %d", reason, line ? line : current->line);
}

void kt_count_product() { launch->products++; }

void kt_touch_matrix(int line) { current->path = current->path * 31 + u32(line) + 1; }

void kt_exchange(const void *value, u32 size, Combine combine, void *result, u32 result_size,
                 int operation, int line) {
  Fiber &fiber = *current;
  SimdGroup &group = simdgroups[fiber.simdgroup];
  const int parity = group.parity;
  memcpy(group.values[parity][fiber.lane], value, size);
  fiber.line = line;
  fiber.operation = operation;
  fiber.state = State::exchanging;
  group.waiting |= 1u << fiber.lane;
  group.combine = combine;
  if (group.waiting == (group.exists & ~group.done)) {
    complete(group);
  } else {
    block();
  }
  memcpy(result, group.results[parity][fiber.lane], result_size);
}

void kt_simdgroup_barrier(u32 flags, int line) {
  kt_exchange(&flags, sizeof flags, end_simdgroup_barrier, nullptr, 0, SIMDGROUP_BARRIER, line);
}

void kt_threadgroup_barrier(u32 flags, int line) {
  if (barrier_count == 0) { barrier_line = line; }
  if (line != barrier_line) {
    fail("barrier divergence: threads wait at the barrier at line %d, this one came to line %d",
         barrier_line, line);
  }
  if (done_count) {
    fail("barrier divergence: the barrier at line %d is reached after %u threads returned", line,
         done_count);
  }
  current->state = State::at_barrier;
  current->line = line;
  if (++barrier_count < thread_count) {
    block();
    return;
  }
  barrier_count = 0;
  launch->barriers++;
  epoch[DEVICE] += (flags & MEM_DEVICE) != 0;
  epoch[THREADGROUP] += (flags & MEM_THREADGROUP) != 0;
  for (u32 i = 0; i < thread_count; i++) {
    fibers[i].state = State::ready;
    fibers[i].path = 0;
    set_ready(fibers[i], true);
  }
}
}
