"""The one way in which a repository is refused."""

from contextlib import contextmanager


class Refused(Exception):
    """The repository is damaged, newer than this reader, or not to be opened with this passphrase."""


class Unknown(Refused):
    """What is there is no object of ringback, or one of a version or key epoch beyond this reader."""


def demand(holds, sentence, refusal=Refused):
    if not holds:
        raise refusal(sentence)


@contextmanager
def within(what):
    """Puts what was being read before the sentence of a refusal."""
    try:
        yield
    except Refused as refused:
        raise type(refused)(f"{what}: {refused}") from None
