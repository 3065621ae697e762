"""Inflected forms joined to the word they belong to, by a few rules of English and a list of irregular forms.

The rules write forms; nothing is ever cut off a word to guess its base. A base given by the user gets all its forms; in
a vocabulary, a form is joined to a base only if the base occurs too. So "bus" is never joined to "bu", but "banking"
is joined to "bank", and "saw" counts for "see": use it where that is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_VOWELS = frozenset("aeiou")
IRREGULAR = {
    base: tuple(forms.split())
    for base, _, forms in (
        line.partition(": ")
        for line in """\
be: am are is was were been being
bear: bore borne
beat: beaten
begin: began begun
bite: bit bitten
blow: blew blown
break: broke broken
bring: brought
build: built
buy: bought
catch: caught
child: children
choose: chose chosen
come: came
deal: dealt
do: does did done
draw: drew drawn
drink: drank drunk
drive: drove driven
eat: ate eaten
fall: fell fallen
feel: felt
fight: fought
find: found
fly: flew flown
foot: feet
forget: forgot forgotten
get: got gotten
give: gave given
go: went gone goes
goose: geese
grow: grew grown
hang: hung
have: has had
hear: heard
hide: hid hidden
hold: held
keep: kept
know: knew known
lay: laid
lead: led
leaf: leaves
leave: left
lend: lent
life: lives
lose: lost
make: made
man: men
mean: meant
meet: met
mouse: mice
pay: paid
person: people
ride: rode ridden
ring: rang rung
rise: rose risen
run: ran
say: said
see: saw seen
sell: sold
send: sent
shake: shook shaken
shoot: shot
show: shown
sing: sang sung
sink: sank sunk
sit: sat
sleep: slept
speak: spoke spoken
spend: spent
spring: sprang sprung
stand: stood
steal: stole stolen
strike: struck
swim: swam swum
take: took taken
teach: taught
tell: told
think: thought
throw: threw thrown
tooth: teeth
understand: understood
wear: wore worn
win: won
woman: women
write: wrote written""".splitlines()
    )
}
"""Forms that no rule writes."""


def inflected_forms(base: str) -> list[str]:
    """Return a word with its regular and irregular inflections, as noun and verb alike.

    >>> inflected_forms("stop")
    ['stop', 'stops', "stop's", 'stopped', 'stopping']
    >>> inflected_forms("city")
    ['city', 'cities', "city's", 'citied', 'citying']
    """
    stem = base
    if base.endswith("y") and len(base) > 2 and base[-2] not in _VOWELS:
        plural, past, running = base[:-1] + "ies", base[:-1] + "ied", base + "ing"
    elif base.endswith(("s", "x", "z", "ch", "sh")):
        plural, past, running = base + "es", base + "ed", base + "ing"
    elif base.endswith("e"):
        plural, past = base + "s", base + "d"
        running = base + "ing" if base.endswith(("ee", "oe", "ye")) else base[:-1] + "ing"
    else:
        if _doubles(base):
            stem = base + base[-1]
        plural, past, running = base + "s", stem + "ed", stem + "ing"
    return list(dict.fromkeys([base, plural, f"{base}'s", past, running, *IRREGULAR.get(base, ())]))


def _doubles(base: str) -> bool:
    """Tell whether a last consonant is written twice before -ed: one short vowel before it, one syllable."""
    return (
        len(base) >= 3
        and base[-1] not in _VOWELS | frozenset("wxyh")
        and base[-2] in _VOWELS
        and base[-3] not in _VOWELS
        and sum(letter in _VOWELS for letter in base) == 1
    )


def forms_of(words: Iterable[str]) -> dict[str, str]:
    """Return a table from every inflected form of some words to the word; a form of two belongs to the first."""
    table: dict[str, str] = {}
    for word in words:
        for form in inflected_forms(word):
            table.setdefault(form, word)
    return table


def joined_counts(counts: Mapping[str, int]) -> tuple[dict[str, int], dict[str, str]]:
    """Join the forms of a vocabulary to the bases that occur in it.

    Args:
        counts: Occurrences of each form.

    Returns:
        Occurrences of each base, and a table from every form to its base.
    """
    table: dict[str, str] = {}
    for word in sorted(counts, key=lambda word: (len(word), word)):  # a base is shorter than what is made of it
        if word not in table:
            table |= {form: word for form in inflected_forms(word) if form in counts and form not in table}
    joined: dict[str, int] = {}
    for form, count in counts.items():
        joined[table[form]] = joined.get(table[form], 0) + count
    return joined, table
