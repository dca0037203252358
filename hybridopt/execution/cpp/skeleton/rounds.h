// Rules that look at their whole matrix in rounds before they move it.
#pragma once
#include <cstdlib>
#include "finite.h"
#define RESTRICT __restrict

INLINE float total(const F* sums) {
    float each[LANES], all = 0.f;
    store(each, (sums[0] + sums[1]) + (sums[2] + sums[3]), All());
    for (int i = 0; i < LANES; ++i) all += each[i];
    return all;
}

static const i64 SMALL = 1 << 20;  // elements of a matrix of which one thread makes all rounds, while it is in its caches
static const i64 PARTS = 16;       // of a larger one, with sums of their own: the same for any number of threads

struct Room {  // numbers that are there for the length of a call
    float* at;
    explicit Room(i64 size) : at((float*)aligned_alloc(64, (size * 4 + 127) / 64 * 64)) {}
    ~Room() { free(at); }
    Room(const Room&) = delete;
};

// K, which is printed: ROUNDS; PLACES that are read in turns; together(task): rows; room(task) and sums(i, task), in numbers; found(i, task, room): where the sums lie;
// look(i, task, given, room, first row, last row, sums), settle and update the same way. Where the first look came
// before, looked(task) is what it has found, the first numbers of the room.
template <class K>
static int rounds_before(const Task& task, float* room) {
    if (!K::looked(task)) return 0;
    memcpy(room, K::looked(task), K::first_room(task) * 4);
    return 1;
}

// Rows of about so many elements, with which blocks of state end: whole multiples of together(task).
template <class K>
INLINE i64 rows_of(const Task& task, i64 elements) {
    const i64 own = K::together(task), some = task.width < elements ? elements / task.width : 1;
    return (some + own - 1) / own * own;
}

// Rows of a part, where no row depends on another one: some at a time, at several places in turns.
static const i64 AT_ONCE = 1 << 9;  // elements
template <class K, class Work>
INLINE void rows_in_turns(const Task& task, i64 first, i64 last, Work work) {
    in_turns<K::PLACES>(first, last, rows_of<K>(task, K::PLACES > 1 ? AT_ONCE : 2 * AT_ONCE), 4 * task.width, work);
}

template <class K>
static void updated(const Task& task, const Given& given, float* room, i64 first, i64 last) {
    rows_in_turns<K>(task, first, last, [&](i64 begin, i64 end) { K::update(task, given, room, begin, end); });
}

// A look that adds nothing up over rows finds something of each row by itself.
template <class K>
static void looked_at(int i, const Task& task, const Given& given, float* room, i64 first, i64 last, float* sums) {
    if (K::sums(i, task)) return K::look(i, task, given, room, first, last, sums);
    rows_in_turns<K>(task, first, last, [&](i64 begin, i64 end) { K::look(i, task, given, room, begin, end, sums); });
}

// Call work(task, room) for every small matrix, by the thread that is free; room(task): numbers that it needs.
template <class Size, class Work>
static void of_small(const Given& given, Size size, Work work) {
    i64 most = 0, next = 0;
    for (i64 t = 0; t < given.tasks; ++t) {
        const Task task = task_of(given, t);
        if (elements_of(task) <= SMALL && most < size(task)) most = size(task);
    }
#pragma omp parallel num_threads((int)given.threads) if (given.threads > 1)
    {
        Room room(most);
        for (;;) {
            i64 mine;
#pragma omp atomic capture
            mine = next++;
            if (mine >= given.tasks) break;
            const Task task = task_of(given, mine);
            if (elements_of(task) <= SMALL) work(task, room.at);
        }
    }
}

// Call work(task) for every other one, one after the other.
template <class Work>
static void of_large(const Given& given, Work work) {
    for (i64 t = 0; t < given.tasks; ++t) {
        const Task task = task_of(given, t);
        if (elements_of(task) > SMALL) work(task);
    }
}

template <class K>
static void all_rounds(const Task& task, const Given& given, float* room) {
    const int before = rounds_before<K>(task, room);
    for (int i = 0; i < K::ROUNDS; ++i) {
        if (i >= before) {
            float* sums = K::found(i, task, room);
            memset(sums, 0, K::sums(i, task) * 4);
            looked_at<K>(i, task, given, room, 0, task.rows, sums);
        }
        K::settle(i, task, given, room, 0, task.rows);
    }
    updated<K>(task, given, room, 0, task.rows);
}

// Add up the sums of a look by all threads: look(first row, last row, sums). Backwards: from the last rows on.
template <class K, class Look>
static void looked_by_all_threads(int i, const Task& task, float* room, int threads, bool backwards, Look look) {
    const i64 size = K::sums(i, task), parted = task.rows < PARTS ? task.rows : PARTS;
    Room parts(size * PARTS);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (i64 next = 0; next < parted; ++next) {
        const i64 part = backwards ? parted - 1 - next : next;
        float* sums = parts.at + part * size;
        memset(sums, 0, size * 4);
        look(task.rows * part / parted, task.rows * (part + 1) / parted, sums);
    }
    float* sums = K::found(i, task, room);
    memset(sums, 0, size * 4);
    for (i64 part = 0; part < parted; ++part)
        for (i64 j = 0; j < size; ++j) sums[j] += parts.at[part * size + j];
}

// Every round begins where the one before has ended, with what is still in the caches.
template <class K>
static void rounds_of_all_threads(const Task& task, const Given& given, int threads) {
    Room room(K::room(task));
    const int before = rounds_before<K>(task, room.at);
    for (int i = 0; i < K::ROUNDS; ++i) {
        if (i >= before)
            looked_by_all_threads<K>(i, task, room.at, threads, i & 1, [&](i64 first, i64 last, float* sums) {
                looked_at<K>(i, task, given, room.at, first, last, sums);
            });
        K::settle(i, task, given, room.at, 0, task.rows);
    }
    const i64 pieces = PARTS * 4 < task.rows ? PARTS * 4 : task.rows, own = K::together(task);
    const auto begin = [&](i64 piece) { return piece < pieces ? task.rows * piece / pieces / own * own : task.rows; };
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (i64 next = 0; next < pieces; ++next) {
        const i64 piece = K::ROUNDS & 1 ? pieces - 1 - next : next;
        updated<K>(task, given, room.at, begin(piece), begin(piece + 1));
    }
}

// Make the first look at every matrix, before anything is changed: what it finds is left in looked(task), and noted in
// seen(task) where the gradient is not finite. first(...) is a look that returns the largest bits.
template <class K>
static void first_in_rounds(const Given& given) {
    const auto look = [&](const Task& task, i64 first, i64 last, float* sums) {
        if (K::first(task, given, K::looked(task), first, last, sums) >= INFINITE) note(K::seen(task));
    };
    of_large(given, [&](const Task& task) {
        looked_by_all_threads<K>(0, task, K::looked(task), (int)given.threads, true,
                                 [&](i64 first, i64 last, float* sums) { look(task, first, last, sums); });
    });
    of_small(given, [](const Task&) { return (i64)0; }, [&](const Task& task, float*) {
        float* sums = K::found(0, task, K::looked(task));
        memset(sums, 0, K::sums(0, task) * 4);
        look(task, 0, task.rows, sums);
    });
}

template <class K>
static void in_rounds(const Given& given) {
    of_small(given, K::room, [&](const Task& task, float* room) { all_rounds<K>(task, given, room); });
    of_large(given, [&](const Task& task) { rounds_of_all_threads<K>(task, given, (int)given.threads); });
}

// Rules of which every row goes by itself: a thread takes some rows, and makes all rounds of those.
template <class K>
static void in_rows(const Given& given) {
    const i64 taken = at_a_time(given, elements_of, 1 << 15, 1 << 18);
    const auto rows = [](const Task& task) { return task.rows; };
    const auto at_once = [=](const Task& task) { return rows_of<K>(task, taken); };
    i64 all = 0;
    for (i64 t = 0; t < given.tasks; ++t) all += K::room(task_of(given, t));
    Room room(all);
    in_chunks(given, rows, at_once, [&](const Task& task, i64 first, i64 last) {
        float* own = room.at;
        for (i64 t = 0; given.at + given.tensors * t != task.at; ++t) own += K::room(task_of(given, t));
        rows_in_turns<K>(task, first, last, [&](i64 begin, i64 end) {
            for (int i = 0; i < K::ROUNDS; ++i) {
                K::look(i, task, given, own, begin, end, nullptr);
                K::settle(i, task, given, own, begin, end);
            }
            K::update(task, given, own, begin, end);
        });
    });
}
