"""The text around the methods of a rule with rounds in its C++ kernel."""

__all__ = ["CHECKED", "FIRST", "FIRST_LOOK", "HEAD", "LOOK", "NO_FIRST_LOOK", "RULE", "SETTLE", "SIZES"]

HEAD = """\
// Printed from {title}.
#include "rounds.h"
#include "hashes.h"
#include "bf16.h"
#include "int8.h"
#include "columns.h"

enum {{ {tensors} }};
static const int PIECE = {piece};

"""
SIZES = """\
    const i64 rows = task.rows, width = task.width;
    const float rows_ = (float)rows, width_ = (float)width;
"""
RULE = """\
namespace {{  // or all kernels of a process would share its tables
struct Rule {{
    static const int ROUNDS = {rounds}, PLACES = {places};
    static i64 together(const Task& task) {{ return {together}; }}  // rows that blocks of state begin and end with
    static i64 room(const Task& task) {{
        const i64 rows = task.rows, width = task.width;
        return {room};
    }}
    static i64 sums(int i, const Task& task) {{
        const i64 rows = task.rows, width = task.width, size[] = {{{sums}}};
        return size[i];
    }}
    static float* found(int i, const Task& task, float* room) {{
        const i64 rows = task.rows, width = task.width;
        float* at[] = {{{found}}};
        return at[i];
    }}
    static float* looked(const Task& task) {{ return {looked}; }}
    static void* seen(const Task& task) {{ return {seen}; }}
    static i64 first_room(const Task& task) {{
        const i64 rows = task.rows, width = task.width;
        return {first_room};
    }}
    static u32 first(const Task& task, const Given& given, float* room, i64 first, i64 last, float* sums) {{
        return {first};
    }}
    static void look(int i, const Task& task, const Given& given, float* room, i64 first, i64 last, float* sums) {{
        static void (*const all[])(const Task&, const Given&, float*, i64, i64, float*) = {{{looks}}};
        all[i](task, given, room, first, last, sums);
    }}
    static void settle(int i, const Task& task, const Given& given, float* room, i64 first, i64 last) {{
        static void (*const all[])(const Task&, const Given&, float*, i64, i64) = {{{settles}}};
        all[i](task, given, room, first, last);
    }}
    static void update(const Task& task, const Given& given, float* room, i64 first, i64 last) {{
        update_all(task, given, room, first, last);
    }}
}};
}}  // namespace

extern "C" void hybridopt_run(const Given* given) {{ {schedule}<Rule>(*given); }}
"""
FIRST = """\
extern "C" void hybridopt_look(const Given* given) { first_in_rounds<Rule>(*given); }
"""
FIRST_LOOK = {
    "looked": "(float*)task.at[LOOKED]",
    "seen": "task.at[SEEN]",
    "first": "looked_0<true>(task, given, room, first, last, sums)",
}
NO_FIRST_LOOK = {"looked": "nullptr", "seen": "nullptr", "first": "0"}
CHECKED = """\
static void look_0(const Task& task, const Given& given, float* room, i64 first, i64 last, float* sums) {
    looked_0<false>(task, given, room, first, last, sums);
}
"""
SETTLE = "const Task& task, const Given& given, float* room, i64 first, i64 last"
LOOK = f"{SETTLE}, float* sums"
