// Pieces of 16-bit tensors, decoded into floats and written back, for loops over floats in memory.
#pragma once
#include "tensors.h"

template <class Tensor>
static void decoded(float* out, Tensor x, int n) {
    in_lanes(n, [&](int i, auto some) ALWAYS { store(out + i, x.in(i, some), some); });
}

template <class Tensor>
static void encoded(Tensor out, const float* x, int n) {
    in_lanes(n, [&](int i, auto some) ALWAYS { out.out(i, load(x + i, some), some); });
}

static void fp16_in(float* out, const u16* x, int n) { decoded(out, Fp16{(u16*)x}, n); }
static void fp16_nearest(u16* out, const float* x, int n) { encoded(Fp16{out}, x, n); }
static void bf16_in(float* out, const u16* x, int n) { decoded(out, Bf16{(u16*)x}, n); }
static void bf16_nearest(u16* out, const float* x, int n) { encoded(Bf16{out}, x, n); }
static void bf16_joined(float* out, const u16* high, const i8* low, int n) {
    decoded(out, Bf16Split{(u16*)high, (i8*)low}, n);
}
static void bf16_parted(u16* high, i8* low, const float* x, int n) { encoded(Bf16Split{high, low}, x, n); }

// Elements at ... at + n - 1 of a matrix with `width` columns. SIZE: the most elements.
template <int SIZE>
static void bf16_random_rows(u16* out, const float* x, i64 at, int n, i64 width, u64 key, Columns columns) {
    if (width < 64) {  // too short to begin anew in each row
        alignas(64) u32 bits[SIZE];
        random_bits(bits, at, n, width, key, columns);
        return encoded(bf16_by(out, Made{bits}), x, n);
    }
    in_rows(at, n, width, [&](i64 first, int some, i64 row, i64 column) {
        encoded(bf16_by(out + (first - at), of_row(columns, row, column, some, key)), x + (first - at), some);
    });
}
