// The language that operations are printed in (printing/operations.py), on as many floats at once as registers hold.
// F: floats. U: their bits. Mask: one truth each. Whatever LANES is, every operation is rounded by itself.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#if defined(__x86_64__) && !defined(HYBRIDOPT_PORTABLE)
#include <immintrin.h>
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(HYBRIDOPT_AVX2)
#define LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#endif
#endif
#ifndef LANES
#define LANES 1
#endif
#define ALWAYS __attribute__((always_inline))
#define INLINE static inline ALWAYS __attribute__((unused))

typedef int64_t i64;
typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef int8_t i8;

INLINE u32 bits_of(float x) { u32 u; memcpy(&u, &x, 4); return u; }
INLINE float float_of(u32 u) { float x; memcpy(&x, &u, 4); return x; }

#if LANES == 1

typedef float F;
typedef u32 U;
typedef bool Mask;
INLINE F fma_(F a, F b, F c) { return __builtin_fmaf(a, b, c); }
INLINE F less(F a, F b, F c) { return __builtin_fmaf(-a, b, c); }
INLINE F div_(F a, F b) { return a / b; }
INLINE F sqrt_(F x) { return __builtin_sqrtf(x); }
INLINE F abs_(F x) { return __builtin_fabsf(x); }
INLINE F floor_(F x) { return __builtin_floorf(x); }
INLINE F choose_(Mask chosen, F a, F b) { return chosen ? a : b; }
INLINE F larger(F a, F b) { return a > b ? a : b; }  // of NaN the second
INLINE F smaller(F a, F b) { return a < b ? a : b; }

#else

#if LANES == 16
typedef __m512 Floats_;
typedef __m512i U;
struct Mask { __mmask16 m; };
#define OF(name) _mm512_##name
#define COMPARED(a, b, how) Mask{_mm512_cmp_ps_mask(a.v, b.v, how)}
#else
typedef __m256 Floats_;
typedef __m256i U;
struct Mask { __m256 m; };
#define OF(name) _mm256_##name
#define COMPARED(a, b, how) Mask{_mm256_cmp_ps(a.v, b.v, how)}
#endif

struct F {
    Floats_ v;
    F() = default;
    ALWAYS F(Floats_ x) : v(x) {}
    ALWAYS F(float x) : v(OF(set1_ps)(x)) {}
};
INLINE F operator+(F a, F b) { return OF(add_ps)(a.v, b.v); }
INLINE F operator-(F a, F b) { return OF(sub_ps)(a.v, b.v); }
INLINE F operator*(F a, F b) { return OF(mul_ps)(a.v, b.v); }
INLINE F fma_(F a, F b, F c) { return OF(fmadd_ps)(a.v, b.v, c.v); }
INLINE F less(F a, F b, F c) { return OF(fnmadd_ps)(a.v, b.v, c.v); }  // c - a b
INLINE F div_(F a, F b) { return OF(div_ps)(a.v, b.v); }
INLINE F sqrt_(F x) { return OF(sqrt_ps)(x.v); }
INLINE F larger(F a, F b) { return OF(max_ps)(a.v, b.v); }
INLINE F smaller(F a, F b) { return OF(min_ps)(a.v, b.v); }
INLINE Mask operator==(F a, F b) { return COMPARED(a, b, _CMP_EQ_OQ); }
INLINE Mask operator<(F a, F b) { return COMPARED(a, b, _CMP_LT_OQ); }
INLINE Mask operator>(F a, F b) { return COMPARED(a, b, _CMP_GT_OQ); }
INLINE Mask operator<=(F a, F b) { return COMPARED(a, b, _CMP_LE_OQ); }
INLINE Mask operator>=(F a, F b) { return COMPARED(a, b, _CMP_GE_OQ); }
#if LANES == 16
INLINE U bits_of(F x) { return _mm512_castps_si512(x.v); }
INLINE F floats_of(U x) { return _mm512_castsi512_ps(x); }
INLINE U all(u32 x) { return _mm512_set1_epi32((int)x); }
INLINE U and_(U a, U b) { return _mm512_and_si512(a, b); }
INLINE U xor_(U a, U b) { return _mm512_xor_si512(a, b); }
INLINE F choose_(Mask chosen, F a, F b) { return _mm512_mask_blend_ps(chosen.m, b.v, a.v); }
INLINE F floor_(F x) { return _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
#else
INLINE U bits_of(F x) { return _mm256_castps_si256(x.v); }
INLINE F floats_of(U x) { return _mm256_castsi256_ps(x); }
INLINE U all(u32 x) { return _mm256_set1_epi32((int)x); }
INLINE U and_(U a, U b) { return _mm256_and_si256(a, b); }
INLINE U xor_(U a, U b) { return _mm256_xor_si256(a, b); }
INLINE F choose_(Mask chosen, F a, F b) { return _mm256_blendv_ps(b.v, a.v, chosen.m); }
INLINE F floor_(F x) { return _mm256_floor_ps(x.v); }
#endif
INLINE F operator-(F x) { return floats_of(xor_(bits_of(x), all(0x80000000u))); }
INLINE F abs_(F x) { return floats_of(and_(bits_of(x), all(0x7fffffffu))); }

// The same of one float.
INLINE float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE float div_(float a, float b) { return a / b; }
INLINE float sqrt_(float x) { return __builtin_sqrtf(x); }
INLINE float abs_(float x) { return __builtin_fabsf(x); }
INLINE float sign_(float x) { return (x > 0.f ? 1.f : 0.f) - (x < 0.f ? 1.f : 0.f); }
INLINE float max_(float a, float b) { return a > b || a != a ? a : b; }
INLINE float min_(float a, float b) { return a < b || a != a ? a : b; }
INLINE float choose_(bool chosen, float a, float b) { return chosen ? a : b; }
INLINE float over_(float a, float b, float inverse) {
    const float near = a * inverse, exact = fma_(fma_(-near, b, a), inverse, near);
    return exact == exact ? exact : near;
}

#endif

#if LANES == 16
INLINE F sign_(F x) {  // 1 with the sign of x where that is neither 0 nor NaN, in three instructions
    const __mmask16 some = _mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_NEQ_OQ);
    return floats_of(_mm512_maskz_mov_epi32(some, _mm512_ternarylogic_epi32(bits_of(x), all(0x80000000u), all(0x3f800000u), 0xea)));
}
#elif LANES == 8
INLINE F sign_(F x) {
    const __m256 some = _mm256_cmp_ps(x.v, _mm256_setzero_ps(), _CMP_NEQ_OQ);
    return _mm256_and_ps(some, _mm256_or_ps(_mm256_and_ps(x.v, F(-0.f).v), F(1.f).v));
}
#else
INLINE F sign_(F x) { return (x > 0.f ? 1.f : 0.f) - (x < 0.f ? 1.f : 0.f); }
#endif
INLINE F max_(F a, F b) { return choose_(a == a, larger(a, b), a); }  // NaN, where one of them is
INLINE F min_(F a, F b) { return choose_(a == a, smaller(a, b), a); }
// a / b for many a, without the slow division: `inverse` is 1 / b. Rounded to nearest as that is, down to 1e-30.
INLINE F over_(F a, F b, F inverse) {
    const F near = a * inverse, exact = fma_(less(near, b, a), inverse, near);
#if LANES == 16  // the same in one instruction: of what is NaN in `exact`, `near` stays
    return _mm512_fixupimm_ps(near.v, exact.v, _mm512_set1_epi32(0x11111100), 0);
#else
    return choose_(exact == exact, exact, near);  // of infinity the difference is no number
#endif
}

// Which of the lanes exist: all of them, or those at the end of a piece.
struct All {};
struct First {
    int n;
    ALWAYS explicit First(int count) : n(count) {}
#if LANES == 16
    ALWAYS __mmask16 mask() const { return (__mmask16)((1u << n) - 1); }
#elif LANES == 8
    ALWAYS __m256i mask() const {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
#endif
};

// Call work(i, lanes) for i = 0, LANES, 2 LANES ... below n.
template <class Work>
INLINE void in_lanes(int n, Work work) {
    int i = 0;
#if LANES == 1
#pragma omp simd
    for (i = 0; i < n; ++i) work(i, All());
#else
    for (; i + LANES <= n; i += LANES) work(i, All());
    if (i < n) work(i, First(n - i));
#endif
}

// The same for work in two halves: first(i, lanes, next) calls next(x, y, ...) with what second(i, lanes, x, y, ...) needs.
// The first half for the next lanes begins before the second half for these, which waits less for what the first has made.
struct Keep {
    template <class... T> ALWAYS std::tuple<T...> operator()(T... x) const { return {x...}; }
};
template <class After, class Some, class... T, size_t... PLACE>
INLINE void go_on(After second, int i, Some some, const std::tuple<T...>& kept, std::index_sequence<PLACE...>) {
    second(i, some, std::get<PLACE>(kept)...);
}
template <class After, class Some, class... T>
INLINE void go_on(After second, int i, Some some, const std::tuple<T...>& kept) {
    go_on(second, i, some, kept, std::index_sequence_for<T...>());
}
template <class Before, class After>
INLINE void in_lanes(int n, Before first, After second) {
    int i = 0;
#if LANES > 1
    if (n >= LANES) {
        auto kept = first(0, All(), Keep());
        for (i = LANES; i + LANES <= n; i += LANES) {
            const auto next = first(i, All(), Keep());
            go_on(second, i - LANES, All(), kept);
            kept = next;
        }
        go_on(second, i - LANES, All(), kept);
    }
    if (i < n) go_on(second, i, First(n - i), first(i, First(n - i), Keep()));
#else
#pragma omp simd
    for (i = 0; i < n; ++i) first(i, All(), [&](auto... kept) ALWAYS { second(i, All(), kept...); });
#endif
}

#define SUMS 4  // of a loop, side by side: an addition waits for the one before

// Call work(i, sum, lanes) for i = 0, LANES, 2 LANES ... below n; sum: which of SUMS may be added to.
template <class Work>
INLINE void in_sums(int n, Work work) {
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        work(i, 0, All());
        work(i + LANES, 1, All());
        work(i + 2 * LANES, 2, All());
        work(i + 3 * LANES, 3, All());
    }
    for (; i + LANES <= n; i += LANES) work(i, 0, All());
#if LANES > 1
    if (i < n) work(i, 0, First(n - i));
#endif
}
