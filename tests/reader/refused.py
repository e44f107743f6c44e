"""The one way in which a repository is refused."""

from contextlib import contextmanager


class Refused(Exception):
    """The repository is damaged, newer than this reader, or not to be opened with this passphrase."""


def demand(holds, sentence):
    if not holds:
        raise Refused(sentence)


@contextmanager
def within(what):
    """Puts what was being read before the sentence of a refusal."""
    try:
        yield
    except Refused as refused:
        raise Refused(f"{what}: {refused}") from None
