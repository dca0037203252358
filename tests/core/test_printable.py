"""Text of others cannot command a terminal."""

from hybridopt.core.printable import visible


def test_control_characters_are_shown_as_numbers_and_all_else_as_it_is():
    assert visible("a\x1b[2Jb\0c\x85d\re") == r"a\x1b[2Jb\x00c\x85d\re"
    assert visible("tab\tline\nä 😀 \u2028") == "tab\tline\nä 😀 \u2028"
    assert visible("pay\u202egnp.exe\u2066\u2069 \u200d\u200e") == "pay\\u202egnp.exe\\u2066\\u2069 \u200d\u200e"
