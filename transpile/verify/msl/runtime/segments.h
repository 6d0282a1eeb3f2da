// How well a SIMD group's accesses to device memory fit together: the distinct segments of 128 bytes
// that its lanes touch with one instruction, which is what a memory system fetches for it.
//
// Lanes run one after the other, so the same instruction is known by its address and by how often
// the lane has been there.
#pragma once
#include "fibers.h"

enum : u64 { SEGMENT_BITS = 7, RUN_BYTES = 16 };

struct Slot {
  u64 first, second;
  u32 generation, count;
};

// A map from two numbers to a count; those of earlier generations are empty.
struct Table {
  Slot *slots;
  u64 size, used;
};
static u32 generation;

static u64 table_bytes(u64 size) { return (size * sizeof(Slot) + 4095) & ~4095ul; }

static Slot &place_of(Slot *slots, u64 size, u64 first, u64 second) {
  u64 at = (first * 0x9e3779b97f4a7c15 ^ second * 0xc2b2ae3d27d4eb4f) >> 20;
  while (true) {
    Slot &slot = slots[at++ & (size - 1)];
    if (slot.generation != generation) { return slot; }
    if (slot.first == first && slot.second == second) { return slot; }
  }
}

static void grow(Table &table) {
  const u64 size = table.slots ? table.size * 2 : 1 << 16;
  Slot *slots = (Slot *)map(nullptr, table_bytes(size), PROT_READ | PROT_WRITE);
  for (u64 i = 0; i < table.size; i++) {
    const Slot &old = table.slots[i];
    if (old.generation == generation) {
      place_of(slots, size, old.first, old.second) = old;
    }
  }
  if (table.slots) { munmap(table.slots, table_bytes(table.size)); }
  table.slots = slots;
  table.size = size;
}

// The count at two numbers, 0 at first.
static u32 &count_at(Table &table, u64 first, u64 second) {
  if (table.used * 2 >= table.size) { grow(table); }
  Slot &slot = place_of(table.slots, table.size, first, second);
  if (slot.generation != generation) {
    slot = Slot{first, second, generation, 0};
    table.used++;
  }
  return slot.count;
}

static Table occurrences, touched;

static void begin_segments() {
  generation++;
  occurrences.used = touched.used = 0;
}

static void count_segments(Counters &counters, char *p, u64 size, Access access, u32 where) {
  Run &run = current->run;
  const u64 kind = access == READ ? 0 : 1;
  char *const first = p < run.first ? p : run.first;
  char *const end = p + size > run.end ? p + size : run.end;
  if (first + RUN_BYTES >= end && run.instruction >> 63 == kind) {
    run.first = first;
    run.end = end;
  } else {
    const u64 instruction = kind << 63 | where;
    run = Run{p, p + size, instruction, count_at(occurrences, instruction, current->id)++};
  }
  const u64 owner = u64(current->simdgroup) << 57;
  for (u64 s = u64(p) >> SEGMENT_BITS; s <= u64(p + size - 1) >> SEGMENT_BITS; s++) {
    const u64 which = run.instruction | run.occurrence << 32;
    counters.segments += count_at(touched, which, owner | s)++ == 0;
  }
}
