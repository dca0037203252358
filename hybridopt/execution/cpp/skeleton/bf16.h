// bfloat16 to float32 and back: to nearest, or up and down at random. Each has a scalar twin, `*_one`.
#pragma once
#include "hashes.h"

INLINE float bf16_in_one(u16 x) { return float_of((u32)x << 16); }

INLINE u16 bf16_nearest_one(float x) {
    const u32 u = bits_of(x), size = u & 0x7fffffffu;
    if (size > 0x7f800000u) return 0xffffu;  // NaN, as torch writes it
    return (u16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// Between these sizes rounding by comparing floats, as eager code on a CPU does it, is adding bits and cutting.
static const u32 LEAST = 0x0da24260u, MOST = 0x7149f2cau;  // 1e-30, 1e30

INLINE float eight_bits(float x) {
    const float big = x * 65537.f;
    return big - (big - x);
}

INLINE float by_comparing(float x, u32 bits) {  // as core/numerics/rounding.py
    const float near = eight_bits(x), off = x - near;
    const float other = eight_bits(near + abs_(near) * sign_(off) * (0.625f / 128));
    const float gap = abs_(other - near), down = (float)bits * (1.f / 65536);
    const bool outward = (off >= 0) == (x >= 0);
    const bool takes_other = outward ? abs_(off) >= (1.f - down) * gap : abs_(off) > down * gap;
    const bool kept = off == 0 || abs_(x) >= 1e30f;
    return kept ? x : takes_other ? other : near;
}

INLINE u16 bf16_random_one(float x, u32 bits) {
    const u32 u = bits_of(x), size = u & 0x7fffffffu;
    if (size >= MOST || size < LEAST) return bf16_nearest_one(by_comparing(x, bits));
    return (u16)((u + bits) >> 16);
}

static void bf16_in(float* RESTRICT out, const u16* RESTRICT x, int n) {
    int i = 0;
#if LANES == 16
    for (; i + 16 <= n; i += 16) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(x + i)));
        _mm512_storeu_si512(out + i, _mm512_slli_epi32(wide, 16));
    }
#elif LANES == 8
    for (; i + 8 <= n; i += 8) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(x + i)));
        _mm256_storeu_si256((__m256i*)(out + i), _mm256_slli_epi32(wide, 16));
    }
#endif
    for (; i < n; ++i) out[i] = bf16_in_one(x[i]);
}

#if LANES == 8
INLINE void bf16_store(u16* out, __m256i low, __m256i high) {  // the upper halves of sixteen numbers
    const __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
    _mm256_storeu_si256((__m256i*)out, _mm256_permute4x64_epi64(packed, 0xd8));
}

INLINE __m256i bf16_nearest_bits(__m256i u) {  // so that cutting rounds to nearest; NaN stays NaN
    const __m256i size = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff));
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i nan = _mm256_cmpgt_epi32(size, _mm256_set1_epi32(0x7f800000));
    return _mm256_or_si256(sum, nan);
}
#elif LANES == 16
INLINE void bf16_store(u16* out, __m512i u) {
    _mm256_storeu_si256((__m256i*)out, _mm512_cvtepi32_epi16(_mm512_srli_epi32(u, 16)));
}

INLINE __m512i bf16_nearest_bits(__m512i u) {
    const __m512i size = _mm512_and_si512(u, _mm512_set1_epi32(0x7fffffff));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmpgt_epi32_mask(size, _mm512_set1_epi32(0x7f800000));
    return _mm512_mask_mov_epi32(sum, nan, _mm512_set1_epi32(-1));
}
#endif

static void bf16_nearest(u16* RESTRICT out, const float* RESTRICT x, int n) {
    int i = 0;
#if LANES == 16
    for (; i + 16 <= n; i += 16) bf16_store(out + i, bf16_nearest_bits(_mm512_loadu_si512(x + i)));
#elif LANES == 8
    for (; i + 16 <= n; i += 16) {
        const __m256i low = _mm256_loadu_si256((const __m256i*)(x + i));
        const __m256i high = _mm256_loadu_si256((const __m256i*)(x + i + 8));
        bf16_store(out + i, bf16_nearest_bits(low), bf16_nearest_bits(high));
    }
#endif
    for (; i < n; ++i) out[i] = bf16_nearest_one(x[i]);
}

template <class Bits>
static void bf16_random(u16* RESTRICT out, const float* RESTRICT x, Bits bits, int n) {
    int i = 0;
#if LANES == 16
    const __m512i least = _mm512_set1_epi32((int)LEAST), range = _mm512_set1_epi32((int)(MOST - LEAST));
    const __m512i whole = _mm512_set1_epi32(0x7fffffff);
    for (; i + 16 <= n; i += 16) {
        const __m512i u = _mm512_loadu_si512(x + i), from = _mm512_sub_epi32(_mm512_and_si512(u, whole), least);
        const __mmask16 some = _mm512_test_epi32_mask(u, whole);
        if (__builtin_expect(_mm512_mask_cmpge_epu32_mask(some, from, range) != 0, 0)) {
            for (int j = i; j < i + 16; ++j) out[j] = bf16_random_one(x[j], bits.one(j));
        } else {
            bf16_store(out + i, _mm512_mask_add_epi32(u, some, u, bits.lanes(i)));
        }
    }
#elif LANES == 8
    const __m256i size = _mm256_set1_epi32(0x7fffffff), least = _mm256_set1_epi32((int)LEAST - 1);
    const __m256i most = _mm256_set1_epi32((int)MOST), zero = _mm256_setzero_si256();
    for (; i + 16 <= n; i += 16) {
        __m256i sum[2];
        int usual = 1;
        for (int h = 0; h < 2; ++h) {
            const __m256i u = _mm256_loadu_si256((const __m256i*)(x + i + 8 * h)), a = _mm256_and_si256(u, size);
            const __m256i none = _mm256_cmpeq_epi32(a, zero);
            const __m256i inside = _mm256_and_si256(_mm256_cmpgt_epi32(a, least), _mm256_cmpgt_epi32(most, a));
            usual &= _mm256_movemask_epi8(_mm256_or_si256(inside, none)) == -1;
            sum[h] = _mm256_add_epi32(u, _mm256_andnot_si256(none, bits.lanes(i + 8 * h)));
        }
        if (__builtin_expect(usual, 1)) {
            bf16_store(out + i, sum[0], sum[1]);
        } else {
            for (int j = i; j < i + 16; ++j) out[j] = bf16_random_one(x[j], bits.one(j));
        }
    }
#endif
    for (; i < n; ++i) out[i] = bf16_random_one(x[i], bits.one(i));
}

// The same for elements at ... at + n - 1 of a matrix with `width` columns. SIZE: the most elements.
template <int SIZE>
static void bf16_random_rows(u16* RESTRICT out, const float* RESTRICT x, i64 at, int n, i64 width, u64 key, Columns columns) {
    if (width < 64 || width > columns.known) {  // rows too short for lanes
        alignas(64) u32 bits[SIZE];
        random_bits(bits, at, n, width, key, columns);
        bf16_random(out, x, Made{bits}, n);
        return;
    }
    i64 row = at / width, column = at - row * width;
    for (int done = 0; done < n; ++row, column = 0) {
        const int some = (int)(width - column < n - done ? width - column : n - done);
        bf16_random(out + done, x + done, OfRow{columns.of + column, row_hash(row, key)}, some);
        done += some;
    }
}

// A weight of 24 bits: its bfloat16 and eight bits of what that leaves (core/numerics/split_floats.py).
INLINE float bf16_joined_one(u16 high, i8 low) { return float_of(((u32)high << 16) + ((u32)(int32_t)low << 8)); }

static void bf16_joined(float* RESTRICT out, const u16* RESTRICT high, const i8* RESTRICT low, int n) {
#pragma omp simd
    for (int i = 0; i < n; ++i) out[i] = bf16_joined_one(high[i], low[i]);
}

static void bf16_parted(u16* RESTRICT high, i8* RESTRICT low, const float* RESTRICT x, int n) {
#pragma omp simd
    for (int i = 0; i < n; ++i) {
        const u32 u = bits_of(x[i]), size = u & 0x7fffffffu;
        const bool finite = size < 0x7f800000u;
        const int32_t kept = (int32_t)(finite ? u + 0x80u : 0u) >> 8, upper = (kept + 0x80) >> 8;
        const u32 beyond = size > 0x7f800000u ? 0xffffu : u >> 16;
        low[i] = (i8)(kept - upper * 256);
        high[i] = (u16)(finite ? (u32)upper : beyond);
    }
}
