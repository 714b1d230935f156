from __future__ import annotations

import string

from api.demo.words import WORDS


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_demonstration_says_everything_in_both_languages_with_the_same_facts() -> None:
    english, chinese = WORDS["en"], WORDS["zh-CN"]
    assert set(english) == set(chinese)
    for key, text in english.items():
        assert fields(text) == fields(chinese[key]), key
