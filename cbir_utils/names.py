"""Names of files, folders and classes as text: people's own, so anything may stand in them."""

#: Names longer than this are shortened in a figure.
LONGEST = 32


def printable(name):
    """A name as a terminal, JSON and a page can show it: what they cannot is written as an escape.

    >>> printable("tab\\t and \\udcff")
    'tab\\\\t and \\\\udcff'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def plain(text):
    """A name as text of a figure: nothing in it is taken for mathematics, and each line is shortened in its middle.

    >>> plain("a$_$.png"), plain("x" * 60)
    ('a\\\\$_\\\\$.png', 'xxxxxxxxxxxxxxx … xxxxxxxxxxxxxxx')
    """
    half = (LONGEST - 2) // 2
    lines = [printable(line) for line in str(text).split("\n")]
    lines = [line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}" for line in lines]
    return "\n".join(lines).replace("$", r"\$")
