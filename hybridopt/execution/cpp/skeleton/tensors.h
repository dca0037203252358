// How the numbers of a tensor are read into floats and written back.
#pragma once
#include "fp16.h"
#include "hashes.h"

struct Floats {
    float* at;
    template <class Some> ALWAYS F in(int i, Some some) const { return load(at + i, some); }
    template <class Some> ALWAYS void out(int i, F x, Some some) const { store(at + i, x, some); }
};

INLINE F bf16_in(U x) { return floats_of(left<16>(x)); }

INLINE U bf16_nearest(F x) {
    const U u = bits_of(x), odd = and_(right<16>(u), all(1));
    const U sum = plus_(plus_(u, all(0x7fffu)), odd);
    return right<16>(choose_(above(and_(u, all(0x7fffffffu)), 0x7f800000u), all(0xffffffffu), sum));  // NaN as torch's
}

INLINE F eight_bits(F x) {
    const F big = x * F(65537.f);
    return big - (big - x);
}

// As core/numerics/rounding.py rounds on a CPU, for whatever size.
INLINE F by_comparing(F x, U bits) {
    const F near = eight_bits(x), off = x - near;
    const F other = eight_bits(near + abs_(near) * sign_(off) * F(0.625f / 128));
    const F gap = abs_(other - near), down = float_from(bits) * F(1.f / 65536);
    const F same = choose_(off >= F(0.f), F(1.f), F(0.f)) - choose_(x >= F(0.f), F(1.f), F(0.f));
    const F outward = choose_(abs_(off) >= (F(1.f) - down) * gap, other, near);
    const F inward = choose_(abs_(off) > down * gap, other, near);
    const F rounded = choose_(same == F(0.f), outward, inward);
    return choose_(off == F(0.f), x, choose_(abs_(x) >= F(1e30f), x, rounded));
}

// Adding bits and cutting is the same from 1e-30 to 1e30, and for 0.
INLINE U bf16_random(F x, U bits) {
    const U u = bits_of(x), size = and_(u, all(0x7fffffffu));
    if (__builtin_expect(outside(size, 0x0da24260u, 0x7149f2cau), 0)) {
        const Mask odd = above(size, 0x7149f2c9u) | (above(size, 0u) & !above(size, 0x0da2425fu));
        if (any(odd)) return bf16_nearest(by_comparing(x, bits));
    }
    return right<16>(plus_(u, bits));
}

template <class Some> INLINE void store_nearest(u16* at, F x, Some some) { store(at, bf16_nearest(x), some); }
#if LANES == 16 && defined(__AVX512BF16__) && defined(__AVX512DQ__)
INLINE void store_nearest(u16* at, F x, All) {  // the processor's own, which has 0 for what is subnormal, and another NaN
    const int odd = _mm512_fpclass_ps_mask(x.v, 0xa1);  // NaN of both kinds, subnormal
    if (__builtin_expect(odd, 0)) return store(at, bf16_nearest(x), All());
    _mm256_storeu_si256((__m256i*)at, (__m256i)_mm512_cvtneps_pbh(x.v));
}
#endif

struct Bf16 {  // written to nearest
    u16* at;
    template <class Some> ALWAYS F in(int i, Some some) const { return bf16_in(load(at + i, some)); }
    template <class Some> ALWAYS void out(int i, F x, Some some) const { store_nearest(at + i, x, some); }
};

template <class Bits>
struct Bf16Random {  // written up or down at random
    u16* at;
    Bits bits;
    template <class Some> ALWAYS F in(int i, Some some) const { return bf16_in(load(at + i, some)); }
    template <class Some> ALWAYS void out(int i, F x, Some some) const {
        store(at + i, bf16_random(x, bits.lanes(i, some)), some);
    }
};
template <class Bits>
INLINE Bf16Random<Bits> bf16_by(u16* at, Bits bits) { return Bf16Random<Bits>{at, bits}; }

struct Bf16Split {  // 24 bits: a bfloat16 and eight bits of what that leaves (core/numerics/split_floats.py)
    u16* high;
    i8* low;
    template <class Some>
    ALWAYS F in(int i, Some some) const {
        return floats_of(plus_(left<16>(load(high + i, some)), left<8>(load(low + i, some))));
    }
    template <class Some>
    ALWAYS void out(int i, F x, Some some) const {
        const U u = bits_of(x), size = and_(u, all(0x7fffffffu));
        const Mask beyond = above(size, 0x7f7fffffu), nan = above(size, 0x7f800000u);
        const U kept = right_signed<8>(plus_(choose_(beyond, all(0), u), all(0x80u)));
        const U upper = right_signed<8>(plus_(kept, all(0x80u)));
        store(high + i, choose_(beyond, choose_(nan, all(0xffffu), right<16>(u)), upper), some);
        store_bytes(low + i, kept, some);  // less 256 upper: the lower eight bits are the same
    }
};
