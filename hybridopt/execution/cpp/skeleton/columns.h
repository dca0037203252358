// Chosen columns of a row, packed together and spread again. mask: a bit a column, sixteen in a word.
#pragma once
#include "tensors.h"

static const int SLACK = 16;  // numbers that may be written, and read, behind packed ones

#if LANES == 16
typedef __mmask16 Picked;
INLINE Picked picked(const u16* mask, int i) { return mask[i >> 4]; }
INLINE F packed(F x, Picked mine) { return _mm512_maskz_compress_ps(mine, x.v); }
INLINE F spread(F x, F own, Picked mine) { return _mm512_mask_expand_ps(x.v, mine, own.v); }
INLINE U spread(U x, U own, Picked mine) { return _mm512_mask_expand_epi32(x, mine, own); }
#elif LANES == 8
struct Lanes {  // of eight columns: where each chosen one comes from, and where each column finds its own
    alignas(32) int from[256][8], to[256][8];
    Lanes() {
        for (int mask = 0; mask < 256; ++mask) {
            int count = 0;
            for (int i = 0; i < 8; ++i) {
                from[mask][i] = 0;
                to[mask][i] = count & 7;
                if (mask >> i & 1) from[mask][count++] = i;
            }
        }
    }
};
static const Lanes LANE;
typedef int Picked;
INLINE Picked picked(const u16* mask, int i) { return mask[i >> 4] >> (i & 8) & 255; }
INLINE F packed(F x, Picked mine) {
    return _mm256_permutevar8x32_ps(x.v, _mm256_load_si256((const __m256i*)LANE.from[mine]));
}
INLINE U spread(U x, U own, Picked mine) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i there = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mine), bit), bit);
    const __m256i at = _mm256_load_si256((const __m256i*)LANE.to[mine]);
    return _mm256_blendv_epi8(x, _mm256_permutevar8x32_epi32(own, at), there);
}
INLINE F spread(F x, F own, Picked mine) { return floats_of(spread(bits_of(x), bits_of(own), mine)); }
#else
typedef int Picked;
INLINE Picked picked(const u16* mask, int i) { return mask[i >> 4] >> (i & 15) & 1; }
INLINE F packed(F x, Picked) { return x; }
INLINE F spread(F x, F own, Picked mine) { return mine ? own : x; }
INLINE U spread(U x, U own, Picked mine) { return mine ? own : x; }
#endif

// Call work(i, lanes) as `in_lanes` does, one after the other.
template <class Work>
INLINE void in_order(int n, Work work) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) work(i, All());
    if (i < n) work(i, First(n - i));
}

// Pack the chosen ones of n columns of two tensors into x and y, which have SLACK floats more than those; return how many.
template <class Weight, class Grad>
static int pack(float* x, Weight weight, float* y, Grad grad, const u16* mask, int n) {
    int count = 0;
    in_order(n, [&](int i, auto some) ALWAYS {
        const Picked mine = picked(mask, i);
        store(x + count, packed(weight.in(i, some), mine), All());
        store(y + count, packed(grad.in(i, some), mine), All());
        count += __builtin_popcount(mine);
    });
    return count;
}

// Random bits of a row, of which chosen columns have their own, by their place among those.
struct Mixed {
    OfRow others, own;
    template <class Some>
    ALWAYS U lanes(int i, Some some, int count, Picked mine) const {
        return spread(others.lanes(i, some), own.lanes(count, All()), mine);
    }
};

// Write a weight of which `count` chosen columns came before; only bits that go by their place depend on that.
template <class Tensor, class Some>
INLINE void written(const Tensor& weight, int i, F x, Some some, int, Picked) {
    weight.out(i, x, some);
}
template <class Some>
INLINE void written(const Bf16Random<Mixed>& weight, int i, F x, Some some, int count, Picked mine) {
    store(weight.at + i, bf16_random(x, weight.bits.lanes(i, some, count, mine)), some);
}

// A weight of which chosen columns are worked out already, in `own`; written one after the other.
template <class Tensor>
struct Chosen {
    Tensor weight;
    const float* own;
    const u16* mask;
    int* count;
    template <class Some> ALWAYS F in(int i, Some some) const { return weight.in(i, some); }
    template <class Some>
    ALWAYS void out(int i, F x, Some some) const {
        const Picked mine = picked(mask, i);
        written(weight, i, spread(x, F(load(own + *count, All())), mine), some, *count, mine);
        *count += __builtin_popcount(mine);
    }
};
template <class Tensor>
INLINE Chosen<Tensor> with_chosen(Tensor weight, const float* own, const u16* mask, int* count) {
    return Chosen<Tensor>{weight, own, mask, count};
}
