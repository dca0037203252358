// Whether numbers are those that they were, byte by byte.
#pragma once
#include "finite.h"

// Of every task: at[0] and at[1] `width` bytes each, at[2] an int that becomes 1 where they differ.
static void not_same(const Given& given) {
    const auto units = [](const Task& task) { return task.width; };
    in_chunks(given, units, [](const Task&) { return (i64)1 << 16; },
              [](const Task& task, i64 first, i64 last) {
                  const char *now = (const char*)task.at[0], *before = (const char*)task.at[1];
                  if (memcmp(now + first, before + first, last - first)) note(task.at[2]);
              });
}
