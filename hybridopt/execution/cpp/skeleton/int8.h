// Pieces of 8-bit state that begin and end anywhere; the last block may be shorter.
#pragma once
#include "bf16.h"
#include "codes.h"

// Decode n elements from element `at` on.
template <class Levels, class Code>
static void int8_blocks_in(float* out, const Code* codes, const float* most, i64 at, int n, int block) {
    for (int done = 0; done < n;) {
        const i64 own = at + done;
        const int rest = (int)(block - own % block), some = n - done < rest ? n - done : rest;
        decoded(out + done, Codes<Levels, Code>{codes + own, most[own / block] / TOP<Code>}, some);
        done += some;
    }
}

// What is written piece by piece, from the beginning of a block on: a block that goes on in the next piece waits.
template <class Levels, class Code>
struct Written {
    Code* codes;
    float* most;
    float* waiting;  // as many numbers as a block has
    int block;
    i64 before;  // blocks of the whole, as `Task.first` has rows
    u64 key;
    Columns columns;
    i64 last = 0;  // the block that waits, and how many of its numbers are there
    int filled = 0;

    void encoded(i64 own, const float* x, int n) const {
        encode<Levels>(codes + own * block, most + own, x, n, of_row(columns, own + before, 0, n, key));
    }
    // x: the square root for slots that are not signed.
    void add(const float* x, i64 at, int n) {
        for (int done = 0; done < n;) {
            const i64 own = (at + done) / block;
            const int begun = (int)(at + done - own * block), rest = block - begun, some = n - done < rest ? n - done : rest;
            if (some == block) {
                encoded(own, x + done, block);
            } else {
                memcpy(waiting + begun, x + done, some * sizeof(float));
                last = own, filled = begun + some;
                if (filled == block) close();
            }
            done += some;
        }
    }
    void close() {
        if (filled) encoded(last, waiting, filled);
        filled = 0;
    }
};
