import pytest

from pruning.evaluation.degeneration import extract_answer, final_loop, repetition


def test_repetition_by_hand():
    assert repetition("abcdabcd") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert repetition("aaaaaaa") == pytest.approx(3 / 4)
    assert repetition([1, 2, 3, 4, 5, 6]) == repetition("aaaa") == repetition([]) == 0


def brute_force_loop(text):
    """Longest ending that is a phrase, once more in full, then any number of its further tokens."""
    return max(
        (
            len(ending)
            for ending in (text[start:] for start in range(len(text)))
            for period in range(1, len(ending) // 2 + 1)
            if ending == (ending[-period:] * len(ending))[-len(ending) :]
        ),
        default=0,
    )


LOOPS = {"xyabcabcabc": 9, "xbcabcabc": 8, "aaaa": 4, "aabaab": 6, "abab": 4, "abcdbcd": 6, "": 0}
LOOPS |= dict.fromkeys(["abca", "zzab", "a", "abcabx", "xyzwabca"], 0)


@pytest.mark.parametrize("text", LOOPS)
def test_final_loop_is_the_longest_periodic_ending(text):
    assert (
        final_loop(text) * len(text) == pytest.approx(brute_force_loop(text)) and brute_force_loop(text) == LOOPS[text]
    )


def test_answers_are_compared_without_commas_and_full_stop():
    pattern = r"#### (\-?[0-9\.\,]+)"
    assert extract_answer("so\n#### 1,234.\n#### 7", pattern) == "1234"
    assert extract_answer("#### -3.5", pattern) == "-3.5"
    assert extract_answer("no", pattern) is None
    assert extract_answer("none", rf"{pattern}|none") is None  # a match without the answer
