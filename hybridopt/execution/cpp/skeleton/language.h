// The functions of the language that operations are printed in (printing/operations.py), of one float each.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if (defined(__x86_64__) || defined(__i386__)) && !defined(HYBRIDOPT_PORTABLE)
#include <immintrin.h>
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(HYBRIDOPT_AVX2)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#endif
#endif
#ifndef LANES
#define LANES 1
#endif
#define INLINE static inline __attribute__((always_inline, unused))
#define INLINE_MEMBER inline __attribute__((always_inline))
#define RESTRICT __restrict

typedef int64_t i64;
typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef int8_t i8;

INLINE float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE float div_(float a, float b) { return a / b; }
// a / b for many a, without the slow division: `inverse` is 1 / b. Rounded to nearest as that is, down to 1e-30.
INLINE float over_(float a, float b, float inverse) {
    const float near = a * inverse, exact = __builtin_fmaf(__builtin_fmaf(-near, b, a), inverse, near);
    return exact == exact ? exact : near;  // of infinity the difference is no number
}
INLINE float sqrt_(float x) { return __builtin_sqrtf(x); }
INLINE float abs_(float x) { return __builtin_fabsf(x); }
INLINE float sign_(float x) { return (x > 0.f ? 1.f : 0.f) - (x < 0.f ? 1.f : 0.f); }
INLINE float max_(float a, float b) { return a > b || a != a ? a : b; }  // NaN, where one of them is
INLINE float min_(float a, float b) { return a < b || a != a ? a : b; }
INLINE float choose_(bool chosen, float a, float b) { return chosen ? a : b; }

INLINE u32 bits_of(float x) { u32 u; memcpy(&u, &x, 4); return u; }
INLINE float float_of(u32 u) { float x; memcpy(&x, &u, 4); return x; }
