"""What the reciter says, and how it is cut into tokens."""

import re

DEMO_SENTENCE = (
    "Hello from Modelyard, your yard for local language models! "
    "This answer came all the way through queue, runner and engine; "
    "to meet a real model, try `yard pull`."
)


def pieces(sentence: str) -> list[str]:
    """Cut a sentence into token texts, each with its leading white space; joined they are the sentence.

    A token knows only its one successor, so no piece may come twice. A word that was said before is
    therefore glued to the piece in front of it: every piece starts with a word that is new in the
    sentence, which makes all pieces different and lets a half-said sentence be cut the same way again.
    """
    said: set[str] = set()
    cut: list[str] = []
    for spaced_word in re.findall(r"\s*\S+", sentence.strip()):
        word = spaced_word.strip()
        if word in said:
            cut[-1] += spaced_word
        else:
            cut.append(spaced_word)
        said.add(word)
    if not cut:
        raise ValueError("The sentence to recite has no words.")
    return cut
