// State of 8 bits with the largest size of every block beside it (parts/codecs/int8.py), one block a call.
#pragma once
#include "hashes.h"

static const float TINY = 1.17549435e-38f;

INLINE float int8_in_one(float code, float scale, bool is_signed) {
    const float x = code * scale;
    return is_signed ? x : x * x;
}

INLINE float level_of(float x, float scale, u32 bits, bool is_signed) {
    const float level = __builtin_floorf(x * scale + (float)bits * (1.f / 65536));
    if (is_signed) return min_(max_(level, -127.f), 127.f);
    return x > 0.f ? min_(max_(level, 1.f), 255.f) : 0.f;
}

INLINE float largest(const float* x, int n) {  // size; NaN where there is one, whose bits are the largest
    u32 most = 0;
#pragma omp simd reduction(max : most)
    for (int i = 0; i < n; ++i) {
        const u32 size = bits_of(x[i]) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    return float_of(most);
}

// Code: i8 for signed slots, u8 for others, which are kept as their square roots.
template <class Code>
static void int8_in(float* RESTRICT out, const Code* RESTRICT codes, float most, int n) {
    const bool is_signed = (Code)-1 < 0;
    const float scale = most / (is_signed ? 127.f : 255.f);
    int i = 0;
#if LANES == 16
    for (; i + 16 <= n; i += 16) {
        const __m128i raw = _mm_loadu_si128((const __m128i*)(codes + i));
        const __m512 code = _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(raw) : _mm512_cvtepu8_epi32(raw));
        const __m512 x = _mm512_mul_ps(code, _mm512_set1_ps(scale));
        _mm512_storeu_ps(out + i, is_signed ? x : _mm512_mul_ps(x, x));
    }
#elif LANES == 8
    for (; i + 8 <= n; i += 8) {
        const __m128i raw = _mm_loadl_epi64((const __m128i*)(codes + i));
        const __m256 code = _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(raw) : _mm256_cvtepu8_epi32(raw));
        const __m256 x = _mm256_mul_ps(code, _mm256_set1_ps(scale));
        _mm256_storeu_ps(out + i, is_signed ? x : _mm256_mul_ps(x, x));
    }
#endif
    for (; i < n; ++i) out[i] = int8_in_one((float)codes[i], scale, is_signed);
}

INLINE int code_of(float level) { return level == level ? (int)level : 0; }

// x: the square root for slots that are not signed. Returns what becomes the block's scale.
template <class Code, class Bits>
static float int8_out(Code* RESTRICT codes, const float* RESTRICT x, Bits bits, int n) {
    const bool is_signed = (Code)-1 < 0;
    const float most = largest(x, n), scale = (is_signed ? 127.f : 255.f) / max_(most, TINY);
    int i = 0;
#if LANES == 16
    const __m512 by = _mm512_set1_ps(scale), part = _mm512_set1_ps(1.f / 65536), zero = _mm512_setzero_ps();
    for (; i + 16 <= n; i += 16) {
        const __m512 a = _mm512_loadu_ps(x + i);
        const __m512 off = _mm512_mul_ps(_mm512_cvtepi32_ps(bits.lanes(i)), part);
        const __m512 sum = _mm512_add_ps(_mm512_mul_ps(a, by), off);
        const __mmask16 number = _mm512_cmp_ps_mask(sum, sum, _CMP_ORD_Q);
        __m512i code = _mm512_maskz_cvt_roundps_epi32(number, sum, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        if (is_signed) {
            code = _mm512_maskz_max_epi32(number, code, _mm512_set1_epi32(-127));
            _mm_storeu_si128((__m128i*)(codes + i), _mm512_cvtsepi32_epi8(code));
        } else {
            const __mmask16 some = number & _mm512_cmp_ps_mask(a, zero, _CMP_GT_OQ);
            code = _mm512_maskz_max_epi32(some, code, _mm512_set1_epi32(1));
            _mm_storeu_si128((__m128i*)(codes + i), _mm512_cvtusepi32_epi8(code));
        }
    }
#elif LANES == 8
    const __m256 by = _mm256_set1_ps(scale), part = _mm256_set1_ps(1.f / 65536), zero = _mm256_setzero_ps();
    const __m256 top = _mm256_set1_ps(is_signed ? 127.f : 255.f), least = _mm256_set1_ps(is_signed ? -127.f : 1.f);
    for (; i + 8 <= n; i += 8) {
        const __m256 a = _mm256_loadu_ps(x + i);
        const __m256 off = _mm256_mul_ps(_mm256_cvtepi32_ps(bits.lanes(i)), part);
        const __m256 sum = _mm256_add_ps(_mm256_mul_ps(a, by), off);
        __m256 keep = _mm256_cmp_ps(sum, sum, _CMP_ORD_Q);
        if (!is_signed) keep = _mm256_and_ps(keep, _mm256_cmp_ps(a, zero, _CMP_GT_OQ));
        const __m256 level = _mm256_max_ps(_mm256_min_ps(_mm256_floor_ps(sum), top), least);
        const __m256i code = _mm256_cvttps_epi32(_mm256_and_ps(level, keep));
        int each[8];
        _mm256_storeu_si256((__m256i*)each, code);
        for (int j = 0; j < 8; ++j) codes[i + j] = (Code)each[j];
    }
#endif
    for (; i < n; ++i) codes[i] = (Code)code_of(level_of(x[i], scale, bits.one(i), is_signed));
    return most;
}

// Blocks in a row from the one that begins at element `at`; the last may be shorter.
template <class Code>
static void int8_blocks_in(float* out, const Code* codes, const float* most, int n, int block) {
    for (int i = 0; i < n; i += block) int8_in<Code>(out + i, codes + i, *most++, n - i < block ? n - i : block);
}

template <class Code>
static void int8_blocks_out(Code* codes, float* most, const float* x, i64 at, int n, int block, u64 key, Columns columns) {
    for (int i = 0; i < n; i += block) {
        const OfRow bits{columns.of, row_hash((at + i) / block, key)};
        *most++ = int8_out<Code>(codes + i, x + i, bits, n - i < block ? n - i : block);
    }
}
