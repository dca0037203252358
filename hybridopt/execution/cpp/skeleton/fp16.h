// float16 as floats and back, rounded to nearest, ties to even: subnormals, infinities and NaN as processors take them.
#pragma once
#include "memory.h"

#if LANES == 16

INLINE F fp16_load(const u16* x, All) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)x)); }
INLINE F fp16_load(const u16* x, First some) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some.mask(), x)); }
INLINE __m256i fp16_of(F x) { return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE void fp16_store(u16* x, F value, All) { _mm256_storeu_si256((__m256i*)x, fp16_of(value)); }
INLINE void fp16_store(u16* x, F value, First some) { _mm256_mask_storeu_epi16(x, some.mask(), fp16_of(value)); }

#elif LANES == 8 && defined(__F16C__)

INLINE F fp16_load(const u16* x, All) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)x)); }
INLINE F fp16_load(const u16* x, First some) {
    u16 each[8] = {0};
    memcpy(each, x, some.n * sizeof(u16));
    return fp16_load(each, All());
}
INLINE void fp16_store(u16* x, F value, All) {
    _mm_storeu_si128((__m128i*)x, _mm256_cvtps_ph(value.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE void fp16_store(u16* x, F value, First some) {
    u16 each[8];
    fp16_store(each, value, All());
    memcpy(x, each, some.n * sizeof(u16));
}

#else

// Exponents differ by 112. What is subnormal becomes normal with the exponent of 2^-14, which is then taken away.
INLINE F fp16_in(U half) {
    const U size = left<13>(and_(half, all(0x7fffu))), top = all(0x38000000u + (1u << 23));
    const F small = floats_of(plus_(size, top)) - floats_of(top);
    const U normal = plus_(size, all(0x38000000u)), beyond = plus_(size, all(0x70000000u));  // infinity and NaN
    const U found = choose_(above(size, 0x0f7fffffu), beyond, choose_(above(size, 0x007fffffu), normal, bits_of(small)));
    return floats_of(xor_(found, left<16>(and_(half, all(0x8000u)))));
}
// Of numbers below 2^-14 the last bit of a float16 is that of a float from .5 to 1, whose addition rounds them.
INLINE U fp16_nearest(F x) {
    const U u = bits_of(x), size = and_(u, all(0x7fffffffu)), odd = and_(right<13>(size), all(1));
    const U small = plus_(bits_of(floats_of(size) + F(0.5f)), all(0u - 0x3f000000u));
    const U normal = right<13>(plus_(plus_(size, all(0xfffu - 0x38000000u)), odd));  // from 65520 on that of infinity
    const U nan = xor_(all(0x7e00u), and_(right<13>(size), all(0x1ffu)));
    const U inside = choose_(above(size, 0x387fffffu), normal, small);
    const U beyond = choose_(above(size, 0x7f800000u), nan, all(0x7c00u));
    return xor_(choose_(above(size, 0x477fffffu), beyond, inside), and_(right<16>(u), all(0x8000u)));
}
template <class Some> INLINE F fp16_load(const u16* x, Some some) { return fp16_in(load(x, some)); }
template <class Some> INLINE void fp16_store(u16* x, F value, Some some) { store(x, fp16_nearest(value), some); }

#endif

struct Fp16 {
    u16* at;
    template <class Some> ALWAYS F in(int i, Some some) const { return fp16_load(at + i, some); }
    template <class Some> ALWAYS void out(int i, F x, Some some) const { fp16_store(at + i, x, some); }
};
