// Pieces of 8-bit state, from the beginning of a block on; the last block may be shorter.
#pragma once
#include "bf16.h"
#include "codes.h"

template <class Levels, class Code>
static void int8_blocks_in(float* out, const Code* codes, const float* most, int n, int block) {
    for (int i = 0; i < n; i += block)
        decoded(out + i, Codes<Levels, Code>{codes + i, *most++ / TOP<Code>}, n - i < block ? n - i : block);
}

// x: the square root for slots that are not signed.
template <class Levels, class Code>
static void int8_blocks_out(Code* codes, float* most, const float* x, i64 at, int n, int block, u64 key, Columns columns) {
    for (int i = 0; i < n; i += block) {
        const int some = n - i < block ? n - i : block;
        encode<Levels>(codes + i, most++, x + i, some, of_row(columns, (at + i) / block, 0, some, key));
    }
}
