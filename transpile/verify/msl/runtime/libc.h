// The few functions of the C library that the runtime uses; no headers, so any clang builds it.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

extern "C" {
void *mmap(void *address, u64 size, int protection, int flags, int file, i64 offset);
int mprotect(void *address, u64 size, int protection);
int munmap(void *address, u64 size);
int snprintf(char *text, u64 size, const char *format, ...);
int vsnprintf(char *text, u64 size, const char *format, __builtin_va_list values);
void *memcpy(void *to, const void *from, u64 size);
void *memmove(void *to, const void *from, u64 size);
void *memset(void *to, int value, u64 size);
[[noreturn]] void abort();
}

enum { PROT_NONE = 0, PROT_READ = 1, PROT_WRITE = 2 };
enum { MAP_PRIVATE = 2, MAP_FIXED = 16, MAP_ANONYMOUS = 32, MAP_NORESERVE = 0x4000 };

inline void *map(void *address, u64 size, int protection) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (address ? MAP_FIXED : 0);
  void *mapped = mmap(address, size, protection, flags, -1, 0);
  if (mapped == (void *)-1) { abort(); }
  return mapped;
}
