// A list of parameters, cut into chunks for threads. Every element belongs to one chunk, whatever the threads.
#pragma once
#include <omp.h>
#include "hashes.h"

struct Task {  // one parameter, as execution/cpp/call.py lays it out
    void* const* at;   // its tensors: weight, gradient, state and what else the kernel names
    i64 rows, width;   // of the weight, seen as a matrix
    i64 count;         // of chosen columns, or of chosen rows in a matrix
    i64 first;         // rows of the whole, a stack or what is sharded, that come before: random bits go by those
    const u64* keys;   // of what is rounded at random
};

struct Given {  // what a call is told
    i64 tasks;
    void* const* at;
    i64 tensors;       // of a task
    const i64* sizes;  // [tasks, 4]
    const u64* keys;   // [tasks, of_keys]
    i64 of_keys;
    const float* numbers;
    Columns columns;
    i64 threads;
};

INLINE Task task_of(const Given& given, i64 t) {
    const i64* sizes = given.sizes + 4 * t;
    return Task{given.at + given.tensors * t, sizes[0], sizes[1], sizes[2], sizes[3], given.keys + given.of_keys * t};
}

// How many units of all tasks a thread takes at a time: within `least` and `most`, and no large share of the whole.
template <class Units>
static i64 at_a_time(const Given& given, Units units, i64 least, i64 most) {
    i64 all = 0;
    for (i64 t = 0; t < given.tasks; ++t) all += units(task_of(given, t));
    const i64 share = all / (16 * (given.threads < 1 ? 1 : given.threads));
    return share < least ? least : share < most ? share : most;
}

// How many rows of state, of so many elements each, begin and end with blocks.
INLINE i64 rows_together(i64 block, i64 width) {
    i64 common = block;
    for (i64 rest = width; rest;) {  // as Euclid
        const i64 next = common % rest;
        common = rest, rest = next;
    }
    return block / common;
}

INLINE i64 elements_of(const Task& task) { return task.rows * task.width; }

// Call work(task, first, last) for ranges of the `units(task)` of every task, about `size(task)` of them at a time.
template <class Units, class Size, class Work>
static void in_chunks(const Given& given, Units units, Size size, Work work) {
    i64 total = 0;
    for (i64 t = 0; t < given.tasks; ++t) {
        const Task task = task_of(given, t);
        total += (units(task) + size(task) - 1) / size(task);
    }
    if (!total) return;
    const int threads = (int)(given.threads < total ? given.threads : total);
    i64 next = 0;  // chunk that nobody has taken
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        i64 t = 0, before = 0;  // chunks of the tasks before t
        for (;;) {
            i64 mine;
#pragma omp atomic capture
            mine = next++;
            if (mine >= total) break;
            for (;; ++t) {
                const Task task = task_of(given, t);
                const i64 step = size(task), all = units(task), own = (all + step - 1) / step;
                if (mine < before + own) {
                    const i64 first = (mine - before) * step;
                    work(task, first, first + step < all ? first + step : all);
                    break;
                }
                before += own;
            }
        }
    }
}

// A core waits less for memory that it reads at several places in turns than for one place after the other: its own
// looking ahead ends with a page. Places nearer to each other than APART bytes are no help.
static const i64 APART = 1 << 16;

// Call work(begin, end) for pieces of `step` of first ... last - 1: of up to PLACES parts of them, in turns.
// bytes: of one of them, in the tensor that most of what is read comes from.
template <int PLACES, class Work>
INLINE void in_turns(i64 first, i64 last, i64 step, i64 bytes, Work work) {
    const i64 pieces = (last - first + step - 1) / step, apart = (last - first) * bytes / APART;
    const i64 places = apart < 1 ? 1 : apart < PLACES ? apart : PLACES, own = (pieces + places - 1) / places;
    for (i64 turn = 0; turn < own; ++turn)
        for (i64 piece = turn; piece < pieces; piece += own) {
            const i64 begin = first + piece * step;
            work(begin, begin + step < last ? begin + step : last);
        }
}
