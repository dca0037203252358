// Random bits of an element from its row, its column and a key: those of core/numerics/rounding.py, bit for bit.
#pragma once
#include "language.h"

INLINE u32 mixed(u32 x, u32 key) {
    x = ((x >> 16) ^ x) * 2246822507u ^ key;
    x = ((x >> 13) ^ x) * 3266489909u;
    return (x >> 16) ^ x;
}

INLINE u32 row_hash(i64 row, u64 key) {
    u32 own = mixed((u32)row * 0x9E3779B9u + 0x3C6EF372u, 0x3C6EF372u);
    return mixed(own + (u32)key, (u32)(key >> 32));
}

INLINE u32 column_hash(u32 column) { return mixed(column * 0x9E3779B9u + 0x1B873593u, 0x1B873593u); }

INLINE u32 sixteen(u32 hashed) {  // random bits from the hashes of row and column, joined by ^
    u32 x = hashed * 2246822507u;
    return ((x >> 15) ^ x) * 3266489909u >> 16;
}

struct Columns {  // hashes of the first columns
    const u32* of;
    i64 known;
};

// Random bits of some elements in a row: columns point to the first one's.
struct OfRow {
    const u32* columns;
    u32 row;
    INLINE_MEMBER u32 one(int i) const { return sixteen(columns[i] ^ row); }
#if LANES == 16
    INLINE_MEMBER __m512i lanes(int i) const {
        __m512i x = _mm512_xor_si512(_mm512_loadu_si512(columns + i), _mm512_set1_epi32((int)row));
        x = _mm512_mullo_epi32(x, _mm512_set1_epi32((int)2246822507u));
        x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 15));
        return _mm512_srli_epi32(_mm512_mullo_epi32(x, _mm512_set1_epi32((int)3266489909u)), 16);
    }
#elif LANES == 8
    INLINE_MEMBER __m256i lanes(int i) const {
        __m256i x = _mm256_loadu_si256((const __m256i*)(columns + i));
        x = _mm256_mullo_epi32(_mm256_xor_si256(x, _mm256_set1_epi32((int)row)), _mm256_set1_epi32((int)2246822507u));
        x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 15));
        return _mm256_srli_epi32(_mm256_mullo_epi32(x, _mm256_set1_epi32((int)3266489909u)), 16);
    }
#endif
};

// Random bits that were made before.
struct Made {
    const u32* bits;
    INLINE_MEMBER u32 one(int i) const { return bits[i]; }
#if LANES == 16
    INLINE_MEMBER __m512i lanes(int i) const { return _mm512_loadu_si512(bits + i); }
#elif LANES == 8
    INLINE_MEMBER __m256i lanes(int i) const { return _mm256_loadu_si256((const __m256i*)(bits + i)); }
#endif
};

// out[i]: the random bits of elements at ... at + n - 1 of a matrix with `width` columns.
static void random_bits(u32* RESTRICT out, i64 at, int n, i64 width, u64 key, Columns columns) {
    i64 row = at / width, column = at - row * width;
    for (int done = 0; done < n; ++row, column = 0) {
        const int some = (int)(width - column < n - done ? width - column : n - done);
        const u32 own = row_hash(row, key);
        u32* RESTRICT to = out + done;
        if (column + some <= columns.known) {
            const u32* RESTRICT of = columns.of + column;
#pragma omp simd
            for (int i = 0; i < some; ++i) to[i] = sixteen(of[i] ^ own);
        } else {
            const u32 first = (u32)column;
#pragma omp simd
            for (int i = 0; i < some; ++i) to[i] = sixteen(column_hash(first + (u32)i) ^ own);
        }
        done += some;
    }
}
