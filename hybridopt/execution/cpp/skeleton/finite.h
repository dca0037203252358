// Whether numbers are finite, by their bits: NaN and infinity have all bits of the exponent.
#pragma once
#include "chunks.h"
#include "memory.h"

struct Seen {  // the largest bits without a sign
    U of[SUMS];
    ALWAYS Seen() { for (int k = 0; k < SUMS; ++k) of[k] = all(0u); }
    ALWAYS void add(int k, U bits, u32 sizes) { of[k] = larger_bits(of[k], and_(bits, all(sizes))); }
    ALWAYS u32 most() const { return largest(larger_bits(larger_bits(of[0], of[1]), larger_bits(of[2], of[3]))); }
};

INLINE void see(Seen& seen, const float* x, int n) {
    in_sums(n, [&](int i, int k, auto some) ALWAYS { seen.add(k, bits_of(load(x + i, some)), 0x7fffffffu); });
}
INLINE void see(Seen& seen, const u16* x, int n) {
    in_sums(n, [&](int i, int k, auto some) ALWAYS { seen.add(k, load(x + i, some), 0x7fffu); });
}

// The largest bits of x[first] ... x[last - 1].
template <class Number>
static u32 most_of(const Number* x, i64 first, i64 last) {
    Seen seen;
    in_turns<4>(first, last, 1024 / sizeof(Number), sizeof(Number),
                [&](i64 begin, i64 end) ALWAYS { see(seen, x + begin, (int)(end - begin)); });
    return seen.most();
}

INLINE void note(void* flag) {
    int* to = (int*)flag;
#pragma omp atomic write
    *to = 1;
}

// Of every task: at[0] the numbers, of `rows` bytes each, `width` of them, infinite from the bits `count` on; at[1] an
// int that becomes 1 where one is not finite. Tasks are read from their end on: an update begins with what is read last.
static void not_finite(const Given& given) {
    const auto units = [](const Task& task) { return task.width; };
    const i64 some = at_a_time(given, units, 1 << 16, 1 << 19);
    in_chunks(given, units, [=](const Task&) { return some; },
              [](const Task& task, i64 first, i64 last) {
                  const i64 begin = task.width - last, end = task.width - first;
                  const u32 most = task.rows == 4 ? most_of((const float*)task.at[0], begin, end)
                                                  : most_of((const u16*)task.at[0], begin, end);
                  if (most >= (u32)task.count) note(task.at[1]);
              });
}
