// Rules that look at their whole matrix in rounds before they move it.
#pragma once
#include <cstdlib>
#include "chunks.h"
#include "memory.h"
#define RESTRICT __restrict
#define SUMS 4  // of a loop, side by side: an addition waits for the one before

INLINE F kept(F x, All) { return x; }
#if LANES > 1
INLINE F kept(F x, First some) {  // zeros where there is no lane
    float each[LANES] = {0.f};
    store(each, x, some);
    return load(each, All());
}
#endif

INLINE float total(const F* sums) {
    float each[LANES], all = 0.f;
    store(each, (sums[0] + sums[1]) + (sums[2] + sums[3]), All());
    for (int i = 0; i < LANES; ++i) all += each[i];
    return all;
}

// Call work(i, sum, lanes) for i = 0, LANES, 2 LANES ... below n; sum: which of SUMS may be added to.
template <class Work>
INLINE void in_sums(int n, Work work) {
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        work(i, 0, All());
        work(i + LANES, 1, All());
        work(i + 2 * LANES, 2, All());
        work(i + 3 * LANES, 3, All());
    }
    for (; i + LANES <= n; i += LANES) work(i, 0, All());
#if LANES > 1
    if (i < n) work(i, 0, First(n - i));
#endif
}

static const i64 SMALL = 1 << 20;  // elements of a matrix of which one thread makes all rounds, while it is in its caches
static const i64 PARTS = 16;       // of a larger one, with sums of their own: the same for any number of threads

struct Room {  // numbers that are there for the length of a call
    float* at;
    explicit Room(i64 size) : at((float*)aligned_alloc(64, (size * 4 + 127) / 64 * 64)) {}
    ~Room() { free(at); }
    Room(const Room&) = delete;
};

// K, which is printed: ROUNDS; room(task) and sums(i, task), in numbers; found(i, task, room): where the sums lie;
// look(i, task, given, room, first row, last row, sums), settle and update the same way.
template <class K>
static void all_rounds(const Task& task, const Given& given, float* room) {
    for (int i = 0; i < K::ROUNDS; ++i) {
        float* sums = K::found(i, task, room);
        memset(sums, 0, K::sums(i, task) * 4);
        K::look(i, task, given, room, 0, task.rows, sums);
        K::settle(i, task, given, room, 0, task.rows);
    }
    K::update(task, given, room, 0, task.rows);
}

template <class K>
static void rounds_of_all_threads(const Task& task, const Given& given, int threads) {
    i64 most = 0;
    for (int i = 0; i < K::ROUNDS; ++i) most = most < K::sums(i, task) ? K::sums(i, task) : most;
    Room room(K::room(task)), parts(most * PARTS);
    const i64 parted = task.rows < PARTS ? task.rows : PARTS;
    for (int i = 0; i < K::ROUNDS; ++i) {
        const i64 size = K::sums(i, task);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
        for (i64 part = 0; part < parted; ++part) {
            float* sums = parts.at + part * size;
            memset(sums, 0, size * 4);
            K::look(i, task, given, room.at, task.rows * part / parted, task.rows * (part + 1) / parted, sums);
        }
        float* sums = K::found(i, task, room.at);
        memset(sums, 0, size * 4);
        for (i64 part = 0; part < parted; ++part)
            for (i64 j = 0; j < size; ++j) sums[j] += parts.at[part * size + j];
        K::settle(i, task, given, room.at, 0, task.rows);
    }
    const i64 pieces = parted * 4 < task.rows ? parted * 4 : task.rows;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (i64 piece = 0; piece < pieces; ++piece)
        K::update(task, given, room.at, task.rows * piece / pieces, task.rows * (piece + 1) / pieces);
}

template <class K>
static void in_rounds(const Given& given) {
    i64 most = 0, next = 0;
    for (i64 t = 0; t < given.tasks; ++t) {
        const Task task = task_of(given, t);
        if (task.rows * task.width > SMALL) continue;
        most = most < K::room(task) ? K::room(task) : most;
    }
    const int threads = (int)given.threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Room room(most);
        for (;;) {
            i64 mine;
#pragma omp atomic capture
            mine = next++;
            if (mine >= given.tasks) break;
            const Task task = task_of(given, mine);
            if (task.rows * task.width <= SMALL) all_rounds<K>(task, given, room.at);
        }
    }
    for (i64 t = 0; t < given.tasks; ++t) {
        const Task task = task_of(given, t);
        if (task.rows * task.width > SMALL) rounds_of_all_threads<K>(task, given, threads);
    }
}

// Rules of which every row goes by itself: a thread takes some rows, and makes all rounds of those.
static const i64 TAKEN = 1 << 15, AT_ONCE = 1 << 12;  // elements that a thread takes, and of which it makes all rounds

INLINE i64 rows_of(const Task& task, i64 elements) { return task.width < elements ? elements / task.width : 1; }

template <class K>
static void in_rows(const Given& given) {
    i64 all = 0;
    for (i64 t = 0; t < given.tasks; ++t) all += K::room(task_of(given, t));
    Room room(all);
    in_chunks(given, [](const Task& task) { return task.rows; },
              [](const Task& task) { return rows_of(task, TAKEN); },
              [&](const Task& task, i64 first, i64 last) {
                  float* own = room.at;
                  for (i64 t = 0; given.at + given.tensors * t != task.at; ++t) own += K::room(task_of(given, t));
                  const i64 some = rows_of(task, AT_ONCE);
                  for (i64 row = first; row < last; row += some) {
                      const i64 end = row + some < last ? row + some : last;
                      for (int i = 0; i < K::ROUNDS; ++i) {
                          K::look(i, task, given, own, row, end, nullptr);
                          K::settle(i, task, given, own, row, end);
                      }
                      K::update(task, given, own, row, end);
                  }
              });
}
