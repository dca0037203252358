// Loads and stores of LANES numbers, or of those that exist.
#pragma once
#include "language.h"

#if LANES == 16

INLINE F load(const float* x, All) { return _mm512_loadu_ps(x); }
INLINE F load(const float* x, First some) { return _mm512_maskz_loadu_ps(some.mask(), x); }
INLINE void store(float* x, F value, All) { _mm512_storeu_ps(x, value.v); }
INLINE void store(float* x, F value, First some) { _mm512_mask_storeu_ps(x, some.mask(), value.v); }
INLINE U load(const u32* x, All) { return _mm512_loadu_si512(x); }
INLINE U load(const u32* x, First some) { return _mm512_maskz_loadu_epi32(some.mask(), x); }
INLINE void store(u32* x, U value, All) { _mm512_storeu_si512(x, value); }
INLINE void store(u32* x, U value, First some) { _mm512_mask_storeu_epi32(x, some.mask(), value); }
INLINE U load(const u16* x, All) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)x)); }
INLINE U load(const u16* x, First some) { return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some.mask(), x)); }
INLINE void store(u16* x, U value, All) { _mm256_storeu_si256((__m256i*)x, _mm512_cvtepi32_epi16(value)); }
INLINE void store(u16* x, U value, First some) { _mm256_mask_storeu_epi16(x, some.mask(), _mm512_cvtepi32_epi16(value)); }
INLINE __m128i bytes(const void* x, All) { return _mm_loadu_si128((const __m128i*)x); }
INLINE __m128i bytes(const void* x, First some) { return _mm_maskz_loadu_epi8(some.mask(), x); }
template <class Some> INLINE U load(const i8* x, Some some) { return _mm512_cvtepi8_epi32(bytes(x, some)); }
template <class Some> INLINE U load(const u8* x, Some some) { return _mm512_cvtepu8_epi32(bytes(x, some)); }
INLINE void store_bytes(void* x, U value, All) { _mm_storeu_si128((__m128i*)x, _mm512_cvtepi32_epi8(value)); }
INLINE void store_bytes(void* x, U value, First some) { _mm_mask_storeu_epi8(x, some.mask(), _mm512_cvtepi32_epi8(value)); }
INLINE F float_from(U whole) { return _mm512_cvtepi32_ps(whole); }  // of signed numbers
INLINE U whole_from(F x) { return _mm512_cvttps_epi32(x.v); }
INLINE U plus_(U a, U b) { return _mm512_add_epi32(a, b); }
INLINE U times_(U a, u32 b) { return _mm512_mullo_epi32(a, all(b)); }
template <int BY> INLINE U right(U x) { return _mm512_srli_epi32(x, BY); }
template <int BY> INLINE U right_signed(U x) { return _mm512_srai_epi32(x, BY); }
template <int BY> INLINE U left(U x) { return _mm512_slli_epi32(x, BY); }
INLINE U choose_(Mask chosen, U a, U b) { return _mm512_mask_blend_epi32(chosen.m, b, a); }
INLINE Mask above(U a, u32 b) { return Mask{_mm512_cmpgt_epi32_mask(a, all(b))}; }  // both below 2^31
INLINE U larger_bits(U a, U b) { return _mm512_max_epi32(a, b); }  // both below 2^31
INLINE bool any(Mask m) { return m.m != 0; }
INLINE bool outside(U x, u32 low, u32 high) {  // is one below low, or not below high?
    return _mm512_cmpge_epu32_mask(_mm512_sub_epi32(x, all(low)), all(high - low)) != 0;
}
INLINE void store_levels(i8* x, F level, Mask kept, All) {  // floored, within -127 ... 127; else 0
    const U whole = _mm512_maskz_cvt_roundps_epi32(kept.m, level.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    _mm_storeu_si128((__m128i*)x, _mm512_cvtsepi32_epi8(_mm512_max_epi32(whole, all(0u - 127u))));
}
INLINE void store_levels(u8* x, F level, Mask kept, All) {  // floored, within 1 ... 255; else 0
    const U whole = _mm512_maskz_cvt_roundps_epi32(kept.m, level.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    _mm_storeu_si128((__m128i*)x, _mm512_cvtusepi32_epi8(_mm512_mask_max_epi32(whole, kept.m, whole, all(1))));
}
INLINE U smaller_bits(U a, U b) { return _mm512_min_epi32(a, b); }  // with a sign
INLINE __m512i shorts(F a, F b) {  // floored
    const int how = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    return _mm512_packs_epi32(_mm512_cvt_roundps_epi32(a.v, how), _mm512_cvt_roundps_epi32(b.v, how));
}
INLINE void store_four(i8* x, const F* level) {
    const __m512i all = _mm512_packs_epi16(shorts(level[0], level[1]), shorts(level[2], level[3]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(x, _mm512_permutexvar_epi32(order, _mm512_max_epi8(all, _mm512_set1_epi8(-127))));
}
INLINE void store_four(u8* x, const F* level) {
    const __m512i all = _mm512_packus_epi16(shorts(level[0], level[1]), shorts(level[2], level[3]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(x, _mm512_permutexvar_epi32(order, _mm512_max_epu8(all, _mm512_set1_epi8(1))));
}
INLINE Mask operator&(Mask a, Mask b) { return Mask{(__mmask16)(a.m & b.m)}; }
INLINE Mask operator|(Mask a, Mask b) { return Mask{(__mmask16)(a.m | b.m)}; }
INLINE Mask operator!(Mask a) { return Mask{(__mmask16)~a.m}; }
INLINE U counting() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }

#elif LANES == 8

INLINE F load(const float* x, All) { return _mm256_loadu_ps(x); }
INLINE F load(const float* x, First some) { return _mm256_maskload_ps(x, some.mask()); }
INLINE void store(float* x, F value, All) { _mm256_storeu_ps(x, value.v); }
INLINE void store(float* x, F value, First some) { _mm256_maskstore_ps(x, some.mask(), value.v); }
INLINE U load(const u32* x, All) { return _mm256_loadu_si256((const __m256i*)x); }
INLINE U load(const u32* x, First some) { return _mm256_maskload_epi32((const int*)x, some.mask()); }
INLINE void store(u32* x, U value, All) { _mm256_storeu_si256((__m256i*)x, value); }
INLINE void store(u32* x, U value, First some) { _mm256_maskstore_epi32((int*)x, some.mask(), value); }
INLINE U load(const u16* x, All) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)x)); }
INLINE U load(const i8* x, All) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)x)); }
INLINE U load(const u8* x, All) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)x)); }
template <class T> INLINE U load(const T* x, First some) {
    T each[8] = {0};
    memcpy(each, x, some.n * sizeof(T));
    return load(each, All());
}
template <class T> INLINE void store_small(T* x, U value, int n) {
    u32 each[8];
    store(each, value, All());
    for (int i = 0; i < n; ++i) x[i] = (T)each[i];
}
INLINE void store(u16* x, U value, All) {
    const __m256i own = _mm256_and_si256(value, _mm256_set1_epi32(0xffff));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(own, own), 0x08);
    _mm_storeu_si128((__m128i*)x, _mm256_castsi256_si128(packed));
}
INLINE void store(u16* x, U value, First some) { store_small(x, value, some.n); }
INLINE void store_bytes(void* x, U value, All) {
    const __m256i own = _mm256_shuffle_epi8(value, _mm256_set1_epi32(0x0c080400));
    const __m128i low = _mm256_castsi256_si128(own), high = _mm256_extracti128_si256(own, 1);
    _mm_storel_epi64((__m128i*)x, _mm_unpacklo_epi32(low, high));
}
INLINE void store_bytes(void* x, U value, First some) { store_small((u8*)x, value, some.n); }
INLINE F float_from(U whole) { return _mm256_cvtepi32_ps(whole); }
INLINE U whole_from(F x) { return _mm256_cvttps_epi32(x.v); }
INLINE U plus_(U a, U b) { return _mm256_add_epi32(a, b); }
INLINE U times_(U a, u32 b) { return _mm256_mullo_epi32(a, all(b)); }
template <int BY> INLINE U right(U x) { return _mm256_srli_epi32(x, BY); }
template <int BY> INLINE U right_signed(U x) { return _mm256_srai_epi32(x, BY); }
template <int BY> INLINE U left(U x) { return _mm256_slli_epi32(x, BY); }
INLINE U choose_(Mask chosen, U a, U b) { return _mm256_blendv_epi8(b, a, _mm256_castps_si256(chosen.m)); }
INLINE Mask above(U a, u32 b) { return Mask{_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, all(b)))}; }
INLINE U larger_bits(U a, U b) { return _mm256_max_epi32(a, b); }
INLINE bool any(Mask m) { return _mm256_movemask_ps(m.m) != 0; }
INLINE bool outside(U x, u32 low, u32 high) {
    const U bad = _mm256_or_si256(_mm256_cmpgt_epi32(all(low), x), _mm256_cmpgt_epi32(x, all(high - 1)));
    return _mm256_movemask_epi8(bad) != 0;
}
INLINE U smaller_bits(U a, U b) { return _mm256_min_epi32(a, b); }
INLINE __m256i shorts(F a, F b) {
    return _mm256_packs_epi32(_mm256_cvtps_epi32(floor_(a).v), _mm256_cvtps_epi32(floor_(b).v));
}
INLINE void store_four(i8* x, const F* level) {
    const __m256i all = _mm256_packs_epi16(shorts(level[0], level[1]), shorts(level[2], level[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), inside = _mm256_max_epi8(all, _mm256_set1_epi8(-127));
    _mm256_storeu_si256((__m256i*)x, _mm256_permutevar8x32_epi32(inside, order));
}
INLINE void store_four(u8* x, const F* level) {
    const __m256i all = _mm256_packus_epi16(shorts(level[0], level[1]), shorts(level[2], level[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), inside = _mm256_max_epu8(all, _mm256_set1_epi8(1));
    _mm256_storeu_si256((__m256i*)x, _mm256_permutevar8x32_epi32(inside, order));
}
INLINE Mask operator&(Mask a, Mask b) { return Mask{_mm256_and_ps(a.m, b.m)}; }
INLINE Mask operator|(Mask a, Mask b) { return Mask{_mm256_or_ps(a.m, b.m)}; }
INLINE Mask operator!(Mask a) { return Mask{_mm256_xor_ps(a.m, _mm256_castsi256_ps(all(0xffffffffu)))}; }
INLINE U counting() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }

#else

template <class Some> INLINE F load(const float* x, Some) { return *x; }
template <class Some> INLINE U load(const u32* x, Some) { return *x; }
template <class Some> INLINE U load(const u16* x, Some) { return *x; }
template <class Some> INLINE U load(const i8* x, Some) { return (u32)(int32_t)*x; }
template <class Some> INLINE U load(const u8* x, Some) { return *x; }
template <class Some> INLINE void store(float* x, F value, Some) { *x = value; }
template <class Some> INLINE void store(u32* x, U value, Some) { *x = value; }
template <class Some> INLINE void store(u16* x, U value, Some) { *x = (u16)value; }
template <class Some> INLINE void store_bytes(void* x, U value, Some) { *(u8*)x = (u8)value; }
INLINE F float_from(U whole) { return (float)(int32_t)whole; }
INLINE U whole_from(F x) { return x == x && abs_(x) < 2147483648.f ? (u32)(int32_t)x : 0x80000000u; }
INLINE F floats_of(U x) { return float_of(x); }
INLINE U all(u32 x) { return x; }
INLINE U and_(U a, U b) { return a & b; }
INLINE U xor_(U a, U b) { return a ^ b; }
INLINE U plus_(U a, U b) { return a + b; }
INLINE U times_(U a, u32 b) { return a * b; }
template <int BY> INLINE U right(U x) { return x >> BY; }
template <int BY> INLINE U right_signed(U x) { return (u32)((int32_t)x >> BY); }
template <int BY> INLINE U left(U x) { return x << BY; }
INLINE U choose_(Mask chosen, U a, U b) { return chosen ? a : b; }
INLINE Mask above(U a, u32 b) { return (int32_t)a > (int32_t)b; }
INLINE U larger_bits(U a, U b) { return a > b ? a : b; }
INLINE U smaller_bits(U a, U b) { return (int32_t)a < (int32_t)b ? a : b; }
template <class Code> INLINE void store_four(Code*, const F*) {}  // never called
INLINE bool any(Mask m) { return m; }
INLINE bool outside(U x, u32 low, u32 high) { return x < low || x >= high; }
INLINE U counting() { return 0; }

#endif

static const u32 INFINITE = 0x7f800000u;  // as a float

#if LANES == 16
INLINE u32 largest(U x) { return _mm512_reduce_max_epu32(x); }
INLINE int32_t smallest(U x) { return _mm512_reduce_min_epi32(x); }  // with a sign
#else
INLINE u32 largest(U x) {
    u32 each[LANES], found = 0;
    store(each, x, All());
    for (int i = 0; i < LANES; ++i) found = found < each[i] ? each[i] : found;
    return found;
}
INLINE int32_t smallest(U x) {
    int32_t each[LANES], found = 0x7fffffff;
    store((u32*)each, x, All());
    for (int i = 0; i < LANES; ++i) found = each[i] < found ? each[i] : found;
    return found;
}
#endif

INLINE F kept(F x, All, float = 0.f) { return x; }
#if LANES > 1
INLINE F kept(F x, First some, float other = 0.f) {  // `other` where there is no lane
    float each[LANES];
    store(each, F(other), All());
    store(each, x, some);
    return load(each, All());
}
#endif

// Store levels of 8 bits: floored, within -127 ... 127, or 1 ... 255 without a sign; 0 where they are not kept.
template <class Code, class Some>
INLINE void store_levels(Code* x, F level, Mask kept, Some some) {
    const float top = (Code)-1 < 0 ? 127.f : 255.f, least = (Code)-1 < 0 ? -127.f : 1.f;
    const F inside = smaller(larger(floor_(level), least), top);
    store_bytes(x, whole_from(choose_(kept, inside, F(0.f))), some);
}
