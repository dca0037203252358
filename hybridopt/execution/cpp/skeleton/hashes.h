// Random bits of an element from its row, its column and a key: those of core/numerics/rounding.py, bit for bit.
#pragma once
#include "memory.h"

static const u32 ONE = 2246822507u, OTHER = 3266489909u, GOLDEN = 0x9E3779B9u;

INLINE U mixed(U x, U key) {
    x = xor_(times_(xor_(right<16>(x), x), ONE), key);
    x = times_(xor_(right<13>(x), x), OTHER);
    return xor_(right<16>(x), x);
}
INLINE u32 mixed_one(u32 x, u32 key) {
    x = ((x >> 16) ^ x) * ONE ^ key;
    x = ((x >> 13) ^ x) * OTHER;
    return (x >> 16) ^ x;
}

INLINE u32 row_hash(i64 row, u64 key) {
    const u32 own = mixed_one((u32)row * GOLDEN + 0x3C6EF372u, 0x3C6EF372u);
    return mixed_one(own + (u32)key, (u32)(key >> 32));
}

INLINE U row_hashes(i64 first, u64 key) {  // of as many rows as there are lanes
    const U row = plus_(all((u32)first), counting());
    const U own = mixed(plus_(times_(row, GOLDEN), all(0x3C6EF372u)), all(0x3C6EF372u));
    return mixed(plus_(own, all((u32)key)), all((u32)(key >> 32)));
}

INLINE U sixteen(U hashed) {  // random bits from the hashes of row and column, joined by ^
    const U x = times_(hashed, ONE);
    return right<16>(times_(xor_(right<15>(x), x), OTHER));
}

struct Columns {  // hashes of the first columns
    const u32* of;
    i64 known;
};

// Random bits of elements in one row; i counts from `column`.
struct OfRow {
    const u32* known;  // hashes of columns, from the first one of these; null: they are worked out
    u32 column, row;
    template <class Some>
    ALWAYS U lanes(int i, Some some) const {
        if (known) return sixteen(xor_(load(known + i, some), all(row)));
        const U counter = plus_(all(column + (u32)i), counting());
        return sixteen(xor_(mixed(plus_(times_(counter, GOLDEN), all(0x1B873593u)), all(0x1B873593u)), all(row)));
    }
};

// n: how many elements are asked for at the most.
INLINE OfRow of_row(Columns columns, i64 row, i64 column, int n, u64 key) {
    return OfRow{column + n <= columns.known ? columns.of + column : nullptr, (u32)column, row_hash(row, key)};
}

// Random bits that were made before.
struct Made {
    const u32* bits;
    template <class Some>
    ALWAYS U lanes(int i, Some some) const { return load(bits + i, some); }
};

// Call work(first, n, row, column) for the parts of elements at ... at + n - 1 that lie in one row.
template <class Work>
INLINE void in_rows(i64 at, int n, i64 width, Work work) {
    i64 row = at / width, column = at - row * width;
    for (int done = 0; done < n; ++row, column = 0) {
        const int some = (int)(width - column < n - done ? width - column : n - done);
        work(at + done, some, row, column);
        done += some;
    }
}

// out[i]: the random bits of elements at ... at + n - 1 of a matrix with `width` columns.
static void random_bits(u32* out, i64 at, int n, i64 width, u64 key, Columns columns) {
    alignas(64) u32 hashes[LANES];
    // whole rows of whole lanes
    if (width % LANES == 0 && at % width == 0 && n % width == 0 && width <= columns.known) {
        const i64 rows = n / width, begin = at / width;
        for (i64 row = 0; row < rows; row += LANES) {
            store(hashes, row_hashes(begin + row, key), All());
            const i64 some = rows - row < LANES ? rows - row : LANES;
            for (i64 own = 0; own < some; ++own, out += width)
                for (i64 column = 0; column < width; column += LANES)
                    store(out + column, sixteen(xor_(load(columns.of + column, All()), all(hashes[own]))), All());
        }
        return;
    }
    int next = LANES;
    in_rows(at, n, width, [&](i64 first, int some, i64 row, i64 column) {
        if (next == LANES) {
            store(hashes, row_hashes(row, key), All());
            next = 0;
        }
        const u32* known = column + some <= columns.known ? columns.of + column : nullptr;
        const OfRow bits{known, (u32)column, hashes[next++]};
        u32* to = out + (first - at);
        in_lanes(some, [&](int i, auto lanes) ALWAYS { store(to + i, bits.lanes(i, lanes), lanes); });
    });
}
