// Chosen columns of a row, packed together and spread again. mask: a bit a column, sixteen in a word.
#pragma once
#include "language.h"

static const int SLACK = 16;  // floats that may be written, and read, behind the packed ones

INLINE int chosen(const u16* mask, int n) {  // of the first n columns; bits behind them are 0
    int count = 0;
    for (int i = 0; i < n; i += 16) count += __builtin_popcount(mask[i >> 4]);
    return count;
}

static int compress_one_by_one(float* RESTRICT out, const float* RESTRICT x, const u16* mask, int from, int n) {
    int count = 0;
    for (int i = from; i < n; ++i) {
        out[count] = x[i];
        count += mask[i >> 4] >> (i & 15) & 1;
    }
    return count;
}

static int expand_one_by_one(float* RESTRICT x, const float* RESTRICT packed, const u16* mask, int from, int n) {
    int count = 0;
    for (int i = from; i < n; ++i) {
        const bool mine = mask[i >> 4] >> (i & 15) & 1;
        x[i] = mine ? packed[count] : x[i];
        count += mine;
    }
    return count;
}

#if LANES == 8
struct Lanes {  // for eight columns: where each chosen one comes from, and where each column finds its own
    alignas(32) int from[256][8], to[256][8];
    Lanes() {
        for (int mask = 0; mask < 256; ++mask) {
            int count = 0;
            for (int i = 0; i < 8; ++i) {
                from[mask][i] = 0;
                to[mask][i] = count;
                if (mask >> i & 1) from[mask][count++] = i;
            }
        }
    }
};
static const Lanes LANE;
#endif

// Pack the chosen columns of x[0 ... n - 1] into out, which has SLACK floats more than those; return how many.
static int compress(float* RESTRICT out, const float* RESTRICT x, const u16* mask, int n) {
    int i = 0, count = 0;
#if LANES == 16
    for (; i + 16 <= n; i += 16) {
        const u16 m = mask[i >> 4];
        _mm512_storeu_ps(out + count, _mm512_maskz_compress_ps(m, _mm512_loadu_ps(x + i)));
        count += __builtin_popcount(m);
    }
#elif LANES == 8
    for (; i + 8 <= n; i += 8) {
        const int m = mask[i >> 4] >> (i & 8) & 255;
        const __m256i from = _mm256_load_si256((const __m256i*)LANE.from[m]);
        _mm256_storeu_ps(out + count, _mm256_permutevar8x32_ps(_mm256_loadu_ps(x + i), from));
        count += __builtin_popcount(m);
    }
#endif
    return count + compress_one_by_one(out + count, x, mask, i, n);
}

// Put the packed numbers, behind which SLACK floats may be read, into the chosen columns of x.
static void expand(float* RESTRICT x, const float* RESTRICT packed, const u16* mask, int n) {
    int i = 0, count = 0;
#if LANES == 16
    for (; i + 16 <= n; i += 16) {
        const u16 m = mask[i >> 4];
        const __m512 before = _mm512_loadu_ps(x + i), own = _mm512_loadu_ps(packed + count);
        _mm512_storeu_ps(x + i, _mm512_mask_expand_ps(before, m, own));
        count += __builtin_popcount(m);
    }
#elif LANES == 8
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    for (; i + 8 <= n; i += 8) {
        const int m = mask[i >> 4] >> (i & 8) & 255;
        const __m256i to = _mm256_load_si256((const __m256i*)LANE.to[m]);
        const __m256 own = _mm256_permutevar8x32_ps(_mm256_loadu_ps(packed + count), to);
        const __m256i mine = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(m), bit), bit);
        _mm256_storeu_ps(x + i, _mm256_blendv_ps(_mm256_loadu_ps(x + i), own, _mm256_castsi256_ps(mine)));
        count += __builtin_popcount(m);
    }
#endif
    expand_one_by_one(x, packed + count, mask, i, n);
}
