// Every access of a kernel to memory comes here before it happens: bounds, races, uninitialised
// threadgroup memory, counters.
//
// The calls are those that clang's thread sanitizer inserts; its runtime is not linked. A race is
// two accesses to one element, at least one a write and not both atomic, without a barrier for that
// kind of memory between them: of the threadgroup, or of the SIMD group if both threads are in it.
#pragma once
#include "segments.h"

static const char *verb(Access access) {
  return access == READ ? "read" : access == WRITE ? "write" : "atomic";
}

static bool own_stack(const Fiber &fiber, const char *p) { return u64(p - fiber.stack) < STACK; }

// Neither a buffer nor threadgroup memory: the thread's own variables and the program's constants.
static void check_private(const char *p, u64 size, Access access, u32 where) {
  if (own_stack(*current, p)) { return; }
  for (u32 i = 0; i < thread_count; i++) {
    if (own_stack(fibers[i], p)) {
      fail("%s of another thread's private memory @%x", verb(access), where);
    }
  }
  if (p < launch->image_first || p + size > launch->image_end) {
    fail("%s of %lu bytes outside all memory @%x", verb(access), size, where);
  }
  if (access != READ) { fail("write to constant data @%x", where); }
}

[[noreturn]] static void out_of_bounds(const Region &region, const char *p, u64 size, Access access,
                                       u32 where) {
  const u64 length = region.end - region.first;
  const bool before = p < region.first;
  const u64 distance = before ? region.first - p : p + size - region.end;
  fail("out-of-bounds %s: %lu bytes, %lu %s %s (%lu bytes) @%x", verb(access), size, distance,
       before ? "before the start of" : "past the end of", region.name, length, where);
}

// How an earlier access stands to one by the current thread.
enum class Order { none, ordered, racing, other_group };

static Order order_of(const Record &record, const Region &region) {
  if (record.epoch == 0) { return Order::none; }
  if (record.epoch < first_epoch) {
    return region.kind == DEVICE ? Order::other_group : Order::none;
  }
  if (record.epoch != epoch[region.kind]) { return Order::ordered; }
  const u32 thread = record.who & THREAD_MASK;
  const bool same_simdgroup = thread / LANES == current->simdgroup;
  if (record.who & MANY && !(record.who & ONE_SIMDGROUP)) { return Order::racing; }
  if (thread == current->id && !(record.who & MANY)) { return Order::ordered; }
  const u32 now = simdgroups[current->simdgroup].epoch[region.kind];
  return same_simdgroup && record.simd_epoch != now ? Order::ordered : Order::racing;
}

static void check_order(const Region &region, const Record &record, const char *p, Access access,
                        bool written, u32 where) {
  const Order order = order_of(record, region);
  if (order == Order::none || order == Order::ordered) { return; }
  if (access >= ATOMIC && record.who & BY_ATOMIC) { return; }
  const u64 byte = p - region.first;
  const char *by = record.who & BY_ATOMIC ? "an atomic" : written ? "a write" : "a read";
  if (order == Order::other_group) {
    if (region.coherent) { return; }
    fail("race between threadgroups: %s of %s, byte %lu, @%x conflicts with %s by another "
         "threadgroup @%x", verb(access), region.name, byte, where, by, record.where);
  }
  fail("race: %s of %s, byte %lu, @%x conflicts with %s by thread %u @%x", verb(access),
       region.name, byte, where, by, record.who & THREAD_MASK, record.where);
}

static void note_read(Record &record, const Region &region, const Record &now) {
  const bool earlier = record.epoch == epoch[region.kind];
  const u32 thread = record.who & THREAD_MASK;
  const bool same_simdgroup = thread / LANES == current->simdgroup;
  u32 flags = 0;
  if (earlier && (record.who & MANY || thread != current->id)) {
    const bool one = same_simdgroup && (!(record.who & MANY) || record.who & ONE_SIMDGROUP);
    flags = MANY | (one ? ONE_SIMDGROUP : 0);
  }
  record = now;
  record.who |= flags;
}

static void check_cells(Region &region, char *p, u64 size, Access access, u32 where) {
  const u32 simd_epoch = simdgroups[current->simdgroup].epoch[region.kind];
  const u32 atomic = access >= ATOMIC ? u32(BY_ATOMIC) : 0;
  const bool reads = access == READ || access == ATOMIC;
  const Record now{epoch[region.kind], simd_epoch, current->id | atomic, where};
  const u64 last = u64(p + size - 1 - region.first) >> region.shift;
  for (u64 i = u64(p - region.first) >> region.shift; i <= last; i++) {
    Cell &cell = region.cells[i];
    if (region.kind == THREADGROUP && reads && cell.write.epoch < first_epoch) {
      fail("read of uninitialised threadgroup memory: %s, byte %lu, @%x", region.name,
           u64(p - region.first), where);
    }
    check_order(region, cell.write, p, access, true, where);
    if (access == READ) {
      note_read(cell.read, region, now);
    } else {
      check_order(region, cell.read, p, access, false, where);
      cell.write = now;
    }
  }
}

static bool shares_word(const Region &region, const char *p, u64 size) {
  const u64 first = u64(region.first) & ~3ul, end = (u64(region.end) + 3) & ~3ul;
  return u64(p) >= first && u64(p) + size <= end && p < region.end && p + size > region.first;
}

static void check(const volatile void *address, u64 size, Access access, u32 where) {
  if (combining || size == 0) { return; }
  char *p = (char *)address;
  const u64 room = u64(p - space) >> ROOM_BITS;
  if (room >= used_regions) {
    check_private(p, size, access, where);
    return;
  }
  Region &region = regions[room];
  if (access >= ATOMIC && shares_word(region, p, size)) {
    // Metal has no atomics of 16 bits: the word of a buffer's last element may reach beyond it.
    char *const end = p + size < region.end ? p + size : region.end;
    p = p > region.first ? p : region.first;
    size = end - p;
  }
  if (p < region.first || p + size > region.end) { out_of_bounds(region, p, size, access, where); }
  if (access != READ && region.read_only) {
    fail("write to %s, which is constant, @%x", region.name, where);
  }
  Counters &counters = region.counters;
  if (access == READ || access == ATOMIC) {
    counters.reads += (size + 15) / 16;
    counters.read_bytes += size;
  }
  if (access != READ) {
    counters.writes += (size + 15) / 16;
    counters.written_bytes += size;
  }
  counters.atomics += access >= ATOMIC;
  if (region.kind == DEVICE && !region.read_only) {
    count_segments(counters, p, size, access, where);
  }
  check_cells(region, p, size, access, where);
}

// -- regions ---------------------------------------------------------------------------------------

static u64 pages(u64 size) { return (size + 4095) & ~4095ul; }

// `offset` is the address modulo 256: what alignment it has, it has here.
static Region &add_region(u64 size, u64 offset, MemoryKind kind, u32 shift, const char *name) {
  if (!space) { space = (char *)map(nullptr, REGIONS * ROOM_SIZE, PROT_NONE); }
  if (used_regions == REGIONS) { abort(); }
  char *base = space + used_regions * ROOM_SIZE + MARGIN;
  Region &region = regions[used_regions++];
  region = Region{};
  region.first = base + offset;
  region.end = region.first + size;
  region.kind = kind;
  region.shift = shift;
  region.name = name;
  region.cell_bytes = pages(((size >> shift) + 1) * sizeof(Cell));
  region.cells = (Cell *)map(nullptr, region.cell_bytes, PROT_READ | PROT_WRITE);
  map(base, pages(offset + size + 1), PROT_READ | PROT_WRITE);
  return region;
}

static void drop_regions() {
  for (u32 i = 0; i < used_regions; i++) {
    Region &region = regions[i];
    char *base = space + i * ROOM_SIZE + MARGIN;
    map(base, pages(region.end - base + 1), PROT_NONE);
    munmap(region.cells, region.cell_bytes);
  }
  used_regions = 0;
}

// -- what compiled kernels call --------------------------------------------------------------------

static u32 where_of(void *return_address) {
  return u32((char *)return_address - 1 - launch->image_first);
}
#define HERE where_of(__builtin_return_address(0))

struct Place {  // of a construct, from the undefined-behaviour sanitizer
  const char *file;
  u32 line, column;
};

extern "C" {

void *kt_threadgroup_variable(u32 site, u32 size, u32 alignment, const char *name) {
  u32 used = 0;
  for (u32 i = 0; i < used_regions; i++) {
    if (regions[i].kind != THREADGROUP) { continue; }
    if (regions[i].site == site) { return regions[i].first; }
    used += (u32(regions[i].end - regions[i].first) + 15) & ~15u;
  }
  if (used + size > THREADGROUP_LIMIT) {
    fail("%u bytes of threadgroup memory are needed, the limit is %u", used + size,
         THREADGROUP_LIMIT);
  }
  const u32 shift = alignment >= 4 ? 2 : alignment >= 2 ? 1 : 0;
  // 16 bytes of alignment are what threadgroup variables have, and no more.
  Region &region = add_region(size, alignment > 16 ? alignment : 16, THREADGROUP, shift, name);
  region.site = site;
  memset(region.first, 0xff, size);
  return region.first;
}

void kt_atomic(const volatile void *address, u32 size) { check(address, size, ATOMIC, HERE); }
void kt_atomic_store(const volatile void *address, u32 size) {
  check(address, size, ATOMIC_STORE, HERE);
}

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
#define SIZED(n) \
  void __tsan_read##n(void *p) { check(p, n, READ, HERE); } \
  void __tsan_write##n(void *p) { check(p, n, WRITE, HERE); } \
  void __tsan_unaligned_read##n(void *p) { check(p, n, READ, HERE); } \
  void __tsan_unaligned_write##n(void *p) { check(p, n, WRITE, HERE); } \
  void __tsan_volatile_read##n(void *p) { check(p, n, READ, HERE); } \
  void __tsan_volatile_write##n(void *p) { check(p, n, WRITE, HERE); } \
  void __tsan_read_write##n(void *p) { \
    check(p, n, READ, HERE); \
    check(p, n, WRITE, HERE); \
  } \
  void __tsan_unaligned_read_write##n(void *p) { \
    check(p, n, READ, HERE); \
    check(p, n, WRITE, HERE); \
  }
SIZED(1) SIZED(2) SIZED(4) SIZED(8) SIZED(16)

void *__tsan_memcpy(void *to, const void *from, u64 size) {
  check(from, size, READ, HERE);
  check(to, size, WRITE, HERE);
  return memmove(to, from, size);
}
void *__tsan_memmove(void *to, const void *from, u64 size) {
  check(from, size, READ, HERE);
  check(to, size, WRITE, HERE);
  return memmove(to, from, size);
}
void *__tsan_memset(void *to, int value, u64 size) {
  check(to, size, WRITE, HERE);
  return memset(to, value, size);
}

void __ubsan_handle_out_of_bounds_abort(Place *place, i64 index) {
  fail("array index %ld is out of bounds at line %u", index, place->line);
}
void __ubsan_handle_type_mismatch_v1_abort(Place *place, u64 address) {
  fail("misaligned access (address modulo 16 is %lu) at line %u", address % 16, place->line);
}
void __ubsan_handle_divrem_overflow_abort(Place *place, u64, u64) {
  fail("integer division by zero or overflow at line %u", place->line);
}
void __ubsan_handle_shift_out_of_bounds_abort(Place *place, u64, u64 by) {
  fail("shift by %ld bits at line %u", i64(by), place->line);
}

// bfloat arithmetic without hardware for it: round to nearest even, the result in the low half.
float __truncsfbf2(float x) {
  u32 bits;
  memcpy(&bits, &x, sizeof bits);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  bits = nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  memcpy(&x, &bits, sizeof x);
  return x;
}
}
