// State of 8 bits with the largest size of every block beside it (parts/codecs/_blockwise.py): i8 for signed slots, u8
// for others, which are kept as their square roots.
#pragma once
#include "hashes.h"

template <class Code> static constexpr bool SIGNED = (Code)-1 < 0;
template <class Code> static constexpr float TOP = SIGNED<Code> ? 127.f : 255.f;

// What levels of 8 bits stand for, in units of the highest one, TOP, and which level a number x in those units gets by
// sixteen random bits, as a float.
struct Linear {  // parts/codecs/int8.py
    template <class Code> static ALWAYS F value(F level) { return level; }
    template <class Code> static ALWAYS F level(F x, F bits) {  // before it is floored
        return fma_(bits, F(1.f / 65536), x);  // the product is exact
    }
};
struct Companded {  // parts/codecs/companded8.py; without a sign only rounding is another
    template <class Code> static ALWAYS F value(F level) {
        if (!SIGNED<Code>) return level;
        return div_(level * F(127.f), F(254.f) - abs_(level));
    }
    template <class Code> static ALWAYS F level(F x, F bits) {
        const F size = abs_(x), one = 1.f, u = bits * F(1.f / 65536);
        const F place = SIGNED<Code> ? div_(F(2.f * 127.f) * size, F(127.f) + size) : size;
        const F low = smaller(F(TOP<Code> - 1.f), floor_(place)), below = value<Code>(low);
        const F share = SIGNED<Code> ? div_(size - below, value<Code>(low + one) - below) : size - below;
        const F level = choose_(share > u, low + one, low);
        return floats_of(xor_(bits_of(level), and_(bits_of(x), all(0x80000000u))));
    }
};

static const float LEAST = 0x1p-119f;  // TOP over a smaller number would be infinite

// What numbers of a block are multiplied with, whose largest size is `most`: rounded twice, as by torch.
template <class Code>
INLINE float scale_of(float most) { return 1.f / (most < LEAST ? LEAST : most) * TOP<Code>; }

// Write n floats as codes, and the largest of them.
template <class Levels, class Code, class Bits>
static void encode(Code* codes, float* most, const float* floats, int n, Bits bits) {
    u32 found = 0;  // NaN has the largest bits
#pragma omp simd reduction(max : found)
    for (int i = 0; i < n; ++i) {
        u32 size;
        memcpy(&size, floats + i, 4);
        size &= 0x7fffffffu;
        found = size > found ? size : found;
    }
    *most = float_of(found);
    const F scale = scale_of<Code>(*most);
    in_lanes(n, [&](int i, auto some) ALWAYS {
        const F x = load(floats + i, some), scaled = x * scale;
        const F level = Levels::template level<Code>(scaled, float_from(bits.lanes(i, some)));
        store_levels(codes + i, level, SIGNED<Code> ? scaled == scaled : x > F(0.f), some);
    });
}

// The largest sizes of numbers, a lane each. Of those without a sign the smallest as well, by their bits with a sign:
// not above 0 where a number is 0, -0 or a NaN that a root has made.
template <class Code>
struct Range {
    U most = all(0u), least = all(INFINITE);
    template <class Some>
    ALWAYS void add(F x, Some some) {
        most = larger_bits(most, SIGNED<Code> ? and_(bits_of(kept(x, some)), all(0x7fffffffu)) : bits_of(kept(x, some)));
        if (!SIGNED<Code>) least = smaller_bits(least, bits_of(kept(x, some, 1.f)));
    }
    ALWAYS bool positive() const { return SIGNED<Code> || smallest(least) > 0; }
};

// Codes of a block that are read. What is written waits in floats.
template <class Levels, class Code>
struct Codes {
    const Code* at;
    F scale;
    float* waiting;
    Range<Code>* range;
    template <class Some>
    ALWAYS F in(int i, Some some) const {
        const F x = Levels::template value<Code>(float_from(load(at + i, some))) * scale;
        return SIGNED<Code> ? x : x * x;
    }
    template <class Some>
    ALWAYS void out(int i, F x, Some some) const {
        if (LANES > 1) range->add(x, some);
        store(waiting + i, x, some);
    }
};
static const int STEP = 4 * LANES;  // codes that are written at once

// The blocks of a slot, one after the other. What a loop makes of a block waits in floats until its largest size is
// known, and becomes codes beside the loop over the next block, in the time in which a core waits for roots and quotients.
template <class Levels, class Code>
struct Blocks {
    float* waiting;
    Code* codes = nullptr;  // of the block that the loop is at
    float* most = nullptr;
    int n = 0;
    OfRow bits{};
    Range<Code> range{};
    Code* to = nullptr;  // of the block that waits: how many, and by what they become codes
    int left = 0;
    F scale = 0.f;
    const u32* known = nullptr;
    U row = all(0u);
    F levels[4];

    ALWAYS explicit Blocks(float* room) : waiting(room) {}

    // Go to a block. random: its random bits.
    ALWAYS Codes<Levels, Code> begin(Code* at, float* size, int count, OfRow random) {
        codes = at, most = size, n = count, bits = random, range = Range<Code>();
        return Codes<Levels, Code>{codes, *most / TOP<Code>, waiting, &range};
    }
    // Go on with a block of which i elements are there: with `some` more.
    ALWAYS Codes<Levels, Code> from(int i, int some) {
        n = i + some;
        return Codes<Levels, Code>{codes + i, *most / TOP<Code>, waiting + i, &range};
    }
    // Leave what the loop has made of this block waiting: if no scale is infinite, and no number infinite or NaN.
    ALWAYS void wait() {
        const int count = n;
        left = n = 0;
        if (LANES == 1) return encode<Levels>(codes, most, waiting, count, bits);
        const u32 size = largest(range.most);
        const float by = size ? scale_of<Code>(float_of(size)) : 0.f;
        if (size >= INFINITE || by >= HUGE_VALF || !range.positive() || !bits.known)
            return encode<Levels>(codes, most, waiting, count, bits);
        *most = float_of(size);
        to = codes, left = count, scale = by, known = bits.known, row = all(bits.row);
    }
    ALWAYS void close() {  // the last block may be shorter
        if (n) wait();
        end();
    }
    ALWAYS void end() {
        in_lanes(left, [&](int i, auto some) ALWAYS {
            const F x = load(waiting + i, some);
            store_levels(to + i, level(i, some), x == x, some);
        });
        left = 0;
    }
    template <class Some>
    ALWAYS F level(int i, Some some) const {
        const U hashed = sixteen(xor_(load(known + i, some), row));
        return Levels::template level<Code>(load(waiting + i, some) * scale, float_from(hashed));
    }
    template <int PART> ALWAYS void part(int i) { levels[PART] = level(i + PART * LANES, All()); }
    ALWAYS void pack(int i) const { store_four(to + i, levels); }
};

// Do as `in_lanes` does with two halves, and write the codes of the blocks before as it goes.
template <class Before, class After, class... Slots>
INLINE void in_blocks(int n, Before first, After second, Slots&... slots) {
#if LANES > 1
    if (n > 0 && n % STEP == 0 && ((slots.left == n) && ...)) {
        decltype(first(0, All(), Keep())) kept[4];
        for (int i = 0; i < n; i += STEP) {
            (slots.template part<0>(i), ...), kept[0] = first(i, All(), Keep());
            if (i) go_on(second, i - LANES, All(), kept[3]);
            (slots.template part<1>(i), ...), kept[1] = first(i + LANES, All(), Keep());
            go_on(second, i, All(), kept[0]);
            (slots.template part<2>(i), ...), kept[2] = first(i + 2 * LANES, All(), Keep());
            go_on(second, i + LANES, All(), kept[1]);
            (slots.template part<3>(i), ...), kept[3] = first(i + 3 * LANES, All(), Keep());
            go_on(second, i + 2 * LANES, All(), kept[2]);
            (slots.pack(i), ...);
        }
        return go_on(second, n - LANES, All(), kept[3]);
    }
    (slots.end(), ...);
#endif
    in_lanes(n, first, second);
}
