#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

// c[m, n] = a[m, k] @ b[k, n]: tiles of 64x64x16, 4 SIMD groups, two stages.
struct Sizes {
  uint m, n, k;
};

constant constexpr uint BM = 64, BN = 64, BK = 16, THREADS = 128;
constant constexpr uint LDA = BK + 8, LDB = BN + 8;

static inline void load_tile(threadgroup half* tile, uint stride, uint rows, uint columns,
                             device const half* source, uint row, uint column, uint height,
                             uint width, uint tid) {
  for (uint i = tid; i < rows * columns; i += THREADS) {
    const uint r = i / columns, c = i % columns;
    half value = 0.0h;
    if (row + r < height && column + c < width) {
      value = source[(row + r) * width + column + c];
    }
    tile[r * stride + c] = value;
  }
}

[[max_total_threads_per_threadgroup(128)]] kernel void gemm(
    device const half* a [[buffer(0)]],
    device const half* b [[buffer(1)]],
    device half* c [[buffer(2)]],
    constant Sizes& size [[buffer(3)]],
    uint2 group [[threadgroup_position_in_grid]],
    uint tid [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup half a_tile[2][BM * LDA];
  threadgroup half b_tile[2][BK * LDB];
  const uint row = group.y * BM, column = group.x * BN;
  const uint row_in_tile = simdgroup / 2 * 32, column_in_tile = simdgroup % 2 * 32;

  simdgroup_float8x8 sum[4][4];
  for (uint i = 0; i < 4; i++) {
    for (uint j = 0; j < 4; j++) {
      sum[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
  }

  const uint steps = (size.k + BK - 1) / BK;
  load_tile(a_tile[0], LDA, BM, BK, a, row, 0, size.m, size.k, tid);
  load_tile(b_tile[0], LDB, BK, BN, b, 0, column, size.k, size.n, tid);
  threadgroup_barrier(mem_flags::mem_threadgroup);  // first tile
  for (uint step = 0; step < steps; step++) {
    const uint stage = step % 2;
    if (step + 1 < steps) {
      const uint k = (step + 1) * BK;
      load_tile(a_tile[1 - stage], LDA, BM, BK, a, row, k, size.m, size.k, tid);
      load_tile(b_tile[1 - stage], LDB, BK, BN, b, k, column, size.k, size.n, tid);
    }
    for (uint k = 0; k < BK; k += 8) {
      simdgroup_half8x8 left[4], right[4];
      for (uint i = 0; i < 4; i++) {
        simdgroup_load(left[i], a_tile[stage] + (row_in_tile + 8 * i) * LDA + k, LDA);
        simdgroup_load(right[i], b_tile[stage] + k * LDB + column_in_tile + 8 * i, LDB);
      }
      for (uint i = 0; i < 4; i++) {
        for (uint j = 0; j < 4; j++) {
          simdgroup_multiply_accumulate(sum[i][j], left[i], right[j], sum[i][j]);
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // next tile
  }

  const uint quad = lane / 4;
  const uint fragment_row = (quad & 4) + lane / 2 % 4;
  const uint fragment_column = (quad & 2) * 2 + lane % 2 * 2;
  for (uint i = 0; i < 4; i++) {
    for (uint j = 0; j < 4; j++) {
      const uint r = row + row_in_tile + 8 * i + fragment_row;
      for (uint e = 0; e < 2; e++) {
        const uint n = column + column_in_tile + 8 * j + fragment_column + e;
        if (r < size.m && n < size.n) {
          c[r * size.n + n] = half(sum[i][j].thread_elements()[e]);
        }
      }
    }
  }
}
