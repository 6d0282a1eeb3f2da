// What a running threadgroup is: one fiber per thread, in SIMD groups of 32, and its memory.
#pragma once
#include "libc.h"

enum { MAX_THREADS = 1024, LANES = 32, MAX_GROUPS = MAX_THREADS / LANES, SLOT = 64 };
enum : u64 { STACK = 256 * 1024, GUARD = 64 << 20 };

// Passed to the generated entry of a kernel; the layout is the prelude's (kt/launch.h).
struct Thread {
  void **buffers;
  void **threadgroup_memory;
  u32 values[16][4];
};
typedef void (*Entry)(const Thread *);
typedef void (*Combine)(const void *values, void *results, u32 mask);
enum Attribute {  // rows of Thread::values, in the order of prepass.py's table
  POSITION_IN_GRID, GROUP_IN_GRID, POSITION_IN_GROUP, THREADS_PER_GROUP, GROUPS_PER_GRID,
  THREADS_PER_GRID, INDEX_IN_GROUP, INDEX_IN_SIMDGROUP, SIMDGROUP_IN_GROUP, SIMDGROUPS_PER_GROUP,
  THREADS_PER_SIMDGROUP, GRID_ORIGIN, QUADGROUP_IN_GROUP, INDEX_IN_QUADGROUP
};

enum class State : u8 { ready, exchanging, at_barrier, done };

// A thread's accesses within 16 bytes, one after the other: of one vector, whatever the compiler made
// of it.
struct Run {
  char *first, *end;
  u64 instruction, occurrence;
};

struct Fiber {
  void *stack_pointer;
  char *stack;  // its lowest address
  u32 id, simdgroup, lane;
  State state;
  int line, operation;  // of the exchange or barrier that it waits at
  u32 path;             // hash of the matrix loads and stores since the last exchange
  Run run;
  Thread thread;
};

// Two sets of slots: a lane may begin the next exchange while others still take their results.
struct SimdGroup {
  u32 exists, ready, waiting, done;  // lane masks
  int parity;
  u32 epoch[2];  // SIMD-group barriers so far, by kind of memory
  Combine combine;
  alignas(64) char values[2][LANES][SLOT];
  alignas(64) char results[2][LANES][SLOT];
};

enum Access { READ, WRITE, ATOMIC, ATOMIC_STORE };  // a store also initialises
enum MemoryKind { DEVICE, THREADGROUP };

// Who touched an element last: everything that tells whether another access is ordered after it.
struct Record {
  u32 epoch, simd_epoch;
  u32 who;    // thread id and the flags below
  u32 where;  // program counter, relative to the module
};
enum : u32 { THREAD_MASK = 0xffff, BY_ATOMIC = 1u << 31, MANY = 1u << 30, ONE_SIMDGROUP = 1u << 29 };
struct Cell {
  Record write, read;
};

struct Counters {
  u64 reads, read_bytes, writes, written_bytes, atomics, segments;
};

// One buffer or threadgroup variable, alone in a room of the address space.
struct Region {
  char *first, *end;
  MemoryKind kind;
  bool read_only, coherent;
  u32 shift;     // log2 of the bytes per cell
  u32 alignment;
  Cell *cells;
  u64 cell_bytes;
  const char *name;
  u32 site;
  Counters counters;
};

// Rooms of 256 GB: an index that wrapped around at 32 bits still ends in its own buffer's room.
enum : u32 { REGIONS = 64 };
enum : u64 { ROOM_BITS = 38, ROOM_SIZE = 1ul << ROOM_BITS, MARGIN = 1ul << 37 };
enum { THREADGROUP_LIMIT = 32768 };

// The call from Python (launch.py mirrors it).
struct Launch {
  Entry entry;
  char *image_first, *image_end;
  u32 groups[3], threads[3];
  int reversed;
  u64 barriers, simdgroup_barriers, products, exchanges;
};

static Fiber fibers[MAX_THREADS];
static SimdGroup simdgroups[MAX_GROUPS];
static Region regions[REGIONS];
static Fiber *current;
static Launch *launch;
static char *space;         // REGIONS rooms of ROOM_SIZE
static u32 used_regions;    // buffers first, then threadgroup variables
static u32 thread_count, simdgroup_count, done_count, barrier_count;
static u32 ready_groups;    // SIMD groups with a ready lane
static int barrier_line;
static bool combining;      // a combine function runs: nothing is checked
static bool failed;
static char message[2048];
static u32 group_position[3];
static u32 epoch[2];        // barriers so far, by kind of memory; unique over the launch
static u32 first_epoch;     // of this threadgroup

[[noreturn]] static void fail(const char *format, ...);
