// A list of parameters, cut into chunks for threads. Every element belongs to one chunk, whatever the threads.
#pragma once
#include <omp.h>
#include "hashes.h"

struct Task {  // one parameter, as execution/cpp/call.py lays it out
    void* const* at;   // its tensors: weight, gradient, state and what else the kernel names
    i64 rows, width;   // of the weight, seen as a matrix
    i64 count;         // of chosen columns, or of chosen rows in a matrix
    const u64* keys;   // of what is rounded at random
};

struct Given {  // what a call is told
    i64 tasks;
    void* const* at;
    i64 tensors;       // of a task
    const i64* sizes;  // [tasks, 3]
    const u64* keys;   // [tasks, of_keys]
    i64 of_keys;
    const float* numbers;
    Columns columns;
    i64 threads;
};

INLINE Task task_of(const Given& given, i64 t) {
    const i64* sizes = given.sizes + 3 * t;
    return Task{given.at + given.tensors * t, sizes[0], sizes[1], sizes[2], given.keys + given.of_keys * t};
}

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
